//! The collections: from a table's rows to points.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use walvec_model::{Lookup, TableName};
use walvec_sink::IndexType;
use walvec_sink::keywords::DEFAULT_LANGUAGE;
use walvec_transform::{ChunkSpec, PayloadLayout, Unit};

use super::lookup::LookupSettings;
use super::values::{quoted, table_name};

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
    /// The maximum length of a chunk in tokens of the model, from 8 to what the model reads. Sections, paragraphs and sentences stay
    /// whole where they fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<usize>,
    /// The maximum number of sentences in a chunk, 1 to 1000.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
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
