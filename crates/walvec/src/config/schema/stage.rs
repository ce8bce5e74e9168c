//! The part of a row's path that this process handles, and the directory of its state.

use std::path::PathBuf;

use clap::ValueEnum;

use super::Config;

/// The part of a row's path that this process handles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// From PostgreSQL into the collections, in one process. With `broker`, through its topics.
    #[default]
    All,
    /// PostgreSQL → one topic of changes per table. One process. Needs the slot, but no model and no Qdrant.
    Capture,
    /// Topics of changes → vectors → collections. Any number of workers; one with the embedded engine. Needs the model, and
    /// PostgreSQL only to read values that it did not send.
    Index,
    /// Topics of changes → the topic of vectors. Any number of workers. Needs the model and no Qdrant, and PostgreSQL only as
    /// index does.
    Embed,
    /// The topic of vectors → collections. Any number of workers. Needs no model.
    Sink,
}

impl Stage {
    /// Returns the name that `--stage` takes.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Capture => "capture",
            Self::Index => "index",
            Self::Embed => "embed",
            Self::Sink => "sink",
        }
    }

    /// Returns whether it reads PostgreSQL's stream, and so needs the source.
    pub(crate) const fn needs_source(self) -> bool {
        matches!(self, Self::All | Self::Capture)
    }

    /// Parses the value of a variable.
    pub(in crate::config) fn parse(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false).map_err(|_| {
            let names = Self::value_variants().iter().map(|stage| stage.name()).collect::<Vec<_>>().join(", ");
            format!("\"{text}\" is none of {names}")
        })
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The default name of a process.
pub(in crate::config) const INSTANCE: &str = "1";

/// The limit for the name, which becomes part of a directory's name and of a member's name in a consumer group. Both have
/// room for more.
const LONGEST_INSTANCE: usize = 100;

/// Parses the name of a process among those of its stage.
pub(crate) fn instance(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > LONGEST_INSTANCE || !text.chars().all(allowed) {
        return Err(format!(
            "\"{text}\" is no name for a worker; use letters, digits, - _ and ., at most {LONGEST_INSTANCE}"
        ));
    }
    Ok(text.to_owned())
}

impl Config {
    /// Returns the directory of this process's state.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory_of(self.stage)
    }

    /// Returns the directory of the state of a process of `stage`. No two processes share a directory, except where the
    /// second one shall be stopped: the embedded engine belongs to one process.
    pub(crate) fn directory_of(&self, stage: Stage) -> PathBuf {
        let base = self.sink.directory();
        let of_worker = || base.join(format!("{stage}-{}", self.instance));
        match stage {
            Stage::All => base.to_owned(),
            Stage::Capture => base.join(stage.name()),
            Stage::Embed => of_worker(),
            Stage::Index | Stage::Sink if self.sink.qdrant.is_some() => of_worker(),
            Stage::Index | Stage::Sink => base.to_owned(),
        }
    }
}
