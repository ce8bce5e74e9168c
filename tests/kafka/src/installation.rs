//! Java and the broker's jars.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The version of Kafka, which `tests/kafka/pom.xml` names too.
const VERSION: &str = "4.3.1";

/// Something that a test needs and this machine lacks.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// No Java.
    #[error(
        "java was not found; install Java 17 or newer (Debian and Ubuntu: apt install openjdk-17-jre-headless maven)"
    )]
    Java,
    /// No broker.
    #[error("Apache Kafka {VERSION} is not in {}; fetch it with scripts/fetch-kafka.sh", looked_in.display())]
    Kafka {
        /// The directory in which the jars would be.
        looked_in: PathBuf,
    },
}

/// Checks that a broker can be started on this machine.
///
/// # Errors
/// If it cannot, what is missing and what to type.
pub fn available() -> Result<(), Missing> {
    class_path().map(drop)
}

/// Returns whether `what` can be tested here. If not, it prints a clear notice; on a build server, where nothing may be left
/// out, it panics.
///
/// # Panics
/// If something is missing and `CI` is set.
#[must_use]
#[allow(clippy::print_stderr)]
pub fn can_test(what: &str) -> bool {
    let Err(missing) = available() else { return true };
    assert!(env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{what} cannot be tested: {missing}");
    eprintln!("SKIPPED: {what}: {missing}");
    false
}

/// Returns Java's class path with the broker's jars.
pub(crate) fn class_path() -> Result<OsString, Missing> {
    let libs = cache().join("kafka").join(VERSION).join("libs");
    if !libs.is_dir() {
        return Err(Missing::Kafka { looked_in: libs });
    }
    static JAVA: OnceLock<bool> = OnceLock::new();
    let answers = || Command::new("java").arg("-version").output().is_ok_and(|output| output.status.success());
    if !JAVA.get_or_init(answers) {
        return Err(Missing::Java);
    }
    Ok(libs.join("*").into_os_string())
}

/// Returns walvec's cache directory, by the same rule as `scripts/fetch-kafka.sh`.
fn cache() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
    if let Some(cache) = set("WALVEC_CACHE") {
        return cache.into();
    }
    if rustix::process::geteuid().is_root() {
        return "/var/cache/walvec".into();
    }
    let home = || Path::new(&set("HOME").unwrap_or_default()).join(".cache");
    set("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("walvec")
}
