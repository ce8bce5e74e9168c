//! Everything that would stop the pipeline, found before it starts.

use walvec_model::TableName;

use crate::catalog::{KeySource, ServerFacts, TableFacts, facts_by_name, leaves};
use crate::config::{SourceConfig, TableSpec};
use crate::connect::{Session, statement_error};
use crate::publication::{self, PublicationState};
use crate::slot::{self, SlotState, WalStatus};
use crate::sql::{quote_columns, quote_ident, quote_table};
use crate::{CaptureError, preflight_lookups};

/// Something that preflight found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it stops the pipeline.
    pub severity: Severity,
    /// The same code that the pipeline's error would have.
    pub code: &'static str,
    /// What was found, and what it endangers.
    pub message: String,
    /// What to type.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The pipeline runs, at a risk that the message names.
    Warning,
    /// The pipeline cannot run.
    Error,
}

impl Finding {
    pub(crate) fn error(code: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), remedy: remedy.into() }
    }

    pub(crate) fn warning(code: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, code, message: message.into(), remedy: remedy.into() }
    }

    pub(crate) fn of(error: &CaptureError) -> Self {
        Self::error(error.code(), error.to_string(), error.remedy().unwrap_or_default())
    }
}

/// Checks server, slot, publication and tables. An `Err` means that the check itself could not be made.
pub(crate) async fn findings(
    session: &Session,
    config: &SourceConfig,
    server: &ServerFacts,
) -> Result<Vec<Finding>, CaptureError> {
    let slot = slot::state(session, &config.slot).await;
    let mut findings = server_findings(session, server, matches!(slot, Ok(SlotState::Missing))).await?;
    findings.extend(slot_findings(&config.slot, slot));
    let mut tables_exist = true;
    for spec in &config.published() {
        let Some(facts) = facts_by_name(session, &spec.name).await? else {
            tables_exist = false;
            findings.push(missing_table(&spec.name));
            continue;
        };
        findings.extend(table_findings(spec, &facts, server));
        findings.extend(partition_findings(session, &facts).await?);
    }
    if tables_exist {
        findings.extend(preflight_lookups::findings(session, config).await?);
        findings.extend(publication_findings(session, config, server).await?);
    }
    Ok(findings)
}

fn missing_table(name: &TableName) -> Finding {
    Finding::of(&CaptureError::Table { table: name.clone(), reason: "does not exist".to_owned() })
}

const SERVER: &str = "
    SELECT current_setting('wal_level'),
           (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
           current_setting('max_replication_slots')::bigint - (SELECT count(*) FROM pg_replication_slots),
           current_setting('max_wal_senders')::bigint
               - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
           current_setting('server_encoding'),
           current_setting('max_slot_wal_keep_size')";

async fn server_findings(
    session: &Session,
    server: &ServerFacts,
    needs_slot: bool,
) -> Result<Vec<Finding>, CaptureError> {
    let row = session.query_one(SERVER, &[]).await;
    let row = row.map_err(|error| statement_error("checking the server's settings", &error))?;
    let mut findings = Vec::new();
    let wal_level: String = row.get(0);
    if wal_level != "logical" {
        findings.push(Finding::of(&CaptureError::WalLevel { found: wal_level }));
    }
    if server.in_recovery {
        findings.push(Finding::error(
            "E_CONFIG",
            "the server is a standby; publications and snapshots need the primary",
            "connect to the primary",
        ));
    }
    if !row.get::<_, Option<bool>>(1).unwrap_or(false) {
        findings.push(Finding::error(
            "E_RIGHTS",
            format!("role \"{}\" may not replicate, so no changes can be read", server.role),
            format!("ALTER ROLE {} REPLICATION;", quote_ident(&server.role)),
        ));
    }
    if needs_slot && row.get::<_, i64>(2) < 1 {
        findings.push(Finding::error(
            "E_CONFIG",
            "all replication slots are taken (max_replication_slots)",
            "drop an unused slot: SELECT slot_name, active FROM pg_replication_slots;",
        ));
    }
    if row.get::<_, i64>(3) < 1 {
        findings.push(Finding::error(
            "E_CONFIG",
            "all replication connections are taken (max_wal_senders)",
            "ALTER SYSTEM SET max_wal_senders = ...; then restart PostgreSQL",
        ));
    }
    findings.extend(encoding_finding(row.get(4)));
    if row.get::<_, String>(5) == "-1" {
        findings.push(Finding::warning(
            "E_SLOT_LOST",
            "max_slot_wal_keep_size is not limited: while walvec does not run, WAL can fill the server's disk",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf();",
        ));
    }
    findings.extend(old_minor(server.version_num));
    Ok(findings)
}

fn encoding_finding(encoding: &str) -> Option<Finding> {
    (encoding == "SQL_ASCII").then(|| {
        Finding::warning(
            "E_ENCODING",
            "the database has no encoding (SQL_ASCII): a value that is not UTF-8 will stop the pipeline",
            "move the data to a database with ENCODING 'UTF8'",
        )
    })
}

/// Releases before the round of May 2025 can lose changes that run beside ALTER PUBLICATION or ALTER TYPE; see the release
/// notes of 17.5, 16.9, 15.13, 14.18 and 13.21.
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

fn slot_findings(name: &str, state: Result<SlotState, CaptureError>) -> Option<Finding> {
    match state {
        Err(error) => Some(Finding::of(&error)),
        Ok(SlotState::Missing) => None,
        Ok(SlotState::Lost { reason }) => Some(Finding::of(&CaptureError::SlotLost { slot: name.to_owned(), reason })),
        Ok(SlotState::Ready { active_pid: Some(pid), .. }) => Some(Finding::error(
            "E_SLOT_BUSY",
            format!("replication slot \"{name}\" is being read by server process {pid}"),
            format!("stop the other walvec, or: SELECT pg_terminate_backend({pid});"),
        )),
        Ok(SlotState::Ready { wal_status: WalStatus::Unreserved, .. }) => Some(Finding::warning(
            "E_SLOT_LOST",
            format!("replication slot \"{name}\" is about to be lost: it is beyond max_slot_wal_keep_size"),
            "run walvec now, or: ALTER SYSTEM SET max_slot_wal_keep_size = ...; SELECT pg_reload_conf();",
        )),
        Ok(SlotState::Ready { wal_status: WalStatus::Reserved | WalStatus::Extended, .. }) => None,
    }
}

fn table_findings(spec: &TableSpec, facts: &TableFacts, server: &ServerFacts) -> Vec<Finding> {
    let table = &facts.name;
    let mut findings = Vec::new();
    if let Some(reason) = unfit_relation(facts) {
        findings.push(Finding::of(&CaptureError::Table { table: table.clone(), reason }));
        return findings;
    }
    if let Err(error) = facts.key() {
        findings.push(Finding::of(&error));
    }
    if !facts.can_select {
        findings.push(Finding::error(
            "E_RIGHTS",
            format!("role \"{}\" may not read {table}, so it cannot be copied", server.role),
            format!(
                "GRANT USAGE ON SCHEMA {} TO {role}; GRANT SELECT ON {} TO {role};",
                quote_ident(&table.schema),
                quote_table(table),
                role = quote_ident(&server.role)
            ),
        ));
    }
    if facts.row_security {
        findings.push(Finding::error(
            "E_RIGHTS",
            format!("row-level security hides rows of {table} from role \"{}\"", server.role),
            format!("ALTER ROLE {} BYPASSRLS;", quote_ident(&server.role)),
        ));
    }
    if facts.has_children {
        findings.push(Finding::warning(
            "E_TABLE",
            format!("tables inherit from {table}; their rows are not part of it"),
            "name the inheriting tables too",
        ));
    }
    findings.extend(column_findings(spec, facts, server));
    findings
}

/// Why changes of this relation cannot be read.
fn unfit_relation(facts: &TableFacts) -> Option<String> {
    if let Some(root) = &facts.partition_of {
        return Some(format!("is a partition; name its root {root} instead"));
    }
    match (facts.kind.as_str(), facts.persistence.as_str()) {
        ("r" | "p", "p") => None,
        ("r" | "p", "u") => {
            Some("is unlogged, so its changes are not in the WAL; ALTER TABLE ... SET LOGGED".to_owned())
        }
        ("r" | "p", _) => Some("is temporary".to_owned()),
        ("v" | "m", _) => Some("is a view; name the tables under it".to_owned()),
        ("f", _) => Some("is a foreign table; read it where it lives".to_owned()),
        _ => Some("is not a table".to_owned()),
    }
}

fn column_findings(spec: &TableSpec, facts: &TableFacts, server: &ServerFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let can = server.capabilities;
    if spec.filter.is_some() && !can.row_filters {
        findings.push(Finding::of(&crate::capabilities_error(&spec.name)));
    }
    let Some(columns) = &spec.columns else { return findings };
    for name in columns.iter().filter(|name| !facts.columns.iter().any(|facts| facts.column.name == **name)) {
        findings.push(Finding::error(
            "E_TABLE",
            format!("table {} has no column \"{name}\"", facts.name),
            "correct the column's name",
        ));
    }
    let key = facts.key().map(|key: KeySource| key.columns().to_vec()).unwrap_or_default();
    if let Some(missing) = key.iter().find(|name| !columns.contains(name)) {
        findings.push(Finding::error(
            "E_NO_KEY",
            format!("the key column \"{missing}\" of {} is not among the published columns", facts.name),
            format!("publish at least {}", quote_columns(key.iter().map(String::as_str))),
        ));
    }
    findings
}

async fn partition_findings(session: &Session, facts: &TableFacts) -> Result<Option<Finding>, CaptureError> {
    if facts.kind != "p" {
        return Ok(None);
    }
    let hidden: Vec<_> = leaves(session, facts.oid).await?.into_iter().filter(|leaf| !leaf.can_select).collect();
    Ok(hidden.first().map(|leaf| {
        Finding::warning(
            "E_RIGHTS",
            format!(
                "partition {} of {} cannot be read directly: the copy falls back to one connection",
                leaf.name, facts.name
            ),
            format!("GRANT SELECT ON {} TO the role of walvec;", quote_table(&leaf.name)),
        )
    }))
}

async fn publication_findings(
    session: &Session,
    config: &SourceConfig,
    server: &ServerFacts,
) -> Result<Option<Finding>, CaptureError> {
    match publication::state(session, config, server.capabilities).await? {
        PublicationState::Matches { .. } => Ok(None),
        PublicationState::Differs { difference, sql } => Ok(Some(Finding::of(&CaptureError::Publication {
            publication: config.publication.clone(),
            difference,
            sql,
        }))),
        PublicationState::Missing => {
            if may_create_publication(session, config).await? {
                return Ok(None);
            }
            let sql = publication::create_sql(session, config, server.capabilities).await?;
            Ok(Some(Finding::error(
                "E_RIGHTS",
                format!(
                    "publication \"{}\" is missing, and role \"{}\" may not create it",
                    config.publication, server.role
                ),
                format!("as the owner of the tables: {sql}"),
            )))
        }
    }
}

/// Creating a publication takes CREATE on the database and ownership of every table.
async fn may_create_publication(session: &Session, config: &SourceConfig) -> Result<bool, CaptureError> {
    let tables: Vec<String> = config.published().iter().map(|spec| quote_table(&spec.name)).collect();
    let query = "
        SELECT has_database_privilege(current_database(), 'CREATE')
           AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = ANY($1::text[]::regclass[])
                           AND NOT pg_has_role(c.relowner, 'USAGE'))";
    let row = session.query_one(query, &[&tables]).await;
    Ok(row.map_err(|error| statement_error("checking rights", &error))?.get(0))
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
