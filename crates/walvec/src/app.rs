//! Assembles the stages of a configuration.
//!
//! Everything that can be wrong without asking PostgreSQL (the data directory, the model, the stored collections, the templates) is found here,
//! before anything connects.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use walvec_capture::{Columns, LookupSpec, SourceConfig, TableSpec};
use walvec_embed::Embedder;
use walvec_model::operands::prepare;
use walvec_model::{Fingerprint, IndexType, TableName, Type};
use walvec_pipeline::{Collection, ConfigDigest, Pipeline, PipelineConfig, PipelineError, Store};
use walvec_sink::embedded::DataDir;
use walvec_sink::{BoxFuture, Keywords, SinkError};
use walvec_transform::chunk::{CUT, CountTokens};
use walvec_transform::{Chunker, Transform, TransformError, TransformSpec};

use crate::collection::{Opened, Which};
use crate::config::{CollectionConfig, Config, PublishedColumns};
use crate::failure::Failure;
use crate::labels::Labels;
use crate::remembered;
use crate::search::description::CollectionDescription;
use crate::search::resolve::KnownFields;
use crate::search::serving::{Fields, Searchable, Serving};

/// How many collections are opened concurrently. Half of the time is spent waiting for the disk.
const OPENED_AT_ONCE: usize = 8;

/// How long closing the collections may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The stages of a configuration, ready to be run.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) embedder: Arc<dyn Embedder>,
    collections: Vec<Collection>,
    opened: Vec<Opened>,
}

impl Parts {
    /// Opens the collections, after the caller has locked the data directory: those that are served, or else those with these own names.
    pub(crate) async fn assemble(
        config: Config,
        embedder: Arc<dyn Embedder>,
        own_names: Option<&[String]>,
    ) -> Result<Self, Failure> {
        let mut transforms = Vec::with_capacity(config.collections.len());
        for collection in &config.collections {
            check_chunks(collection, embedder.as_ref())?;
            transforms.push(Arc::new(transform(collection, counter(&embedder))?));
        }
        let opened = open_all(&config, embedder.as_ref(), own_names).await?;
        let written = config.collections.iter().zip(transforms).zip(&opened);
        let written = written.map(|((collection, transform), opened)| Collection {
            name: collection.name.clone(),
            table: collection.table.clone(),
            transform,
            embedder: Arc::clone(&embedder),
            keywords: keywords(collection),
            on_long: collection.on_long.into(),
            sink: opened.sink(),
            fingerprint: fingerprint(embedder.as_ref(), collection),
        });
        let collections = written.collect();
        Ok(Self { config, embedder, collections, opened })
    }

    /// Makes a pipeline of these parts. `slot`: the slot that it reads. `reports`: whether it writes the metrics of the process.
    pub(crate) fn pipeline(
        &self,
        source: SourceConfig,
        store: &Arc<Store>,
        reports: bool,
        stop: CancellationToken,
    ) -> Result<Pipeline, PipelineError> {
        let config = PipelineConfig {
            source,
            batch_rows: self.config.pipeline.batch_rows,
            batch_wait: self.config.pipeline.batch_wait(),
            config_digest: config_digests(&self.config),
            on_gap: self.config.source.on_gap.into(),
            reports,
        };
        Pipeline::new(config, self.collections.clone(), Arc::clone(store), stop)
    }

    /// Returns the collections, as a pipeline writes them.
    pub(crate) fn collections(&self) -> Vec<Collection> {
        self.collections.clone()
    }

    /// Returns what searches need of the collections.
    pub(crate) fn serving(&self) -> Serving {
        let remembered = remembered::columns(&self.config);
        let opened = self.config.collections.iter().zip(&self.collections).zip(&self.opened);
        let searchable = |((collection, written), opened): ((&CollectionConfig, &Collection), &Opened)| Searchable {
            name: collection.name.clone(),
            layout: collection.layout(),
            keywords: written.keywords.clone(),
            is_chunked: collection.chunk.is_some(),
            description: Arc::new(CollectionDescription::new(collection, Arc::clone(&written.transform))),
            fields: Arc::new(TableFields {
                transform: Arc::clone(&written.transform),
                remembered: remembered.get(&collection.name).cloned(),
                labels: self.labels(&collection.table),
            }),
            search: opened.search(),
        };
        Serving { collections: opened.map(searchable).collect(), embedder: Arc::clone(&self.embedder) }
    }

    /// Returns the source of the labels of a table's enums. `None` for records of a broker, which do not say which columns are enums.
    fn labels(&self, table: &TableName) -> Option<Labels> {
        let source = self.config.broker.is_none().then_some(&self.config.source)?;
        Some(Labels::new(source.url.clone(), table.clone()))
    }

    /// Moves the collections to the names that they have taken over.
    pub(crate) fn served(mut self) -> Result<Self, SinkError> {
        for ((opened, collection), config) in
            self.opened.iter_mut().zip(&mut self.collections).zip(&self.config.collections)
        {
            opened.serve(&self.config, &config.name)?;
            collection.sink = opened.sink();
        }
        Ok(self)
    }

    /// Stores the columns of the tables that were read.
    pub(crate) fn remember_columns(&self) {
        let seen = |collection: &Collection| Some((collection.name.clone(), collection.transform.columns_seen()?));
        let columns = self.collections.iter().filter_map(seen).collect();
        if let Err(error) = remembered::store_columns(&self.config, &columns) {
            tracing::warn!("the columns of the tables could not be remembered: {error}");
        }
    }

    /// Closes the collections when the process exits: all concurrently, and only for a limited time. Everything that was confirmed is durable, and
    /// a service manager does not wait for long.
    pub(crate) async fn close(self) {
        self.remember_columns();
        let closing = join_all(self.opened.into_iter().map(Opened::leave));
        let Ok(closed) = tokio::time::timeout(CLOSE_LIMIT, closing).await else {
            tracing::info!(
                "the collections are left before they are closed; the next start takes a moment longer, nothing is lost"
            );
            return;
        };
        for error in closed.into_iter().filter_map(Result::err) {
            tracing::warn!("a collection was not closed cleanly, nothing confirmed is lost: {error}");
        }
    }
}

/// The fields of a collection, from its table as it was last read by this process or by an earlier one.
pub(crate) struct TableFields {
    pub(crate) transform: Arc<Transform>,
    pub(crate) remembered: Option<Vec<(String, Type)>>,
    pub(crate) labels: Option<Labels>,
}

impl Fields for TableFields {
    fn known(&self) -> KnownFields {
        let columns = self.transform.columns_seen().or_else(|| self.remembered.clone());
        columns.map(|columns| self.transform.fields(&columns))
    }

    fn index(&self, name: &str) -> Option<IndexType> {
        self.transform.index(name)
    }

    fn labels<'a>(&'a self, column: &'a str, wanted: &'a str) -> BoxFuture<'a, Option<Vec<String>>> {
        Box::pin(async move { self.labels.as_ref()?.of(column, wanted).await })
    }
}

/// Locks the data directory for this process.
pub(crate) fn lock(directory: &Path) -> Result<DataDir, Failure> {
    DataDir::lock(directory)
        .map_err(|source| PipelineError::Sink { collection: "*".to_owned(), source })
        .map_err(Failure::from)
}

/// Loads the configured model, or connects to the configured provider.
pub(crate) async fn load_embedder(config: &Config) -> Result<Arc<dyn Embedder>, Failure> {
    let embedding = &config.embedding;
    walvec_embed::open(&embedding.model, &models_root(config), embedding.options())
        .await
        .map_err(PipelineError::from)
        .map_err(Failure::from)
}

/// Returns the directory of models.
pub(crate) fn models_root(config: &Config) -> PathBuf {
    config.models.clone()
}

/// Returns a function that counts the tokens of the configured model.
pub(crate) fn counter(embedder: &Arc<dyn Embedder>) -> CountTokens {
    let embedder = Arc::clone(embedder);
    Arc::new(move |text| embedder.count_tokens(text))
}

/// Returns what makes the sparse vectors of a collection, if it has any. The configuration was checked, so it names a known language.
pub(crate) fn keywords(collection: &CollectionConfig) -> Option<Arc<Keywords>> {
    let language = collection.hybrid.as_ref()?;
    Keywords::new(language).ok().map(Arc::new)
}

/// Opens the collections, in their order. After an error, none of them stays open.
async fn open_all(
    config: &Config,
    embedder: &dyn Embedder,
    own_names: Option<&[String]>,
) -> Result<Vec<Opened>, Failure> {
    let mut opened = Vec::with_capacity(config.collections.len());
    let which =
        |index: usize| own_names.and_then(|names| names.get(index)).map_or(Which::Served, |name| Which::Own(name));
    let dimension = embedder.info().dimension;
    let open = async |(index, collection): &(usize, &CollectionConfig)| {
        Opened::open(config, collection, which(*index), dimension, &fingerprint(embedder, collection)).await
    };
    let collections: Vec<(usize, &CollectionConfig)> = config.collections.iter().enumerate().collect();
    for some in collections.chunks(OPENED_AT_ONCE) {
        let some: Result<Vec<Opened>, Failure> = join_all(some.iter().map(&open)).await.into_iter().collect();
        opened.extend(some?);
    }
    Ok(opened)
}

/// Refuses chunks that are longer than the model reads: searches would not find the rest.
pub(crate) fn check_chunks(collection: &CollectionConfig, embedder: &dyn Embedder) -> Result<(), Failure> {
    // One special token before the text and one after it, as models of BERT's kind have them.
    let room = embedder.info().max_tokens.saturating_sub(2);
    match collection.chunk.as_ref().and_then(|chunk| chunk.tokens) {
        Some(tokens) if tokens > room => {
            let what = format!(
                "collections.{}.chunk.tokens is {tokens}, but {} reads {room} tokens: the rest of each chunk would not be found",
                collection.name,
                embedder.info().model
            );
            Err(Failure::new(2, "E_CONFIG", what).with_remedy(format!("chunk: {{ tokens: {room} }}, or less")))
        }
        _ => Ok(()),
    }
}

/// Compiles a collection's templates. `tokens` counts tokens of the model, for chunks.
pub(crate) fn transform(collection: &CollectionConfig, tokens: CountTokens) -> Result<Transform, Failure> {
    let transform = compiled(collection)
        .map_err(|error| Failure::new(2, error.code(), format!("collections.{}: {error}", collection.name)))?;
    Ok(match &collection.chunk {
        Some(chunk) => transform.in_chunks(Chunker::new(chunk.spec(), tokens)),
        None => transform,
    })
}

/// Compiles a collection's templates without chunks, for which tokens would have to be counted.
fn compiled(collection: &CollectionConfig) -> Result<Transform, Box<TransformError>> {
    Transform::new(TransformSpec {
        table: collection.table.clone(),
        shared: false,
        text: collection.text.clone(),
        payload: collection.payload.clone(),
        computed: collection.computed.clone().into_iter().collect(),
        layout: collection.layout(),
        lookups: collection.lookups(),
        indexes: collection.indexes(),
    })
    .map_err(Box::new)
}

/// Returns the fingerprint of a collection's vectors: the model as it is on disk, the text template, its lookups, the chunking, and the language
/// of keywords.
pub(crate) fn fingerprint(embedder: &dyn Embedder, collection: &CollectionConfig) -> Fingerprint {
    let info = embedder.info();
    let (dimension, max_tokens) = (info.dimension.to_string(), info.max_tokens.to_string());
    let chunks = collection.chunk.as_ref().map(|chunk| chunk.spec().describe());
    let parts = [&info.revision, &dimension, &max_tokens, &info.pooling, &collection.text];
    let keywords = collection.hybrid.as_ref().map(|language| walvec_sink::keywords::describe(language));
    let lookups: Vec<String> =
        collection.lookups().iter().map(|lookup| format!("lookup {}", lookup.describe())).collect();
    let further = chunks.iter().chain(&lookups).chain(&keywords);
    let parts: Vec<&str> = parts.into_iter().chain(further).map(String::as_str).collect();
    Fingerprint::of(&parts)
}

/// Returns the source part of a configuration.
pub(crate) fn source_config(config: &Config) -> SourceConfig {
    SourceConfig {
        url: config.source.url.clone(),
        slot: config.source.slot.clone(),
        publication: config.source.publication.clone(),
        tables: tables(config),
        lookups: lookups(config),
        copy_workers: config.source.copy_workers,
    }
}

/// Returns the tables to copy and follow, each once, even if several collections show it.
fn tables(config: &Config) -> Vec<TableSpec> {
    let mut tables: Vec<TableSpec> = Vec::new();
    for CollectionConfig { table, filter, .. } in &config.collections {
        let spec = TableSpec { name: table.clone(), filter: filter.clone(), columns: columns(config, table) };
        if !tables.contains(&spec) {
            tables.push(spec);
        }
    }
    tables
}

/// Returns the columns of a table that its collections need.
fn columns(config: &Config, table: &TableName) -> Columns {
    let lists = config.source.columns == PublishedColumns::Used;
    // Other programs read the topics too, so they hold all columns.
    if config.broker.is_some() && !lists {
        return Columns::All;
    }
    let mut used = BTreeSet::new();
    for collection in config.collections.iter().filter(|collection| collection.table == *table) {
        // A template that cannot be compiled is reported elsewhere.
        let columns = compiled(collection).ok().and_then(|transform| transform.columns());
        let Some(columns) = columns else { return Columns::All };
        used.extend(columns);
    }
    if lists { Columns::Listed(used) } else { Columns::Used(used) }
}

/// Returns the tables of the publication.
pub(crate) fn published(config: &Config) -> BTreeSet<TableName> {
    let main = config.collections.iter().map(|collection| collection.table.clone());
    main.chain(lookups(config).into_iter().map(|spec| spec.lookup.table)).collect()
}

/// Returns the lookups of all collections.
fn lookups(config: &Config) -> Vec<LookupSpec> {
    let of = |collection: &CollectionConfig| {
        let main = collection.table.clone();
        collection.lookups().into_iter().map(move |lookup| LookupSpec { main: main.clone(), lookup })
    };
    config.collections.iter().flat_map(of).collect()
}

/// Returns a digest of what workers make of rows, independent of the order of the collections.
pub(crate) fn payload_digest(config: &Config) -> String {
    let mut config = config.clone();
    config.collections.sort_by(|one, other| one.name.cmp(&other.name));
    // Workers learn the types of the columns from the records only, so every column that is indexed as a number counts.
    let numbers = stored_numbers(&config).into_iter().map(|(table, field)| format!("number {table} {field}"));
    let parts: Vec<String> = std::iter::once(config_digest(&config)).chain(numbers).collect();
    digest_of(&parts)
}

/// A part of the digest of templates that compare by size: it names how NULL compares. Rows that were rendered by another rule are rendered again.
const COMPARISON: &str = "comparisons with NULL do not hold";

/// Returns whether a template of the collection compares values by size.
fn compares(collection: &CollectionConfig) -> bool {
    let mut templates = std::iter::once(&collection.text).chain(collection.computed.values());
    templates.any(|template| prepare(template).compares)
}

/// Returns the fields that are indexed as numbers: the computed ones, or the columns.
fn numbers(collection: &CollectionConfig, are_computed: bool) -> impl Iterator<Item = String> {
    let numbers = collection.indexes().into_iter().filter(|(_, index)| index.is_number());
    let wanted = numbers.filter(move |(field, _)| collection.computed.contains_key(field) == are_computed);
    wanted.map(|(field, _)| field)
}

/// Names the computed fields that are stored as numbers because they are indexed as numbers.
fn computed_numbers(collection: &CollectionConfig) -> Option<String> {
    let numbers: Vec<String> = numbers(collection, true).collect();
    (!numbers.is_empty()).then(|| format!("numbers {}", numbers.join(", ")))
}

/// Returns the columns that are indexed as numbers.
pub(crate) fn stored_numbers(config: &Config) -> Vec<(TableName, String)> {
    let of = |collection: &CollectionConfig| -> Vec<(TableName, String)> {
        numbers(collection, false).map(|field| (collection.table.clone(), field)).collect()
    };
    config.collections.iter().flat_map(of).collect()
}

/// Returns digests of what decides about the rows and payloads of the collections.
pub(crate) fn config_digests(config: &Config) -> ConfigDigest {
    let of = |table: &TableName| digest(config, config.collections.iter().filter(|shows| shows.table == *table));
    let tables = config.collections.iter().map(|collection| (collection.table.clone(), of(&collection.table)));
    ConfigDigest { digest: config_digest(config), numbers: stored_numbers(config), tables: tables.collect() }
}

fn digest_of(parts: &[String]) -> String {
    Fingerprint::of(&parts.iter().map(String::as_str).collect::<Vec<_>>()).to_string()
}

/// Returns a digest of what decides about rows, payloads and shards of the collections. When it changes, tables are read again.
pub(crate) fn config_digest(config: &Config) -> String {
    digest(config, config.collections.iter())
}

fn digest<'a>(config: &Config, collections: impl Iterator<Item = &'a CollectionConfig>) -> String {
    let shard_key = config.sink.qdrant.as_ref().and_then(|qdrant| qdrant.shard_key.clone());
    let parts: Vec<String> = collections
        .flat_map(|collection| {
            [
                collection.name.clone(),
                collection.table.to_string(),
                format!("{:?}", collection.filter),
                format!("{:?}", collection.payload),
                format!("{:?}", collection.computed),
                collection.layout().to_string(),
            ]
            .into_iter()
            .chain(collection.chunk_field().map(str::to_owned))
            .chain(collection.chunk.as_ref().map(|_| CUT.to_owned()))
            .chain(collection.lookups().into_iter().map(|lookup| lookup.describe()))
            .chain(computed_numbers(collection))
            .chain(compares(collection).then(|| COMPARISON.to_owned()))
        })
        .chain(shard_key)
        .collect();
    digest_of(&parts)
}
