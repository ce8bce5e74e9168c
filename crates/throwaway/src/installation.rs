//! The search for a PostgreSQL server on this machine.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::ThrowawayError;
use crate::account::Account;
use crate::command::{command, words};
use crate::packaged::PackagedServer;

/// The oldest major version that walvec reads from. The PostgreSQL project no longer supports 12 and older.
pub const OLDEST_MAJOR: u32 = 13;

/// The programs that a directory must hold.
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// Directories with one subdirectory per installed major version, and the path of the programs below that.
///
/// Debian and Ubuntu; the PostgreSQL project's RPMs; Homebrew on Apple and Intel machines; Postgres.app.
const PER_MAJOR: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
    ("/Applications/Postgres.app/Contents/Versions", ""),
];

/// A server version, e.g. 15.18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// For example 15.
    pub major: u32,
    /// For example 18; 0 for a version that is not released yet.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The error for a text that is not the output of `postgres --version`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a PostgreSQL version; expected the form \"postgres (PostgreSQL) 15.18\"")]
pub struct InvalidVersion(pub String);

impl FromStr for Version {
    type Err = InvalidVersion;

    /// Parses the output of `postgres --version`, e.g. `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, or
    /// `postgres (PostgreSQL) 19beta1`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidVersion(text.trim().to_owned());
        let (_, number) = text.split_once("(PostgreSQL) ").ok_or_else(invalid)?;
        let number = number.split_whitespace().next().ok_or_else(invalid)?;
        let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>();
        let (major, minor) = number.split_once('.').unwrap_or((number, ""));
        let major = digits(major).parse().map_err(|_| invalid())?;
        Ok(Self { major, minor: digits(minor).parse().unwrap_or(0) })
    }
}

/// The places that are searched for servers.
#[derive(Clone, Debug, Default)]
pub struct SearchPlaces {
    /// The server that the user named: a directory of programs, an installation that has them in `bin`, or a major
    /// version. The other places are not searched then.
    pub explicit: Option<String>,
    /// The directories of `PATH`, in order.
    pub path: Vec<PathBuf>,
    /// The directory that `make postgres` fetches into: `<major>/bin` below it.
    pub fetched: Option<PathBuf>,
    /// Servers in packages that were installed with the program.
    pub packaged: Vec<PackagedServer>,
}

impl SearchPlaces {
    /// Returns the places that the environment names (`WALVEC_POSTGRES`, `PATH`, and `WALVEC_CACHE` with its defaults)
    /// and the packages around this program.
    ///
    /// The defaults are those of `scripts/fetch-postgres.sh`: `$XDG_CACHE_HOME/walvec` or `~/.cache/walvec`, but for root
    /// `/var/cache/walvec`, because the unprivileged account that runs the server may not enter root's home.
    #[must_use]
    pub fn from_env() -> Self {
        let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let cache = set("WALVEC_CACHE").map(PathBuf::from).or_else(|| {
            if rustix::process::geteuid().is_root() {
                return Some(PathBuf::from("/var/cache/walvec"));
            }
            let home = || set("HOME").map(|home| Path::new(&home).join(".cache"));
            set("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).map(|caches| caches.join("walvec"))
        });
        Self {
            explicit: set("WALVEC_POSTGRES").map(|value| value.to_string_lossy().into_owned()),
            path: set("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default(),
            fetched: cache.map(|cache| cache.join("postgres")),
            packaged: program().as_deref().map(PackagedServer::of_program).unwrap_or_default(),
        }
    }

    /// Returns every directory that may hold the programs, in order of preference.
    fn candidates(&self) -> Vec<PathBuf> {
        let mut candidates = self.path.clone();
        for (parent, prefix) in PER_MAJOR {
            candidates.extend(per_major(Path::new(parent), prefix));
        }
        if let Some(fetched) = &self.fetched {
            candidates.extend(per_major(fetched, ""));
        }
        candidates.extend(self.packaged.iter().map(PackagedServer::bin));
        candidates
    }

    /// Describes the places for users.
    fn described(&self) -> String {
        let fetched = self.fetched.as_ref().map(|fetched| format!(", {}", fetched.display()));
        let fetched = fetched.unwrap_or_default();
        format!("PATH, /usr/lib/postgresql, /usr/pgsql-*, Homebrew{fetched}, and the packages installed with walvec")
    }
}

/// Returns the path of this program, with symbolic links resolved: pipx and npm link to it from a directory of `PATH`.
fn program() -> Option<PathBuf> {
    env::current_exe().and_then(fs::canonicalize).ok()
}

/// Returns the existing directories `<parent>/<prefix><major>/bin`, newest major first.
fn per_major(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut majors: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()).collect();
    majors.sort_unstable_by(|left, right| right.cmp(left));
    majors.into_iter().map(|major| parent.join(format!("{prefix}{major}/bin"))).collect()
}

/// A PostgreSQL server that can be started on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    bin: PathBuf,
    version: Version,
}

impl Installation {
    /// Finds the first usable server: the one that the user named, else one from `PATH`, the system's usual directories
    /// (newest first), what `make postgres` fetched, and the packages that were installed with the program.
    ///
    /// A packaged server that cannot be used where it is gets copied to the directory where `make postgres` would have
    /// put it.
    ///
    /// # Errors
    /// If there is none, or if the user named something that is not one.
    pub fn find(places: &SearchPlaces) -> Result<Self, ThrowawayError> {
        if let Some(explicit) = &places.explicit {
            return Self::named(places, explicit);
        }
        if let Some(first) = places.candidates().iter().find_map(|bin| Self::open(bin).ok()) {
            return Ok(first);
        }
        let not_found = ThrowawayError::NotFound { looked_in: places.described() };
        let Some(directory) = &places.fetched else { return Err(not_found) };
        let mut outcome = Err(not_found);
        for server in &places.packaged {
            outcome = server.copy_into(directory);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Finds the server that `name` means: a major version, a directory of programs, or an installation with them in
    /// `bin`.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(places: &SearchPlaces, name: &str) -> Result<Self, ThrowawayError> {
        if let Ok(major) = name.parse() {
            return Self::of_major(places, major);
        }
        let path = Path::new(name);
        if path.join("pg_ctl").exists() { Self::open(path) } else { Self::open(&path.join("bin")) }
    }

    /// Returns every usable server in `places`, in order of preference, each once. The server that the user named is left
    /// out.
    #[must_use]
    pub fn all(places: &SearchPlaces) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for installation in places.candidates().iter().filter_map(|bin| Self::open(bin).ok()) {
            if !all.contains(&installation) {
                all.push(installation);
            }
        }
        all
    }

    fn of_major(places: &SearchPlaces, major: u32) -> Result<Self, ThrowawayError> {
        let all = Self::all(places);
        let found: Vec<String> = all.iter().map(|installation| installation.version.to_string()).collect();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        let wanted = all.into_iter().find(|installation| installation.version.major == major);
        wanted.ok_or(ThrowawayError::MajorNotFound { major, found })
    }

    /// Opens the server whose programs are in `bin`.
    pub(crate) fn open(bin: &Path) -> Result<Self, ThrowawayError> {
        let unusable = |reason: String| ThrowawayError::NotUsable { path: bin.to_owned(), reason };
        if let Some(missing) = PROGRAMS.iter().find(|program| !bin.join(program).is_file()) {
            return Err(unusable(format!("it has no {missing}")));
        }
        // The programs find each other and their libraries relative to their real path, so links are resolved once, here.
        let pg_ctl = bin.join("pg_ctl").canonicalize().map_err(ThrowawayError::io(bin))?;
        let bin = pg_ctl.parent().unwrap_or(bin).to_owned();
        let account = Account::for_servers()?;
        account.check_reach(&bin)?;
        let postgres = bin.join("postgres");
        let output = command(&postgres, &account).arg("--version").output().map_err(ThrowawayError::io(&*postgres))?;
        let version: Version = words(&output).parse().map_err(|error: InvalidVersion| unusable(error.to_string()))?;
        if version.major < OLDEST_MAJOR {
            return Err(unusable(format!("it is version {version}")));
        }
        Ok(Self { bin, version })
    }

    /// Returns the server's version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Returns the directory of its programs.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Returns the path of one of its programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn version(major: u32, minor: u32) -> Version {
        Version { major, minor }
    }

    /// Creates programs that only answer `--version`.
    fn pretend_server(bin: &Path, answer: &str) {
        fs::create_dir_all(bin).unwrap();
        for program in PROGRAMS {
            let path = bin.join(program);
            fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// Creates a directory that the account of servers may enter.
    fn open_directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        directory
    }

    #[test]
    fn the_version_is_read_from_every_way_it_is_written() {
        assert_eq!("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n".parse(), Ok(version(15, 18)));
        assert_eq!("postgres (PostgreSQL) 18.6".parse(), Ok(version(18, 6)));
        assert_eq!("postgres (PostgreSQL) 19beta2".parse(), Ok(version(19, 0)));
        assert!("mysqld 8.0".parse::<Version>().is_err());
        assert!("postgres (PostgreSQL) ".parse::<Version>().is_err());
    }

    #[test]
    fn what_the_user_names_wins_and_is_not_silently_replaced() {
        let directory = open_directory();
        pretend_server(&directory.path().join("mine/bin"), "postgres (PostgreSQL) 14.3");
        pretend_server(&directory.path().join("path"), "postgres (PostgreSQL) 17.1");
        let mut places = SearchPlaces { path: vec![directory.path().join("path")], ..SearchPlaces::default() };
        assert_eq!(Installation::find(&places).unwrap().version(), version(17, 1));

        places.explicit = Some(directory.path().join("mine").display().to_string());
        assert_eq!(Installation::find(&places).unwrap().version(), version(14, 3));

        places.explicit = Some(directory.path().join("other").display().to_string());
        let error = Installation::find(&places).unwrap_err().to_string();
        assert!(error.contains("other/bin is not a usable PostgreSQL 13 or newer: it has no initdb"), "{error}");
    }

    #[test]
    fn a_major_version_names_a_server_wherever_it_is() {
        let directory = open_directory();
        pretend_server(&directory.path().join("path"), "postgres (PostgreSQL) 97.1");
        pretend_server(&directory.path().join("fetched/96/bin"), "postgres (PostgreSQL) 96.4");
        let mut places = SearchPlaces {
            explicit: Some("96".to_owned()),
            path: vec![directory.path().join("path")],
            fetched: Some(directory.path().join("fetched")),
            packaged: Vec::new(),
        };
        assert_eq!(Installation::find(&places).unwrap().version(), version(96, 4));

        places.explicit = Some("95".to_owned());
        let error = Installation::find(&places).unwrap_err().to_string();
        assert!(error.starts_with("no PostgreSQL 95 was found; there is 97.1"), "{error}");
        assert!(error.contains("scripts/fetch-postgres.sh 95"), "{error}");
    }

    #[test]
    fn the_newest_fetched_server_is_taken_and_one_that_is_too_old_is_not() {
        let directory = open_directory();
        for (major, answer) in [(9, "9.6.24"), (99, "99.3"), (98, "98.12"), (100, "nonsense")] {
            let bin = directory.path().join(format!("{major}/bin"));
            pretend_server(&bin, &format!("postgres (PostgreSQL) {answer}"));
        }
        assert_eq!(
            per_major(directory.path(), ""),
            [100, 99, 98, 9].map(|major| directory.path().join(format!("{major}/bin")))
        );
        let places = SearchPlaces { fetched: Some(directory.path().to_owned()), ..SearchPlaces::default() };
        let fetched = |installation: &Installation| installation.bin().starts_with(directory.path());
        let versions: Vec<Version> =
            Installation::all(&places).iter().filter(|found| fetched(found)).map(Installation::version).collect();
        assert_eq!(versions, [version(99, 3), version(98, 12)]);
    }

    #[test]
    fn without_any_server_the_remedy_is_named() {
        let error = ThrowawayError::NotFound { looked_in: SearchPlaces::default().described() }.to_string();
        assert!(error.contains("make postgres"), "{error}");
        assert!(error.contains("WALVEC_POSTGRES"), "{error}");
    }
}
