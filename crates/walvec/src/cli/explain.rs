//! `walvec explain`

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::output::{self, Screen};
use crate::codes::{self, Code, CodeSubject, SUBJECTS};

/// Say what an error code means, what is at risk, and what to type.
///
/// The code of an error is the last line of stderr. `walvec check`, `walvec status`, `walvec dead-letters list` and the log show codes
/// too. Without CODE, all codes are listed with their meanings. The command needs neither a configuration nor a running walvec.
#[derive(Args)]
pub(crate) struct ExplainArgs {
    /// The code, e.g. E_SLOT_LOST. Case does not matter, and E_ may be left out.
    #[arg(value_name = "CODE")]
    code: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let Some(typed) = &args.code else {
        return if args.json { output::json(&all_as_json()) } else { output::line(&list(Screen::of_stdout())) };
    };
    let (subject, code) = codes::find(typed).ok_or_else(|| unknown(typed))?;
    if args.json { output::json(&to_json(subject, code)) } else { output::line(&entry(subject, code)) }
}

fn unknown(typed: &str) -> Failure {
    let near = codes::near(typed);
    let remedy = match near.as_slice() {
        [] => "`walvec explain` lists all".to_owned(),
        near => format!("did you mean {}? `walvec explain` lists all", near.join(", ")),
    };
    Failure::new(2, "E_USAGE", format!("there is no code \"{typed}\"")).with_remedy(remedy)
}

/// Lists all codes by subject, one line each.
fn list(screen: Screen) -> String {
    let widest = codes::all().map(|(_, code)| code.name.len()).max().unwrap_or_default();
    let line = |code: &Code| format!("  {:widest$}  {}", code.name, code.brief());
    let of = |CodeSubject { title, codes, .. }: &CodeSubject| {
        let lines: Vec<String> = codes.iter().map(line).collect();
        format!("{}\n{}", screen.bold(title), lines.join("\n"))
    };
    let subjects: Vec<String> = SUBJECTS.iter().map(|subject| of(subject)).collect();
    subjects.join("\n\n")
}

/// Prints one code. The lines are not wrapped, so that commands can be copied.
fn entry(subject: &CodeSubject, Code { name, meaning, risk, remedy, see }: &Code) -> String {
    let mut text = format!("{name}\nmeans: {meaning}\n risk: {risk}\n help: {remedy}");
    if let Some(intro) = subject.intro {
        text.push_str(&format!("\n note: {intro}"));
    }
    let page = see.unwrap_or("errors.md");
    text.push_str(&format!("\n  see: docs/{page}"));
    text
}

fn all_as_json() -> Value {
    json!({"codes": codes::all().map(|(subject, code)| to_json(subject, code)).collect::<Vec<_>>()})
}

fn to_json(subject: &CodeSubject, Code { name, meaning, risk, remedy, see }: &Code) -> Value {
    json!({"code": name, "subject": subject.title, "meaning": meaning, "risk": risk, "remedy": remedy, "see": see})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_there_is_not_ends_with_those_that_may_be_meant() {
        let failure = unknown("slot_lots");
        assert_eq!((failure.exit, failure.code()), (2, "E_USAGE"));
        let (_, what, remedy) = failure.into_parts();
        let remedy = remedy.unwrap();
        assert_eq!(what, "there is no code \"slot_lots\"");
        assert!(remedy.contains("E_SLOT_LOST") && remedy.ends_with("`walvec explain` lists all"), "{remedy}");
        assert_eq!(unknown("zzz").into_parts().2.as_deref(), Some("`walvec explain` lists all"));
    }

    #[test]
    fn a_code_is_told_with_its_risk_and_what_to_type() {
        let (subject, code) = codes::find("wal_level").unwrap();
        let text = entry(subject, code);
        assert!(text.starts_with("E_WAL_LEVEL\nmeans: `wal_level` is not"), "{text}");
        assert!(text.contains("\n risk: ") && text.contains("ALTER SYSTEM SET wal_level = 'logical';"), "{text}");
        assert_eq!(to_json(subject, code)["code"], "E_WAL_LEVEL");
    }

    #[test]
    fn every_code_has_a_line_in_the_list() {
        let list = list(Screen { columns: 80, is_styled: false });
        let lines: Vec<&str> = list.lines().filter(|line| line.starts_with("  E_")).collect();
        assert_eq!(lines.len(), codes::all().count());
        assert!(lines.contains(&"  E_AUTH               PostgreSQL refused the login"), "{list}");
    }
}
