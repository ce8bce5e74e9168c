//! Tables that cannot be followed as things are, while others can.

use walvec_model::TableName;

use super::rights::Rights;
use super::{Finding, Severity, of_table, tables};
use crate::CaptureError;
use crate::catalog::{ServerFacts, facts_by_name};
use crate::config::SourceConfig;
use crate::connect::Session;
use crate::publication;
use crate::sql::{quote_ident, quote_table};

/// A configured table that cannot be followed as things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The table.
    pub table: TableName,
    /// Why not, and what puts it right.
    pub finding: Finding,
}

/// The tables of `config` that cannot be followed: they are gone, have no key, may not be read, or are not in a publication that
/// somebody else has made. Tables whose rows look something up in one of them are among them.
pub(crate) async fn unfit(
    session: &Session,
    config: &SourceConfig,
    server: &ServerFacts,
) -> Result<Vec<Unfit>, CaptureError> {
    let rights = Rights::of(session, server).await?;
    let published = publication::published_tables(session, &config.publication, server.capabilities).await?;
    let left_out = publication::left_out(session, config, server.capabilities).await?;
    let mut found = Vec::new();
    for (index, spec) in config.published().iter().enumerate() {
        let finding = match facts_by_name(session, &spec.name).await? {
            None => Some(tables::missing(&spec.name)),
            Some(facts) => {
                let published = published.get(&spec.name);
                let findings = of_table(session, config, (index, spec), &facts, published, &rights).await?;
                let is_error = |finding: &Finding| finding.severity == Severity::Error;
                findings
                    .into_iter()
                    .find(is_error)
                    .or_else(|| left_out.contains(&spec.name).then(|| not_published(&config.publication, &spec.name)))
            }
        };
        found.extend(finding.map(|finding| Unfit { table: spec.name.clone(), finding }));
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

fn not_published(publication: &str, table: &TableName) -> Finding {
    Finding::error(
        "E_PUBLICATION",
        format!("publication \"{publication}\" does not publish it"),
        format!("ALTER PUBLICATION {} ADD TABLE {};", quote_ident(publication), quote_table(table)),
    )
}
