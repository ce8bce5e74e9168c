//! Points and collections for the tests.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use walvec_model::{
    Fingerprint, Generation, InputHash, Lsn, MadeWith, Payload, Point, PointId, Position, Provenance, StoredPoint,
    TableName,
};
use walvec_sink::embedded::Embedded;
use walvec_sink::{CollectionSpec, Filter, IndexType, Query, Search, SearchRequest, Write};

pub(crate) const DIMENSION: usize = 8;

/// A collection in a directory that is removed with it.
pub(crate) struct Fixture {
    pub(crate) sink: Embedded,
    pub(crate) root: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with_indexes(&[])
    }

    pub(crate) fn with_indexes(indexes: &[(&str, IndexType)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut spec = spec(DIMENSION);
        spec.indexes = indexes.iter().map(|(field, index)| ((*field).into(), *index)).collect();
        Self { sink: Embedded::open(root.path(), spec).unwrap(), root }
    }

    /// Closes the collection and opens it again.
    pub(crate) async fn reopened(self) -> Self {
        let Self { sink, root } = self;
        sink.close().await.unwrap();
        Self { sink: open(root.path()), root }
    }
}

pub(crate) fn open(root: &Path) -> Embedded {
    Embedded::open(root, spec(DIMENSION)).unwrap()
}

pub(crate) fn spec(dimension: usize) -> CollectionSpec {
    CollectionSpec {
        name: "books".to_owned(),
        dimension,
        fingerprint: Fingerprint::of(&["a model"]),
        made_with: MadeWith::default(),
        indexes: Vec::new(),
        vector: None,
        keywords: None,
        nesting: None,
    }
}

/// Makes a point of `public.books` of the first generation, with a vector that depends on its id
/// only.
pub(crate) fn point(id: u64, payload: Value) -> Point {
    let (id, vector, provenance) = (PointId::Num(id), vector(id, DIMENSION), provenance(id));
    Point { id, vector, keywords: None, payload: fields(payload), provenance }
}

pub(crate) fn upserts(ids: impl IntoIterator<Item = u64>) -> Vec<Write> {
    ids.into_iter().map(|id| Write::Upsert(point(id, json!({ "number": id })))).collect()
}

pub(crate) fn fields(payload: Value) -> Payload {
    let Value::Object(fields) = payload else { panic!("{payload} is no object") };
    fields
}

pub(crate) fn provenance(id: u64) -> Provenance {
    Provenance {
        position: Position { commit_lsn: Lsn(100), ordinal: id },
        table: "public.books".to_owned(),
        key: vec![json!(id)],
        input_hash: InputHash::of("a text"),
        fingerprint: Fingerprint::of(&["a model"]),
        generation: Generation(1),
        chunk: 0,
        chunks: 1,
    }
}

pub(crate) fn books() -> TableName {
    TableName::new("public", "books")
}

pub(crate) fn vector(seed: u64, dimension: usize) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let raw: Vec<f32> = (0..dimension).map(|_| rng.random_range(-1.0..1.0)).collect();
    let length = raw.iter().map(|number| number * number).sum::<f32>().sqrt();
    raw.into_iter().map(|number| number / length).collect()
}

pub(crate) fn nearest_to(id: u64, limit: usize) -> SearchRequest {
    SearchRequest { query: Query::Dense(vector(id, DIMENSION)), limit, filter: Filter::default(), min_score: None }
}

/// Reads all points, page by page.
pub(crate) async fn all_points(sink: &impl Search) -> Vec<StoredPoint> {
    let mut points = Vec::new();
    let mut from = None;
    loop {
        let page = sink.page(from, 1000, false).await.unwrap();
        points.extend(page.points.into_iter().map(|point| StoredPoint::from_raw(point.id, point.payload)));
        match page.next {
            Some(next) => from = Some(next),
            None => return points,
        }
    }
}

pub(crate) async fn number_of(sink: &impl Search, id: u64) -> Option<u64> {
    let points = sink.get(vec![PointId::Num(id)], false).await.unwrap();
    points.first().map(|point| point.payload["number"].as_u64().unwrap())
}
