//! The manifest of a collection, which says what it was made for: `walvec-collection.json`, next to the engine's files.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use walvec_model::{Fingerprint, MadeWith};

use super::paths::io_error;
use crate::made_with::mismatch;
use crate::{CollectionId, CollectionSpec, SinkError};

const FILE_NAME: &str = "walvec-collection.json";
const FORMAT: u32 = 2;
const DISTANCE: &str = "Cosine";

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// Distinguishes the collection from another one of the same name.
    id: Uuid,
    dimension: usize,
    distance: String,
    /// The name of the vectors, if they have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vector: Option<String>,
    /// The name of the sparse vectors, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keywords: Option<String>,
    fingerprint: Fingerprint,
    /// The parts that the fingerprint was computed from.
    #[serde(default, skip_serializing_if = "MadeWith::is_empty")]
    made_with: MadeWith,
    /// How often the engine was opened: operations of a later opening have higher numbers (see `engine_log`).
    opens: u64,
    /// How often the engine was flushed while the journal had changes (see `journal`).
    #[serde(default)]
    flushes: u64,
    /// Whether the engine's files were once complete; if so, their absence is a loss and not a beginning.
    created: bool,
    /// Whether a point was ever written: from then on the fingerprint binds.
    written: bool,
}

/// Returns whether `directory` holds a collection.
pub(super) fn exists(directory: &Path) -> bool {
    path(directory).exists()
}

/// Returns the path of the manifest of the collection in `directory`.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE_NAME)
}

/// Returns the id of the collection in `directory` and how many flushes it has counted, if its manifest can be read.
pub(super) fn state_in(directory: &Path) -> std::io::Result<Option<(Uuid, u64)>> {
    match fs::read(path(directory)) {
        // A manifest that cannot be read is reported when the collection is opened.
        Ok(text) => Ok(Manifest::parse(&text).ok().map(|manifest| (manifest.id, manifest.flushes))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Manifest {
    /// Reads the manifest in `directory` and compares it with `spec`; writes a new one where nothing is stored yet.
    pub(super) fn open(directory: &Path, spec: &CollectionSpec) -> Result<Self, SinkError> {
        let path = directory.join(FILE_NAME);
        let corrupt =
            |reason: String| SinkError::Corrupt { collection: spec.name.clone(), path: directory.to_owned(), reason };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if super::paths::shard_directory(directory).exists() {
                    return Err(corrupt(format!("{FILE_NAME} is missing, so it is not known what its vectors are")));
                }
                let manifest = Self::new(spec);
                manifest.save(directory)?;
                return Ok(manifest);
            }
            Err(error) => return Err(io_error(&path)(error)),
        };
        let mut manifest = Self::parse(&text).map_err(corrupt)?;
        match manifest.check(spec) {
            Err(SinkError::Fingerprint { .. }) if !manifest.written => Self::start_over(directory, spec),
            checked => checked.map(|()| {
                // The model may have another name by now. Counting the next opening saves the new name.
                if !spec.made_with.is_empty() {
                    manifest.made_with.clone_from(&spec.made_with);
                }
                manifest
            }),
        }
    }

    /// Compares the manifest in `directory` with `spec`, while another process may have the collection open. Returns whether
    /// there is a collection; one that never held a point always fits.
    pub(super) fn inspect(directory: &Path, spec: &CollectionSpec) -> Result<bool, SinkError> {
        let path = path(directory);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io_error(&path)(error)),
        };
        let corrupt = |reason| SinkError::Corrupt { collection: spec.name.clone(), path: directory.to_owned(), reason };
        let manifest = Self::parse(&text).map_err(corrupt)?;
        if manifest.written { manifest.check(spec).map(|()| true) } else { Ok(true) }
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let manifest: Self =
            serde_json::from_slice(text).map_err(|error| format!("{FILE_NAME} is not readable: {error}"))?;
        if manifest.format != FORMAT {
            let found = manifest.format;
            return Err(format!("its format is {found}, this version of walvec knows format {FORMAT}"));
        }
        Ok(manifest)
    }

    /// Makes a new manifest for a collection that never held a point. It has no vectors that could be mixed, so it becomes
    /// what is configured now.
    fn start_over(directory: &Path, spec: &CollectionSpec) -> Result<Self, SinkError> {
        let shard = super::paths::shard_directory(directory);
        match fs::remove_dir_all(&shard) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error(&shard)(error)),
            _ => {}
        }
        let manifest = Self::new(spec);
        manifest.save(directory)?;
        Ok(manifest)
    }

    /// Records, durably, that the collection holds vectors.
    pub(super) fn set_written(&mut self, directory: &Path) -> Result<(), SinkError> {
        if !self.written {
            self.written = true;
            self.save(directory)?;
        }
        Ok(())
    }

    /// Counts one more opening, durably, and returns its number, from 1.
    pub(super) fn count_open(&mut self, directory: &Path) -> Result<u64, SinkError> {
        self.opens += 1;
        self.save(directory)?;
        Ok(self.opens)
    }

    pub(super) fn id(&self) -> CollectionId {
        CollectionId(self.id.to_string())
    }

    pub(super) const fn uuid(&self) -> Uuid {
        self.id
    }

    pub(super) const fn flushes(&self) -> u64 {
        self.flushes
    }

    /// Counts one more flush, durably, and returns how many there were.
    pub(super) fn count_flush(&mut self, directory: &Path) -> Result<u64, SinkError> {
        self.flushes += 1;
        self.save(directory)?;
        Ok(self.flushes)
    }

    pub(super) const fn is_created(&self) -> bool {
        self.created
    }

    /// Records, durably, that the engine's files are complete.
    pub(super) fn set_created(&mut self, directory: &Path) -> Result<(), SinkError> {
        if !self.created {
            self.created = true;
            self.save(directory)?;
        }
        Ok(())
    }

    fn new(spec: &CollectionSpec) -> Self {
        Self {
            format: FORMAT,
            id: Uuid::new_v4(),
            dimension: spec.dimension,
            distance: DISTANCE.to_owned(),
            vector: spec.vector.clone(),
            keywords: spec.keywords.clone(),
            fingerprint: spec.fingerprint.clone(),
            made_with: spec.made_with.clone(),
            opens: 0,
            flushes: 0,
            created: false,
            written: false,
        }
    }

    fn check(&self, spec: &CollectionSpec) -> Result<(), SinkError> {
        let configured = Self::new(spec);
        if self.describe() == configured.describe() {
            return Ok(());
        }
        let (stored, configured) =
            mismatch(&self.parts(), &configured.parts()).unwrap_or_else(|| (self.describe(), configured.describe()));
        Err(SinkError::Fingerprint { collection: spec.name.clone(), stored, configured })
    }

    /// Returns, by name, everything that decides about vectors; nothing if most of it is not known.
    fn parts(&self) -> MadeWith {
        let mut parts = self.made_with.clone();
        if !parts.is_empty() {
            let named = [("vector", &self.vector), ("sparse vector", &self.keywords)];
            let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
            parts.0.extend(named.chain([("dimension".to_owned(), self.dimension.to_string())]));
        }
        parts
    }

    fn describe(&self) -> String {
        let name = self.vector.as_ref().map(|name| format!(" named \"{name}\"")).unwrap_or_default();
        let keywords = self.keywords.as_ref().map(|name| format!(" and sparse ones named \"{name}\""));
        let (dimension, keywords) = (self.dimension, keywords.unwrap_or_default());
        let vectors = format!("{} vectors{name} of dimension {dimension}{keywords}", self.distance);
        format!("{vectors}, fingerprint {}", self.fingerprint)
    }

    fn save(&self, directory: &Path) -> Result<(), SinkError> {
        let path = directory.join(FILE_NAME);
        let write = || {
            let text = serde_json::to_vec_pretty(self)?;
            replace_file(&path, &text)
        };
        write().map_err(io_error(&path))
    }
}

/// Writes a file so that a crash leaves either the old content or the new.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Makes a creation, a renaming or a removal in the parent directory of `path` durable.
pub(super) fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
