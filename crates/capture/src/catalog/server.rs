//! The identity and the capabilities of the server and database.

use super::service::Service;
use crate::CaptureError;
use crate::connect::{Session, statement_error};

/// What identifies a source, and what it can do. A position has a meaning only on the server that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`, e.g. 150018 for 15.18.
    pub version_num: u32,
    /// The version as the server writes it, e.g. `15.18`.
    pub version: String,
    /// The cluster's identity, made by initdb. A copy of the cluster has the same one.
    pub system_id: u64,
    /// The number of promotions and point-in-time recoveries. A position of one timeline may not exist on another.
    pub timeline: u32,
    /// `pg_database.oid`. A database that was dropped and created again has another one.
    pub database_oid: u32,
    /// The database's name.
    pub database: String,
    /// The role with which walvec is logged in.
    pub role: String,
    /// Whether the server is a standby.
    pub in_recovery: bool,
    /// The managed service that runs the server, if it is a known one.
    pub service: Option<Service>,
    /// What this version can do.
    pub capabilities: Capabilities,
}

/// The features that depend on the server's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Publications can filter rows (15).
    pub row_filters: bool,
    /// Publications can name columns (15).
    pub column_lists: bool,
    /// Publications can have all tables of a schema (15).
    pub schema_publications: bool,
    /// Publications can have stored generated columns (18).
    pub generated_columns: bool,
    /// The server can read a range of ctids without reading the whole table (14).
    pub tid_range_scan: bool,
    /// Slots can survive a failover (17).
    pub failover_slots: bool,
}

impl Capabilities {
    const fn of(version: u32) -> Self {
        Self {
            row_filters: version >= 150_000,
            column_lists: version >= 150_000,
            schema_publications: version >= 150_000,
            generated_columns: version >= 180_000,
            tid_range_scan: version >= 140_000,
            failover_slots: version >= 170_000,
        }
    }
}

/// The timeline is part of the name of the current WAL file. A standby writes none, and returns the timeline of its
/// last restartpoint.
const QUERY: &str = "
    SELECT (SELECT system_identifier FROM pg_control_system()),
           CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
                ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
           d.oid, d.datname::text, current_user::text, pg_is_in_recovery(), current_setting('server_version'),
           ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1::text[]))
    FROM pg_database d WHERE d.datname = current_database()";

/// Asks the server for its identity and capabilities.
pub(crate) async fn facts(session: &Session) -> Result<ServerFacts, CaptureError> {
    let row = session.query_one(QUERY, &[&Service::roles()]).await;
    let row = row.map_err(|error| statement_error("identifying the server", &error))?;
    Ok(ServerFacts {
        version_num: session.version,
        version: row.get(6),
        // Both are unsigned in the server, which only shows them as signed numbers.
        system_id: row.get::<_, i64>(0).cast_unsigned(),
        timeline: row.get::<_, i32>(1).cast_unsigned(),
        database_oid: row.get(2),
        database: row.get(3),
        role: row.get(4),
        in_recovery: row.get(5),
        service: Service::of(&row.get::<_, Vec<String>>(7)),
        capabilities: Capabilities::of(session.version),
    })
}
