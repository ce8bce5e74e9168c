//! Rows of other tables that a text is rendered with, read together with the row itself.
//!
//! Each lookup is one more column of the statement: a JSON array that has an array of texts for each looked-up row. The
//! last of these texts distinguishes the row's version from every other one.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio_postgres::Client;
use walvec_model::{Lookup, Take};

use crate::VerifyError;
use crate::sql::{only, quoted};
use crate::table::SentTable;
use crate::values::{expression, value};

/// A lookup, and what the publication sends of its table.
#[derive(Clone, Debug)]
pub(crate) struct SentLookup {
    lookup: Lookup,
    table: SentTable,
}

impl SentLookup {
    /// Reads the looked-up table from the catalogue.
    pub(crate) async fn find(session: &Client, publication: &str, lookup: &Lookup) -> Result<Self, VerifyError> {
        let table = SentTable::find(session, publication, &lookup.table).await?;
        Ok(Self { lookup: lookup.clone(), table })
    }

    pub(crate) fn name(&self) -> &str {
        &self.lookup.name
    }

    /// Returns the columns that hold numerics.
    pub(crate) fn numerics(&self) -> Arc<[String]> {
        let numerics = self.table.columns.iter().filter(|column| column.kind.is_numeric());
        numerics.map(|column| column.name.clone()).collect()
    }

    /// Returns the SQL expression for what a row with the alias `r` looks up.
    pub(crate) fn expression(&self) -> String {
        let Self { lookup, table } = self;
        let texts = table.columns.iter().map(|column| expression(&format!("c.{}", quoted(&column.name)), column));
        let version = "c.tableoid::text || '/' || c.xmin::text || '/' || c.ctid::text".to_owned();
        let texts: Vec<String> = texts.chain([version]).collect();
        let (order, limit): (&[_], u32) = match &lookup.take {
            Take::One => (&[], 1),
            Take::Many { order, limit } => (order, *limit),
        };
        let by =
            order.iter().map(|by| format!("c.{} {}", quoted(&by.column), if by.descending { "DESC" } else { "ASC" }));
        let key = table.key.iter().filter_map(|index| table.columns.get(*index));
        let order: Vec<String> = by.chain(key.map(|column| format!("c.{}", quoted(&column.name)))).collect();
        let same = lookup.on.iter().map(|(theirs, ours)| format!("c.{} = r.{}", quoted(theirs), quoted(ours)));
        format!(
            "(SELECT json_agg(f.texts ORDER BY f.place)::text FROM (SELECT to_json(ARRAY[{}]::text[]) AS texts, \
             row_number() OVER (ORDER BY {}) AS place FROM {} WHERE {} ORDER BY place LIMIT {limit}) AS f)",
            texts.join(", "),
            order.join(", "),
            only(table, "c"),
            same.collect::<Vec<_>>().join(" AND "),
        )
    }

    /// Converts the result of [`expression`](Self::expression) to what a template sees.
    pub(crate) fn value(&self, text: Option<&str>) -> Value {
        let rows: Vec<Vec<Option<String>>> = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let object = |texts: Vec<Option<String>>| {
            let columns = self.table.columns.iter().zip(texts);
            let fields = columns.map(|(column, text)| (column.name.clone(), value(text.as_deref(), &column.kind)));
            Value::Object(fields.collect::<Map<_, _>>())
        };
        let mut objects = rows.into_iter().map(object);
        match self.lookup.take {
            Take::One => objects.next().unwrap_or_default(),
            Take::Many { .. } => objects.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::{OrderBy, TableName};

    use super::*;
    use crate::table::{SentColumn, TextForm};

    fn joined(take: Take) -> SentLookup {
        let column = |name: &str, kind| SentColumn {
            name: name.to_owned(),
            kind,
            type_oid: 0,
            type_name: String::new(),
            equality: "=".to_owned(),
        };
        let name = TableName::new("s", "reviews");
        let on = vec![("book".to_owned(), "id".to_owned())];
        SentLookup {
            lookup: Lookup { name: "reviews".to_owned(), table: name.clone(), on, take },
            table: SentTable {
                name,
                columns: vec![column("id", TextForm::Plain), column("book", TextForm::Text)],
                key: vec![0],
                filter: None,
                partitioned: false,
            },
        }
    }

    #[test]
    fn looked_up_rows_come_with_the_row_and_in_their_order() {
        let order = vec![OrderBy { column: "book".to_owned(), descending: true }];
        assert_eq!(
            joined(Take::Many { order, limit: 3 }).expression(),
            "(SELECT json_agg(f.texts ORDER BY f.place)::text FROM (SELECT to_json(ARRAY[to_json(c.\"id\")::text, \
             c.\"book\"::text, c.tableoid::text || '/' || c.xmin::text || '/' || c.ctid::text]::text[]) AS texts, \
             row_number() OVER (ORDER BY c.\"book\" DESC, c.\"id\") AS place FROM ONLY \"s\".\"reviews\" AS c \
             WHERE c.\"book\" = r.\"id\" ORDER BY place LIMIT 3) AS f)"
        );
    }

    #[test]
    fn one_row_is_an_object_and_many_are_a_list() {
        let text = Some(r#"[["1","a","v"],["2",null,"w"]]"#);
        let many = joined(Take::Many { order: Vec::new(), limit: 3 });
        assert_eq!(many.value(text), json!([{"id": 1, "book": "a"}, {"id": 2, "book": null}]));
        assert_eq!(many.value(None), json!([]));
        assert_eq!(joined(Take::One).value(text), json!({"id": 1, "book": "a"}));
        assert_eq!(joined(Take::One).value(None), json!(null));
    }
}
