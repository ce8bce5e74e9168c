//! Checks the server's settings, its version and the slot.

use super::remedy::{Actor, Remedy, Statement};
use super::rights::Rights;
use super::{Finding, Subject};
use crate::CaptureError;
use crate::blockers;
use crate::connect::{Session, statement_error};
use crate::limits::Resource;
use crate::slot::{SlotState, WalStatus};
use crate::sql::quote_literal;

/// How much to raise an exhausted limit: for walvec's own slot, those of a reindex and of a backfill, and one to spare.
pub(super) const MORE: i64 = 4;

/// Every role may count the slots, even if it may not see more of them.
const SERVER: &str = "
    SELECT current_setting('wal_level'),
           current_setting('max_replication_slots')::bigint, (SELECT count(*) FROM pg_replication_slots),
           ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE NOT active ORDER BY 1),
           current_setting('server_encoding'),
           current_setting('max_slot_wal_keep_size')";

pub(super) async fn findings(
    session: &Session,
    rights: &Rights<'_>,
    needs_slot: bool,
) -> Result<Vec<Finding>, CaptureError> {
    let row = session.query_one(SERVER, &[]).await;
    let row = row.map_err(|error| statement_error("checking the server's settings", &error))?;
    let mut findings = Vec::new();
    let wal_level: String = row.get(0);
    if wal_level != "logical" {
        let remedy = Remedy::Statements(vec![rights.setting("wal_level", "logical")]);
        findings.push(Finding { remedy, ..Finding::of(&CaptureError::WalLevel { found: wal_level }) });
    }
    if rights.server.in_recovery {
        findings.push(Finding::error(
            "E_CONFIG",
            "the server is a standby; publications and snapshots need the primary",
            "connect to the primary",
        ));
    }
    if needs_slot && row.get::<_, i64>(1) <= row.get(2) {
        let finding = no_free_slot(rights, row.get(1), row.get(3));
        findings.push(finding.about(Subject::Limit(Resource::ReplicationSlots)));
    }
    if needs_slot {
        let forgotten = blockers::forgotten(session).await?;
        findings.extend(forgotten.iter().map(|blocker| {
            let what =
                format!("the first start waits for {blocker}: no replication slot is created before it has ended");
            Finding::warning("E_OPEN_TRANSACTION", what, blocker.remedy())
        }));
    }
    findings.extend(encoding(row.get(4)));
    if row.get::<_, String>(5) == "-1" {
        findings.push(unlimited_wal(rights));
    }
    findings.extend(old_minor(rights.server.version_num));
    Ok(findings)
}

/// Reports that no slot is free. Dropping a slot loses what its reader has not read. The user has to decide that, so
/// the statement stays a comment.
fn no_free_slot(rights: &Rights<'_>, limit: i64, idle: Vec<String>) -> Finding {
    let drop = |slot: &String| Statement {
        by: Actor::Administrator,
        sql: format!(
            "-- SELECT pg_drop_replication_slot({}); -- frees a slot at once, if its reader never comes back",
            quote_literal(slot)
        ),
    };
    let statements = idle.iter().map(drop).chain([rights.setting("max_replication_slots", limit + MORE)]);
    Finding::error(
        "E_LIMIT",
        format!("all {limit} replication slots are taken (max_replication_slots)"),
        Remedy::Statements(statements.collect()),
    )
}

fn unlimited_wal(rights: &Rights<'_>) -> Finding {
    let remedy = match rights.server.service {
        Some(service) => format!("set max_slot_wal_keep_size, to 10GB for example, {}", service.settings()),
        None => "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf();".to_owned(),
    };
    Finding::warning(
        "E_WAL_UNLIMITED",
        "max_slot_wal_keep_size is not limited: while walvec does not run, WAL can fill the server's disk",
        remedy,
    )
}

fn encoding(encoding: &str) -> Option<Finding> {
    (encoding == "SQL_ASCII").then(|| {
        Finding::warning(
            "E_ENCODING",
            "the database has no encoding (SQL_ASCII): a value that is not UTF-8 will stop the pipeline",
            "move the data to a database with ENCODING 'UTF8'",
        )
    })
}

/// Reports releases before May 2025, which can lose changes made concurrently with ALTER PUBLICATION or ALTER TYPE; see
/// the release notes of 17.5, 16.9, 15.13, 14.18 and 13.21.
fn old_minor(version: u32) -> Option<Finding> {
    let fixed = match version / 10_000 {
        13 => 130_021,
        14 => 140_018,
        15 => 150_013,
        16 => 160_009,
        17 => 170_005,
        _ => return None,
    };
    (version < fixed).then(|| {
        Finding::warning(
            "E_CONFIG",
            format!(
                "PostgreSQL {}.{} can lose changes that are made while the publication is altered",
                version / 10_000,
                version % 10_000
            ),
            format!("update PostgreSQL to {}.{} or later", fixed / 10_000, fixed % 10_000),
        )
    })
}

/// Returns what the slot's state means for a start.
pub(super) fn slot(name: &str, state: Result<SlotState, CaptureError>) -> Option<Finding> {
    match state {
        Err(error) => Some(Finding::of(&error)),
        Ok(SlotState::Missing) => None,
        Ok(SlotState::Lost { reason }) => Some(Finding::of(&CaptureError::SlotLost { slot: name.to_owned(), reason })),
        Ok(SlotState::Ready { active_pid: Some(pid), .. }) => Some(Finding::error(
            "E_SLOT_BUSY",
            format!("replication slot \"{name}\" is being read by server process {pid}"),
            format!("stop the other walvec, or: SELECT pg_terminate_backend({pid});"),
        )),
        Ok(SlotState::Ready { wal_status: WalStatus::Unreserved, .. }) => Some(at_risk(name)),
        Ok(SlotState::Ready { wal_status: WalStatus::Reserved | WalStatus::Extended, .. }) => None,
    }
}

/// Returns the warning that the server may drop the WAL that the slot needs.
pub(crate) fn at_risk(slot: &str) -> Finding {
    Finding::warning(
        "E_SLOT_AT_RISK",
        format!("replication slot \"{slot}\" is about to be lost: it is beyond max_slot_wal_keep_size"),
        "let walvec catch up, or: ALTER SYSTEM SET max_slot_wal_keep_size = ...; SELECT pg_reload_conf();",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_that_can_lose_changes_are_named() {
        assert!(old_minor(170_004).is_some_and(|finding| finding.message.contains("17.4")));
        assert!(old_minor(150_012).is_some());
        for fine in [130_023, 150_018, 170_005, 180_000, 190_000] {
            assert_eq!(old_minor(fine), None, "{fine}");
        }
    }
}
