//! How values of several sections are read and written.

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serializer};
use walvec_model::TableName;

use crate::config::names;

pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

pub(super) fn optional_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

/// Reads a section that counts as given as soon as its key exists, even if everything in it is commented out.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

pub(super) fn table_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TableName, D::Error> {
    names::table_name(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// Writes a table's name in the form that [`table_name`] parses.
pub(super) fn quoted<S: Serializer>(table: &TableName, serializer: S) -> Result<S::Ok, S::Error> {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    serializer.serialize_str(&format!("{}.{}", quote(&table.schema), quote(&table.name)))
}
