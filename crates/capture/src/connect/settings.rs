//! Session settings that decide what values look like and how long a session lives.
//!
//! They are pinned on every connection, because a role or a database can carry its own (`ALTER ROLE ... SET`), and the
//! copy, the stream and the re-select must write every value the same.

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
