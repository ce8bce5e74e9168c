//! Changes that an earlier version of walvec left in the directory of a collection: the files `journal`, of an index build
//! that was cut short, and `last-change`. One record per line: the JSON of the change's steps. A torn last line is a change
//! that was never begun.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::manifest::sync_parent;
use super::steps::EngineStep;

const LAST_CHANGE: &str = "last-change";
const BUILD: &str = "journal";

/// Returns whether an index build was cut short.
pub(super) fn build_was_cut_short(collection: &Path) -> bool {
    collection.join(BUILD).exists()
}

/// Reads the changes, in their order.
pub(super) fn changes(collection: &Path) -> io::Result<Vec<Vec<EngineStep>>> {
    let mut changes = Vec::new();
    for name in [LAST_CHANGE, BUILD] {
        match fs::read(collection.join(name)) {
            Ok(bytes) => changes.extend(decode(&bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(changes)
}

/// Removes the files, after the engine has flushed their changes.
pub(super) fn forget(collection: &Path) -> io::Result<()> {
    for path in [LAST_CHANGE, BUILD].map(|name| collection.join(name)) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed.and_then(|()| sync_parent(&path))?,
        }
    }
    Ok(())
}

fn decode(bytes: &[u8]) -> Vec<Vec<EngineStep>> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.map_while(|line| serde_json::from_slice(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use walvec_model::PointId;

    use super::*;

    #[test]
    fn a_record_torn_by_a_crash_hides_none_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let change = |id| vec![EngineStep::Delete(vec![PointId::Num(id)])];
        let line = |id| serde_json::to_string(&change(id)).unwrap();
        let text = format!("{}\n{}\n{}", line(1), line(2), &line(3)[..10]);
        fs::write(directory.path().join(BUILD), text).unwrap();
        assert!(build_was_cut_short(directory.path()));
        assert_eq!(changes(directory.path()).unwrap(), [change(1), change(2)]);
        forget(directory.path()).unwrap();
        assert!(!build_was_cut_short(directory.path()));
        assert!(changes(directory.path()).unwrap().is_empty());
    }
}
