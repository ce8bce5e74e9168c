//! The shape of a table: what decides which rows it has and how their values read, as far as the catalogue shows it.
//!
//! The stream brings only changed rows. Only the catalogue shows that a label of an enum was renamed, that a partition
//! was detached, or that another table has taken over the name. One statement reads it for all tables, and takes no
//! lock on any of them: a look must not wait for an `ALTER TABLE` that is itself waiting.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use walvec_model::TableName;

use super::FIRST_USER_DEFINED;
use crate::CaptureError;
use crate::connect::{Session, statement_error};

/// A table as the catalogue describes it at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// `pg_class.oid`. A table that takes over the name has another one.
    oid: u32,
    /// A digest of the columns, and of the domains and composite types among their types.
    columns: String,
    /// A digest of the row versions of the columns in the catalogue. Every change that rewrites values creates new ones.
    versions: String,
    /// The labels of the enums among the column types, each as `oid:label`.
    labels: Vec<String>,
    /// A digest of the key and of the replica identities, including those of partitions.
    identity: String,
    /// The tables that hold the rows, by oid: the leaf partitions, or the table itself.
    leaves: BTreeMap<u32, Storage>,
}

/// Where the rows of a leaf are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Storage {
    /// `pg_class.relfilenode`: TRUNCATE, VACUUM FULL, CLUSTER and some forms of ALTER TABLE change it.
    file: u32,
    /// The transaction that wrote the leaf's row in `pg_class`.
    xid: u32,
    /// The transactions that attached the leaf, and each partition above it, to its parent. `None` if an earlier
    /// release, which did not read them, stored the shape.
    #[serde(default)]
    attached: Option<String>,
}

/// A change of a table between two looks that the stream does not bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alteration {
    /// Another table has taken over the name.
    Replaced,
    /// The values of its rows may read differently than before, or some rows are gone.
    Rows {
        /// What was found.
        why: &'static str,
    },
    /// These transactions truncated or rewrote partitions. The stream only brings a TRUNCATE of the whole table.
    Storage {
        /// The transactions, as the stream numbers them.
        xids: Vec<u32>,
    },
    /// Partitions were attached or created. Rows that an attached one already had were not streamed. Rows that were
    /// streamed may have been truncated since.
    Partitions(Vec<u32>),
}

impl Shape {
    /// Returns what happened since `before`; `None` if the stream brings all of it.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<Alteration> {
        if self.oid != before.oid {
            return Some(Alteration::Replaced);
        }
        let rows = |why| Some(Alteration::Rows { why });
        if self.columns != before.columns {
            return rows("its columns, or their types, have changed");
        }
        // An added label changes no row.
        if before.labels.iter().any(|label| !self.labels.contains(label)) {
            return rows("a label of an enum has another name");
        }
        if before.leaves.keys().any(|leaf| !self.leaves.contains_key(leaf)) {
            return rows("a partition was detached or dropped");
        }
        if self
            .leaves
            .iter()
            .any(|(leaf, now)| before.leaves.get(leaf).is_some_and(|before| now.was_away_since(before)))
        {
            return rows("a partition was detached and attached again");
        }
        let xids = self.stored_otherwise(before);
        if !xids.is_empty() && self.versions != before.versions {
            return rows("its rows were rewritten");
        }
        // For a table without partitions, the stream brings the TRUNCATE; VACUUM FULL and CLUSTER do not change rows.
        if !xids.is_empty() && self.is_partitioned() {
            return Some(Alteration::Storage { xids });
        }
        let added = self.added_since(before);
        (!added.is_empty()).then_some(Alteration::Partitions(added))
    }

    /// Returns the partitions that were attached or created since `before`.
    #[must_use]
    pub fn added_since(&self, before: &Self) -> Vec<u32> {
        self.leaves.keys().filter(|leaf| !before.leaves.contains_key(leaf)).copied().collect()
    }

    /// Returns the oids of the partitions that hold the rows, or of the table itself if it has none.
    pub fn leaves(&self) -> impl Iterator<Item = u32> {
        self.leaves.keys().copied()
    }

    /// Returns whether this partition holds rows of the table.
    #[must_use]
    pub fn has_leaf(&self, leaf: u32) -> bool {
        self.leaves.contains_key(&leaf)
    }

    /// Returns whether no TRUNCATE has removed rows that were written into a partition since the transaction `first`.
    /// True if the partition still has its first storage, whose number is its oid. A TRUNCATE in the transaction that
    /// creates a table keeps the storage.
    #[must_use]
    pub fn was_never_emptied(&self, leaf: u32, first: u32) -> bool {
        self.leaves.get(&leaf).is_some_and(|storage| storage.file == leaf && storage.xid != first)
    }

    /// Returns whether the columns and their types are unchanged.
    #[must_use]
    pub fn has_same_columns(&self, before: &Self) -> bool {
        self.columns == before.columns
    }

    /// Returns whether the key and the replica identities are unchanged.
    #[must_use]
    pub fn has_same_identity(&self, before: &Self) -> bool {
        self.identity == before.identity
    }

    fn is_partitioned(&self) -> bool {
        !self.leaves.contains_key(&self.oid)
    }

    fn stored_otherwise(&self, before: &Self) -> Vec<u32> {
        let moved = |(leaf, now): (&u32, &Storage)| (before.leaves.get(leaf)?.file != now.file).then_some(now.xid);
        self.leaves.iter().filter_map(moved).collect()
    }
}

impl Storage {
    fn was_away_since(&self, before: &Self) -> bool {
        self.attached.as_ref().zip(before.attached.as_ref()).is_some_and(|(now, before)| now != before)
    }
}

/// Returns the beginning of the statement: the tables (`root`), each with its partitions (`part`) and with the types that are not the
/// server's own and that its columns consist of (`own_type`).
fn parts_and_types(version: u32) -> String {
    // Since 14, a partition can be detached in two steps. Statements ignore it after the first one.
    let (attached, ranges) = match version {
        140_000.. => {
            ("AND NOT i.inhdetachpending", "UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid")
        }
        _ => ("", ""),
    };
    format!(
        "WITH RECURSIVE root AS (
             SELECT wanted.place, c.oid, c.relreplident
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (schema, name, place)
             JOIN pg_namespace n ON n.nspname = wanted.schema
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
         ), part AS (
             SELECT place, oid, '' AS attached FROM root
             UNION ALL
             SELECT part.place, i.inhrelid, concat(part.attached, '/', i.xmin) FROM part
             JOIN pg_class c ON c.oid = part.oid AND c.relkind = 'p'
             JOIN pg_inherits i ON i.inhparent = part.oid {attached}
         ), own_type AS (
             SELECT root.place, a.atttypid AS oid FROM root JOIN pg_attribute a ON a.attrelid = root.oid
             WHERE a.attnum > 0 AND a.atttypid >= {FIRST_USER_DEFINED}
             UNION
             SELECT own_type.place, more.oid FROM own_type JOIN pg_type t ON t.oid = own_type.oid CROSS JOIN LATERAL (
                 SELECT t.typbasetype UNION ALL SELECT t.typelem
                 UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid {ranges}
                 UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0
             ) AS more (oid) WHERE more.oid >= {FIRST_USER_DEFINED}
         )"
    )
}

/// Returns the statement, in which `$1` and `$2` are the tables' schemas and names. It uses a digest function that no
/// server setting forbids.
fn query(version: u32) -> String {
    format!(
        "{parts_and_types}, attribute AS (
             SELECT root.place,
                    string_agg(concat_ws(':', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated), ',' ORDER BY a.attnum)
                        AS columns,
                    string_agg(concat_ws(':', a.attnum, a.xmin), ',' ORDER BY a.attnum) AS versions
             FROM root JOIN pg_attribute a ON a.attrelid = root.oid AND a.attnum > 0 AND NOT a.attisdropped GROUP BY root.place
         ), domain AS (
             SELECT own_type.place, string_agg(concat_ws(':', t.oid, t.typbasetype, t.typtypmod), ',' ORDER BY t.oid) AS bases
             FROM own_type JOIN pg_type t ON t.oid = own_type.oid AND t.typtype = 'd' GROUP BY own_type.place
         ), composite AS (
             SELECT own_type.place,
                    string_agg(concat_ws(':', t.oid, a.attnum, a.atttypid, a.atttypmod), ',' ORDER BY t.oid, a.attnum) AS parts
             FROM own_type JOIN pg_type t ON t.oid = own_type.oid
             JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped GROUP BY own_type.place
         ), label AS (
             SELECT own_type.place, array_agg(concat(e.oid, ':', e.enumlabel) ORDER BY e.oid) AS labels
             FROM own_type JOIN pg_enum e ON e.enumtypid = own_type.oid GROUP BY own_type.place
         ), key AS (
             SELECT root.place, string_agg(concat_ws(':', i.indexrelid, i.indisprimary, i.indisreplident, i.indimmediate, i.indisvalid,
                                                     i.indkey, i.indnkeyatts), ',' ORDER BY i.indexrelid) AS keys
             FROM root JOIN pg_index i ON i.indrelid = root.oid AND (i.indisprimary OR i.indisreplident) GROUP BY root.place
         ), leaf AS (
             SELECT part.place,
                    array_agg(concat_ws(':', c.oid, c.relfilenode, c.xmin, part.attached) ORDER BY c.oid) AS leaves,
                    string_agg(concat_ws(':', c.oid, c.relreplident, nullif(c.relpersistence, 'p'), own.keys), ',' ORDER BY c.oid)
                        AS identities
             FROM part JOIN pg_class c ON c.oid = part.oid AND c.relkind = 'r'
             CROSS JOIN LATERAL (
                 SELECT string_agg(concat_ws(':', i.indisprimary, i.indisreplident, i.indimmediate, i.indisvalid, i.indkey,
                                             i.indnkeyatts), ',' ORDER BY i.indexrelid) AS keys
                 FROM pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)
             ) AS own
             GROUP BY part.place
         )
         SELECT root.place, root.oid, {columns}, {versions}, coalesce(label.labels, '{{}}'), {identity}, coalesce(leaf.leaves, '{{}}')
         FROM root
         LEFT JOIN attribute USING (place) LEFT JOIN domain USING (place) LEFT JOIN composite USING (place)
         LEFT JOIN label USING (place) LEFT JOIN key USING (place) LEFT JOIN leaf USING (place)",
        parts_and_types = parts_and_types(version),
        columns = digest("concat_ws(';', attribute.columns, domain.bases, composite.parts)"),
        versions = digest("coalesce(attribute.versions, '')"),
        identity = digest("concat_ws(';', root.relreplident, key.keys, leaf.identities)"),
    )
}

fn digest(text: &str) -> String {
    format!("encode(substr(sha256(convert_to({text}, getdatabaseencoding())), 1, 16), 'hex')")
}

/// Returns the shapes of `tables`, in their order; `None` for tables that do not exist.
pub(crate) async fn shapes(session: &Session, tables: &[TableName]) -> Result<Vec<Option<Shape>>, CaptureError> {
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let rows = session.query(&query(session.version), &[&schemas, &names]).await;
    let rows = rows.map_err(|error| statement_error("looking at the shapes of the tables", &error))?;
    let mut shapes = vec![None; tables.len()];
    for row in &rows {
        let place = usize::try_from(row.get::<_, i64>(0)).unwrap_or_default().wrapping_sub(1);
        if let Some(shape) = shapes.get_mut(place) {
            *shape = Some(Shape {
                oid: row.get(1),
                columns: row.get(2),
                versions: row.get(3),
                labels: row.get(4),
                identity: row.get(5),
                leaves: row.get::<_, Vec<String>>(6).iter().filter_map(|leaf| storage(leaf)).collect(),
            });
        }
    }
    Ok(shapes)
}

/// Reads `oid:relfilenode:xmin:attached`.
fn storage(text: &str) -> Option<(u32, Storage)> {
    let mut parts = text.split(':');
    let mut next = || parts.next()?.parse().ok();
    let (oid, file, xid) = (next()?, next()?, next()?);
    Some((oid, Storage { file, xid, attached: parts.next().map(str::to_owned) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(file: u32, xid: u32) -> Storage {
        Storage { file, xid, attached: Some("/5".to_owned()) }
    }

    fn shape() -> Shape {
        let digest = || "d".to_owned();
        Shape {
            oid: 1,
            columns: digest(),
            versions: digest(),
            labels: vec!["7:low".to_owned(), "8:high".to_owned()],
            identity: digest(),
            leaves: BTreeMap::from([(2, stored(2, 10)), (3, stored(3, 10))]),
        }
    }

    fn plain(file: u32) -> Shape {
        Shape { leaves: BTreeMap::from([(1, stored(file, 11))]), ..shape() }
    }

    #[test]
    fn a_label_with_another_name_changes_rows_and_a_new_one_does_not() {
        let mut now = shape();
        now.labels.insert(1, "9:middle".to_owned());
        assert_eq!(now.since(&shape()), None);
        now.labels[0] = "7:lowest".to_owned();
        assert!(matches!(now.since(&shape()), Some(Alteration::Rows { .. })));
    }

    #[test]
    fn a_partition_that_came_is_read_and_one_that_went_means_the_whole_table() {
        let mut now = shape();
        now.leaves.insert(4, stored(4, 12));
        assert_eq!(now.since(&shape()), Some(Alteration::Partitions(vec![4])));
        now.leaves.remove(&2);
        assert!(matches!(now.since(&shape()), Some(Alteration::Rows { .. })));
    }

    #[test]
    fn a_partition_that_was_away_means_the_whole_table() {
        let back = Storage { attached: Some("/12".to_owned()), ..stored(3, 12) };
        let mut now = shape();
        now.leaves.insert(3, back);
        assert!(matches!(now.since(&shape()), Some(Alteration::Rows { .. })));
        let mut unknown = shape();
        unknown.leaves.insert(3, Storage { attached: None, ..stored(3, 10) });
        assert_eq!(now.since(&unknown), None, "noted by a release that did not look");
    }

    #[test]
    fn a_partition_with_other_storage_names_the_transaction_that_made_it() {
        let mut now = shape();
        now.leaves.insert(3, stored(30, 12));
        assert_eq!(now.since(&shape()), Some(Alteration::Storage { xids: vec![12] }));
    }

    #[test]
    fn other_storage_of_a_plain_table_counts_only_if_its_columns_were_touched_too() {
        assert_eq!(plain(5).since(&plain(1)), None, "TRUNCATE is streamed, VACUUM FULL changes nothing");
        let rewritten = Shape { versions: "e".to_owned(), ..plain(5) };
        assert!(matches!(rewritten.since(&plain(1)), Some(Alteration::Rows { .. })));
        let touched = Shape { versions: "e".to_owned(), ..plain(1) };
        assert_eq!(touched.since(&plain(1)), None, "ALTER COLUMN ... SET STATISTICS, for example");
    }

    #[test]
    fn another_table_under_the_name_is_not_the_same() {
        let other = Shape { oid: 100, ..shape() };
        assert_eq!(other.since(&shape()), Some(Alteration::Replaced));
    }
}
