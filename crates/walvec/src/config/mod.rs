//! walvec.yaml, the environment and the flags, validated before anything connects.
//!
//! - [`settings`]: what can be configured; its documentation is the manual, its JSON schema is `walvec schema`
//! - [`embedding`], [`embedding_rules`]: the model that turns texts into vectors, and the rules for it
//! - [`broker`], [`broker_rules`]: the broker between the stages, and the rules for it
//! - [`stage`]: which part of the path of a row this process is, and where that keeps its state
//! - [`lookup`], [`lookup_rules`]: rows of other tables for documents, and the rules for them
//! - [`features`]: the features that a configuration needs of the build
//! - [`load`]: the sources of a configuration, and their precedence
//! - [`variables`]: a configuration from the variables of the tutorial stack
//! - [`environment`]: environment variables, injected so that tests do not depend on them
//! - [`document`]: a YAML text as a tree with positions, and excerpts of it that hide secrets
//! - [`reader`]: from that tree to the settings, with the dotted key in every error
//! - [`interpolate`]: `${VAR}` in values
//! - [`names`]: table names in SQL's notation
//! - [`conninfo`]: completes a connection string from `PG*` variables
//! - [`rules`]: rules that types cannot express
//! - [`server_rules`]: who may ask, and under which names
//! - [`error`]: errors of a configuration, and their positions

mod broker;
mod broker_rules;
mod conninfo;
mod document;
mod embedding;
mod embedding_rules;
mod environment;
mod error;
mod features;
mod interpolate;
mod load;
mod lookup;
mod lookup_rules;
mod names;
mod reader;
mod rules;
mod server_rules;
mod settings;
mod stage;
#[cfg(test)]
mod tests;
mod variables;

pub(crate) use broker::{GroupProtocol, KafkaSettings, RecordFormat};
pub(crate) use embedding::EmbeddingSettings;
pub(crate) use environment::Environment;
pub(crate) use error::ConfigError;
pub(crate) use features::Features;
pub(crate) use load::{DEFAULT_FILE, Overrides};
pub(crate) use names::table_name;
pub(crate) use settings::DEFAULT_LISTEN;
pub(crate) use settings::{
    ChunkSettings, CollectionConfig, Config, IndexKind, OnLong, PublishedColumns, QdrantSettings,
};
pub(crate) use stage::{Stage, instance};

/// Returns the JSON schema of walvec.yaml, for editors.
pub(crate) fn schema() -> String {
    let schema = schemars::schema_for!(Config);
    format!("{:#}", schema.as_value())
}
