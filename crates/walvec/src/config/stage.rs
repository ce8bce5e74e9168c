//! Which part of the path of a row this process is, and where that part keeps its state.

use std::path::PathBuf;

use clap::ValueEnum;

use super::settings::Config;

/// What this process does of the path of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// From PostgreSQL into the collections, in one process. With `broker`, through its topics.
    #[default]
    All,
    /// PostgreSQL → a topic of changes per table. One process; needs the slot, no model and no Qdrant.
    Capture,
    /// Topics of changes → embedded → collections, any number of workers (one with the embedded engine). Needs the model;
    /// PostgreSQL only to read values that it did not send.
    Index,
    /// Topics of changes → embedded → the topic of vectors, any number of workers. Needs the model, no Qdrant; PostgreSQL as
    /// index does.
    Embed,
    /// The topic of vectors → collections, any number of workers. Needs no model.
    Sink,
}

impl Stage {
    /// As it is written after `--stage`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Capture => "capture",
            Self::Index => "index",
            Self::Embed => "embed",
            Self::Sink => "sink",
        }
    }

    /// Whether it reads the stream of PostgreSQL, and cannot do without.
    pub(crate) const fn needs_source(self) -> bool {
        matches!(self, Self::All | Self::Capture)
    }

    /// Reads what was written in a variable.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
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

/// What a process is called if nothing else is said.
pub(super) const INSTANCE: &str = "1";

/// It becomes a part of a directory's name and of a member's name in a consumer group, which have room for more than this.
const LONGEST_INSTANCE: usize = 100;

/// The name of a process among those of its stage.
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
    /// Where this process keeps its own state.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory_of(self.stage)
    }

    /// Where a process of `stage` keeps its own state. No two processes share a directory, except where that is meant to
    /// stop the second one: the embedded engine belongs to one process.
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
