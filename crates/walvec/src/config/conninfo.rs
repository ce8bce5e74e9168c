//! Completes a connection string from `PG*` variables, as libpq does. The string itself always takes precedence.
//!
//! Missing settings are appended; the string is not parsed and written again. Errors in it show when connecting. No
//! message repeats any part of it.

use std::fmt::Write as _;

use secrecy::{ExposeSecret as _, SecretString};

use super::environment::Environment;

/// libpq's variables, with the settings whose defaults they are.
/// <https://www.postgresql.org/docs/current/libpq-envars.html>
const VARIABLES: [(&str, &str); 9] = [
    ("host", "PGHOST"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("dbname", "PGDATABASE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
];

/// The forms of a connection string, for messages.
pub(super) const EXPECTED: &str = "expected postgres://user:password@host:5432/database, or key=value pairs";

/// Completes `url`; `None` if it is not a connection string.
pub(super) fn complete(url: &SecretString, environment: &Environment) -> Option<SecretString> {
    let url = url.expose_secret();
    let (given, is_url) = match url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")) {
        Some(rest) => (settings_of_url(rest), true),
        None => (settings_of_pairs(url)?, false),
    };
    let missing = VARIABLES.iter().filter(|(setting, _)| !given.contains(setting));
    let mut complete = url.to_owned();
    for (setting, variable) in missing {
        let Some(value) = environment.non_empty(variable) else { continue };
        if is_url {
            complete.push(if complete.contains('?') { '&' } else { '?' });
            let _ = write!(complete, "{setting}={}", percent_encoded(value));
        } else {
            let _ = write!(complete, " {}", pair(setting, value));
        }
    }
    Some(complete.into())
}

/// Makes a connection string of `PG*` variables alone; `None` if none of them says where to connect.
pub(super) fn from_variables(environment: &Environment) -> Option<SecretString> {
    let is_given = ["PGHOST", "PGUSER", "PGDATABASE"].iter().any(|name| environment.non_empty(name).is_some());
    if is_given { complete(&"postgres://".into(), environment) } else { None }
}

/// Returns `setting='value'`, quoted as libpq reads it.
pub(super) fn pair(setting: &str, value: &str) -> String {
    format!("{setting}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Returns the settings that a URL (without its scheme) gives.
fn settings_of_url(url: &str) -> Vec<&'static str> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (authority, database) = base.split_once('/').unwrap_or((base, ""));
    let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    // If one of several hosts has a port, the others have the default port, as in libpq.
    let port = address.split(',').map(port_of).find(|port| !port.is_empty()).unwrap_or("");
    let host = if address.starts_with(':') { "" } else { address };
    let parts = [("host", host), ("port", port), ("user", user), ("password", password), ("dbname", database)];
    let from_query =
        query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (canonical(key), value));
    let given = parts.into_iter().chain(from_query.filter_map(|(key, value)| Some((key?, value))));
    given.filter(|(_, value)| !value.is_empty()).map(|(setting, _)| setting).collect()
}

/// Returns the port after a host. An IPv6 address has colons of its own, inside brackets.
fn port_of(place: &str) -> &str {
    let behind_brackets = place.rsplit(']').next().unwrap_or(place);
    behind_brackets.rsplit_once(':').map_or("", |(_, port)| port)
}

/// Returns the settings that `key=value` pairs give; `None` if the text has another form.
fn settings_of_pairs(text: &str) -> Option<Vec<&'static str>> {
    let mut given = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=')?;
        let key = key.trim();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return None;
        }
        given.extend(canonical(key));
        rest = behind_value(value.trim_start())?.trim_start();
    }
    (!given.is_empty()).then_some(given)
}

/// Returns what follows a value; `None` if its quote is not closed.
fn behind_value(text: &str) -> Option<&str> {
    let quoted = text.strip_prefix('\'');
    let mut characters = quoted.unwrap_or(text).char_indices();
    while let Some((offset, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '\'' if quoted.is_some() => return quoted.map(|text| &text[offset + 1..]),
            blank if quoted.is_none() && blank.is_whitespace() => return Some(&text[offset..]),
            _ => {}
        }
    }
    quoted.is_none().then_some("")
}

/// Returns the setting called `key`, if there is a variable for it. `hostaddr` counts as `host`, and `ssl` as
/// `sslmode`.
fn canonical(key: &str) -> Option<&'static str> {
    let key = match key {
        "hostaddr" => "host",
        "ssl" => "sslmode",
        key => key,
    };
    VARIABLES.iter().map(|(setting, _)| *setting).find(|setting| *setting == key)
}

fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment::of(&[
            ("PGHOST", "eh"),
            ("PGPORT", "1"),
            ("PGUSER", "eu"),
            ("PGPASSWORD", "e'p@&"),
            ("PGDATABASE", "ed"),
            ("PGSSLMODE", "require"),
        ])
    }

    fn completed(url: &str) -> Option<String> {
        complete(&url.into(), &environment()).map(|url| url.expose_secret().to_owned())
    }

    #[test]
    fn a_connection_string_is_completed_and_never_contradicted() {
        for (url, expected) in [
            ("postgres://u:p@h:5/d?sslmode=disable", "postgres://u:p@h:5/d?sslmode=disable"),
            ("postgres://u@h:5/d?sslmode=disable", "postgres://u@h:5/d?sslmode=disable&password=e%27p%40%26"),
            ("postgres://u:p@[::1]/d?sslmode=disable", "postgres://u:p@[::1]/d?sslmode=disable&port=1"),
            ("postgres://u:p@[::1]:5?sslmode=disable", "postgres://u:p@[::1]:5?sslmode=disable&dbname=ed"),
            ("postgres://u:p@h,i:7/d?sslmode=disable", "postgres://u:p@h,i:7/d?sslmode=disable"),
            ("postgres://u:p@h,i/d?ssl=true", "postgres://u:p@h,i/d?ssl=true&port=1"),
            (
                "postgres:///d?host=x&port=5&user=u&password=p",
                "postgres:///d?host=x&port=5&user=u&password=p&sslmode=require",
            ),
            (
                r"host=h port=5 user=u password='a\' dbname=' sslmode=disable",
                r"host=h port=5 user=u password='a\' dbname=' sslmode=disable dbname='ed'",
            ),
            (
                "hostaddr = 1.2.3.4 port=5 user=u dbname=d sslmode=x",
                r"hostaddr = 1.2.3.4 port=5 user=u dbname=d sslmode=x password='e\'p@&'",
            ),
        ] {
            assert_eq!(completed(url).as_deref(), Some(expected), "{url}");
        }
    }

    #[test]
    fn what_is_no_connection_string_is_refused() {
        for url in ["", "localhost", "mysql://h/d", "host='h", "Host=h", "=h"] {
            assert_eq!(completed(url), None, "{url}");
        }
    }

    #[test]
    fn a_list_of_hosts_in_the_variables_stays_a_list() {
        let environment = Environment::of(&[
            ("PGHOST", "a,b"),
            ("PGPORT", "1,2"),
            ("PGCHANNELBINDING", "require"),
            ("PGTARGETSESSIONATTRS", "primary"),
        ]);
        let url = from_variables(&environment).unwrap();
        assert_eq!(
            url.expose_secret(),
            "postgres://?host=a%2Cb&port=1%2C2&channel_binding=require&target_session_attrs=primary"
        );
        let pairs = complete(&"user=u".into(), &environment).unwrap();
        let expected = "user=u host='a,b' port='1,2' channel_binding='require' target_session_attrs='primary'";
        assert_eq!(pairs.expose_secret(), expected);
    }

    #[test]
    fn variables_alone_are_enough_if_they_say_where_to_connect() {
        let url = from_variables(&environment()).unwrap();
        assert_eq!(
            url.expose_secret(),
            "postgres://?host=eh&port=1&user=eu&password=e%27p%40%26&dbname=ed&sslmode=require"
        );
        let parsed: tokio_postgres::Config = url.expose_secret().parse().unwrap();
        assert_eq!((parsed.get_user(), parsed.get_password()), (Some("eu"), Some(b"e'p@&".as_slice())));
        assert!(from_variables(&Environment::of(&[("PGSSLMODE", "require")])).is_none());
    }
}
