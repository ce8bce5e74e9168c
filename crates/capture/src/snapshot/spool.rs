//! Rows that were read and not handed out yet: a little in memory, the rest in files without a name.
//!
//! PostgreSQL is read as fast as it sends, even if the rows are taken slowly: a statement never waits in the middle,
//! and the snapshot can end as soon as everything was read. A piece is begun only while there is room.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// The maximum number of bytes in files.
const ON_DISK: u64 = 1 << 30;
/// The maximum number of bytes in memory, for all workers together.
const IN_MEMORY: u64 = 16 << 20;
/// How many bytes must stay free on the disk, which is needed for the collections.
const FREE: u64 = 4 * ON_DISK;
/// The maximum number of pieces that wait, each in a file of its own.
pub(super) const PIECES: usize = 256;
/// How many bytes are written to a file, or read from it, at a time.
const BLOCK: usize = 1 << 20;
/// How many bytes of a piece may arrive before the shared counters are updated. Lines are short, and all workers share
/// the lock.
const UNTOLD: u64 = 64 << 10;
/// The size of the length that precedes each line.
const LENGTH: usize = 4;

/// The spool's counters, and the directory for its files.
#[derive(Clone)]
pub(super) struct Spool(Arc<SpoolState>);

struct SpoolState {
    directory: Option<PathBuf>,
    has_failed: AtomicBool,
    waiting: watch::Sender<WaitingPieces>,
}

#[derive(Clone, Copy, Default)]
struct WaitingPieces {
    pieces: usize,
    bytes: u64,
    in_memory: u64,
}

impl Spool {
    /// Creates a spool with files in `directory`, or in memory only if there is none.
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        let (has_failed, waiting) = (AtomicBool::new(false), watch::Sender::default());
        Self(Arc::new(SpoolState { directory, has_failed, waiting }))
    }

    /// Waits until a piece may be read.
    pub(super) async fn room(&self) {
        let most = if self.usable_directory().is_some() { ON_DISK } else { IN_MEMORY };
        let has_room = |waiting: &WaitingPieces| waiting.bytes < most && waiting.pieces < PIECES;
        // `self` holds the sender, so this never fails.
        let _ = self.0.waiting.subscribe().wait_for(has_room).await;
    }

    /// Adds an empty piece.
    pub(super) fn piece(&self) -> Spooled {
        self.0.waiting.send_modify(|waiting| waiting.pieces += 1);
        Spooled { spool: self.clone(), bytes: 0, untold: 0, file: None, on_disk: 0, memory: BytesMut::new() }
    }

    /// Returns the directory, if it has space to spare.
    fn usable_directory(&self) -> Option<&PathBuf> {
        let directory = self.0.directory.as_ref().filter(|_| !self.0.has_failed.load(Ordering::Relaxed))?;
        fs4::available_space(directory).is_ok_and(|free| free > FREE).then_some(directory)
    }
}

/// The lines of a piece, while they are being written.
pub(super) struct Spooled {
    spool: Spool,
    /// The total size of the lines, with their lengths.
    bytes: u64,
    /// The number of bytes that the spool's counters do not include yet.
    untold: u64,
    file: Option<File>,
    /// How many bytes of the file are valid.
    on_disk: u64,
    /// The lines that follow those in the file.
    memory: BytesMut,
}

impl Spooled {
    /// Returns the size of the piece in bytes.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a line.
    pub(super) async fn push(&mut self, line: &[u8]) {
        let length = u32::try_from(line.len()).unwrap_or(u32::MAX);
        self.memory.extend_from_slice(&length.to_be_bytes());
        self.memory.extend_from_slice(line);
        let added = (LENGTH + line.len()) as u64;
        self.bytes += added;
        self.untold += added;
        if self.untold >= UNTOLD {
            let in_memory = self.tell();
            if self.memory.len() >= BLOCK && in_memory > IN_MEMORY / 2 {
                self.spill().await;
            }
        }
    }

    /// Updates the spool's counters, and returns how many bytes all pieces have in memory.
    fn tell(&mut self) -> u64 {
        let (untold, mut in_memory) = (std::mem::take(&mut self.untold), 0);
        self.spool.0.waiting.send_if_modified(|waiting| {
            waiting.bytes += untold;
            waiting.in_memory += untold;
            debug_assert!(waiting.in_memory <= waiting.bytes, "what is in memory is a part of all");
            in_memory = waiting.in_memory;
            false
        });
        in_memory
    }

    /// Ends the piece, and writes its rest to a file if all pieces together have much in memory.
    pub(super) async fn end(&mut self) {
        if self.tell() > IN_MEMORY / 2 || self.file.is_some() {
            self.spill().await;
        }
    }

    /// Moves the lines in memory to the file. If that fails, these lines and all later ones stay in memory.
    async fn spill(&mut self) {
        if self.memory.is_empty() {
            return;
        }
        let Some(directory) = self.spool.usable_directory().cloned() else { return };
        let (file, memory, at) = (self.file.take(), std::mem::take(&mut self.memory), self.on_disk);
        let written = spawn_blocking(move || {
            let mut file = match file {
                Some(file) => file,
                None => match tempfile::tempfile_in(directory) {
                    Ok(file) => file,
                    Err(error) => return (None, memory, Err(error)),
                },
            };
            let written = file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&memory));
            (Some(file), memory, written)
        });
        let (file, memory, written) = match written.await {
            Ok(written) => written,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.file = file;
        match written {
            Ok(()) => {
                let moved = memory.len() as u64;
                self.on_disk += moved;
                self.spool.0.waiting.send_modify(|waiting| waiting.in_memory -= moved);
            }
            Err(error) => {
                tracing::warn!(
                    "rows that were read wait in memory, because they cannot wait in the data directory: {error}"
                );
                self.memory = memory;
                self.spool.0.has_failed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Starts to read the lines, beginning with the first one.
    pub(super) fn read(self) -> Lines {
        Lines { at: 0, rest: BytesMut::new(), spooled: self }
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let bytes = self.bytes - self.untold;
        let in_memory = bytes - self.on_disk;
        self.spool.0.waiting.send_modify(|waiting| {
            waiting.pieces -= 1;
            waiting.bytes -= bytes;
            waiting.in_memory -= in_memory;
        });
    }
}

/// The lines of a piece, while they are being read.
pub(super) struct Lines {
    at: u64,
    /// Bytes that were read from the file and not handed out yet.
    rest: BytesMut,
    spooled: Spooled,
}

impl Lines {
    /// Returns the next line.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(line) = take_line(&mut self.rest) {
                return Ok(Some(line));
            }
            if self.at < self.spooled.on_disk {
                self.fill().await?;
            } else if !self.spooled.memory.is_empty() {
                let memory = self.spooled.memory.split();
                self.rest.unsplit(memory);
            } else {
                return Ok(None);
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        let Some(mut file) = self.spooled.file.take() else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let (at, mut rest) = (self.at, std::mem::take(&mut self.rest));
        let count = usize::try_from(self.spooled.on_disk - at).unwrap_or(BLOCK).min(BLOCK);
        let read = spawn_blocking(move || {
            let begin = rest.len();
            rest.resize(begin + count, 0);
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut rest[begin..])?;
            Ok::<_, io::Error>((file, rest))
        });
        let (file, rest) = read.await.map_err(io::Error::other)??;
        self.at += count as u64;
        (self.spooled.file, self.rest) = (Some(file), rest);
        Ok(())
    }
}

/// Removes and returns a whole line, if there is one.
fn take_line(bytes: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(bytes.get(..LENGTH)?.try_into().ok()?) as usize;
    if bytes.len() < LENGTH + length {
        return None;
    }
    bytes.advance(LENGTH);
    Some(bytes.split_to(length).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(spooled: Spooled) -> Vec<Bytes> {
        let mut lines = spooled.read();
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn lines_come_back_as_they_were_from_memory_and_from_files() {
        let directory = tempfile::tempdir().unwrap();
        for spool in [Spool::new(None), Spool::new(Some(directory.path().to_owned()))] {
            let mut first = spool.piece();
            let line =
                |number: usize| Bytes::from(vec![b"abcdefghijklmnopqrstuvwxyz"[number % 26]; number * 7919 % 5000]);
            let lines: Vec<Bytes> = (0..8000).map(line).collect();
            for line in &lines {
                first.push(line).await;
            }
            first.end().await;
            let mut second = spool.piece();
            second.push(b"x\n").await;
            second.end().await;
            assert_eq!(
                first.file.is_some(),
                spool.0.directory.is_some(),
                "20 MB do not stay in memory where they need not"
            );
            assert!(all(first).await == lines);
            assert_eq!(all(second).await, [&b"x\n"[..]]);
            let left = *spool.0.waiting.borrow();
            assert_eq!((left.pieces, left.bytes, left.in_memory), (0, 0, 0));
        }
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_to_is_no_reason_to_stop() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        std::fs::create_dir(&gone).unwrap();
        let spool = Spool::new(Some(gone.clone()));
        let mut piece = spool.piece();
        let line = vec![b'x'; BLOCK];
        for _ in 0..12 {
            piece.push(&line).await;
        }
        std::fs::remove_dir(&gone).unwrap();
        let mut other = spool.piece();
        for _ in 0..12 {
            other.push(&line).await;
        }
        other.end().await;
        assert_eq!((all(piece).await.len(), all(other).await.len()), (12, 12));
    }

    #[tokio::test]
    async fn a_piece_is_begun_only_while_there_is_room() {
        let spool = Spool::new(None);
        let mut piece = spool.piece();
        let line = vec![b'x'; BLOCK];
        for _ in 0..=16 {
            piece.push(&line).await;
        }
        assert!(futures::FutureExt::now_or_never(spool.room()).is_none());
        drop(piece);
        spool.room().await;
    }
}
