//! The replication slot, which holds the position up to which the server may forget WAL.

use serde_json::Value;
use walvec_model::Lsn;

use crate::CaptureError;
use crate::catalog::parse_lsn;
use crate::connect::{Session, statement_error};
use crate::sql::quote_ident;

/// The state of a replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// There is no slot of this name.
    Missing,
    /// The slot can be read from.
    Ready {
        /// Everything before this position was confirmed. The stream starts here.
        confirmed: Lsn,
        /// The oldest WAL that the slot keeps.
        restart: Lsn,
        /// Whether the WAL is safe.
        wal_status: WalStatus,
        /// The server process that reads from the slot, if there is one.
        active_pid: Option<i32>,
    },
    /// The server has invalidated the slot. The changes after its position are gone.
    Lost {
        /// The server's reason, e.g. `wal_removed`.
        reason: String,
    },
}

/// How safe the WAL is that a slot needs, from `pg_replication_slots.wal_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// Beyond `max_wal_size`, and kept because of the slot.
    Extended,
    /// Beyond `max_slot_wal_keep_size`. The next checkpoint may remove it, and the slot is then lost.
    Unreserved,
}

/// The server's position, and the WAL that it keeps for the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPosition {
    /// The end of the WAL on disk.
    pub flushed: Lsn,
    /// The number of bytes of WAL that the slot keeps the server from removing; 0 without a slot.
    pub retained_wal_bytes: u64,
}

/// Reads the state of the slot.
pub(crate) async fn state(session: &Session, slot: &str) -> Result<SlotState, CaptureError> {
    // Read as JSON, because the view has different columns in every version.
    let query = "SELECT to_jsonb(s)::text FROM pg_replication_slots s WHERE slot_name = $1";
    let row = session.query_opt(query, &[&slot]).await;
    let Some(row) = row.map_err(|error| statement_error("looking up the slot", &error))? else {
        return Ok(SlotState::Missing);
    };
    let facts: Value = serde_json::from_str(row.get(0))
        .map_err(|error| CaptureError::Protocol { reason: format!("pg_replication_slots: {error}") })?;
    let database: String = session
        .query_one("SELECT current_database()::text", &[])
        .await
        .map_err(|error| statement_error("looking up the slot", &error))?
        .get(0);
    interpret(slot, &database, &facts)
}

fn interpret(slot: &str, database: &str, facts: &Value) -> Result<SlotState, CaptureError> {
    let text = |name: &str| facts[name].as_str().unwrap_or_default();
    if text("plugin") != "pgoutput" || text("database") != database {
        return Err(CaptureError::Setting {
            setting: "source.slot".to_owned(),
            reason: format!(
                "slot \"{slot}\" exists, but for plugin \"{}\" in database \"{}\"",
                text("plugin"),
                text("database")
            ),
            remedy: "choose another name; slots of all databases of a server share their names".to_owned(),
        });
    }
    // `invalidation_reason` exists since 17, `conflicting` since 16.
    let invalid = [text("invalidation_reason"), if text("wal_status") == "lost" { "wal_removed" } else { "" }]
        .into_iter()
        .chain((facts["conflicting"] == Value::Bool(true)).then_some("conflict with recovery"))
        .find(|reason| !reason.is_empty());
    if let Some(reason) = invalid {
        return Ok(SlotState::Lost { reason: reason.to_owned() });
    }
    let lsn = |name: &str| text(name).parse::<Lsn>().unwrap_or(Lsn::ZERO);
    Ok(SlotState::Ready {
        confirmed: lsn("confirmed_flush_lsn"),
        restart: lsn("restart_lsn"),
        wal_status: match text("wal_status") {
            "unreserved" => WalStatus::Unreserved,
            "extended" => WalStatus::Extended,
            _ => WalStatus::Reserved,
        },
        active_pid: facts["active_pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()),
    })
}

/// Drops the slot. A missing slot is not an error.
pub(crate) async fn drop(session: &Session, slot: &str) -> Result<(), CaptureError> {
    let query = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
    match session.execute(query, &[&slot]).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::OBJECT_IN_USE) => {
            Err(CaptureError::SlotBusy { slot: slot.to_owned(), reason: crate::connect::describe(&error) })
        }
        Err(error) => Err(statement_error("dropping the slot", &error)),
    }
}

/// Reads the server's position, and how much WAL it keeps because of the slot.
pub(crate) async fn server_position(session: &Session, slot: &str) -> Result<ServerPosition, CaptureError> {
    let query = "
        SELECT pg_current_wal_flush_lsn()::text,
               (SELECT greatest(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn), 0)::bigint
                FROM pg_replication_slots WHERE slot_name = $1)";
    let row = session.query_one(query, &[&slot]).await;
    let row = row.map_err(|error| statement_error("asking for the server's position", &error))?;
    Ok(ServerPosition {
        flushed: parse_lsn(row.get(0))?,
        retained_wal_bytes: row.get::<_, Option<i64>>(1).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
    })
}

/// Returns the command that creates the slot and exports the snapshot of its consistent point. With `failover`,
/// standbys may keep a copy of the slot, so that the stream continues from it after a promotion (17 and later).
pub(crate) fn create_command(slot: &str, failover: bool) -> String {
    let options = if failover { "(SNAPSHOT 'export', FAILOVER true)" } else { "EXPORT_SNAPSHOT" };
    format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {options}", quote_ident(slot))
}

/// Returns the command for a slot that ends with its session, of which only the exported snapshot is used.
pub(crate) fn create_temporary_command(slot: &str) -> String {
    format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT", quote_ident(slot))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_invalidated_slot_is_lost_in_every_version() {
        let base = json!({"plugin": "pgoutput", "database": "d", "confirmed_flush_lsn": "0/10", "restart_lsn": "0/8"});
        for (name, value) in [
            ("wal_status", json!("lost")),
            ("invalidation_reason", json!("idle_timeout")),
            ("conflicting", json!(true)),
        ] {
            let mut facts = base.clone();
            facts[name] = value;
            assert!(matches!(interpret("s", "d", &facts), Ok(SlotState::Lost { .. })), "{name}");
        }
        assert_eq!(
            interpret("s", "d", &base).unwrap(),
            SlotState::Ready {
                confirmed: Lsn(0x10),
                restart: Lsn(8),
                wal_status: WalStatus::Reserved,
                active_pid: None
            }
        );
    }

    #[test]
    fn a_slot_of_somebody_else_is_not_touched() {
        let facts = json!({"plugin": "wal2json", "database": "d"});
        assert_eq!(interpret("s", "d", &facts).unwrap_err().code(), "E_CONFIG");
    }
}
