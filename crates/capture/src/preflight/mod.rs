//! Finds everything that would stop the pipeline, before it starts.
//!
//! - [`Finding`] (`finding`): what a check has found
//! - [`server`]: settings, version, slot
//! - [`tables`]: keys, kinds, columns, partitions
//! - [`filter`]: whether PostgreSQL accepts a row filter, and the application's own statements still work with it
//! - [`identity`]: replica identities, for row filters and lookups
//! - [`replication`]: whether the server allows a replication session
//! - [`publication`]: whether the publication has what is configured
//! - [`rights`]: the rights that the role lacks, and which role can grant them
//! - [`lookups`]: what would stop lookups or make them slow
//! - [`remedy`]: statements that fix the findings, in an order in which they succeed
//! - [`unfit`](mod@unfit): tables that cannot be followed while others can

mod filter;
mod finding;
mod identity;
mod lookups;
mod publication;
mod remedy;
mod replication;
mod rights;
mod server;
mod tables;
mod unfit;

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use walvec_model::TableName;

pub use finding::{Finding, Severity, Subject};
pub use remedy::{Actor, OwnedObject, Remedy, Script, ScriptPart, Statement};
use rights::Rights;
pub(crate) use server::at_risk;
pub use unfit::Unfit;
pub(crate) use unfit::{Breaks, breaking, unfit};

use crate::CaptureError;
use crate::catalog::{ServerFacts, TableFacts, facts_of};
use crate::config::{SourceConfig, TableSpec};
use crate::connect::Session;
use crate::identities::Identities;
use crate::published::{Published, published_tables};
use crate::slot::{self, SlotState};

/// Returns the statements that fix the errors among `findings`; `None` if no statement helps.
pub(crate) fn script(findings: &[Finding], server: &ServerFacts) -> Option<Script> {
    Script::of(findings, &server.database, server.service)
}

/// Checks server, slot, publication and tables. An `Err` means that a check itself could not be run.
///
/// `aside` holds configured tables that are not in `config`. With `attempt`, a replication session is opened, because
/// only the server knows whether it allows one.
pub(crate) fn findings<'a>(
    session: &'a Session,
    config: &'a SourceConfig,
    aside: &'a [TableName],
    server: &'a ServerFacts,
    attempt: bool,
) -> BoxFuture<'a, Result<Vec<Finding>, CaptureError>> {
    Box::pin(async move {
        let rights = Rights::of(session, server).await?;
        let slot = slot::state(session, &config.slot).await;
        let mut findings = server::findings(session, &rights, matches!(slot, Ok(SlotState::Missing))).await?;
        if attempt {
            findings.extend(replication::finding(session, &rights, &config.slot).await?);
        }
        findings.extend(server::slot(&config.slot, slot).map(|finding| finding.about(Subject::Slot)));
        let published = published_tables(session, &config.publication, server.capabilities).await?;
        let specs = config.published();
        let known = KnownTables::of(session, &specs).await?;
        let mut tables = Vec::new();
        let (mut can_be_published, mut filters_fit) = (true, true);
        for (index, spec) in specs.iter().enumerate() {
            let Some(facts) = known.facts.get(&spec.name) else {
                can_be_published = false;
                findings.push(tables::missing(&spec.name));
                continue;
            };
            let published = published.get(&spec.name);
            can_be_published &= tables::unfit(facts).is_none();
            let found =
                of_table(session, config, (index, spec), (facts, &known.identities, published), &rights).await?;
            filters_fit &= found.iter().all(|finding| finding.severity < Severity::Error || finding.code != "E_CONFIG");
            findings.extend(found);
            tables.push(facts.clone());
        }
        if can_be_published {
            findings.extend(lookups::findings(session, config, &rights).await?);
            findings.extend(match filters_fit {
                true => publication::finding(session, config, aside, &rights, &tables).await?,
                false => publication::finding_without_filters(session, config, &rights, &tables).await?,
            });
        }
        Ok(findings)
    })
}

/// The catalogue's facts about tables. Read by a few statements for any number of tables.
struct KnownTables {
    facts: BTreeMap<TableName, TableFacts>,
    identities: Identities,
}

impl KnownTables {
    async fn of(session: &Session, specs: &[TableSpec]) -> Result<Self, CaptureError> {
        let facts = facts_of(session, specs.iter().map(|spec| &spec.name)).await?;
        let identities = Identities::of(session, facts.values()).await?;
        Ok(Self { facts, identities })
    }
}

/// Returns the problems of one table that exists. `spec` comes with its place in the configuration. Runs statements of
/// its own only for a table that is partitioned or filtered.
async fn of_table(
    session: &Session,
    config: &SourceConfig,
    (index, spec): (usize, &TableSpec),
    (facts, identities, published): (&TableFacts, &Identities, Option<&Published>),
    rights: &Rights<'_>,
) -> Result<Vec<Finding>, CaptureError> {
    let mut findings = tables::findings(facts, published, rights);
    findings.extend(tables::partitions(session, facts, rights).await?);
    findings.extend(tables::partitions_elsewhere(session, facts).await?);
    findings.extend(identity::partitions_without_key(identities, facts, rights));
    findings.extend(filter::findings(session, (index, spec), facts, published, rights).await?);
    findings.extend(identity::unsent(identities, &config.publication, facts, published, rights));
    Ok(findings)
}
