//! Everything that would stop the pipeline, found before it starts.
//!
//! - [`server`]: settings, version, slot
//! - [`tables`]: keys, kinds, columns, partitions
//! - [`filter`]: whether the application's own statements go on working with a row filter
//! - [`identity`]: replica identities, for row filters and lookups
//! - [`replication`]: whether the server grants a replication session
//! - [`rights`]: what the role lacks, and who may give it
//! - [`lookups`]: what would stop lookups, or make them slow
//! - [`remedy`]: statements that put it right, in the order in which they succeed
//! - [`unfit`]: the tables that cannot be followed while others can

mod filter;
mod identity;
mod lookups;
mod remedy;
mod replication;
mod rights;
mod server;
mod tables;
mod unfit;

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use walvec_model::TableName;

pub(crate) use identity::Identities;
pub use remedy::{Actor, Owned, Part, Remedy, Script, Statement};
use rights::Rights;
pub(crate) use server::at_risk;
pub use unfit::Unfit;
pub(crate) use unfit::{Breaks, breaking, unfit};

use crate::CaptureError;
use crate::catalog::{ServerFacts, TableFacts, facts_of};
use crate::config::{SourceConfig, TableSpec};
use crate::connect::Session;
use crate::limits::Resource;
use crate::publication::{self, PublicationState, Published};
use crate::slot::{self, SlotState};

/// Something that preflight found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it stops the pipeline.
    pub severity: Severity,
    /// The code that the pipeline's error would have.
    pub code: &'static str,
    /// What was found, and what it endangers.
    pub message: String,
    /// What to do about it.
    pub remedy: Remedy,
    /// What it is about, where a pipeline decides for itself what it means.
    pub subject: Subject,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The state of the slot.
    Slot,
    /// The server has none left of this.
    Limit(Resource),
    /// A table that is published as it is configured: something has happened to it.
    Published,
    /// Anything else.
    Other,
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
    pub(crate) fn error(code: &'static str, message: impl Into<String>, remedy: impl Into<Remedy>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            remedy: remedy.into(),
            subject: Subject::Other,
        }
    }

    pub(crate) fn warning(code: &'static str, message: impl Into<String>, remedy: impl Into<Remedy>) -> Self {
        Self {
            severity: Severity::Warning,
            code,
            message: message.into(),
            remedy: remedy.into(),
            subject: Subject::Other,
        }
    }

    pub(crate) fn about(self, subject: Subject) -> Self {
        Self { subject, ..self }
    }

    pub(crate) fn of(error: &CaptureError) -> Self {
        Self::error(error.code(), error.to_string(), error.remedy().unwrap_or_default())
    }
}

/// The statements that put the errors among `findings` right; `None` if no statement helps.
pub(crate) fn script(findings: &[Finding], server: &ServerFacts) -> Option<Script> {
    Script::of(findings, &server.database, server.service)
}

/// Checks server, slot, publication and tables. An `Err` means that the check itself could not be made.
///
/// `aside`: configured tables that `config` is without. With `attempt`, a replication session is opened: whether the server grants one
/// only the server knows.
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
        let published = publication::published_tables(session, &config.publication, server.capabilities).await?;
        let specs = config.published();
        let known = Known::of(session, &specs).await?;
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
                of_table(session, config, (index, spec), (facts, &known.identities), published, &rights).await?;
            filters_fit &= found.iter().all(|finding| finding.severity < Severity::Error || finding.code != "E_CONFIG");
            findings.extend(found);
            tables.push(facts.clone());
        }
        if can_be_published {
            findings.extend(lookups::findings(session, config, &rights).await?);
            findings.extend(publication_finding(session, config, aside, &rights, &tables, filters_fit).await?);
        }
        Ok(findings)
    })
}

/// What the catalogue has of tables: a few statements, however many there are.
struct Known {
    facts: BTreeMap<TableName, TableFacts>,
    identities: Identities,
}

impl Known {
    async fn of(session: &Session, specs: &[TableSpec]) -> Result<Self, CaptureError> {
        let facts = facts_of(session, specs.iter().map(|spec| &spec.name)).await?;
        let identities = Identities::of(session, facts.values()).await?;
        Ok(Self { facts, identities })
    }
}

/// What stands in the way of one table, that it exists apart. `spec` with its place among the configured tables. Statements of its own
/// are sent for one that is partitioned or filtered only.
async fn of_table(
    session: &Session,
    config: &SourceConfig,
    (index, spec): (usize, &TableSpec),
    (facts, identities): (&TableFacts, &Identities),
    published: Option<&Published>,
    rights: &Rights<'_>,
) -> Result<Vec<Finding>, CaptureError> {
    let mut findings = tables::findings(facts, published, rights);
    findings.extend(tables::partitions(session, facts, rights).await?);
    findings.extend(tables::partitions_elsewhere(session, facts).await?);
    findings.extend(identity::partitions_without_key(identities, facts, rights));
    findings.extend(filter::findings(session, index, spec, facts, published, rights).await?);
    findings.extend(identity::unsent(identities, &config.publication, facts, published, rights));
    Ok(findings)
}

/// `filters_fit`: whether a publication can have the row filters.
async fn publication_finding(
    session: &Session,
    config: &SourceConfig,
    aside: &[TableName],
    rights: &Rights<'_>,
    tables: &[TableFacts],
    filters_fit: bool,
) -> Result<Option<Finding>, CaptureError> {
    let can = rights.server.capabilities;
    if !filters_fit {
        // What the publication would be is not known before the filters are corrected.
        let finding = rights.creating(session, &config.publication, tables, String::new()).await?;
        let finding = match publication::identity(session, &config.publication, can).await? {
            None => finding,
            Some(_) => None,
        };
        let remedy = "first correct `where`, then `walvec check` again";
        return Ok(finding.map(|finding| Finding { remedy: remedy.into(), ..finding }));
    }
    match publication::state(session, config, aside, can).await? {
        PublicationState::Matches { .. } => Ok(None),
        PublicationState::Differs { difference, sql } => {
            let publication = config.publication.clone();
            let statement = match &sql {
                Some(sql) => Some(rights.altering(session, &publication, tables, sql.clone()).await?),
                None => None,
            };
            let finding = Finding::of(&publication::differs(publication, difference, sql));
            Ok(Some(match statement {
                Some(_) if !have_keys(tables) => Finding { remedy: KEYS_FIRST.into(), ..finding },
                Some(statement) => Finding { remedy: Remedy::Statements(vec![statement]), ..finding },
                None => finding,
            }))
        }
        PublicationState::Missing => {
            let sql = publication::create_sql(session, config, can).await?;
            let finding = rights.creating(session, &config.publication, tables, sql).await?;
            Ok(finding.map(|finding| match have_keys(tables) {
                true => finding,
                false => Finding { remedy: KEYS_FIRST.into(), ..finding },
            }))
        }
    }
}

const KEYS_FIRST: &str = "first give each table a key, then `walvec check` again";

/// As soon as a table without a key is published, PostgreSQL refuses its updates and deletes.
fn have_keys(tables: &[TableFacts]) -> bool {
    tables.iter().all(|facts| facts.key().is_ok())
}
