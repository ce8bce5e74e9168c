//! The files of a cluster: a directory with the server's data, its log and its password.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::account::Account;
use crate::command::{command, run, tail};
use crate::{Access, Durability, Installation, ThrowawayError};

/// The superuser's name, whatever the name of the account is.
pub(crate) const SUPERUSER: &str = "postgres";

/// A file that is included at the end of postgresql.conf. It is written again at every start, because a kept
/// cluster may get another port.
const CONFIGURATION: &str = "walvec.conf";

/// The paths of a cluster's files.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The directory that holds all of them.
    pub(crate) base: PathBuf,
    /// The server's data directory.
    pub(crate) data: PathBuf,
    /// The server's log.
    pub(crate) log: PathBuf,
    /// The data directory while initdb fills it.
    new_data: PathBuf,
    /// The superuser's password, unless the cluster was made without one.
    password: PathBuf,
}

impl Layout {
    pub(crate) fn new(base: PathBuf) -> Self {
        Self {
            data: base.join("data"),
            new_data: base.join("data.new"),
            log: base.join("server.log"),
            password: base.join("password"),
            base,
        }
    }

    /// Returns the major version that made the cluster, e.g. `15`; `None` if there is no cluster yet.
    pub(crate) fn made_by(&self) -> Option<String> {
        fs::read_to_string(self.data.join("PG_VERSION")).ok().map(|version| version.trim().to_owned())
    }

    /// Creates the directory, or refuses one that holds other files.
    pub(crate) fn prepare_kept(&self, account: &Account) -> Result<(), ThrowawayError> {
        fs::create_dir_all(&self.base).map_err(ThrowawayError::io(&*self.base))?;
        let entries = fs::read_dir(&self.base).map_err(ThrowawayError::io(&*self.base))?;
        let names: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
        if names.is_empty() {
            fs::set_permissions(&self.base, fs::Permissions::from_mode(0o700))
                .map_err(ThrowawayError::io(&*self.base))?;
            return account.own(&self.base);
        }
        // A password without data means that initdb was interrupted.
        let ours = [&self.data, &self.new_data, &self.log, &self.password];
        if names.iter().all(|name| ours.iter().any(|path| path.file_name() == Some(name))) {
            return Ok(());
        }
        Err(ThrowawayError::NotACluster { path: self.base.clone() })
    }

    /// Makes the cluster's files with initdb: all of them, or none.
    pub(crate) async fn initialise(
        &self,
        installation: &Installation,
        account: &Account,
        access: Access,
        durability: Durability,
    ) -> Result<(), ThrowawayError> {
        if self.new_data.exists() {
            fs::remove_dir_all(&self.new_data).map_err(ThrowawayError::io(&*self.new_data))?;
        }
        let mut initdb = command(&installation.program("initdb"), account);
        // The C locale sorts and prints the same everywhere.
        initdb.args(["--encoding=UTF8", "--locale=C", "--username", SUPERUSER, "--pgdata"]);
        initdb.arg(&self.new_data);
        match access {
            Access::Trust => initdb.arg("--auth=trust"),
            Access::Password => {
                self.make_password(account)?;
                initdb.arg("--auth=scram-sha-256").arg("--pwfile").arg(&self.password)
            }
        };
        if durability == Durability::Volatile {
            initdb.arg("--no-sync");
        }
        run(initdb).await?;
        let path = self.new_data.join("postgresql.conf");
        let file = fs::OpenOptions::new().append(true).open(&path);
        file.and_then(|mut file| writeln!(file, "include = '{CONFIGURATION}'")).map_err(ThrowawayError::io(path))?;
        fs::rename(&self.new_data, &self.data).map_err(ThrowawayError::io(&*self.data))
    }

    /// Copies the files of a stopped cluster.
    pub(crate) async fn copy(&self, from: &Self, account: &Account, is_standby: bool) -> Result<(), ThrowawayError> {
        let mut copy = command(Path::new("cp"), account);
        copy.arg("-Rp").arg(&from.data).arg(&self.data);
        run(copy).await?;
        if from.password.exists() {
            let mut copy = command(Path::new("cp"), account);
            copy.arg("-p").arg(&from.password).arg(&self.password);
            run(copy).await?;
        }
        if is_standby {
            let signal = self.data.join("standby.signal");
            fs::write(&signal, "").map_err(ThrowawayError::io(&*signal))?;
            account.own(&signal)?;
        }
        Ok(())
    }

    fn make_password(&self, account: &Account) -> Result<(), ThrowawayError> {
        let password = Uuid::new_v4().simple().to_string();
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.password);
        file.and_then(|mut file| writeln!(file, "{password}")).map_err(ThrowawayError::io(&*self.password))?;
        account.own(&self.password)
    }

    /// Reads the superuser's password; `None` if the cluster was made without one.
    pub(crate) fn password(&self) -> Result<Option<String>, ThrowawayError> {
        match fs::read_to_string(&self.password) {
            Ok(password) => Ok(Some(password.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ThrowawayError::io(&*self.password)(error)),
        }
    }

    /// Writes the server's settings.
    pub(crate) fn configure(
        &self,
        account: &Account,
        port: u16,
        durability: Durability,
        settings: &[(String, String)],
    ) -> Result<(), ThrowawayError> {
        let path = self.data.join(CONFIGURATION);
        fs::write(&path, configuration(port, durability, settings)).map_err(ThrowawayError::io(&*path))?;
        account.own(&path)
    }

    /// Returns the present length of the server's log in bytes.
    pub(crate) fn log_length(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }

    /// Returns the end of what was added to the server's log since it was `from` bytes long.
    pub(crate) fn log_tail(&self, from: u64) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let new = usize::try_from(from).ok().and_then(|from| log.get(from..)).unwrap_or(&log);
        tail(&String::from_utf8_lossy(new))
    }
}

fn configuration(port: u16, durability: Durability, settings: &[(String, String)]) -> String {
    let port = port.to_string();
    let durable = if durability == Durability::Durable { "on" } else { "off" };
    let ours = [
        ("listen_addresses", "127.0.0.1"),
        ("port", &port),
        // Paths of socket files have short limits, and the files would be one more thing to remove.
        ("unix_socket_directories", ""),
        ("wal_level", "logical"),
        // Enough for the slots and snapshot copies of several tests at once.
        ("max_wal_senders", "50"),
        ("max_replication_slots", "50"),
        ("max_connections", "200"),
        ("fsync", durable),
        ("full_page_writes", durable),
        ("log_line_prefix", "%m [%p] %d "),
    ];
    let theirs = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut lines = String::new();
    // PostgreSQL uses the last of several lines about one setting.
    for (name, value) in ours.into_iter().chain(theirs) {
        lines.push_str(&format!("{name} = {}\n", quoted(value)));
    }
    lines
}

/// Quotes a value for postgresql.conf: quotes are doubled, and backslashes too, which start escapes there.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', "''"))
}

/// Refuses a cluster that another major version made.
pub(crate) fn check_major(layout: &Layout, installation: &Installation) -> Result<(), ThrowawayError> {
    match layout.made_by() {
        Some(made_by) if made_by != installation.version().major.to_string() => {
            Err(ThrowawayError::OtherMajor { path: layout.base.clone(), made_by, installed: installation.version() })
        }
        _ => Ok(()),
    }
}

/// Returns whether a server runs in `data`.
pub(crate) async fn is_running(
    installation: &Installation,
    account: &Account,
    data: &Path,
) -> Result<bool, ThrowawayError> {
    let mut status = command(&installation.program("pg_ctl"), account);
    status.args(["status", "-s", "-D"]).arg(data);
    Ok(crate::command::output(status).await?.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_reaches_the_server_as_it_was_given() {
        assert_eq!(quoted(r"it's C:\temp"), r"'it''s C:\\temp'");
        let text = configuration(5433, Durability::Volatile, &[("port".to_owned(), "5434".to_owned())]);
        let ports: Vec<&str> = text.lines().filter(|line| line.starts_with("port")).collect();
        assert_eq!(ports, ["port = '5433'", "port = '5434'"]);
        assert!(text.contains("fsync = 'off'\n"));
    }
}
