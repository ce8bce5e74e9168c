//! Session settings that decide how values are printed and how long a session lives.
//!
//! They are pinned on every connection, because a role or a database can have its own (`ALTER ROLE ... SET`), and the
//! copy, the stream and the re-select must print every value the same.

use crate::CaptureError;

use super::ConnInfo;

/// Adds walvec's own setting to a connection's `options`. [`refuse_shared`] recognises the session by it.
///
/// A pooler that passes its sessions from client to client does not forward `options`: it refuses the connection or
/// drops them. The statement timeout is lifted here as well, because a role's own timeout would otherwise apply to the
/// questions before the first `SET`.
pub(super) fn marked(options: Option<&str>) -> String {
    let mark = "-c walvec.session=on -c statement_timeout=0";
    options.map_or_else(|| mark.to_owned(), |given| format!("{given} {mark}"))
}

/// An expression that is `on` if the session is the one opened with [`marked`] options, and something else if not.
pub(super) const IS_OURS: &str = "coalesce(current_setting('walvec.session', true), '')";

/// Fails if `answer` to [`IS_OURS`] shows a session that a pooler shares between clients. Must be checked before the
/// first `SET`: settings stay in a shared session, and the application's next statement would run with them.
pub(super) fn refuse_shared(info: &ConnInfo, answer: &str) -> Result<(), CaptureError> {
    if answer == "on" {
        return Ok(());
    }
    let reason = "the `options` of the connection did not reach the server".to_owned();
    Err(CaptureError::Pooler { server: info.server(), reason })
}

/// Returns whether an error is that of a pooler that refuses a connection's startup options.
pub(super) fn is_poolers(sqlstate: &str, words: &str) -> bool {
    match sqlstate {
        "08P01" => words.contains("replication") || words.contains("startup parameter"),
        "0A000" => words.contains("RDS Proxy"),
        _ => false,
    }
}

/// Returns one `SET` per line. `version` is `server_version_num`.
pub(super) fn statements(version: u32) -> String {
    let mut settings = vec![
        ("application_name", "'walvec'"),
        ("client_encoding", "'UTF8'"),
        // Names in walvec's statements are qualified, so none is resolved by accident. This also makes the server print
        // types outside pg_catalog with their schema.
        ("search_path", "''"),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "'UTC'"),
        ("DateStyle", "'ISO, YMD'"),
        ("IntervalStyle", "'postgres'"),
        // Since PostgreSQL 12, any value above 0 means the shortest text that reads back as the same number.
        ("extra_float_digits", "1"),
        ("bytea_output", "'hex'"),
        ("lc_monetary", "'C'"),
        ("xmloption", "'content'"),
        ("quote_all_identifiers", "off"),
        // walvec has to create its publication and slot.
        ("default_transaction_read_only", "off"),
        // Makes the server report an error instead of leaving out rows that a policy hides.
        ("row_security", "off"),
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
    ];
    if version >= 140_000 {
        settings.push(("idle_session_timeout", "0"));
    }
    if version >= 170_000 {
        settings.push(("transaction_timeout", "0"));
    }
    settings.iter().map(|(name, value)| format!("SET {name} = {value};\n")).collect()
}
