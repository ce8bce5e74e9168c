//! The settings. The comments on the fields are the manual.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use walvec_model::{Lookup, TableName};
use walvec_sink::IndexType;
use walvec_sink::keywords::DEFAULT_LANGUAGE;
use walvec_sink::qdrant::{Connections, Quantization};
use walvec_transform::{ChunkSpec, PayloadLayout, Unit};

use super::broker::BrokerSettings;
use super::embedding::EmbeddingSettings;
use super::lookup::LookupSettings;
use super::names;
use super::stage::Stage;

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
    /// How rows travel from the database to the sink. The defaults are good ones.
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

/// A PostgreSQL database.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SourceSettings {
    /// `postgres://user:password@host:5432/database?sslmode=verify-full`, or `key=value` pairs as libpq reads them. Several hosts are separated by
    /// commas; the one that accepts writes is used. If it is left out, `DATABASE_URL` is used. Parts that are left out come from `PGHOST`, `PGPORT`,
    /// `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`, `PGSSLROOTCERT`, `PGCHANNELBINDING` and `PGTARGETSESSIONATTRS`. Best written as
    /// `${DATABASE_URL}`, so that no password is in the file. The stages index, embed and sink work without it: they only use it to read values that
    /// PostgreSQL did not send. With `lookup`, index and embed need it.
    #[serde(deserialize_with = "secret")]
    #[schemars(with = "String")]
    pub(crate) url: SecretString,
    /// The replication slot. Created on the first run, and kept: PostgreSQL retains WAL for it until `walvec reset` drops it. Lower-case letters,
    /// digits and underscores, at most 63.
    pub(crate) slot: String,
    /// The publication. Created when missing, for exactly the tables of the collections and of their lookups.
    pub(crate) publication: String,
    /// The columns that walvec puts into the publication it creates: `all`, or, on PostgreSQL 15 and later, only those that are `used`. With `used`,
    /// PostgreSQL refuses to drop such a column, and refuses UPDATE and DELETE of the table after `REPLICA IDENTITY FULL` until walvec has noticed
    /// that.
    pub(crate) columns: PublishedColumns,
    /// What to do when changes are no longer available, for example because the slot was lost: `resync` reads the tables again, and embeds only what
    /// has changed; `stop` stops, and leaves the decision to a person.
    pub(crate) on_gap: OnGap,
    /// How many connections copy tables concurrently when a snapshot is taken, 1 to 64.
    pub(crate) copy_workers: usize,
}

/// The columns that a publication sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PublishedColumns {
    /// All columns of the table.
    #[default]
    All,
    /// The columns that a collection uses, and those that identify the row.
    Used,
}

/// What to do when changes are no longer available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnGap {
    /// Read the tables again.
    #[default]
    Resync,
    /// Stop.
    Stop,
}

impl From<OnGap> for walvec_pipeline::gap::OnGap {
    fn from(on_gap: OnGap) -> Self {
        match on_gap {
            OnGap::Resync => Self::Resync,
            OnGap::Stop => Self::Stop,
        }
    }
}

impl SourceSettings {
    /// COPY on one connection reads hundreds of thousands of rows per second, an embedding model hundreds. Two connections are enough to hide waiting
    /// times, and take little from other users of the database.
    const COPY_WORKERS: usize = 2;
}

impl Default for SourceSettings {
    fn default() -> Self {
        Self {
            url: SecretString::default(),
            slot: "walvec".to_owned(),
            publication: "walvec".to_owned(),
            columns: PublishedColumns::default(),
            on_gap: OnGap::default(),
            copy_workers: Self::COPY_WORKERS,
        }
    }
}

/// A collection and its table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CollectionConfig {
    /// The collection's name, also that of its directory: letters, digits, `-`, `_` and `.`.
    pub(crate) name: String,
    /// The table as `schema.table`, quoted as in SQL where needed: `public."My Table"`. It needs a primary key.
    #[serde(deserialize_with = "table_name", serialize_with = "quoted")]
    #[schemars(with = "String")]
    pub(crate) table: TableName,
    /// With a broker, the topic that the stages index and embed read instead of `<prefix>.<schema>.<table>`: one that another program writes in the
    /// broker's `format`, for example Debezium. The capture stage writes to its own topic in any case.
    #[serde(default)]
    pub(crate) topic: Option<String>,
    /// Selects the rows: an SQL condition that PostgreSQL 15 or later evaluates. A row that no longer meets it is removed.
    #[serde(default, rename = "where")]
    pub(crate) filter: Option<String>,
    /// Rows of other tables that the text is rendered with, each under a name for the template. A change of such a row renders again the rows that
    /// look it up. A change of `lookup` takes `walvec reindex`, as a change of the text does.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) lookup: BTreeMap<String, LookupSettings>,
    /// The text to embed: a template with the row's columns, and its lookups, as variables. NULL renders as nothing.
    pub(crate) text: String,
    /// Cuts long texts into chunks, each a point of its own. Default: a row is one point, and of a long text the model reads the beginning. A change
    /// takes `walvec reindex`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chunk: Option<ChunkSettings>,
    /// What to do with a row whose text, or a chunk of it, is longer than the model reads: `cut` embeds the beginning, and counts and reports the
    /// row; searches do not find the rest. `park` parks the row. May be changed at any time, with effect on rows that change afterwards.
    #[serde(default, skip_serializing_if = "OnLong::is_default")]
    pub(crate) on_long: OnLong,
    /// Searches by keyword too: `true`, or the language that decides about words and stems, for example `german` (`true` means `english`). Each point
    /// gets a BM25 sparse vector in addition to the dense one, and searches fuse both rankings. Turning it on or off, or changing the language, takes
    /// `walvec reindex`.
    #[serde(default, deserialize_with = "language", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "language_schema")]
    pub(crate) hybrid: Option<String>,
    /// The columns to store with each point. Default: every published column.
    #[serde(default)]
    pub(crate) payload: Option<Vec<String>>,
    /// Further payload fields, each a template. One that is exactly one `{{ expression }}` keeps its type.
    #[serde(default)]
    pub(crate) computed: BTreeMap<String, String>,
    /// Payload fields to index, so that filters on them are fast: `keyword`, `integer`, `float`, `bool`, `text`,
    /// `datetime` or `uuid`. `meta.color` is a member of the JSON field `meta`. A field that is indexed as a number is stored as one,
    /// `numeric` columns too.
    #[serde(default)]
    pub(crate) index: BTreeMap<String, IndexKind>,
    /// The layout of payloads: `flat`, or the one that the vector-store class of another library reads: `langchain`, `llamaindex`, or `fastembed`
    /// (Qdrant's MCP server). `llamaindex` and `fastembed` also name the vector, so changing to or from them takes `walvec reindex`. In every layout,
    /// filters and `index` use the field names of this file.
    #[serde(default)]
    pub(crate) layout: LayoutKind,
}

impl CollectionConfig {
    /// Returns the lookups of its rows.
    pub(crate) fn lookups(&self) -> Vec<Lookup> {
        self.lookup.iter().map(|(name, lookup)| lookup.spec(name)).collect()
    }

    /// Returns the indexed payload fields with the types of their indexes.
    pub(crate) fn indexes(&self) -> Vec<(String, IndexType)> {
        self.index.iter().map(|(field, kind)| (field.clone(), (*kind).into())).collect()
    }

    /// Returns the layout of its payloads.
    pub(crate) fn layout(&self) -> PayloadLayout {
        self.layout.into()
    }

    /// Returns the name of its sparse vectors, if it has any.
    pub(crate) fn keywords_name(&self) -> Option<String> {
        self.hybrid.as_ref().map(|_| self.layout().keywords_name().to_owned())
    }

    /// Returns the payload field for the text of a chunk, if there are chunks and the layout has no place for it.
    pub(crate) fn chunk_field(&self) -> Option<&str> {
        let chunk = self.chunk.as_ref().filter(|_| self.layout == LayoutKind::Flat)?;
        Some(&chunk.field)
    }
}

/// What to do with a row whose text is longer than the model reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnLong {
    /// Embed the beginning.
    #[default]
    Cut,
    /// Park the row.
    Park,
}

impl OnLong {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<OnLong> for walvec_pipeline::OnLong {
    fn from(on_long: OnLong) -> Self {
        match on_long {
            OnLong::Cut => Self::Cut,
            OnLong::Park => Self::Park,
        }
    }
}

/// How long texts are cut: `tokens` or `sentences` sets the greatest length of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ChunkSettings {
    /// The most tokens of the embedding model in a chunk, 8 to what the model reads. Sections, paragraphs and sentences stay whole where they fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<usize>,
    /// The most sentences in a chunk, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sentences: Option<usize>,
    /// How many tokens, or sentences, from the end of a chunk the next one repeats; at most half a chunk.
    pub(crate) overlap: usize,
    /// Whether texts are Markdown: headings, lists, tables and code stay whole where they fit.
    pub(crate) markdown: bool,
    /// The payload field for the text of the chunk in the layout `flat`. The other layouts have a place for it.
    pub(crate) field: String,
}

impl Default for ChunkSettings {
    fn default() -> Self {
        Self { tokens: None, sentences: None, overlap: 0, markdown: false, field: "chunk".to_owned() }
    }
}

impl ChunkSettings {
    /// Converts it to the transform's type. That one length is given was checked.
    pub(crate) fn spec(&self) -> ChunkSpec {
        let (unit, length) = match (self.tokens, self.sentences) {
            (Some(tokens), _) => (Unit::Tokens, tokens),
            (None, sentences) => (Unit::Sentences, sentences.unwrap_or(1)),
        };
        let Self { overlap, markdown, .. } = *self;
        ChunkSpec { unit, length, overlap, markdown, field: self.field.clone() }
    }
}

/// The layout of payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LayoutKind {
    /// The fields lie at the top level.
    #[default]
    Flat,
    /// The layout that LangChain's `QdrantVectorStore` reads.
    LangChain,
    /// The layout that LlamaIndex's `QdrantVectorStore` reads.
    LlamaIndex,
    /// The layout that `mcp-server-qdrant` reads.
    FastEmbed,
}

impl From<LayoutKind> for PayloadLayout {
    fn from(kind: LayoutKind) -> Self {
        match kind {
            LayoutKind::Flat => Self::Flat,
            LayoutKind::LangChain => Self::LangChain,
            LayoutKind::LlamaIndex => Self::LlamaIndex,
            LayoutKind::FastEmbed => Self::FastEmbed,
        }
    }
}

impl From<LayoutKind> for walvec_verify::StoredLayout {
    fn from(kind: LayoutKind) -> Self {
        match kind {
            LayoutKind::Flat => Self::Flat,
            LayoutKind::LangChain => Self::LangChain,
            LayoutKind::LlamaIndex => Self::LlamaIndex,
            LayoutKind::FastEmbed => Self::FastEmbed,
        }
    }
}

/// The type of a payload index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IndexKind {
    /// Exact strings.
    Keyword,
    /// Whole numbers.
    Integer,
    /// Floating-point numbers.
    Float,
    /// Booleans.
    Bool,
    /// Words of a text.
    Text,
    /// Timestamps.
    Datetime,
    /// UUIDs.
    Uuid,
}

/// Writes the type as a configuration does.
impl fmt::Display for IndexKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IndexType::from(*self).fmt(f)
    }
}

impl From<IndexKind> for IndexType {
    fn from(kind: IndexKind) -> Self {
        match kind {
            IndexKind::Keyword => Self::Keyword,
            IndexKind::Integer => Self::Integer,
            IndexKind::Float => Self::Float,
            IndexKind::Bool => Self::Bool,
            IndexKind::Text => Self::Text,
            IndexKind::Datetime => Self::Datetime,
            IndexKind::Uuid => Self::Uuid,
        }
    }
}

/// Where vectors are stored: one of the two. Default: the engine inside this process.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SinkSettings {
    /// Qdrant's engine inside this process.
    pub(crate) embedded: Option<EmbeddedSettings>,
    /// A Qdrant server or cluster, version 1.16 or newer.
    pub(crate) qdrant: Option<QdrantSettings>,
}

impl SinkSettings {
    /// Returns the directory of walvec's own state, and of the collections if they are not on a server.
    pub(crate) fn directory(&self) -> &Path {
        match (&self.qdrant, &self.embedded) {
            (Some(qdrant), _) => &qdrant.state,
            (None, Some(embedded)) => &embedded.path,
            (None, None) => Path::new(DIRECTORY),
        }
    }
}

/// The default directory of state.
const DIRECTORY: &str = "./walvec-data";

/// Qdrant's engine inside this process.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EmbeddedSettings {
    /// The directory that holds the collections and walvec's own state. One process at a time uses it.
    pub(crate) path: PathBuf,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self { path: PathBuf::from(DIRECTORY) }
    }
}

/// A Qdrant server or cluster. The settings of a collection's layout apply when walvec creates it; those of an existing one are never changed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct QdrantSettings {
    /// The address of its gRPC interface: `http://localhost:6334`, or `https://...` for TLS.
    pub(crate) url: String,
    /// The API key, if the server asks for one. Best written as `${QDRANT_API_KEY}`.
    #[serde(deserialize_with = "optional_secret")]
    #[schemars(with = "Option<String>")]
    pub(crate) api_key: Option<SecretString>,
    /// The directory of walvec's own state: its position and the parked rows. One process at a time uses it.
    pub(crate) state: PathBuf,
    /// Whether vectors are kept on disk and read through the page cache. Default: the server's.
    pub(crate) on_disk: Option<bool>,
    /// The compression of vectors for searching: `scalar` (one byte per dimension) or `binary` (one bit). Default: none.
    pub(crate) quantization: Option<QuantizationKind>,
    /// The number of shards of a collection; with `shard_key`, of each of its values. Default: the server's, one per node.
    pub(crate) shard_number: Option<u32>,
    /// Copies of each shard, on different nodes. Default: the server's, one.
    pub(crate) replication_factor: Option<u32>,
    /// How many copies must confirm a write. Default: the server's, one.
    pub(crate) write_consistency_factor: Option<u32>,
    /// For tenants on a cluster: the payload field whose value decides which shard a point is in. Each value gets a shard of its own (`shard_number`
    /// of them), created with the first row that has it; rows without a value share one. Searches with a filter `field=value` ask that shard alone.
    /// Every collection needs the field. Default: a point's id decides.
    pub(crate) shard_key: Option<String>,
    /// The connections to the server, shared by everything that is made from these settings.
    #[serde(skip)]
    #[schemars(skip)]
    pub(crate) connections: Connections,
}

impl QdrantSettings {
    /// Returns whether the API key goes over a network unencrypted.
    pub(crate) fn shows_its_key(&self) -> bool {
        let host = self.url.strip_prefix("http://").map(|rest| rest.rsplit_once(':').map_or(rest, |(host, _)| host));
        self.api_key.is_some() && host.is_some_and(|host| !names::is_loopback(host))
    }
}

/// How vectors are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum QuantizationKind {
    /// One byte per dimension.
    Scalar,
    /// One bit per dimension.
    Binary,
}

impl From<QuantizationKind> for Quantization {
    fn from(kind: QuantizationKind) -> Self {
        match kind {
            QuantizationKind::Scalar => Self::Scalar,
            QuantizationKind::Binary => Self::Binary,
        }
    }
}

impl Default for QdrantSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            api_key: None,
            state: PathBuf::from(DIRECTORY),
            on_disk: None,
            quantization: None,
            shard_number: None,
            replication_factor: None,
            write_consistency_factor: None,
            shard_key: None,
            connections: Connections::default(),
        }
    }
}

/// The HTTP server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerSettings {
    /// Address and port. Anything but a loopback address needs a token. `WALVEC_LISTEN` and `--listen` take precedence.
    #[serde(deserialize_with = "listen_address")]
    #[schemars(with = "String")]
    pub(crate) listen: SocketAddr,
    /// The token that clients must send as `Authorization: Bearer ...`: at least 16 characters where others can reach the server. Best written as
    /// `${WALVEC_TOKEN}`; if that variable is set, it takes precedence over this setting.
    #[serde(deserialize_with = "optional_secret")]
    #[schemars(with = "Option<String>")]
    pub(crate) token: Option<SecretString>,
    /// The names by which others address the server, in addition to those of this machine: `search.example.com`. A proxy that passes `Host` on to a
    /// loopback address needs its name here. On any other address every name is answered, unless some are given.
    pub(crate) allowed_hosts: Vec<String>,
}

/// The default address. Loopback, so that nothing is exposed by accident; the port differs from those of Qdrant and the usual web servers.
pub(crate) const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8082);

impl Default for ServerSettings {
    fn default() -> Self {
        Self { listen: DEFAULT_LISTEN, token: None, allowed_hosts: Vec::new() }
    }
}

/// How rows travel from the database to the sink.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PipelineSettings {
    /// The most rows that are read and rendered together, 1 to 10000. They are embedded and written in parts of one model call each.
    pub(crate) batch_rows: usize,
    /// How long a row of an unfinished transaction waits for further rows, in milliseconds, 0 to 10000.
    pub(crate) batch_wait_ms: u64,
}

impl PipelineSettings {
    /// From this many rows on, a batch's fixed cost no longer matters, and larger batches only delay the first row.
    const BATCH_ROWS: usize = 256;
    /// Well below what a person notices, and enough to collect the rows of a bulk load.
    const BATCH_WAIT_MS: u64 = 5;

    /// Returns how long a row of an unfinished transaction waits for further rows.
    pub(crate) const fn batch_wait(&self) -> Duration {
        Duration::from_millis(self.batch_wait_ms)
    }
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self { batch_rows: Self::BATCH_ROWS, batch_wait_ms: Self::BATCH_WAIT_MS }
    }
}

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

/// Reads `true`, `false` or a language.
fn language<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| match text.as_str() {
        "true" => Some(DEFAULT_LANGUAGE.to_owned()),
        "false" => None,
        _ => Some(text),
    }))
}

fn language_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": ["boolean", "string"] })
}

fn listen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    names::listen_address(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}
