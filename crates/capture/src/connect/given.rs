//! Checks the settings of a connection string, and makes one [`ConnInfo`] for each host in it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::ChannelBinding;

use super::conninfo::{ConnInfo, Host, Liveness, SslMode};
use super::connstring::{self, NamedSettings, invalid};
use super::settings;
use super::target::TargetServer;
use crate::CaptureError;

/// How long a connection attempt may take, unless `connect_timeout` is set.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The directories in which servers create their sockets: that of Linux distributions' packages, and PostgreSQL's own default.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Parses `url` into the servers to try, in order; at least one.
pub(super) fn parse(url: &SecretString) -> Result<Vec<ConnInfo>, CaptureError> {
    let mut given = UnreadSettings(connstring::settings(url.expose_secret())?);
    let hosts = given.hosts()?;
    let targets = TargetServer::parse(given.take("target_session_attrs").as_deref(), hosts.len())?;
    let template = given.template()?;
    let of_host = |(host, address, port): &(Host, Option<IpAddr>, u16)| {
        let ssl_mode = template.ssl_mode_of(host);
        ConnInfo { host: host.clone(), address: *address, port: *port, ssl_mode, ..template.info.clone() }
    };
    let infos: Vec<ConnInfo> = hosts.iter().map(of_host).collect();
    let infos: Vec<ConnInfo> = targets
        .iter()
        .flat_map(|target| infos.iter().map(|info| ConnInfo { target: *target, ..info.clone() }))
        .collect();
    debug_assert!(!infos.is_empty(), "there is a server to try");
    for info in &infos {
        if info.config.get_channel_binding() == ChannelBinding::Require && info.ssl_mode == SslMode::Disable {
            return Err(invalid(
                "channel_binding=require needs TLS, which sslmode=disable and Unix sockets do without",
            ));
        }
    }
    Ok(infos)
}

/// The settings that all hosts have in common.
struct CommonSettings {
    info: ConnInfo,
    ssl_mode: Option<SslMode>,
}

impl CommonSettings {
    fn ssl_mode_of(&self, host: &Host) -> SslMode {
        let has_authority = self.info.root_cert.is_some();
        match self.ssl_mode {
            // As in libpq. No other program can listen on a socket file.
            _ if matches!(host, Host::Unix(_)) => SslMode::Disable,
            // As in libpq: if an authority is given, it is also checked.
            Some(SslMode::Require) if has_authority => SslMode::VerifyCa,
            Some(mode) => mode,
            None if is_loopback(host) && !has_authority => SslMode::Prefer,
            None => SslMode::VerifyFull,
        }
    }
}

/// The settings that were not read yet.
struct UnreadSettings(NamedSettings);

impl UnreadSettings {
    /// Removes and returns a setting. The last one counts, as in libpq, and an empty one counts as absent.
    fn take(&mut self, name: &str) -> Option<String> {
        let value = self.0.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value.clone());
        self.0.retain(|(found, _)| found != name);
        value.filter(|value| !value.is_empty())
    }

    fn number<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, CaptureError> {
        let number = |text: String| text.trim().parse().map_err(|_| invalid(&format!("{name} is not a number")));
        self.take(name).map(number).transpose()
    }

    fn list(&mut self, name: &str) -> Vec<String> {
        self.take(name).map(|list| list.split(',').map(|item| item.trim().to_owned()).collect()).unwrap_or_default()
    }

    /// Removes and returns a setting that has to be one of a few words.
    fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, CaptureError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let known = words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
        let expected: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        known.map(Some).ok_or_else(|| invalid(&format!("{name} is none of {}", expected.join(", "))))
    }

    /// Removes and returns the hosts with their ports. Without any, the host is this machine: its socket if there is
    /// one, as in libpq.
    fn hosts(&mut self) -> Result<Vec<(Host, Option<IpAddr>, u16)>, CaptureError> {
        let (names, addresses, ports) = (self.list("host"), self.list("hostaddr"), self.list("port"));
        let count = names.len().max(addresses.len()).max(1);
        let fits = |list: &[String]| list.len() <= 1 || list.len() == count;
        if !fits(&names) || !fits(&addresses) || !fits(&ports) {
            return Err(invalid("host, hostaddr and port are lists of different lengths"));
        }
        let port = |index: usize| match ports.get(index).or_else(|| ports.first().filter(|_| ports.len() == 1)) {
            None => Ok(5432),
            Some(text) if text.is_empty() => Ok(5432),
            Some(text) => text.parse().map_err(|_| invalid("invalid value for option `port`")),
        };
        let address = |index: usize| match addresses.get(index).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => text.parse::<IpAddr>().map(Some).map_err(|_| invalid("hostaddr is not an IP address")),
        };
        let host = |index: usize| {
            let (port, address) = (port(index)?, address(index)?);
            let host = match (names.get(index).filter(|name| !name.is_empty()), address) {
                (Some(name), _) if name.starts_with('/') => Host::Unix(name.into()),
                (Some(name), _) => Host::Tcp(name.clone()),
                (None, Some(address)) => Host::Tcp(address.to_string()),
                (None, None) => here(port),
            };
            Ok((host, address, port))
        };
        (0..count).map(host).collect()
    }

    /// Reads all other settings. Those that remain are unknown.
    fn template(mut self) -> Result<CommonSettings, CaptureError> {
        let mut config = tokio_postgres::Config::new();
        let user = self.take("user").unwrap_or_else(|| "postgres".to_owned());
        let database = self.take("dbname").unwrap_or_else(|| user.clone());
        config.user(&user).dbname(&database);
        if let Some(password) = self.take("password") {
            config.password(password);
        }
        config.options(settings::marked(self.take("options").as_deref()));
        // All sessions are called walvec, so that they can be found. A name set by a connection pool or a framework is ignored.
        let _ = (self.take("application_name"), self.take("fallback_application_name"));
        let bindings = [
            ("disable", ChannelBinding::Disable),
            ("prefer", ChannelBinding::Prefer),
            ("require", ChannelBinding::Require),
        ];
        if let Some(binding) = self.word("channel_binding", &bindings)? {
            config.channel_binding(binding);
        }
        // All hosts are tried until one matches, so their order affects only the time that it takes.
        let _ = self.word("load_balance_hosts", &[("disable", ()), ("random", ())])?;
        let direct_tls = self.word("sslnegotiation", &[("postgres", false), ("direct", true)])?.unwrap_or(false);
        let (ssl_mode, root_cert) = self.tls()?;
        let connect_timeout = self.number("connect_timeout")?.filter(|seconds| *seconds > 0);
        let connect_timeout = connect_timeout.map_or(DEFAULT_CONNECT_TIMEOUT, Duration::from_secs);
        let liveness = self.liveness()?;
        let unknown: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        if !unknown.is_empty() {
            return Err(connstring::unknown(&unknown));
        }
        let info = ConnInfo {
            config,
            host: Host::Tcp(String::new()),
            address: None,
            port: 0,
            user,
            database,
            ssl_mode: SslMode::Disable,
            direct_tls,
            root_cert,
            target: TargetServer::Any,
            connect_timeout,
            liveness,
        };
        Ok(CommonSettings { info, ssl_mode })
    }

    fn tls(&mut self) -> Result<(Option<SslMode>, Option<PathBuf>), CaptureError> {
        let mut mode = self.take("sslmode").map(|name| name.parse()).transpose()?;
        // As in libpq, for URLs written for JDBC. Heroku's URLs are of this kind.
        match self.take("ssl").as_deref() {
            None => {}
            Some("true") => mode = mode.or(Some(SslMode::Require)),
            Some(_) => return Err(invalid("`ssl` can only be true; delete `ssl=...`, or write sslmode=disable")),
        }
        let root_cert = self.take("sslrootcert");
        if root_cert.as_deref() == Some("system") {
            return Ok((mode.or(Some(SslMode::VerifyFull)), None));
        }
        Ok((mode, root_cert.map(PathBuf::from)))
    }

    fn liveness(&mut self) -> Result<Liveness, CaptureError> {
        let default = Liveness::default();
        let keepalives = self.number::<u32>("keepalives")?.is_none_or(|number| number != 0);
        let mut seconds = |name, default| -> Result<Duration, CaptureError> {
            Ok(self.number(name)?.filter(|number| *number > 0).map_or(default, Duration::from_secs))
        };
        let idle = seconds("keepalives_idle", default.idle)?;
        let interval = seconds("keepalives_interval", default.interval)?;
        let retries = self.number("keepalives_count")?.or(self.number("keepalives_retries")?);
        let user_timeout = self.number("tcp_user_timeout")?.filter(|number| *number > 0);
        let user_timeout = user_timeout.map_or(default.user_timeout, Duration::from_millis);
        Ok(Liveness { keepalives, idle, interval, retries: retries.unwrap_or(default.retries), user_timeout })
    }
}

fn here(port: u16) -> Host {
    let has_socket = |directory: &&&str| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists();
    match SOCKET_DIRECTORIES.iter().find(has_socket) {
        Some(directory) => Host::Unix(directory.into()),
        None => Host::Tcp("localhost".to_owned()),
    }
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Tcp(host) => host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
        Host::Unix(_) => true,
    }
}

#[cfg(test)]
#[path = "given_tests.rs"]
mod tests;
