//! walvec.yaml, the environment and the flags, validated before anything connects.
//!
//! - [`schema`](mod@schema): what can be configured, section by section
//! - [`yaml`]: from the text of the file to the settings
//! - [`rules`]: rules that types cannot express
//! - [`features`]: the features that a configuration needs of the build
//! - [`load`]: the sources of a configuration, and their precedence
//! - [`environment`]: environment variables, injected so that tests do not depend on them
//! - [`conninfo`]: completes a connection string from `PG*` variables
//! - [`tutorial`]: a configuration from the variables of the tutorial stack
//! - [`names`]: names and addresses in their usual notations
//! - [`error`]: errors of a configuration, and their positions

mod conninfo;
mod environment;
mod error;
mod features;
mod load;
mod names;
mod rules;
mod schema;
#[cfg(test)]
mod tests;
mod tutorial;
mod yaml;

pub(crate) use environment::Environment;
pub(crate) use error::ConfigError;
pub(crate) use features::Features;
pub(crate) use load::{DEFAULT_FILE, Overrides};
pub(crate) use names::table_name;
pub(crate) use schema::Config;
pub(crate) use schema::broker::{GroupProtocol, KafkaSettings, RecordFormat};
pub(crate) use schema::collection::{ChunkSettings, CollectionConfig, IndexKind, OnLong};
pub(crate) use schema::embedding::EmbeddingSettings;
pub(crate) use schema::server::DEFAULT_LISTEN;
pub(crate) use schema::sink::QdrantSettings;
pub(crate) use schema::source::PublishedColumns;
pub(crate) use schema::stage::{Stage, instance};

/// Returns the JSON schema of walvec.yaml, for editors.
pub(crate) fn schema() -> String {
    let schema = schemars::schema_for!(Config);
    format!("{:#}", schema.as_value())
}
