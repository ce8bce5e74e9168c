//! Errors of a configuration, and their positions.

use std::fmt;
use std::path::PathBuf;

/// A configuration that cannot be used. Its message names the key, shows the line and never holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConfigError {
    /// There is no configuration.
    #[error("there is no configuration: ./walvec.yaml does not exist")]
    Absent,
    /// The file cannot be read.
    #[error("{}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Something in the file, in a variable or in a flag is wrong.
    #[error("{}{key}: {reason}{}", Prefix(.excerpt.as_ref()), Suffix(.excerpt.as_ref()))]
    Invalid {
        /// The dotted key, or the name of the variable or flag.
        key: String,
        /// What is wrong, and what to write instead.
        reason: String,
        /// The position, if the error is in a file.
        excerpt: Option<Excerpt>,
    },
}

impl ConfigError {
    /// Returns the remedy, if the message does not say it.
    pub(crate) const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Absent => Some(
                "let walvec look at your database and write one: walvec init --url postgres://user@host/database -o walvec.yaml; \
                 or name one that is elsewhere, with --config FILE or WALVEC_CONFIG; or see it work first: walvec demo",
            ),
            Self::Unreadable { .. } => Some("name another file with --config FILE or WALVEC_CONFIG"),
            Self::Invalid { .. } => None,
        }
    }

    /// Makes an error in a variable or a flag, or about a key that is missing everywhere.
    pub(crate) fn outside_of_file(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { key: key.into(), reason: reason.into(), excerpt: None }
    }
}

/// A line of a configuration file, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excerpt {
    /// The file's name.
    pub(crate) file: String,
    /// The line, from 1.
    pub(crate) line: usize,
    /// The column, from 1, in characters.
    pub(crate) column: usize,
    /// The line's text, up to a secret.
    pub(crate) text: String,
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5} | {}", self.line, self.text)?;
        if self.column <= self.text.chars().count() {
            write!(f, "\n      | {}^", " ".repeat(self.column.saturating_sub(1)))?;
        }
        Ok(())
    }
}

/// Prints `walvec.yaml:12:5: `.
struct Prefix<'a>(Option<&'a Excerpt>);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |excerpt| write!(f, "{}:{}:{}: ", excerpt.file, excerpt.line, excerpt.column))
    }
}

/// Prints the excerpt, on lines of its own.
struct Suffix<'a>(Option<&'a Excerpt>);

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |excerpt| write!(f, "\n{excerpt}"))
    }
}
