//! Finds what would stop lookups or make them slow, before the pipeline starts.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::rights::Rights;
use super::{Finding, Remedy, identity};
use crate::CaptureError;
use crate::catalog::{Capabilities, TableFacts, equalities, facts_by_name, leaves};
use crate::config::{LookupSpec, SourceConfig};
use crate::connect::{Session, describe, statement_error};
use crate::sql::{quote_columns, quote_ident, quote_table};

/// Checks every lookup whose tables exist.
pub(super) async fn findings(
    session: &Session,
    config: &SourceConfig,
    rights: &Rights<'_>,
) -> Result<Vec<Finding>, CaptureError> {
    let mut findings = Vec::new();
    if !config.lookups.is_empty() {
        findings.extend(own_standby(session).await?);
    }
    for spec in &config.lookups {
        let main = facts_by_name(session, &spec.main).await?;
        let theirs = facts_by_name(session, &spec.lookup.table).await?;
        let (Some(main), Some(theirs)) = (main, theirs) else { continue };
        let wrong: Vec<Finding> = names(spec, &main, &theirs, rights.server.capabilities).collect();
        if !wrong.is_empty() {
            findings.extend(wrong);
            continue;
        }
        findings.extend(identity_of_table(spec, &theirs, rights));
        findings.extend(identity_of_partitions(session, spec, &theirs, rights).await?);
        findings.extend(comparison(session, spec).await?);
        findings.extend(foreign_types(session, spec, &main, &theirs).await?);
        let (our, their): (Vec<_>, Vec<_>) = spec.lookup.on.iter().map(|(their, our)| (our, their)).unzip();
        let searches = [
            (&theirs, their, format!("each row of {} that is rendered", main.name)),
            (&main, our, format!("each change of {}", theirs.name)),
        ];
        for (facts, columns, whenever) in searches {
            findings.extend(index(session, spec, facts, &columns, &whenever).await?);
        }
    }
    Ok(findings)
}

/// Reports names that are taken or missing.
fn names<'a>(
    spec: &'a LookupSpec,
    main: &'a TableFacts,
    theirs: &'a TableFacts,
    can: Capabilities,
) -> impl Iterator<Item = Finding> + 'a {
    let lookup = &spec.lookup;
    let clash = main.columns.iter().any(|facts| facts.column.name == lookup.name).then(|| {
        Finding::error(
            "E_CONFIG",
            format!("the lookup \"{}\" of {} is called like one of its columns", lookup.name, main.name),
            "give the lookup another name; templates know both by their names alone",
        )
    });
    let on = lookup.on.iter().flat_map(move |(their, our)| [(theirs, their), (main, our)]);
    let used = on.chain(lookup.order().iter().map(move |by| (theirs, &by.column)));
    let missing = used.filter_map(move |(facts, column)| {
        let known: Vec<&str> = published(facts, can).collect();
        (!known.contains(&column.as_str())).then(|| {
            Finding::error(
                "E_CONFIG",
                format!(
                    "the lookup \"{}\" of {} uses the column \"{column}\" of {}, which is not there or is not streamed",
                    lookup.name, main.name, facts.name
                ),
                format!("its columns are: {}", known.join(", ")),
            )
        })
    });
    clash.into_iter().chain(missing)
}

/// Returns the columns that a publication made by walvec sends.
fn published(facts: &TableFacts, can: Capabilities) -> impl Iterator<Item = &str> {
    facts.columns.iter().filter(move |facts| facts.can_be_sent(can)).map(|facts| facts.column.name.as_str())
}

/// Reports a replica identity that lacks columns of the lookup. A change that deletes a row, or moves it to another
/// main row, must show where it belonged.
fn identity_of_table(spec: &LookupSpec, theirs: &TableFacts, rights: &Rights<'_>) -> Option<Finding> {
    let sent = theirs.identity_columns()?;
    let missing: Vec<&str> = spec
        .lookup
        .on
        .iter()
        .map(|(column, _)| column.as_str())
        .filter(|column| !sent.iter().any(|sent| sent == column))
        .collect();
    (!missing.is_empty()).then(|| {
        Finding::error(
            "E_REPLICA_IDENTITY",
            format!(
                "the replica identity of {} does not hold {}, by which the lookup \"{}\" of {} finds the rows that have to be \
                 rendered again: an update or a delete would not tell to which it belonged",
                theirs.name,
                quote_columns(missing),
                spec.lookup.name,
                spec.main
            ),
            Remedy::Statements(vec![identity::full(&theirs.name, theirs, rights)]),
        )
    })
}

/// Reports partitions that do not log the columns of the lookup. The server logs old values by the partition's own
/// replica identity, which `ALTER TABLE` of the partitioned table does not change.
async fn identity_of_partitions(
    session: &Session,
    spec: &LookupSpec,
    theirs: &TableFacts,
    rights: &Rights<'_>,
) -> Result<Option<Finding>, CaptureError> {
    let in_key = |column: &String| theirs.primary_key.as_ref().is_some_and(|key| key.contains(column));
    if theirs.kind != "p" || spec.lookup.on.iter().all(|(column, _)| in_key(column)) {
        return Ok(None);
    }
    let lacking = identity::partitions_without_full(session, theirs).await?;
    let remedy = Remedy::Statements(lacking.iter().map(|leaf| identity::full(leaf, theirs, rights)).collect());
    // If a partition that was added later lacks it, walvec renders more rows than necessary. If all partitions lack it,
    // it was forgotten.
    let is_late = lacking.len() < leaves(session, theirs.oid).await?.len();
    Ok(lacking.first().map(|leaf| {
        let what = format!(
            "{} of the partitions of {} do not send old values, {leaf} for one, by which the lookup \"{}\" of {} finds the rows \
             that have to be rendered again; each partition has a replica identity of its own, also one that is added later",
            lacking.len(),
            theirs.name,
            spec.lookup.name,
            spec.main
        );
        match is_late {
            true => {
                let what = format!("{what}. Until then a change there renders every row of {} again", spec.main);
                Finding::warning("E_REPLICA_IDENTITY", what, remedy)
            }
            false => Finding::error("E_REPLICA_IDENTITY", what, remedy),
        }
    }))
}

/// Reports synchronous replication by walvec itself. A commit that waits for walvec's own feedback never becomes
/// visible to the statement that walvec waits with.
async fn own_standby(session: &Client) -> Result<Option<Finding>, CaptureError> {
    let query = "SELECT current_setting('synchronous_standby_names')";
    let failed = |error| statement_error("checking the lookups", &error);
    let names: String = session.query_one(query, &[]).await.map_err(failed)?.get(0);
    let names_walvec = names.contains('*') || names.to_lowercase().contains("walvec");
    Ok(names_walvec.then(|| {
        Finding::error(
            "E_CONFIG",
            format!(
                "synchronous_standby_names is \"{names}\": commits may wait for walvec, which with lookups waits for commits to \
                 be seen, so that both would wait for ever"
            ),
            "name the standbys in synchronous_standby_names one by one, without walvec",
        )
    }))
}

/// Reports columns that PostgreSQL cannot compare or sort.
async fn comparison(session: &Client, spec: &LookupSpec) -> Result<Option<Finding>, CaptureError> {
    let lookup = &spec.lookup;
    let same = lookup.on.iter().map(|(their, our)| format!("c.{} = m.{}", quote_ident(their), quote_ident(our)));
    let order = lookup.order().iter().map(|by| format!("c.{}", quote_ident(&by.column)));
    let order = std::iter::once("1".to_owned()).chain(order).collect::<Vec<_>>().join(", ");
    let query = format!(
        "SELECT 1 FROM {} AS m, {} AS c WHERE {} ORDER BY {order}",
        quote_table(&spec.main),
        quote_table(&lookup.table),
        same.collect::<Vec<_>>().join(" AND ")
    );
    match session.prepare(&query).await {
        Ok(_) => Ok(None),
        // A missing right to use a schema is reported separately.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(None),
        Err(error) if error.code().is_some_and(|state| state.code().starts_with("42")) => Ok(Some(Finding::error(
            "E_CONFIG",
            format!(
                "the lookup \"{}\" of {} cannot be made in {}: {}",
                lookup.name,
                spec.main,
                lookup.table,
                describe(&error)
            ),
            "compare columns of types that PostgreSQL compares by itself, and sort by columns that it can sort",
        ))),
        Err(error) => Err(statement_error("checking the lookups", &error)),
    }
}

/// Reports types of extensions. They have their own operators, which are not found by name alone: `citext` would
/// silently be compared as text. The main table's key is checked too, because related rows are listed by it.
async fn foreign_types(
    session: &Session,
    spec: &LookupSpec,
    main: &TableFacts,
    theirs: &TableFacts,
) -> Result<Option<Finding>, CaptureError> {
    let key = main.primary_key.iter().flatten().map(|ours| (main, ours));
    let on = spec.lookup.on.iter().flat_map(|(their, our)| [(theirs, their), (main, our)]);
    let columns = on.chain(key).filter_map(|(facts, name)| {
        let found = facts.columns.iter().find(|found| found.column.name == *name)?;
        Some((facts, &found.column))
    });
    let columns: Vec<_> = columns.collect();
    let oids: Vec<u32> = columns.iter().map(|(_, column)| column.type_oid).collect();
    let foreign = equalities(session, &oids).await?;
    let found = columns.into_iter().find(|(_, column)| foreign.contains_key(&column.type_oid));
    Ok(found.map(|(facts, column)| {
        Finding::error(
            "E_CONFIG",
            format!(
                "the lookup \"{}\" of {} needs column \"{}\" of {}, whose type {} has operators that an extension brings",
                spec.lookup.name, spec.main, column.name, facts.name, column.type_name
            ),
            "look up by columns of built-in types, in a table whose key is of built-in types: a text column that a trigger keeps, for one",
        )
    }))
}

/// Reports a missing index. Without one that begins with one of the columns, every lookup reads a whole table.
async fn index(
    session: &Client,
    spec: &LookupSpec,
    facts: &TableFacts,
    columns: &[&String],
    whenever: &str,
) -> Result<Option<Finding>, CaptureError> {
    let query = "
        SELECT EXISTS (SELECT FROM pg_index i
                       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                       WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL AND a.attname::text = ANY($2))";
    let row = session.query_one(query, &[&facts.oid, &columns]).await;
    let is_there: bool = row.map_err(|error| statement_error("looking for indexes", &error))?.get(0);
    Ok((!is_there).then(|| {
        let names = quote_columns(columns.iter().map(|column| column.as_str()));
        Finding::warning(
            "E_SLOW",
            format!(
                "{} has no index on {names}: the lookup \"{}\" reads all of it for {whenever}",
                facts.name, spec.lookup.name
            ),
            format!("CREATE INDEX CONCURRENTLY ON {} ({names});", quote_table(&facts.name)),
        )
    }))
}
