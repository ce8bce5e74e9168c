//! Rows of other tables that a document is rendered with.

use crate::TableName;

/// Rows of another table that belong to a row of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The variable under which templates see the rows.
    pub name: String,
    /// The looked-up table.
    pub table: TableName,
    /// Pairs of columns whose values have to be equal: a column of the looked-up table, then one of the main table. At
    /// least one pair.
    pub on: Vec<(String, String)>,
    /// How many of the matching rows the lookup gives.
    pub take: Take,
}

/// How many rows a lookup gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    /// One row or none. If several rows match, the one with the lowest key.
    One,
    /// A list, possibly empty.
    Many {
        /// The columns that the list is sorted by. Rows that are equal in all of them are sorted by their keys.
        order: Vec<OrderBy>,
        /// The maximum number of rows, counted from the front of the list.
        limit: u32,
    },
}

/// A column to sort by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderBy {
    /// The column of the looked-up table.
    pub column: String,
    /// Whether high values come first, preceded by NULL.
    pub descending: bool,
}

impl Lookup {
    /// Returns everything that decides the lookup's rows, in an unambiguous form. Fingerprints contain it, so the form
    /// never changes.
    #[must_use]
    pub fn describe(&self) -> String {
        let take = match &self.take {
            Take::One => "one".to_owned(),
            Take::Many { order, limit } => {
                let order =
                    order.iter().map(|by| format!("{:?} {}", by.column, if by.descending { "desc" } else { "asc" }));
                format!("many {} {limit}", order.collect::<Vec<_>>().join(","))
            }
        };
        let on = self.on.iter().map(|(theirs, ours)| format!("{theirs:?}={ours:?}")).collect::<Vec<_>>().join(",");
        format!("{} {:?}.{:?} {on} {take}", self.name, self.table.schema, self.table.name)
    }

    /// Returns the columns that the rows are sorted by, each with its direction; empty for a lookup of one row.
    #[must_use]
    pub fn order(&self) -> &[OrderBy] {
        match &self.take {
            Take::One => &[],
            Take::Many { order, .. } => order,
        }
    }

    /// Returns the maximum number of rows that the lookup gives.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        match &self.take {
            Take::One => 1,
            Take::Many { limit, .. } => *limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_lookup_is_in_its_description() {
        let by = |column: &str, descending| OrderBy { column: column.to_owned(), descending };
        let lookup = |on: &str, take| Lookup {
            name: "reviews".to_owned(),
            table: TableName::new("public", "reviews"),
            on: vec![(on.to_owned(), "id".to_owned())],
            take,
        };
        let many = |order, limit| Take::Many { order, limit };
        let described = [
            lookup("book_id", Take::One),
            lookup("other", Take::One),
            lookup("book_id", many(Vec::new(), 1)),
            lookup("book_id", many(vec![by("a", false)], 1)),
            lookup("book_id", many(vec![by("a", true)], 1)),
            lookup("book_id", many(vec![by("a", true)], 2)),
        ]
        .map(|lookup| lookup.describe());
        let different: std::collections::HashSet<&String> = described.iter().collect();
        assert_eq!(different.len(), described.len(), "{described:?}");
        assert_eq!(described[0], r#"reviews "public"."reviews" "book_id"="id" one"#);
    }
}
