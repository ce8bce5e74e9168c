//! Creation of the collection, and the checks of one that exists.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use qdrant_client::qdrant::quantization_config::Quantization as ClientQuantization;
use qdrant_client::qdrant::vectors_config::Config;
use qdrant_client::qdrant::{
    BinaryQuantization, CollectionInfo, CreateAlias, CreateCollection, CreateFieldIndexCollection, Distance, FieldType,
    Modifier, QuantizationConfig, QuantizationType, ScalarQuantization, ShardingMethod, SparseVectorConfig,
    SparseVectorParams, UpdateCollection, Value as ClientValue, VectorParams, VectorParamsMap, VectorsConfig,
};
use serde_json::{Value, json};
use uuid::Uuid;
use walvec_model::{MadeWith, RESERVED_KEY};

use super::convert::{field_path, field_type, provenance_path};
use super::{Quantization, RemoteCollection, aliases};
use crate::catalog::numbered;
use crate::made_with::mismatch;
use crate::{CollectionId, SinkError};

/// The oldest supported server: from this version on collections have metadata, which holds the fingerprint.
const OLDEST: (u64, u64) = (1, 16);

/// The first server whose crash does not bring back points that were removed by a filter:
/// <https://github.com/qdrant/qdrant/issues/9575>.
const KEEPS_DELETES: (u64, u64) = (1, 19);

/// Creates the collection if it does not exist; else checks that it is the one that the configuration describes. The id that it
/// returns tells a collection that was made again from the one that was filled, however often this is repeated.
pub(super) async fn prepare(inner: &RemoteCollection) -> Result<CollectionId, SinkError> {
    check_version(inner).await?;
    let serving = serving(inner).await?;
    let name = match &serving {
        Some(name) => name.clone(),
        None => fitting(inner).await?,
    };
    let info = match find(inner, &name).await? {
        Some(info) => info,
        None => {
            create(inner, &name).await?;
            find(inner, &name).await?.ok_or_else(|| inner.place.missing())?
        }
    };
    inner.place.set_name(&name);
    if let Some(tenants) = &inner.tenants {
        tenants.prepare(inner).await?;
    }
    create_indexes(inner, &name, &info).await?;
    if serving.is_none() {
        let alias = CreateAlias { collection_name: name.clone(), alias_name: inner.spec.name.clone() };
        inner.client.create_alias(alias).await.map_err(|error| inner.place.error(error))?;
    }
    match own(&info, "id") {
        Some(id) => Ok(CollectionId(id)),
        None => adopt(inner, &name).await,
    }
}

/// Returns whether the collection exists, after checking that it is the one that the configuration describes. Changes nothing.
pub(super) async fn exists(inner: &RemoteCollection) -> Result<bool, SinkError> {
    check_version(inner).await?;
    let Some(name) = serving(inner).await? else { return Ok(false) };
    let exists = find(inner, &name).await?.is_some();
    if exists {
        inner.place.set_name(&name);
    }
    Ok(exists)
}

/// Returns the collection's own name; `None` if the configured name is an alias of nothing.
async fn serving(inner: &RemoteCollection) -> Result<Option<String>, SinkError> {
    let RemoteCollection { client, spec, place, is_alias, .. } = inner;
    if *is_alias { aliases::serving(client, place, &spec.name).await } else { Ok(Some(spec.name.clone())) }
}

/// Returns the collection that a name without one will stand for: the newest of that name that fits, or else a new one.
async fn fitting(inner: &RemoteCollection) -> Result<String, SinkError> {
    let RemoteCollection { client, spec, place, .. } = inner;
    let numbers = aliases::own_numbers(client, place, &spec.name).await?;
    for &number in numbers.iter().rev() {
        let name = numbered(&spec.name, number);
        match find(inner, &name).await {
            Ok(Some(_)) => return Ok(name),
            Ok(None) | Err(SinkError::Fingerprint { .. } | SinkError::Foreign { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let mut number = numbers.last().map_or(1, |newest| newest + 1);
    loop {
        let name = numbered(&spec.name, number);
        match find(inner, &name).await {
            // Another worker, which began at the same time, has made the collection meanwhile.
            Ok(Some(info)) if is_own(&info) => return Ok(name),
            Ok(None) => return Ok(name),
            // A collection of another program is in the way.
            Ok(Some(_))
            | Err(SinkError::Fingerprint { .. } | SinkError::Foreign { .. } | SinkError::Sharding { .. }) => {
                number += 1
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns whether walvec has made a collection, or taken it over.
pub(super) fn is_own(info: &CollectionInfo) -> bool {
    own(info, "id").is_some()
}

/// Returns the collection of that name if it exists, after checking that it is the one that the configuration describes. Changes
/// nothing.
pub(super) async fn find(inner: &RemoteCollection, name: &str) -> Result<Option<CollectionInfo>, SinkError> {
    let RemoteCollection { client, place, .. } = inner;
    if !client.collection_exists(name).await.map_err(|error| place.error(error))? {
        return Ok(None);
    }
    let response = client.collection_info(name).await.map_err(|error| place.error(error))?;
    let info = response.result.ok_or_else(|| place.missing())?;
    check(inner, &info)?;
    Ok(Some(info))
}

async fn check_version(inner: &RemoteCollection) -> Result<(), SinkError> {
    let RemoteCollection { client, place, .. } = inner;
    let reply = client.health_check().await.map_err(|error| place.error(error))?;
    let mut parts = reply.version.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < OLDEST {
        let (major, minor) = OLDEST;
        let reason = format!("it is Qdrant {}, walvec needs {major}.{minor} or newer", reply.version);
        return Err(SinkError::Server { url: place.url.clone(), reason });
    }
    inner.brings_back.store(version < KEEPS_DELETES, Ordering::Relaxed);
    Ok(())
}

#[expect(deprecated, reason = "servers before 1.19 know `on_disk` only, newer ones still do")]
async fn create(inner: &RemoteCollection, name: &str) -> Result<(), SinkError> {
    let RemoteCollection { client, spec, place, server: super::Server { layout, .. }, .. } = inner;
    let vector = VectorParams {
        size: spec.dimension as u64,
        distance: Distance::Cosine.into(),
        on_disk: layout.on_disk,
        ..VectorParams::default()
    };
    let request = CreateCollection {
        collection_name: name.to_owned(),
        vectors_config: Some(VectorsConfig { config: Some(vectors(spec.vector.as_ref(), vector)) }),
        sparse_vectors_config: spec.keywords.as_deref().map(sparse_vectors),
        quantization_config: layout.quantization.map(quantization),
        shard_number: layout.shards,
        replication_factor: layout.replicas,
        write_consistency_factor: layout.write_consistency,
        sharding_method: layout.shard_key.as_ref().map(|_| ShardingMethod::Custom.into()),
        metadata: metadata(inner, &new_id()),
        ..CreateCollection::default()
    };
    client.create_collection(request).await.map_err(|error| place.error(error))?;
    tracing::info!(collection = name, dimension = spec.dimension, url = place.url, "created the collection");
    Ok(())
}

/// Makes the configuration of one kind of vectors, under a name if they have one.
fn vectors(name: Option<&String>, vector: VectorParams) -> Config {
    match name {
        None => Config::Params(vector),
        Some(name) => Config::ParamsMap(VectorParamsMap { map: HashMap::from([(name.clone(), vector)]) }),
    }
}

/// Makes the configuration of sparse vectors with this name, in which rare tokens count more.
fn sparse_vectors(name: &str) -> SparseVectorConfig {
    let params = SparseVectorParams { modifier: Some(Modifier::Idf.into()), ..SparseVectorParams::default() };
    SparseVectorConfig { map: HashMap::from([(name.to_owned(), params)]) }
}

/// Returns the names and parameters of a collection's vectors; vectors without a name have an empty one.
fn stored_vectors(info: &CollectionInfo) -> Vec<(&str, &VectorParams)> {
    let params = info.config.as_ref().and_then(|config| config.params.as_ref());
    match params.and_then(|params| params.vectors_config.as_ref()?.config.as_ref()) {
        None => Vec::new(),
        Some(Config::Params(vector)) => vec![("", vector)],
        Some(Config::ParamsMap(vectors)) => vectors.map.iter().map(|(name, vector)| (name.as_str(), vector)).collect(),
    }
}

/// Returns the names and modifiers of a collection's sparse vectors.
fn stored_sparse_vectors(info: &CollectionInfo) -> Vec<(&str, Modifier)> {
    let params = info.config.as_ref().and_then(|config| config.params.as_ref());
    let sparse = params.and_then(|params| params.sparse_vectors_config.as_ref());
    sparse.into_iter().flat_map(|sparse| &sparse.map).map(|(name, vector)| (name.as_str(), vector.modifier())).collect()
}

fn quantization(kind: Quantization) -> QuantizationConfig {
    let quantization = match kind {
        Quantization::Scalar => ClientQuantization::Scalar(ScalarQuantization {
            r#type: QuantizationType::Int8.into(),
            ..ScalarQuantization::default()
        }),
        Quantization::Binary => ClientQuantization::Binary(BinaryQuantization::default()),
    };
    QuantizationConfig { quantization: Some(quantization) }
}

/// Builds the metadata that walvec stores with the collection.
fn metadata(inner: &RemoteCollection, id: &CollectionId) -> HashMap<String, ClientValue> {
    let own: Value = json!({ "fingerprint": inner.spec.fingerprint, "made_with": inner.spec.made_with, "id": id.0 });
    HashMap::from([(RESERVED_KEY.to_owned(), own.into())])
}

fn new_id() -> CollectionId {
    CollectionId(Uuid::new_v4().to_string())
}

/// Reads a field of the metadata that walvec stores with the collection.
fn own(info: &CollectionInfo, field: &str) -> Option<String> {
    own_value(info, field)?.as_str().map(str::to_owned)
}

fn own_value(info: &CollectionInfo, field: &str) -> Option<Value> {
    let own: Value = info.config.as_ref()?.metadata.get(RESERVED_KEY)?.clone().into();
    own.get(field).cloned()
}

/// Returns the parts that a collection's fingerprint was computed from; empty if they were not stored.
fn made_with(info: &CollectionInfo) -> MadeWith {
    own_value(info, "made_with").and_then(|parts| serde_json::from_value(parts).ok()).unwrap_or_default()
}

/// Refuses a collection whose vectors would not compare with ours.
fn check(inner: &RemoteCollection, info: &CollectionInfo) -> Result<(), SinkError> {
    let spec = &inner.spec;
    let refused = |stored: String, configured: String| {
        Err(SinkError::Fingerprint { collection: spec.name.clone(), stored, configured })
    };
    let dense = describe(spec.vector.as_deref().unwrap_or_default(), spec.dimension as u64, Distance::Cosine);
    let sparse = spec.keywords.as_ref().map(|name| describe_sparse(name, Modifier::Idf));
    let configured: Vec<String> = std::iter::once(dense).chain(sparse).collect();
    let dense = stored_vectors(info).into_iter().map(|(name, it)| describe(name, it.size, it.distance()));
    let sparse = stored_sparse_vectors(info).into_iter().map(|(name, modifier)| describe_sparse(name, modifier));
    let mut stored: Vec<String> = dense.chain(sparse).collect();
    stored.sort();
    // An empty collection that looks right is taken over.
    let points = info.points_count.unwrap_or_default();
    if !is_own(info) && (points > 0 || stored != configured) {
        let holds = format!("{points} points and {}", stored.join(" and "));
        return Err(SinkError::Foreign { collection: spec.name.clone(), url: inner.place.url.clone(), holds });
    }
    let changed = mismatch(&made_with(info), &spec.made_with);
    // Further vectors belong to another program: replacing a point would lose them.
    if stored != configured {
        let (was, is) = changed.map(|(was, is)| (format!(" ({was})"), format!(" ({is})"))).unwrap_or_default();
        return refused(format!("{}{was}", stored.join(" and ")), format!("{}{is}", configured.join(" and ")));
    }
    check_sharding(inner, info)?;
    match own(info, "fingerprint") {
        Some(stored) if stored != spec.fingerprint.to_string() => {
            let hashes = || (format!("model and text {stored}"), format!("model and text {}", spec.fingerprint));
            let (stored, configured) = changed.unwrap_or_else(hashes);
            refused(stored, configured)
        }
        _ => Ok(()),
    }
}

fn check_sharding(inner: &RemoteCollection, info: &CollectionInfo) -> Result<(), SinkError> {
    let method = info.config.as_ref().and_then(|config| config.params.as_ref()?.sharding_method);
    let describe = |by_field| if by_field { "by the value of a field" } else { "by the points' ids" };
    let (stored, configured) = (method == Some(ShardingMethod::Custom.into()), inner.tenants.is_some());
    if stored == configured {
        return Ok(());
    }
    let collection = inner.spec.name.clone();
    Err(SinkError::Sharding { collection, stored: describe(stored), configured: describe(configured) })
}

fn describe(name: &str, dimension: u64, distance: Distance) -> String {
    let name = if name.is_empty() { "without a name".to_owned() } else { format!("named \"{name}\"") };
    format!("a vector {name} of dimension {dimension}, compared by {}", distance.as_str_name().to_lowercase())
}

fn describe_sparse(name: &str, modifier: Modifier) -> String {
    let weighed = match modifier {
        Modifier::Idf => "weighed by rarity",
        Modifier::None => "as it is",
    };
    format!("sparse vectors named \"{name}\", {weighed}")
}

/// Takes over an empty collection that another program has made.
async fn adopt(inner: &RemoteCollection, name: &str) -> Result<CollectionId, SinkError> {
    let RemoteCollection { client, place, .. } = inner;
    let id = new_id();
    let request = UpdateCollection {
        collection_name: name.to_owned(),
        metadata: metadata(inner, &id),
        ..UpdateCollection::default()
    };
    client.update_collection(request).await.map_err(|error| place.error(error))?;
    tracing::info!(collection = name, "took over an empty collection that was there");
    Ok(id)
}

/// Creates the payload indexes that are missing. An existing one stays as it is.
async fn create_indexes(inner: &RemoteCollection, name: &str, info: &CollectionInfo) -> Result<(), SinkError> {
    let spec = &inner.spec;
    let mut wanted = vec![(provenance_path("t"), FieldType::Keyword), (provenance_path("g"), FieldType::Integer)];
    for (field, index) in &spec.indexes {
        wanted.push((field_path(spec.nesting.as_deref(), field)?, field_type(*index)));
    }
    for (field_name, field_type) in wanted {
        if info.payload_schema.contains_key(&field_name) {
            continue;
        }
        create_index(inner, name, field_name, field_type).await?;
    }
    Ok(())
}

/// Creates the payload index for the versions of points.
pub(super) async fn index_versions(inner: &RemoteCollection, name: &str) -> Result<(), SinkError> {
    create_index(inner, name, provenance_path("v"), FieldType::Keyword).await
}

async fn create_index(
    inner: &RemoteCollection,
    name: &str,
    field_name: String,
    field_type: FieldType,
) -> Result<(), SinkError> {
    let RemoteCollection { client, place, .. } = inner;
    let request = CreateFieldIndexCollection {
        collection_name: name.to_owned(),
        wait: Some(true),
        field_name,
        field_type: Some(field_type.into()),
        ..CreateFieldIndexCollection::default()
    };
    let response = client.create_field_index(request).await.map_err(|error| place.error(error))?;
    place.completed(response.result.as_ref())
}
