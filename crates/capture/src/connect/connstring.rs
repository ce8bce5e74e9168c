//! Splits a connection string, in either of libpq's two forms, into settings.
//!
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>
//!
//! Messages never repeat a value, nor a name that could be part of a password whose special characters were not encoded.

use percent_encoding::percent_decode_str;

use crate::CaptureError;

/// Settings with their names, decoded, in the order of the string. A list of hosts stays a comma-separated list.
pub(super) type NamedSettings = Vec<(String, String)>;

/// Splits `text` into settings.
pub(super) fn settings(text: &str) -> Result<NamedSettings, CaptureError> {
    match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        Some(rest) => of_url(rest),
        None => of_pairs(text),
    }
}

/// Splits `user:password@host:port,host:port/database?name=value&…`.
fn of_url(url: &str) -> Result<NamedSettings, CaptureError> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (authority, database) = base.split_once('/').unwrap_or((base, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    if login.contains('@') {
        return Err(invalid("the password holds an \"@\"; write it as %40"));
    }
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    let mut found = NamedSettings::new();
    for (name, value) in [("user", Some(user)), ("password", password), ("dbname", Some(database))] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            found.push((name.to_owned(), decoded(value)?));
        }
    }
    if !hosts.is_empty() {
        let places: Vec<(&str, &str)> = hosts.split(',').map(host_and_port).collect();
        let names = places.iter().map(|(host, _)| decoded(host)).collect::<Result<Vec<_>, _>>()?;
        found.push(("host".to_owned(), names.join(",")));
        if places.iter().any(|(_, port)| !port.is_empty()) {
            let ports = places.iter().map(|(_, port)| decoded(port)).collect::<Result<Vec<_>, _>>()?;
            found.push(("port".to_owned(), ports.join(",")));
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        found.push((name.to_owned(), decoded(value)?));
    }
    Ok(found)
}

/// Splits a place into host and port; the port is empty if there is none. An IPv6 address contains colons, and is in brackets.
fn host_and_port(place: &str) -> (&str, &str) {
    if let Some((address, rest)) = place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, rest.strip_prefix(':').unwrap_or(rest));
    }
    place.rsplit_once(':').unwrap_or((place, ""))
}

/// Splits `key = 'value'` pairs as libpq does: spaces around `=`, single quotes, backslash escapes.
fn of_pairs(text: &str) -> Result<NamedSettings, CaptureError> {
    let mut found = NamedSettings::new();
    let mut input = text.trim_start();
    while !input.is_empty() {
        let (key, after) = input.split_once('=').ok_or_else(|| invalid("expected key=value pairs or postgres://"))?;
        let (value, after) = pair_value(after.trim_start())?;
        found.push((key.trim().to_owned(), value));
        input = after.trim_start();
    }
    Ok(found)
}

/// Reads one value, and returns it with the rest of the input.
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
    if quoted { Err(invalid("a quoted value does not end")) } else { Ok((value, "")) }
}

fn decoded(text: &str) -> Result<String, CaptureError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| invalid("a percent-encoded setting is not UTF-8"))
}

/// Settings of libpq that walvec does not support.
const UNSUPPORTED: [&str; 12] = [
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "passfile",
    "require_auth",
    "service",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslpassword",
    "replication",
];

/// Settings that other libraries read from the same URL, with the name of the library.
const FOREIGN: [(&str, &str); 22] = [
    ("schema", "Prisma"),
    ("connection_limit", "Prisma"),
    ("pool_timeout", "Prisma"),
    ("socket_timeout", "Prisma"),
    ("statement_cache_size", "Prisma"),
    ("sslaccept", "Prisma"),
    ("sslidentity", "Prisma"),
    ("single_use_connections", "Prisma"),
    ("pgbouncer", "Prisma"),
    ("supa", "Supabase"),
    ("workaround", "Supabase"),
    ("uselibpqcompat", "node-postgres"),
    ("max", "node-postgres"),
    ("idle_timeout", "Postgres.js"),
    ("pool", "Rails"),
    ("sslcompression", "an old libpq"),
    ("prepared_statement_cache_size", "SQLAlchemy"),
    ("async_fallback", "SQLAlchemy"),
    ("currentSchema", "the JDBC driver"),
    ("prepareThreshold", "the JDBC driver"),
    ("reWriteBatchedInserts", "the JDBC driver"),
    ("search_path", "SQLx or pgx"),
];

/// Returns the error for unknown settings. It repeats only names from the lists above: the text after an unencoded `?`
/// or quotation mark in a password looks like a name, too.
pub(super) fn unknown(names: &[&str]) -> CaptureError {
    if let Some(name) = names.iter().find(|name| UNSUPPORTED.contains(name)) {
        return invalid(&format!("walvec does not support `{name}`; delete it"));
    }
    let foreign: Vec<(&str, &str)> = FOREIGN.into_iter().filter(|(foreign, _)| names.contains(foreign)).collect();
    if foreign.len() < names.len() {
        return invalid(
            "malformed, or with a setting that is not known; a password with special characters must be \
             percent-encoded in a URL and quoted in key=value pairs",
        );
    }
    let told: Vec<String> = foreign.iter().map(|(name, whose)| format!("`{name}` (of {whose})")).collect();
    let delete: Vec<String> = foreign.iter().map(|(name, _)| format!("`{name}=...`")).collect();
    let pooled = if names.contains(&"pgbouncer") {
        "; the URL is one for a connection pooler: replication needs the direct address of the server"
    } else {
        ""
    };
    invalid(&format!("PostgreSQL has no setting {}; delete {}{pooled}", told.join(" and "), delete.join(" and ")))
}

pub(super) fn invalid(reason: &str) -> CaptureError {
    CaptureError::Config { reason: reason.to_owned() }
}
