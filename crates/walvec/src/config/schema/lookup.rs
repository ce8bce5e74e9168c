//! Rows of other tables that a document is rendered with.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use walvec_model::{Lookup, OrderBy, TableName, Take};

use super::values::{quoted, table_name};

/// Rows of another table that belong to each row. They are read from PostgreSQL when the text is rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LookupSettings {
    /// The table as `schema.table`. It is published too. Its replica identity must hold the columns of `on`: if they are not in
    /// its key, `ALTER TABLE ... REPLICA IDENTITY FULL`.
    #[serde(deserialize_with = "table_name", serialize_with = "quoted")]
    #[schemars(with = "String")]
    pub(crate) table: TableName,
    /// Selects the rows: columns of that table, each with the column of the collection's table that it has to be equal to. Both
    /// sides should have an index.
    pub(crate) on: BTreeMap<String, String>,
    /// Whether the template gets a list of rows, instead of one row or nothing.
    #[serde(default)]
    pub(crate) many: bool,
    /// With `many`, the order of the list: columns, separated by commas, each may be followed by `desc`. Rows that are equal in
    /// these are sorted by their key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) order: Option<String>,
    /// With `many`, the maximum number of rows in the list, 1 to 10000. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u32>,
}

impl LookupSettings {
    /// Enough for most documents: of a long one the model reads only the beginning anyway.
    const LIMIT: u32 = 100;

    /// Converts it to the model's type. That `order` can be parsed was checked.
    pub(crate) fn spec(&self, name: &str) -> Lookup {
        let take = if self.many {
            let order = self.order.as_deref().map(order).and_then(Result::ok).unwrap_or_default();
            Take::Many { order, limit: self.limit.unwrap_or(Self::LIMIT) }
        } else {
            Take::One
        };
        let on = self.on.iter().map(|(theirs, ours)| (theirs.clone(), ours.clone())).collect();
        Lookup { name: name.to_owned(), table: self.table.clone(), on, take }
    }
}

/// Parses an order, for example `created_at desc, "My Column"`.
pub(in crate::config) fn order(text: &str) -> Result<Vec<OrderBy>, String> {
    let mut terms = Vec::new();
    let mut rest = text.trim();
    loop {
        let (column, behind) = column(rest)
            .ok_or_else(|| format!("\"{text}\" is no list of columns; write for example created_at desc, id"))?;
        let end = behind.find(',').unwrap_or(behind.len());
        let descending = match behind[..end].trim().to_ascii_lowercase().as_str() {
            "" | "asc" => false,
            "desc" => true,
            other => return Err(format!("\"{other}\" is no direction; write desc behind a column, or nothing")),
        };
        terms.push(OrderBy { column, descending });
        match behind.get(end + 1..) {
            Some(more) => rest = more.trim_start(),
            None => return Ok(terms),
        }
    }
}

/// Returns the column at the beginning, and what follows it.
fn column(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut rest = quoted;
        loop {
            let (part, behind) = rest.split_once('"')?;
            name.push_str(part);
            match behind.strip_prefix('"') {
                Some(more) => {
                    name.push('"');
                    rest = more;
                }
                None => return (!name.is_empty()).then_some((name, behind)),
            }
        }
    }
    let end = text.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_written_as_in_sql() {
        let terms = |text| order(text).map(|terms| terms.into_iter().map(|by| (by.column, by.descending)).collect());
        let term = |column: &str, descending| (column.to_owned(), descending);
        assert_eq!(terms("created_at"), Ok(vec![term("created_at", false)]));
        assert_eq!(terms(" a DESC,b asc , c"), Ok(vec![term("a", true), term("b", false), term("c", false)]));
        assert_eq!(terms(r#""My, ""Column""" desc"#), Ok(vec![term(r#"My, "Column""#, true)]));
        for wrong in ["", "a,", "a down", "\"a", "\"\""] {
            assert!(order(wrong).is_err(), "{wrong}");
        }
    }
}
