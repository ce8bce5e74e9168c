//! The connection settings, taken apart and checked.
//!
//! tokio-postgres parses the string; the settings that it does not know (`sslrootcert`, the verifying `sslmode`s) are
//! taken out first.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::{ChannelBinding, Host as ParsedHost};

use crate::CaptureError;
use crate::sql::quote_ident;

/// How long a connection attempt may take, unless `connect_timeout` says otherwise.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How much of the peer has to be proved; the names are libpq's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    const fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(name: &str) -> Result<Self, CaptureError> {
        [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull]
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| {
                invalid(format!("sslmode is \"{name}\"; use disable, prefer, require, verify-ca or verify-full"))
            })
    }
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// A name or an address.
    Tcp(String),
    /// The directory of its socket.
    Unix(PathBuf),
}

/// Where servers put their sockets: packages of Linux distributions, and PostgreSQL itself.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Checked connection settings of one server and database.
#[derive(Clone)]
pub(crate) struct ConnInfo {
    /// As tokio-postgres reads it; its `sslmode` is not set.
    pub(super) config: tokio_postgres::Config,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) ssl_mode: SslMode,
    /// The file with the authorities to trust; `None`: the operating system's.
    pub(super) root_cert: Option<PathBuf>,
}

impl ConnInfo {
    /// Takes `url` apart.
    pub(crate) fn parse(url: &SecretString) -> Result<Self, CaptureError> {
        let text = url.expose_secret();
        let (rest, own) = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            split_url(text)?
        } else {
            split_pairs(text)?
        };
        // The library's error could quote the string, and with it the password.
        let mut config: tokio_postgres::Config =
            rest.parse().map_err(|error| invalid(format!("not a connection string: {}", kind_of(&error))))?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(DEFAULT_CONNECT_TIMEOUT);
        }
        if config.get_channel_binding() == ChannelBinding::Require {
            return Err(invalid("channel_binding=require is not supported; use sslmode=verify-full".to_owned()));
        }
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let host = single_host(&mut config, port)?;
        let user = config.get_user().unwrap_or("postgres").to_owned();
        config.user(&user);
        let database = config.get_dbname().unwrap_or(&user).to_owned();
        config.dbname(&database);
        let root_cert = own.root_cert;
        let ssl_mode = match own.ssl_mode {
            // As in libpq: nobody can listen on a socket file.
            _ if matches!(host, Host::Unix(_)) => SslMode::Disable,
            // As in libpq: an authority that is given is also checked.
            Some(SslMode::Require) if root_cert.is_some() => SslMode::VerifyCa,
            Some(mode) => mode,
            None if is_loopback(&host) && root_cert.is_none() => SslMode::Prefer,
            None => SslMode::VerifyFull,
        };
        Ok(Self { config, host, port, user, database, ssl_mode, root_cert })
    }

    /// `host:port/database`, for messages.
    pub(crate) fn server(&self) -> String {
        format!("{}/{}", self.place(), self.database)
    }

    /// `host:port`.
    fn place(&self) -> String {
        match &self.host {
            Host::Tcp(host) => format!("{host}:{}", self.port),
            Host::Unix(directory) => format!("{}:{}", directory.display(), self.port),
        }
    }

    /// The error for a database that does not exist.
    pub(super) fn no_database(&self) -> CaptureError {
        CaptureError::Database { database: self.database.clone(), server: self.place() }
    }

    /// The error for a database that the role may not connect to.
    pub(super) fn no_entry(&self, reason: String) -> CaptureError {
        let grant =
            format!("GRANT CONNECT ON DATABASE {} TO {};", quote_ident(&self.database), quote_ident(&self.user));
        CaptureError::Rights { doing: format!("connecting to {}", self.server()), reason, grant: Some(grant) }
    }

    /// How long it may take to connect and log in. `connect_timeout` covers each of the steps.
    pub(super) fn connect_limit(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(DEFAULT_CONNECT_TIMEOUT) * 2
    }
}

/// The settings that tokio-postgres does not know.
#[derive(Default)]
struct OwnSettings {
    ssl_mode: Option<SslMode>,
    root_cert: Option<PathBuf>,
}

impl OwnSettings {
    /// Takes the setting if it is one of ours.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, CaptureError> {
        match key {
            "sslmode" => self.ssl_mode = Some(SslMode::parse(value)?),
            "sslrootcert" => {
                self.ssl_mode = self.ssl_mode.or((value == "system").then_some(SslMode::VerifyFull));
                self.root_cert = (value != "system").then(|| PathBuf::from(value));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn split_url(url: &str) -> Result<(String, OwnSettings), CaptureError> {
    let mut own = OwnSettings::default();
    let Some((base, query)) = url.split_once('?') else { return Ok((url.to_owned(), own)) };
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !own.take(key, &unpercent(value)?)? {
            kept.push(pair);
        }
    }
    let rest = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
    Ok((rest, own))
}

/// Splits `key = 'value'` pairs as libpq does: blanks around `=`, single quotes, backslash escapes.
fn split_pairs(text: &str) -> Result<(String, OwnSettings), CaptureError> {
    let mut own = OwnSettings::default();
    let mut rest = String::new();
    let mut input = text.trim_start();
    while !input.is_empty() {
        let (key, after) =
            input.split_once('=').ok_or_else(|| invalid("expected key=value pairs or postgres://".to_owned()))?;
        let (value, after) = pair_value(after.trim_start())?;
        if !own.take(key.trim(), &value)? {
            let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
            let _ = write!(rest, "{}='{escaped}' ", key.trim());
        }
        input = after.trim_start();
    }
    Ok((rest, own))
}

/// Reads one value; returns it with what follows.
fn pair_value(input: &str) -> Result<(String, &str), CaptureError> {
    let quoted = input.starts_with('\'');
    let mut value = String::new();
    let mut characters = input.char_indices().skip(usize::from(quoted));
    while let Some((index, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &input[index + 1..])),
            blank if !quoted && blank.is_whitespace() => return Ok((value, &input[index..])),
            other => value.push(other),
        }
    }
    if quoted { Err(invalid("a quoted value does not end".to_owned())) } else { Ok((value, "")) }
}

/// The one host to connect to; without any, this machine: its socket if there is one, as libpq does.
fn single_host(config: &mut tokio_postgres::Config, port: u16) -> Result<Host, CaptureError> {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        let has_socket = |directory: &&&str| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists();
        config.host(*SOCKET_DIRECTORIES.iter().find(has_socket).unwrap_or(&"localhost"));
    }
    if config.get_hosts().len() > 1 || config.get_hostaddrs().len() > 1 {
        return Err(invalid("several hosts are given; a replication slot lives on exactly one".to_owned()));
    }
    match config.get_hosts().first() {
        Some(ParsedHost::Tcp(host)) if host.contains('@') => {
            Err(invalid("the password holds an \"@\"; write it as %40".to_owned()))
        }
        Some(ParsedHost::Tcp(host)) => Ok(Host::Tcp(host.clone())),
        #[cfg(unix)]
        Some(ParsedHost::Unix(directory)) => Ok(Host::Unix(directory.clone())),
        None => config
            .get_hostaddrs()
            .first()
            .map(|address| Host::Tcp(address.to_string()))
            .ok_or_else(|| invalid("no host is given".to_owned())),
    }
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Tcp(host) => {
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    }
}

fn invalid(reason: String) -> CaptureError {
    CaptureError::Config { reason }
}

/// What is wrong, in words that hold nothing of the string itself: a slip in the quoting of a password turns its pieces
/// into option names.
fn kind_of(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    if cause.starts_with("invalid value for option") {
        return cause;
    }
    let known = UNSUPPORTED.iter().find(|name| cause == format!("unknown option `{name}`"));
    known.map_or_else(|| "malformed, or with a setting that is not known".to_owned(), |_| cause.clone())
}

/// Settings that libpq has and we have not; they may be named in messages.
const UNSUPPORTED: &[&str] = &[
    "gssencmode",
    "krbsrvname",
    "passfile",
    "require_auth",
    "service",
    "sslcert",
    "sslcompression",
    "sslcrl",
    "sslkey",
    "sslpassword",
];

fn unpercent(text: &str) -> Result<String, CaptureError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| invalid("a percent-encoded setting is not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<ConnInfo, CaptureError> {
        ConnInfo::parse(&url.to_owned().into())
    }

    #[test]
    fn a_remote_host_must_prove_who_it_is_and_this_machine_need_not() {
        for (url, expected) in [
            ("postgres://u:p@db.example.com/d", SslMode::VerifyFull),
            ("host=db.example.com user=u", SslMode::VerifyFull),
            ("postgres://u@10.0.0.1/d", SslMode::VerifyFull),
            ("postgres://u@localhost/d", SslMode::Prefer),
            ("postgres://u@127.0.0.1:5433/d", SslMode::Prefer),
            ("postgres://u@localhost/d?sslrootcert=/ca.pem", SslMode::VerifyFull),
            ("postgres://u@h/d?sslmode=disable", SslMode::Disable),
            ("postgres://u@h/d?sslmode=require", SslMode::Require),
            ("postgres://u@h/d?sslmode=require&sslrootcert=/ca.pem", SslMode::VerifyCa),
            ("postgres://u@localhost/d?sslrootcert=system", SslMode::VerifyFull),
        ] {
            assert_eq!(parse(url).unwrap().ssl_mode, expected, "{url}");
        }
    }

    #[test]
    fn both_forms_of_a_connection_string_mean_the_same() {
        let url = parse("postgres://u%40x:p%27%5C%20@h:5433/d%2F1?sslmode=require&application_name=x").unwrap();
        let pairs = parse(r"host=h port = 5433 user='u@x' password='p\'\\ ' dbname=d/1 sslmode='require'").unwrap();
        for info in [&url, &pairs] {
            assert_eq!(info.server(), "h:5433/d/1");
            assert_eq!(info.user, "u@x");
            assert_eq!(info.config.get_password(), Some(br"p'\ ".as_slice()));
        }
    }

    #[test]
    fn no_message_repeats_a_password() {
        for url in [
            "postgres://u:s3cret@h:port/d",
            "postgres://u:s3c@ret@h/d",
            "postgres://u:x@h/d?sslmode=s3cre",
            "host=h password='s3cret",
            "host=h password=s3 cret=1",
            "postgres://u:s3cret@h,i/d",
            "s3cret",
        ] {
            let message = parse(url).err().unwrap().to_string();
            let message = message.replace("sslmode is \"s3cre\"", "");
            assert!(!message.contains("s3c") && !message.contains("cret"), "{url}: {message}");
        }
    }

    #[test]
    fn a_unix_socket_needs_no_tls() {
        for url in
            ["host=/run/x user=u dbname=d sslmode=require", "postgres://u@%2Frun%2Fx/d", "postgres://u@/d?host=/run/x"]
        {
            let info = parse(url).unwrap();
            assert_eq!((info.host.clone(), info.ssl_mode), (Host::Unix("/run/x".into()), SslMode::Disable), "{url}");
            assert_eq!(info.server(), "/run/x:5432/d");
        }
    }
}
