//! Finds everything that would stop the pipeline, before it starts.
//!
//! - [`server`]: settings, version, slot
//! - [`tables`]: keys, kinds, columns, partitions
//! - [`filter`]: whether PostgreSQL accepts a row filter, and the application's own statements still work with it
//! - [`identity`]: replica identities, for row filters and lookups
//! - [`replication`]: whether the server allows a replication session
//! - [`rights`]: the rights that the role lacks, and which role can grant them
//! - [`lookups`]: what would stop lookups or make them slow
//! - [`remedy`]: statements that fix the findings, in an order in which they succeed
//! - [`unfit`](mod@unfit): tables that cannot be followed while others can

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

pub use remedy::{Actor, Owned, Part, Remedy, Script, Statement};
use rights::Rights;
pub(crate) use server::at_risk;
pub use unfit::Unfit;
pub(crate) use unfit::{Breaks, breaking, unfit};

use crate::CaptureError;
use crate::catalog::{ServerFacts, TableFacts, facts_of};
use crate::config::{SourceConfig, TableSpec};
use crate::connect::Session;
use crate::identities::Identities;
use crate::limits::Resource;
use crate::publication::{self, PublicationState};
use crate::published::{Published, published_tables};
use crate::slot::{self, SlotState};

/// A finding of the preflight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it stops the pipeline.
    pub severity: Severity,
    /// The code that the pipeline's error would have.
    pub code: &'static str,
    /// What was found, and what is at risk.
    pub message: String,
    /// What to do about the finding.
    pub remedy: Remedy,
    /// What the finding is about, for pipelines that decide by themselves what it means.
    pub subject: Subject,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The state of the slot.
    Slot,
    /// The server has exhausted this resource.
    Limit(Resource),
    /// A table that is published as configured, but was changed.
    Published,
    /// Any other subject.
    Other,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The pipeline can run, at a risk that the message describes.
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

/// The catalogue's facts about tables. Read by a few statements for any number of tables.
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

/// Returns the problems of one table that exists. `spec` comes with its place in the configuration. Runs statements of
/// its own only for a table that is partitioned or filtered.
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

/// Returns the problem of the publication, if there is one. `filters_fit` says whether a publication can have the row filters.
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
        // The contents of the publication are not known before the filters are corrected.
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

/// Returns whether all tables have keys. Once a table without a key is published, PostgreSQL refuses its updates and deletes.
fn have_keys(tables: &[TableFacts]) -> bool {
    tables.iter().all(|facts| facts.key().is_ok())
}
