//! Wrapping texts to the columns of a terminal.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The ellipsis that stands for the rest of a text.
pub(super) const MORE: char = '…';

/// Returns how many columns a text takes.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// Returns the text on one line. White space becomes one space, and so do control characters, which would
/// otherwise reach the terminal.
pub(super) fn on_one_line(text: &str) -> String {
    let words = text.split(|character: char| character.is_whitespace() || character.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Returns the beginning of a text that fits into `columns`, with `…` for what is cut off.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut room = columns.saturating_sub(1);
    let fits = |character: &char| {
        let wide = character.width().unwrap_or_default();
        room.checked_sub(wide).map(|left| room = left).is_some()
    };
    let begin: String = text.chars().take_while(fits).collect();
    format!("{}{MORE}", begin.trim_end())
}

/// Fills lines of at most `columns` with items in their order. An item that does not fit into a line is cut.
pub(super) fn fill<'a>(items: impl IntoIterator<Item = &'a str>, between: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        let item = cut(item, columns);
        match lines.last_mut() {
            Some(line) if width(line) + width(between) + width(&item) <= columns => {
                line.push_str(between);
                line.push_str(&item);
            }
            _ => lines.push(item),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_to_the_columns_it_may_take() {
        assert_eq!(cut("Emma", 4), "Emma");
        assert_eq!(cut("War and Peace", 8), "War and…");
        assert_eq!(cut("日本語の本", 6), "日本…", "wide characters take two columns");
        assert_eq!(width(&cut("日本語の本", 6)), 5);
    }

    #[test]
    fn lines_are_filled_and_never_too_long() {
        assert_eq!(fill(["a: 1", "b: 2", "c: 345678", "d"], " · ", 12), ["a: 1 · b: 2", "c: 345678", "d"]);
        assert_eq!(fill(["0123456789"], " ", 5), ["0123…"]);
        assert!(fill([], " ", 5).is_empty());
    }

    #[test]
    fn what_would_steer_the_terminal_is_left_out() {
        assert_eq!(on_one_line(" a\u{1b}[2Jb\r\n\tc\u{9b} "), "a [2Jb c");
    }
}
