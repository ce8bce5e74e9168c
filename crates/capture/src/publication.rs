//! The publication: what the server sends, and with which row filters.

use std::collections::{BTreeMap, HashSet};

use tokio_postgres::error::SqlState;
use tracing::warn;
use walvec_model::TableName;

use crate::catalog::{Capabilities, facts_by_name, facts_of};
use crate::column_list::{list_differences, listed};
use crate::config::SourceConfig;
use crate::connect::{Session, statement_error};
use crate::identities::Identities;
use crate::published::{Published, published_tables};
use crate::sql::{quote_columns, quote_ident, quote_literal, quote_table};
use crate::{CaptureError, row_filter};

/// How the publication compares to the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicationState {
    /// There is no publication of this name.
    Missing,
    /// The publication contains exactly what is configured.
    Matches {
        /// `pg_publication.oid`. If it changes, the publication was dropped and created again, and the server cannot
        /// decode the changes in between.
        oid: u32,
    },
    /// The publication contains something else.
    Differs {
        /// How it differs.
        difference: String,
        /// The SQL that makes it match; `None` if it is not a list of tables, which means that it was made for another purpose.
        sql: Option<String>,
    },
}

/// The outcome of dropping a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicationDrop {
    /// The publication was dropped.
    Dropped,
    /// There was no publication.
    Missing,
    /// The publication was kept, because walvec did not make it.
    NotOurs,
    /// The publication was kept, because these slots of the same database may be read with it.
    Needed {
        /// The names of the slots.
        slots: Vec<String>,
    },
}

/// Compares the publication with the configuration. `aside` holds tables that are configured but not followed. A
/// publication that walvec did not make may contain them.
pub(crate) async fn state(
    session: &Session,
    config: &SourceConfig,
    aside: &[TableName],
    can: Capabilities,
) -> Result<PublicationState, CaptureError> {
    let Some(found) = Existing::find(session, config, can).await? else {
        return Ok(PublicationState::Missing);
    };
    let mut published = published_tables(session, &config.publication, can).await?;
    if !aside.is_empty() && !is_ours(session, config).await? {
        published.retain(|table, _| !aside.contains(table));
    }
    // Without `publish_via_partition_root` the view lists the leaves, which hides all other differences.
    let hides_roots = !found.via_root && has_partitioned(session, config).await?;
    let mut differences = match hides_roots {
        true => vec!["publish_via_partition_root is off".to_owned()],
        false => table_differences(config, &published, found.is_list),
    };
    if differences.is_empty() && can.column_lists && is_ours(session, config).await? {
        differences = list_differences(session, config, &published, can).await?;
    }
    if !found.sends_all {
        differences.push("it leaves out some of INSERT, UPDATE, DELETE and TRUNCATE".to_owned());
    }
    let options_differ = hides_roots || !found.sends_all;
    if differences.is_empty() && can.row_filters {
        differences = filter_differences(session, config, &published).await?;
    }
    if differences.is_empty() {
        return Ok(PublicationState::Matches { oid: found.oid });
    }
    let sql = if found.is_list { Some(alter_sql(session, config, can, options_differ).await?) } else { None };
    Ok(PublicationState::Differs { difference: differences.join("; "), sql })
}

/// The properties of a publication that do not depend on single tables.
struct Existing {
    oid: u32,
    /// Whether it sends every kind of change.
    sends_all: bool,
    /// Whether changes of partitions are sent as changes of the root.
    via_root: bool,
    /// Whether its tables are listed one by one. A publication of all tables, or of a schema, also contains others,
    /// whose changes are ignored.
    is_list: bool,
}

impl Existing {
    async fn find(session: &Session, config: &SourceConfig, can: Capabilities) -> Result<Option<Self>, CaptureError> {
        let has_schemas = match can.schema_publications {
            true => "EXISTS (SELECT FROM pg_publication_namespace n WHERE n.pnpubid = p.oid)",
            false => "false",
        };
        let query = format!(
            "SELECT p.oid, pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot, NOT puballtables AND NOT {has_schemas}
             FROM pg_publication p WHERE pubname = $1"
        );
        let row = session.query_opt(&query, &[&config.publication]).await;
        let row = row.map_err(|error| statement_error("reading the publication", &error))?;
        let found = |row: tokio_postgres::Row| Self {
            oid: row.get(0),
            sends_all: row.get(1),
            via_root: row.get(2),
            is_list: row.get(3),
        };
        Ok(row.map(found))
    }
}

/// The identity of a publication at one moment.
///
/// The server decodes each change with the catalogue of that time. Changes that the publication left out in the
/// meantime are never sent, and only the versions of its rows in the catalogue show that it was different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationIdentity {
    /// Changes whenever the publication is created again or altered, even if it is changed back.
    pub version: String,
    /// The publication's owner. Another owner changes the version, but nothing that is sent.
    owner: u32,
    /// The publication's contents without the owner.
    content: String,
}

impl PublicationIdentity {
    /// Returns whether only the owner has changed.
    #[must_use]
    pub fn is_handed_over(&self, before: &Self) -> bool {
        self.owner != before.owner && self.content == before.content
    }

    /// Returns whether two versions differ only in the entries of single tables. A table whose
    /// [entry](crate::Source::publication_entries) [is listed](Self::lists) in both has been published without interruption.
    #[must_use]
    pub fn differ_in_tables_only(one: &str, other: &str) -> bool {
        let whole = |version: &'_ str| -> Vec<String> {
            version.split(' ').filter(|entry| !entry.starts_with('r')).map(str::to_owned).collect()
        };
        whole(one) == whole(other)
    }

    /// Returns whether a version lists this entry of a table; false if there is no entry.
    #[must_use]
    pub fn lists(version: &str, entry: Option<&String>) -> bool {
        entry.is_some_and(|entry| version.split(' ').any(|listed| listed == entry))
    }

    /// Parses the value of [`identity_expression`].
    pub(crate) fn read(text: Option<String>) -> Option<Self> {
        let text = text?;
        let mut parts = text.splitn(3, '|').map(str::to_owned);
        Some(Self { version: parts.next()?, owner: parts.next()?.parse().ok()?, content: parts.next()? })
    }
}

/// Returns an SQL expression for the identity of the publication named by parameter `$1`; it is NULL if there is none.
pub(crate) fn identity_expression(can: Capabilities) -> String {
    let schemas = match can.schema_publications {
        true => {
            "UNION ALL SELECT 's' || n.oid || ':' || n.xmin FROM pg_publication_namespace n WHERE n.pnpubid = p.oid"
        }
        false => "",
    };
    format!(
        "
        (SELECT concat_ws('|',
                concat_ws(' ', 'p' || p.oid || ':' || p.xmin, parts.versions), p.pubowner,
                concat_ws(' ', p.oid, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, p.puballtables,
                          to_jsonb(p) ->> 'pubgencols', parts.versions))
         FROM pg_publication p CROSS JOIN LATERAL (
             SELECT string_agg(entry, ' ' ORDER BY entry) AS versions FROM (
                 SELECT 'r' || r.oid || ':' || r.xmin FROM pg_publication_rel r WHERE r.prpubid = p.oid
                 {schemas}) AS entries (entry)) AS parts
         WHERE p.pubname = $1)"
    )
}

/// Returns the present identity of the publication; `None` if there is none.
pub(crate) async fn identity(
    session: &Session,
    publication: &str,
    can: Capabilities,
) -> Result<Option<PublicationIdentity>, CaptureError> {
    let row = session.query_one(&format!("SELECT {}", identity_expression(can)), &[&publication]).await;
    let row = row.map_err(|error| statement_error("reading the publication", &error))?;
    Ok(PublicationIdentity::read(row.get(0)))
}

/// Returns the entry of each table, in the form that [`identity_expression`] uses.
pub(crate) async fn entries(session: &Session, publication: &str) -> Result<BTreeMap<TableName, String>, CaptureError> {
    let query = "SELECT n.nspname::text, c.relname::text, 'r' || r.oid || ':' || r.xmin
                 FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
                      JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE p.pubname = $1";
    let rows = session.query(query, &[&publication]).await;
    let rows = rows.map_err(|error| statement_error("reading the publication", &error))?;
    let entry = |row: &tokio_postgres::Row| {
        (TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), row.get::<_, String>(2))
    };
    Ok(rows.iter().map(entry).collect())
}

/// Returns the present name of the publication with this version; `None` if it is gone.
pub(crate) async fn called(session: &Session, version: &str) -> Result<Option<String>, CaptureError> {
    let oid = version.strip_prefix('p').and_then(|rest| rest.split(':').next()?.parse::<u32>().ok());
    let query = "SELECT pubname::text FROM pg_publication WHERE oid = $1";
    let row = session.query_opt(query, &[&oid.unwrap_or_default()]).await;
    Ok(row.map_err(|error| statement_error("reading the publication", &error))?.map(|row| row.get(0)))
}

/// Compares the lists of tables. `is_exact` says whether additional tables are a difference, too.
fn table_differences(config: &SourceConfig, published: &BTreeMap<TableName, Published>, is_exact: bool) -> Vec<String> {
    let mut differences = Vec::new();
    let tables = config.published();
    for spec in &tables {
        if !published.contains_key(&spec.name) {
            differences.push(format!("table {} is not in it", spec.name));
        }
    }
    let configured: HashSet<&TableName> = tables.iter().map(|spec| &spec.name).collect();
    for extra in published.keys().filter(|name| is_exact && !configured.contains(name)) {
        differences.push(format!("it also publishes {extra}"));
    }
    differences
}

async fn has_partitioned(session: &Session, config: &SourceConfig) -> Result<bool, CaptureError> {
    let tables = config.published();
    let facts = facts_of(session, tables.iter().map(|spec| &spec.name)).await?;
    Ok(facts.values().any(|facts| facts.kind == "p"))
}

/// Compares row filters by their meaning.
async fn filter_differences(
    session: &Session,
    config: &SourceConfig,
    published: &BTreeMap<TableName, Published>,
) -> Result<Vec<String>, CaptureError> {
    let mut differences = Vec::new();
    for (index, spec) in config.published().iter().enumerate() {
        let found = published.get(&spec.name).and_then(|table| table.filter.as_ref());
        match (&spec.filter, found) {
            (None, None) => {}
            (Some(ours), Some(theirs)) => {
                let Some(facts) = facts_by_name(session, &spec.name).await? else { continue };
                match row_filter::mean_the_same(session, &facts, ours, theirs).await? {
                    Some(true) => {}
                    Some(false) => differences.push(format!("it filters {} by {theirs}", spec.name)),
                    None => warn!(
                        publication = config.publication,
                        "cannot compare {} with the row filter of the publication: the role may not make temporary views",
                        row_filter::setting(index)
                    ),
                }
            }
            (None, Some(filter)) => differences.push(format!("it filters {} by {filter}", spec.name)),
            (Some(_), None) => differences.push(format!("it does not filter {}", spec.name)),
        }
    }
    Ok(differences)
}

/// Returns the configured tables that are not `published`, if walvec did not make the publication. Empty if that cannot
/// be determined.
pub(crate) async fn left_out(
    session: &Session,
    config: &SourceConfig,
    published: &BTreeMap<TableName, Published>,
    can: Capabilities,
) -> Result<Vec<TableName>, CaptureError> {
    let Some(found) = Existing::find(session, config, can).await? else { return Ok(Vec::new()) };
    if is_ours(session, config).await? || (!found.via_root && has_partitioned(session, config).await?) {
        return Ok(Vec::new());
    }
    let tables = config.published().into_iter().map(|spec| spec.name);
    Ok(tables.filter(|table| !published.contains_key(table)).collect())
}

/// Returns the error for a publication that does not match the configuration.
pub(crate) fn differs(publication: String, difference: String, sql: Option<String>) -> CaptureError {
    match sql {
        Some(sql) => CaptureError::Publication { publication, difference, sql },
        None => CaptureError::ForeignPublication { publication, difference },
    }
}

/// Returns the SQL that creates the publication.
pub(crate) async fn create_sql(
    session: &Session,
    config: &SourceConfig,
    can: Capabilities,
) -> Result<String, CaptureError> {
    let list = table_list(session, config, can).await?;
    Ok(format!("CREATE PUBLICATION {} FOR TABLE {list} WITH ({});", quote_ident(&config.publication), options(can)))
}

/// Returns the options: partitions are sent as their root, and generated columns are sent if the server can do that.
const fn options(can: Capabilities) -> &'static str {
    match can.generated_columns {
        true => "publish_via_partition_root = true, publish_generated_columns = stored",
        false => "publish_via_partition_root = true",
    }
}

/// Returns the SQL that marks the publication as walvec's.
pub(crate) fn mark_sql(config: &SourceConfig) -> String {
    format!("COMMENT ON PUBLICATION {} IS {};", quote_ident(&config.publication), quote_literal(&mark(config)))
}

/// Returns the comment of a publication that walvec has made. A publication without this comment is left alone.
fn mark(config: &SourceConfig) -> String {
    format!("Made by walvec for its slot \"{}\"; walvec reset drops it.", config.slot)
}

/// Returns whether walvec made the publication for this slot; `false` if there is none.
pub(crate) async fn is_ours(session: &Session, config: &SourceConfig) -> Result<bool, CaptureError> {
    let comment = comment(session, config).await;
    let comment = comment.map_err(|error| statement_error("reading the publication", &error))?;
    Ok(comment.as_deref() == Some(&mark(config)))
}

/// Returns the comment of the publication, if there is one.
async fn comment(session: &Session, config: &SourceConfig) -> Result<Option<String>, tokio_postgres::Error> {
    let query = "SELECT coalesce(obj_description(oid, 'pg_publication'), '') FROM pg_publication WHERE pubname = $1";
    Ok(session.query_opt(query, &[&config.publication]).await?.map(|row| row.get(0)))
}

/// Alters the publication with `sql`, if walvec made it for this slot. Returns whether it was altered; the role may
/// lack the right.
pub(crate) async fn alter(session: &Session, config: &SourceConfig, sql: &str) -> Result<bool, CaptureError> {
    let failed = |error| statement_error("altering the publication", &error);
    if !is_ours(session, config).await? {
        return Ok(false);
    }
    // One message is one transaction.
    match session.batch_execute(&format!("SET LOCAL lock_timeout = '5s'; {sql}")).await {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Drops the publication, if walvec made it for this slot and no other slot may be read with it.
pub(crate) async fn drop(session: &Session, config: &SourceConfig) -> Result<PublicationDrop, CaptureError> {
    let failed = |error| statement_error("dropping the publication", &error);
    match comment(session, config).await.map_err(failed)? {
        None => return Ok(PublicationDrop::Missing),
        Some(comment) if comment != mark(config) => return Ok(PublicationDrop::NotOurs),
        Some(_) => {}
    }
    // The server does not show which publications a slot is read with. A reindex of this configuration has one more slot.
    let query = "SELECT slot_name::text FROM pg_replication_slots
                 WHERE database = current_database() AND plugin = 'pgoutput'
                   AND slot_name <> $1 AND slot_name <> $1 || '_reindex'";
    let slots = session.query(query, &[&config.slot]).await.map_err(failed)?;
    if !slots.is_empty() {
        return Ok(PublicationDrop::Needed { slots: slots.iter().map(|row| row.get(0)).collect() });
    }
    let sql = format!("DROP PUBLICATION IF EXISTS {}", quote_ident(&config.publication));
    session.batch_execute(&sql).await.map_err(failed)?;
    Ok(PublicationDrop::Dropped)
}

/// Returns the SQL that removes tables from the publication; `None` if there are no tables.
pub(crate) fn drop_tables_sql(config: &SourceConfig, tables: &[TableName]) -> Option<String> {
    let list = tables.iter().map(quote_table).collect::<Vec<_>>().join(", ");
    (!tables.is_empty()).then(|| format!("ALTER PUBLICATION {} DROP TABLE {list}", quote_ident(&config.publication)))
}

/// Returns the SQL that makes the publication match. Sets options only if they differ: a change that looks as if the
/// whole publication had been altered causes all tables to be read again.
async fn alter_sql(
    session: &Session,
    config: &SourceConfig,
    can: Capabilities,
    options_differ: bool,
) -> Result<String, CaptureError> {
    let name = quote_ident(&config.publication);
    let list = table_list(session, config, can).await?;
    let mut sql = format!("ALTER PUBLICATION {name} SET TABLE {list};");
    if options_differ {
        let set = " SET (publish = 'insert, update, delete, truncate', ";
        sql = format!("{sql} ALTER PUBLICATION {name}{set}{});", options(can));
    }
    Ok(sql)
}

async fn table_list(session: &Session, config: &SourceConfig, can: Capabilities) -> Result<String, CaptureError> {
    let tables = config.published();
    let facts = facts_of(session, tables.iter().map(|spec| &spec.name)).await?;
    let identities = Identities::of(session, facts.values()).await?;
    let mut items = Vec::with_capacity(tables.len());
    for (index, spec) in tables.iter().enumerate() {
        let Some(facts) = facts.get(&spec.name) else {
            return Err(CaptureError::Table { table: spec.name.clone(), reason: "does not exist".to_owned() });
        };
        // With `INHERITS`, child tables are separate tables. Partitions are always included.
        let only = if facts.kind == "p" { "" } else { "ONLY " };
        let columns = match listed(config, spec, facts, &identities, can) {
            Some(names) => format!(" ({})", quote_columns(names.iter().map(String::as_str))),
            None => String::new(),
        };
        let filter = match &spec.filter {
            Some(_) if !can.row_filters => return Err(row_filter::unsupported(index, session.version)),
            // A comment in the filter ends with its line.
            Some(filter) if filter.contains("--") => format!(" WHERE ({filter}\n)"),
            Some(filter) => format!(" WHERE ({filter})"),
            None => String::new(),
        };
        items.push(format!("{only}{}{columns}{filter}", quote_table(&spec.name)));
    }
    Ok(items.join(", "))
}
