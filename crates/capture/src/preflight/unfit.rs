//! Finds tables that cannot be followed in the present state, while others can.

use std::collections::HashSet;

use walvec_model::TableName;

use super::rights::Rights;
use super::{Finding, KnownTables, Severity, Subject, lookups, of_table, tables};
use crate::CaptureError;
use crate::catalog::ServerFacts;
use crate::config::SourceConfig;
use crate::connect::Session;
use crate::publication;
use crate::published::published_tables;
use crate::sql::{quote_ident, quote_table};

/// A configured table that cannot be followed in the present state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The table.
    pub table: TableName,
    /// Why it cannot be followed, and what fixes that.
    pub finding: Finding,
}

/// Returns the tables of `config` that cannot be followed in the present state, each with its most telling error.
/// Includes tables whose rows look something up in one of them.
pub(crate) async fn unfit(
    session: &Session,
    config: &SourceConfig,
    server: &ServerFacts,
) -> Result<Vec<Unfit>, CaptureError> {
    let rights = Rights::of(session, server).await?;
    let published = published_tables(session, &config.publication, server.capabilities).await?;
    let left_out = publication::left_out(session, config, &published, server.capabilities).await?;
    let left_out: HashSet<TableName> = left_out.into_iter().collect();
    let specs = config.published();
    let known = KnownTables::of(session, &specs).await?;
    let mut found = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let finding = match known.facts.get(&spec.name) {
            None => Some(tables::missing(&spec.name)),
            Some(facts) => {
                let published = published.get(&spec.name);
                let of = (facts, &known.identities, published);
                let findings = of_table(session, config, (index, spec), of, &rights).await?;
                let left_out = left_out.contains(&spec.name).then(|| not_published(&config.publication, &spec.name));
                worst(findings.into_iter().chain(left_out))
            }
        };
        found.extend(finding.map(|finding| Unfit { table: spec.name.clone(), finding }));
    }
    for spec in &config.lookups {
        let alone = SourceConfig { lookups: vec![spec.clone()], ..config.clone() };
        let finding = worst(lookups::findings(session, &alone, &rights).await?.into_iter());
        if let Some(finding) = finding
            && found.iter().all(|unfit: &Unfit| unfit.table != spec.main)
        {
            found.push(Unfit { table: spec.main.clone(), finding });
        }
    }
    let looking_up = config.lookups.iter().filter_map(|spec| {
        let unfit = found.iter().find(|unfit| unfit.table == spec.lookup.table)?;
        let is_known = found.iter().any(|unfit| unfit.table == spec.main);
        let message = format!("looks rows up in {}: {}", unfit.table, unfit.finding.message);
        let finding = Finding { message, ..unfit.finding.clone() };
        (!is_known).then(|| Unfit { table: spec.main.clone(), finding })
    });
    let mut looking_up: Vec<Unfit> = looking_up.collect();
    looking_up.dedup_by(|one, other| one.table == other.table);
    found.extend(looking_up);
    Ok(found)
}

/// In which state PostgreSQL refuses updates and deletes of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaks {
    /// As it is currently published.
    Now,
    /// After it is published as configured.
    AsConfigured,
}

/// Returns the tables of `config` whose updates and deletes by the application PostgreSQL refuses.
pub(crate) async fn breaking(
    session: &Session,
    config: &SourceConfig,
    server: &ServerFacts,
    when: Breaks,
) -> Result<Vec<TableName>, CaptureError> {
    let rights = Rights::of(session, server).await?;
    let published = published_tables(session, &config.publication, server.capabilities).await?;
    let specs = config.published();
    let known = KnownTables::of(session, &specs).await?;
    let mut breaking = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let Some(facts) = known.facts.get(&spec.name) else { continue };
        let published = published.get(&spec.name).filter(|_| when == Breaks::Now);
        let of = (facts, &known.identities, published);
        let findings = of_table(session, config, (index, spec), of, &rights).await?;
        let breaks = |finding: &Finding| {
            finding.severity == Severity::Error
                && finding.code == "E_REPLICA_IDENTITY"
                && (when == Breaks::AsConfigured || finding.subject == Subject::Published)
        };
        if when == Breaks::Now && published.is_none() {
            continue;
        }
        if findings.iter().any(breaks) || known.identities.is_any_missing(facts) {
            breaking.push(spec.name.clone());
        }
    }
    Ok(breaking)
}

/// Returns the most telling error: what happened to the table itself comes before its consequences.
fn worst(findings: impl Iterator<Item = Finding>) -> Option<Finding> {
    let errors = findings.filter(|finding| finding.severity == Severity::Error);
    errors.min_by_key(|finding| !Unfit::CODES.contains(&finding.code))
}

impl Unfit {
    /// What can happen to a table that was followed: it is gone, has no key, may not be read, or is not published.
    /// Other errors can also be mistakes in the configuration.
    const CODES: [&'static str; 4] = ["E_TABLE", "E_NO_KEY", "E_RIGHTS", "E_PUBLICATION"];

    /// Returns `true` if something happened to the table, and `false` if the table does not fit the configuration.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        Self::CODES.contains(&self.finding.code) || self.finding.subject == Subject::Published
    }
}

fn not_published(publication: &str, table: &TableName) -> Finding {
    Finding::error(
        "E_PUBLICATION",
        format!("publication \"{publication}\" does not publish it"),
        format!("ALTER PUBLICATION {} ADD TABLE {};", quote_ident(publication), quote_table(table)),
    )
}
