//! walvec.yaml, the environment and the flags, validated before anything connects.
//!
//! - [`settings`]: what can be configured; its documentation is the manual, its JSON schema is `walvec schema`
//! - [`load`]: where a configuration comes from, and what beats what
//! - [`environment`]: environment variables, injected so that tests need none
//! - [`document`]: a YAML text as a tree that knows its places, and excerpts of it that hide secrets
//! - [`reader`]: from that tree to the settings, with the dotted key in every error
//! - [`interpolate`]: `${VAR}` in values
//! - [`names`]: table names in SQL's notation
//! - [`conninfo`]: completes a connection string from `PG*` variables
//! - [`rules`]: what must hold beyond types
//! - [`error`]: what can be wrong, and where

mod conninfo;
mod document;
mod environment;
mod error;
mod interpolate;
mod load;
mod names;
mod reader;
mod rules;
mod settings;
#[cfg(test)]
mod tests;

pub(crate) use environment::Environment;
pub(crate) use error::ConfigError;
pub(crate) use load::Overrides;
pub(crate) use names::table_name;
pub(crate) use settings::{CollectionConfig, Config, EmbeddingSettings, QdrantSettings};

/// The JSON schema of walvec.yaml, for editors.
pub(crate) fn schema() -> String {
    let schema = schemars::schema_for!(Config);
    format!("{:#}", schema.as_value())
}
