//! Copies of data directories.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Copies a directory to whose files no process writes meanwhile.
///
/// # Errors
/// If something cannot be read or written; the error names it.
pub fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_directory(&from, &to)?;
        } else {
            copy_file(&from, &to).with_context(|| from.display().to_string())?;
        }
    }
    Ok(())
}

/// Copies a file without its holes, which are nearly all of the 50 MB of a small collection.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (File::open(from)?, File::create(to)?);
    target.set_len(source.metadata()?.len())?;
    let mut position = 0;
    loop {
        let data = match seek(&source, SeekFrom::Data(position)) {
            // The rest of the file is a hole.
            Err(Errno::NXIO) => return Ok(()),
            data => data?,
        };
        let hole = seek(&source, SeekFrom::Hole(data))?;
        seek(&source, SeekFrom::Start(data))?;
        seek(&target, SeekFrom::Start(data))?;
        io::copy(&mut (&source).take(hole - data), &mut &target)?;
        position = hole;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    #[test]
    fn a_copy_has_the_contents_and_the_length_of_a_file_with_holes() -> Result<()> {
        let root = tempfile::tempdir()?;
        let from = root.path().join("from");
        fs::create_dir_all(from.join("folder"))?;
        let mut file = File::create(from.join("folder/file"))?;
        for (position, text) in [(0, "begin"), (3 << 20, "middle")] {
            file.seek(io::SeekFrom::Start(position))?;
            file.write_all(text.as_bytes())?;
        }
        file.set_len(5 << 20)?;
        File::create(from.join("empty"))?;

        let to = root.path().join("to");
        copy_directory(&from, &to)?;
        for file in ["folder/file", "empty"] {
            assert!(fs::read(from.join(file))? == fs::read(to.join(file))?, "{file}");
        }
        Ok(())
    }
}
