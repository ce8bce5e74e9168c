//! Error messages together with their causes.

use std::error::Error;

/// Returns the error's message followed by those of its causes, each once. A library's own message often says only that
/// a request failed.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(&'static str, #[source] io::Error);

    #[test]
    fn every_cause_is_told_once() {
        let of = |text| with_causes(&Outer(text, io::Error::other("disk on fire")));
        assert_eq!(of("cannot write"), "cannot write: disk on fire");
        assert_eq!(of("cannot write: disk on fire"), "cannot write: disk on fire");
    }
}
