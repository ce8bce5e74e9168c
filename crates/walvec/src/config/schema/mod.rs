//! What can be configured. The comments on the fields are the manual, and the JSON schema is `walvec schema`.
//!
//! - [`source`]: the database that is read
//! - [`collection`]: from a table's rows to points
//! - [`lookup`]: rows of other tables that a document is rendered with
//! - [`embedding`]: the model that turns texts into vectors
//! - [`sink`]: where vectors are stored
//! - [`broker`]: the broker between the stages
//! - [`server`]: the HTTP server
//! - [`pipeline`]: how rows travel from the database to the sink
//! - [`stage`]: which part of the path of a row this process is, and where that keeps its state
//! - [`values`]: how values of several sections are read and written

pub(crate) mod broker;
pub(crate) mod collection;
pub(crate) mod embedding;
pub(crate) mod lookup;
pub(crate) mod pipeline;
pub(crate) mod server;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod stage;
mod values;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use self::broker::BrokerSettings;
use self::collection::CollectionConfig;
use self::embedding::EmbeddingSettings;
use self::pipeline::PipelineSettings;
use self::server::ServerSettings;
use self::sink::SinkSettings;
use self::source::SourceSettings;
use self::stage::Stage;
use self::values::given;

/// The whole configuration: walvec.yaml.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The PostgreSQL database to read.
    #[serde(default)]
    pub(crate) source: SourceSettings,
    /// The collections to fill, each from one table.
    pub(crate) collections: Vec<CollectionConfig>,
    /// The model that turns texts into vectors.
    #[serde(default)]
    pub(crate) embedding: EmbeddingSettings,
    /// Where vectors are stored.
    #[serde(default)]
    pub(crate) sink: SinkSettings,
    /// A broker that carries changes from capture to index. Default: none, changes stay in one process. With a broker `walvec run` still does
    /// everything, through its topics; `walvec run --stage` does one part.
    #[serde(default, deserialize_with = "given")]
    pub(crate) broker: Option<BrokerSettings>,
    /// The HTTP server: search API, search page, health, metrics.
    #[serde(default)]
    pub(crate) server: ServerSettings,
    /// How rows are batched on their way from the database to the sink. The defaults rarely need a change.
    #[serde(default)]
    pub(crate) pipeline: PipelineSettings,
    /// The directory in which models are kept, from `WALVEC_MODELS`.
    #[serde(skip)]
    pub(crate) models: PathBuf,
    /// The stage of this process, from `--stage` or `WALVEC_STAGE`.
    #[serde(skip)]
    pub(crate) stage: Stage,
    /// The name of this process among those of its stage, from `--instance` or `WALVEC_INSTANCE`.
    #[serde(skip)]
    pub(crate) instance: String,
}
