//! Session settings that decide what values look like and how long a session lives.
//!
//! They are pinned on every connection, because a role or a database can carry its own (`ALTER ROLE ... SET`), and the
//! copy, the stream and the re-select must write every value the same.

use crate::CaptureError;

use super::ConnInfo;

/// Adds a setting of walvec's own to a connection's `options`, by which [`refuse_shared`] knows the session again.
///
/// A pooler that hands its sessions from client to client does not pass `options` on: it refuses the connection, or drops them.
/// The time limit is lifted here as well: the questions that come before the first `SET` are bound by a role's own otherwise.
pub(super) fn marked(options: Option<&str>) -> String {
    let mark = "-c walvec.session=on -c statement_timeout=0";
    options.map_or_else(|| mark.to_owned(), |given| format!("{given} {mark}"))
}

/// Answers whether the session is the one that [`marked`] options opened: `on`, or something else.
pub(super) const IS_OURS: &str = "coalesce(current_setting('walvec.session', true), '')";

/// Fails if `answer` to [`IS_OURS`] shows a session that a pooler shares out. To be asked before the first `SET`: what is set
/// there stays, and the application's next statement would run with it.
pub(super) fn refuse_shared(info: &ConnInfo, answer: &str) -> Result<(), CaptureError> {
    if answer == "on" {
        return Ok(());
    }
    let reason = "the `options` of the connection did not reach the server".to_owned();
    Err(CaptureError::Pooler { server: info.server(), reason })
}

/// Whether these words, with this SQLSTATE, are those of a pooler that refuses what a connection begins with.
pub(super) fn is_poolers(sqlstate: &str, words: &str) -> bool {
    match sqlstate {
        "08P01" => words.contains("replication") || words.contains("startup parameter"),
        "0A000" => words.contains("RDS Proxy"),
        _ => false,
    }
}

/// One `SET` per line; `version` is `server_version_num`.
pub(super) fn statements(version: u32) -> String {
    let mut settings = vec![
        ("application_name", "'walvec'"),
        ("client_encoding", "'UTF8'"),
        // Names in our statements are qualified; nothing may be found by accident. Types outside pg_catalog are then
        // also printed with their schema.
        ("search_path", "''"),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "'UTC'"),
        ("DateStyle", "'ISO, YMD'"),
        ("IntervalStyle", "'postgres'"),
        // Since PostgreSQL 12 any value above 0 means: the shortest text that reads back as the same number.
        ("extra_float_digits", "1"),
        ("bytea_output", "'hex'"),
        ("lc_monetary", "'C'"),
        ("xmloption", "'content'"),
        ("quote_all_identifiers", "off"),
        // The publication and the slot are walvec's own to make.
        ("default_transaction_read_only", "off"),
        // An error instead of rows that a policy hides.
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
