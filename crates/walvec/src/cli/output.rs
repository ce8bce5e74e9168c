//! Output to stdout, and its style.

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::Failure;
pub(super) use crate::terminal::note;

/// The assumed width of a terminal that does not report its own.
const TERMINAL_COLUMNS: usize = 80;

/// The width of output that is not a terminal.
const FILE_COLUMNS: usize = 120;

/// The least width: a narrower screen is treated as this wide, because less is not readable.
const MIN_COLUMNS: usize = 30;

/// Prints one line.
pub(crate) fn line(text: &str) -> Result<ExitCode, Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints a whole document as it is.
pub(crate) fn bytes(bytes: &[u8]) -> Result<ExitCode, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // The reader has closed the pipe (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::definite("E_OUTPUT", format!("stdout: {error}"))),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// Prints a JSON value on one line.
pub(crate) fn json(value: &Value) -> Result<ExitCode, Failure> {
    line(&value.to_string())
}

/// Makes a table with a header, at most as wide as the screen.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(Screen::of_stdout().columns).unwrap_or(u16::MAX));
    table.set_header(header.iter().copied());
    table
}

/// The properties of stdout as a screen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// How many columns it has.
    pub(crate) columns: usize,
    /// Whether texts may be styled.
    pub(crate) is_styled: bool,
}

impl Screen {
    /// Inspects stdout. `COLUMNS` takes precedence over the terminal's width, `NO_COLOR` over its
    /// abilities.
    pub(crate) fn of_stdout() -> Self {
        let terminal = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
        let is_terminal = std::io::stdout().is_terminal();
        Self::of(|name| std::env::var(name).ok(), terminal, is_terminal)
    }

    fn of(variable: impl Fn(&str) -> Option<String>, terminal: Option<usize>, is_terminal: bool) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let columns = set("COLUMNS").and_then(|columns| columns.parse().ok()).or(terminal);
        let columns = columns.unwrap_or(if is_terminal { TERMINAL_COLUMNS } else { FILE_COLUMNS });
        let is_styled = is_terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb");
        Self { columns: columns.max(MIN_COLUMNS), is_styled }
    }

    /// Makes a text bold, if the screen can.
    pub(crate) fn bold(self, text: &str) -> String {
        if self.is_styled { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_is_what_columns_says_else_the_terminals_own_else_80() {
        let columns = |variable: Option<&str>, terminal| {
            let of = |name: &str| (name == "COLUMNS").then(|| variable.map(str::to_owned)).flatten();
            Screen::of(of, terminal, true).columns
        };
        assert_eq!(columns(Some("100"), Some(120)), 100);
        assert_eq!(columns(None, Some(120)), 120);
        assert_eq!(columns(Some("wide"), Some(120)), 120);
        assert_eq!(columns(None, None), 80);
        assert_eq!(columns(Some("0"), None), MIN_COLUMNS);
    }

    #[test]
    fn texts_are_styled_on_a_terminal_that_can_and_may() {
        let is_styled = |name: &'static str, value: &'static str, is_terminal| {
            Screen::of(|asked: &str| (asked == name).then(|| value.to_owned()), None, is_terminal).is_styled
        };
        assert!(is_styled("TERM", "xterm-256color", true) && is_styled("NO_COLOR", "", true));
        assert!(!is_styled("NO_COLOR", "1", true) && !is_styled("TERM", "dumb", true) && !is_styled("", "", false));
    }
}
