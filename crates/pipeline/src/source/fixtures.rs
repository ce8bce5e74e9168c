//! Tables and shapes for the tests of this room.

use serde_json::{Value, json};
use walvec_capture::{Finding, Severity, Shape, Subject, Unfit};
use walvec_model::TableName;

pub(crate) use crate::testing::rows::at;

pub(crate) fn table(name: &str) -> TableName {
    TableName::new("public", name)
}

/// Returns the shape of a table without partitions, with this oid.
pub(crate) fn plain(oid: u32) -> Shape {
    shape_with(oid, &[(oid, oid, 1)], &json!({}))
}

/// Returns the shape of a table with partitions of these oids, files and transactions.
pub(crate) fn partitioned(leaves: &[(u32, u32, u32)]) -> Shape {
    shape_with(1, leaves, &json!({}))
}

/// Returns the shape of table 1, without partitions, with other members than usual: `columns`, `identity`.
pub(crate) fn altered(members: &Value) -> Shape {
    shape_with(1, &[(1, 1, 1)], members)
}

fn shape_with(oid: u32, leaves: &[(u32, u32, u32)], members: &Value) -> Shape {
    let leaves: Value = leaves
        .iter()
        .map(|(leaf, file, xid)| (leaf.to_string(), json!({ "file": file, "xid": xid })))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let mut shape = json!({
        "oid": oid, "columns": "c", "versions": "v", "labels": [], "identity": "i", "leaves": leaves
    });
    for (name, value) in members.as_object().unwrap() {
        shape[name] = value.clone();
    }
    serde_json::from_value(shape).unwrap()
}

pub(crate) fn finding(severity: Severity, code: &'static str, subject: Subject) -> Finding {
    Finding { severity, code, message: format!("{code} was found"), remedy: "do it".to_owned().into(), subject }
}

/// Returns a table that cannot be followed because of an error with this code.
pub(crate) fn unfit(name: &str, code: &'static str) -> Unfit {
    Unfit { table: table(name), finding: finding(Severity::Error, code, Subject::Other) }
}
