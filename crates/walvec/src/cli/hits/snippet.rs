//! The part of a text that answers the query.

use super::wrap::{MORE, cut, width};
use crate::search::words::QueryWords;

/// The most lines of a snippet.
const LINES: usize = 2;

/// How many words are shown before the first word of the query, for context.
const LEAD: usize = 6;

/// A text that may be shown as a snippet.
pub(super) struct SnippetSource<'a> {
    words: Vec<&'a str>,
    /// For each word, whether it is a word of the query.
    of_query: Vec<bool>,
}

impl<'a> SnippetSource<'a> {
    /// Prepares a text, which must be on one line.
    pub(super) fn new(text: &'a str, query: &QueryWords) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let of_query = words.iter().map(|word| query.runs(word).any(|(_, of_query)| of_query)).collect();
        Self { words, of_query }
    }

    /// Returns how many words of the query the text contains.
    pub(super) fn matches(&self) -> usize {
        self.of_query.iter().filter(|of_query| **of_query).count()
    }

    /// Returns lines of at most `columns`, around as many words of the query as fit; without any, the
    /// beginning.
    pub(super) fn lines(&self, columns: usize) -> Vec<String> {
        let starts = (0..self.words.len()).filter(|&at| self.of_query[at]).map(|at| at.saturating_sub(LEAD));
        let mut best = Window::of(&self.words, 0, columns);
        let count = |window: &Window| self.of_query[window.start..window.end].iter().filter(|it| **it).count();
        for start in starts {
            let window = Window::of(&self.words, start, columns);
            if count(&window) > count(&best) {
                best = window;
            }
        }
        // At the end of the text there may be room for more of the words before it.
        while best.start > 0 && best.end == self.words.len() {
            let earlier = Window::of(&self.words, best.start - 1, columns);
            if earlier.end < best.end {
                break;
            }
            best = earlier;
        }
        best.lines
    }
}

/// The part of a text that is shown.
struct Window {
    start: usize,
    end: usize,
    lines: Vec<String>,
}

impl Window {
    fn of(words: &[&str], start: usize, columns: usize) -> Self {
        // The ellipsis needs a column of its own.
        let room = columns.saturating_sub(2);
        let first = if start > 0 { MORE.to_string() } else { String::new() } + words.get(start).unwrap_or(&"");
        let (mut end, mut lines) = (start + 1, vec![first]);
        while let (Some(word), Some(line)) = (words.get(end), lines.last_mut()) {
            if width(line) + 1 + width(word) <= room {
                line.push(' ');
                line.push_str(word);
            } else if lines.len() < LINES {
                lines.push((*word).to_owned());
            } else {
                break;
            }
            end += 1;
        }
        if let Some(line) = lines.last_mut().filter(|_| end < words.len()) {
            line.push(' ');
            line.push(MORE);
        }
        // A word may be longer than a line.
        let lines = lines.iter().map(|line| cut(line, columns)).collect();
        Self { start, end: end.min(words.len()), lines }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, query: &str, columns: usize) -> Vec<String> {
        SnippetSource::new(text, &QueryWords::of(query)).lines(columns)
    }

    #[test]
    fn a_short_text_is_shown_whole() {
        assert_eq!(lines("A whale and a captain.", "captain", 40), ["A whale and a captain."]);
        assert_eq!(lines("", "captain", 40), [""]);
    }

    #[test]
    fn of_a_long_text_the_part_with_the_words_of_the_query_is_shown() {
        let (before, after) = ("before ".repeat(50), "after ".repeat(50));
        let text = format!("{before}the white whale turns on the ship {}", after.trim());
        let shown = lines(&text, "white whale", 40);
        assert_eq!(shown, ["…before before before before before", "the white whale turns on the ship …"]);
        assert_eq!(lines(&text, "submarine", 24), ["before before before", "before before before …"]);
        let text = format!("{before}the white whale");
        assert_eq!(lines(&text, "whale", 24), ["…before before before", "before the white whale"], "no room is left");
    }

    #[test]
    fn no_line_is_longer_than_the_screen() {
        let text = format!("short {} {}", "x".repeat(300), "short ".repeat(30));
        for columns in [10, 37, 80] {
            let shown = lines(text.trim(), "none", columns);
            assert!(shown.len() <= LINES && shown.iter().all(|line| width(line) <= columns), "{shown:?}");
        }
    }
}
