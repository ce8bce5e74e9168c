//! The engine's own write-ahead log (directory `wal` of the shard): its numbering and its growth.
//!
//! The engine numbers operations by their place in that log, and silently skips an operation on a point whose stored
//! version is not older. But in 0.7.2 loading does not replay the log, nothing ever shortens it, and `flush` does not wait
//! for a part of it that was just closed. After a power cut the numbering could fall behind the stored versions, and
//! writes would vanish. So each opening starts an empty log, whose numbers are higher than all earlier ones.

use std::fs;
use std::io;
use std::path::Path;

/// A segment of the log without entries, as `wal/segment.rs` of the engine describes it: magic, version, seed.
const EMPTY_SEGMENT: [u8; 8] = *b"wal\0\0\0\0\0";

/// The number of bits for the operations of one opening: 2^32 of them fit before the numbers of the next opening begin.
const OPENING_BITS: u32 = 32;

/// Replaces the log of the shard by an empty one, numbered for opening `opening`.
pub(super) fn renew(shard: &Path, opening: u64) -> io::Result<()> {
    let log = shard.join("wal");
    match fs::remove_dir_all(&log) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(&log)?;
    let first = opening << OPENING_BITS;
    fs::write(log.join(format!("closed-{first}")), EMPTY_SEGMENT)
}

/// Returns how many bytes of the log are finished segments.
pub(super) fn closed_bytes(shard: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(shard.join("wal"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("closed-") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}
