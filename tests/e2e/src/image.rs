//! Whether a collection is the exact image of a table: the promise that everything else serves.
//!
//! Both sides are read without the code under test: rows come from a plain SELECT in which PostgreSQL itself makes the
//! JSON, and ids and hashes are computed here from their documentation. Only the engine's reader is shared.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use uuid::Uuid;
use walvec_embed::Embedder;
use walvec_embed::hash::HashEmbedder;
use walvec_model::{Fingerprint, InputHash, MadeWith, Payload, PointId, StoredPoint};
use walvec_sink::embedded::Embedded;
use walvec_sink::qdrant::{Remote, Server};
use walvec_sink::{CollectionSpec, Filter, Keywords, Query, Search, SearchRequest, Sink};
use walvec_transform::PayloadLayout;

use crate::files::copy_directory;
use crate::settings::MODEL;
use crate::{TestContext, layout};

/// How many differences an error names.
const SHOWN: usize = 10;
/// Points per page of a scroll.
const PAGE: usize = 1000;
/// How many vectors are compared: every one would mean a search of the whole collection for each.
const VECTORS: usize = 50;
/// Two vectors of one text differ at most by rounding.
const SAME_VECTOR: f32 = 0.9999;

/// What a collection should hold, and for which table.
pub struct Expected {
    /// The collection.
    pub collection: &'static str,
    /// The table's schema, unquoted.
    pub schema: &'static str,
    /// The table, unquoted.
    pub table: &'static str,
    /// Only rows that meet this SQL condition.
    pub filter: Option<&'static str>,
    /// The columns of the payload; all if `None`.
    pub payload: Option<&'static [&'static str]>,
    /// The text of a row, given all its columns: what the template should render.
    pub text: fn(&Payload) -> String,
    /// The text of a row as an SQL expression, which may read other tables. Takes the place of `text`.
    pub sql: Option<&'static str>,
    /// The model.
    pub model: &'static str,
    /// How the payload is laid out.
    pub layout: PayloadLayout,
    /// The number of words in a chunk, for texts that consist of words only. `None`: rows are not cut.
    pub words: Option<usize>,
    /// Whether points have sparse vectors, of English words.
    pub hybrid: bool,
}

impl Expected {
    /// Expects the whole of `public.<table>` in the collection of the same name, with every column in the payload.
    #[must_use]
    pub const fn of(table: &'static str, text: fn(&Payload) -> String) -> Self {
        Self {
            collection: table,
            schema: "public",
            table,
            filter: None,
            payload: None,
            text,
            sql: None,
            model: MODEL,
            layout: PayloadLayout::Flat,
            words: None,
            hybrid: false,
        }
    }
}

/// A row, or a chunk of it, as its point should show it.
#[derive(Debug, PartialEq)]
struct Image {
    payload: Payload,
    key: Vec<Value>,
    text: String,
    /// The chunk's number, and how many chunks the row has.
    chunk: (u32, u32),
}

/// Compares the collection of a stopped walvec with its table, row by row, and returns the number of rows.
///
/// The collection's files are copied first, so that reading them changes nothing.
///
/// # Errors
/// If anything differs; the error names up to ten differences of each sort.
pub async fn compare(context: &TestContext, expected: &Expected) -> Result<usize> {
    let copy = tempfile::tempdir()?;
    let collection = open(context, expected, copy.path())?;
    let compared = compare_with(context, expected, &collection).await;
    collection.close().await?;
    compared
}

/// Compares a collection on a Qdrant server with its table.
///
/// # Errors
/// If anything differs; the error names up to ten differences of each sort.
pub async fn compare_on_server(context: &TestContext, expected: &Expected, url: &str) -> Result<usize> {
    compare_with(context, expected, &remote(expected, url)?).await
}

/// Returns a collection on a Qdrant server, filled with vectors of `model`.
///
/// # Errors
/// If the URL or the model's name cannot be used.
pub fn on_server(collection: &str, model: &str, url: &str) -> Result<Remote> {
    named(collection, model, url, PayloadLayout::Flat, false)
}

fn remote(expected: &Expected, url: &str) -> Result<Remote> {
    named(expected.collection, expected.model, url, expected.layout, expected.hybrid)
}

fn named(collection: &str, model: &str, url: &str, layout: PayloadLayout, hybrid: bool) -> Result<Remote> {
    let server = Server::at(url);
    let spec = CollectionSpec {
        name: collection.to_owned(),
        dimension: HashEmbedder::from_name(model)?.info().dimension,
        // Reading needs no fingerprint.
        fingerprint: Fingerprint(String::new()),
        made_with: MadeWith::default(),
        indexes: Vec::new(),
        vector: layout::vector_name(layout),
        keywords: hybrid.then(|| layout::keywords_name(layout)),
        nesting: layout::nesting(layout),
    };
    Ok(Remote::own(server, spec)?)
}

async fn compare_with<C: Sink + Search>(context: &TestContext, expected: &Expected, collection: &C) -> Result<usize> {
    let mut rows = rows(context, expected).await?;
    let mut differences = Differences::default();
    let mut stored = Vec::new();
    for point in points(collection).await? {
        match rows.remove(&point.id) {
            None => differences.extra.push(format!("{} {:?}", point.id, point.payload)),
            Some(row) => {
                differences.compare(&point, &row, expected);
                stored.push((point.id, row.text));
            }
        }
    }
    differences.missing = rows.iter().map(|(id, row)| format!("{id} {:?}", row.payload)).collect();
    differences.vectors = wrong_vectors(collection, &stored, expected.model).await?;
    differences.keywords = wrong_keywords(collection, &stored, expected.hybrid).await?;
    differences.into_result(stored.len())
}

#[derive(Debug, Default)]
struct Differences {
    missing: Vec<String>,
    extra: Vec<String>,
    stale: Vec<String>,
    vectors: Vec<String>,
    keywords: Vec<String>,
}

impl Differences {
    fn compare(&mut self, point: &StoredPoint, row: &Image, expected: &Expected) {
        let id = point.id;
        match layout::seen(expected.layout, point.payload.clone()) {
            Ok(seen) if seen == row.payload => {}
            seen => self.stale.push(format!("{id}: payload {seen:?} instead of {:?}", row.payload)),
        }
        let Some(provenance) = &point.provenance else {
            self.stale.push(format!("{id}: not written by walvec"));
            return;
        };
        let table = format!("{}.{}", expected.schema, expected.table);
        if provenance.table != table || provenance.key != row.key || (provenance.chunk, provenance.chunks) != row.chunk
        {
            self.stale.push(format!("{id}: {provenance:?} is not of {table} {:?}, chunk {:?}", row.key, row.chunk));
        }
        if provenance.input_hash != InputHash::of(&row.text) {
            self.stale.push(format!("{id}: embedded another text than {:?}", row.text));
        }
    }

    fn into_result(self, rows: usize) -> Result<usize> {
        let sorts = [
            ("missing", self.missing),
            ("extra", self.extra),
            ("stale", self.stale),
            ("with a wrong vector", self.vectors),
            ("with a wrong sparse vector", self.keywords),
        ];
        let mut report = String::new();
        for (sort, found) in sorts.into_iter().filter(|(_, found)| !found.is_empty()) {
            report.push_str(&format!("{} {sort}:\n", found.len()));
            found.iter().take(SHOWN).for_each(|difference| report.push_str(&format!("  {difference}\n")));
        }
        if report.is_empty() { Ok(rows) } else { bail!("the collection is not the table's image\n{report}") }
    }
}

/// Opens a copy of the collection's files, with the settings in its manifest.
fn open(context: &TestContext, expected: &Expected, copy: &Path) -> Result<Embedded> {
    let spec = stored_spec(context, expected.collection, expected.layout)?;
    let collections = context.data_directory().join("collections");
    copy_directory(&collections.join(&spec.name), &copy.join("collections").join(&spec.name))?;
    // A walvec that was killed has left its last writes there.
    let journal = context.data_directory().join("journal");
    if journal.exists() {
        copy_directory(&journal, &copy.join("journal"))?;
    }
    Ok(Embedded::open(copy, spec)?)
}

/// Opens the collection's own files, after walvec was stopped, with the settings in its manifest.
///
/// # Errors
/// If there are none.
pub fn open_stored(context: &TestContext, name: &str) -> Result<Embedded> {
    Ok(Embedded::open(&context.data_directory(), stored_spec(context, name, PayloadLayout::Flat)?)?)
}

fn stored_spec(context: &TestContext, name: &str, layout: PayloadLayout) -> Result<CollectionSpec> {
    let collections = context.data_directory().join("collections");
    let names = fs::read(collections.join("aliases.json")).context("no collection was ever made")?;
    let names: BTreeMap<String, String> = serde_json::from_slice(&names)?;
    let own_name = names.get(name).with_context(|| format!("no collection is served as {name}"))?;
    let manifest = fs::read(collections.join(own_name).join("walvec-collection.json"));
    let manifest: Value = serde_json::from_slice(&manifest.context("the collection was never made")?)?;
    let fingerprint = manifest["fingerprint"].as_str().context("the manifest has no fingerprint")?;
    let dimension = manifest["dimension"].as_u64().context("the manifest has no dimension")?;
    let keywords = manifest["keywords"].as_str().map(str::to_owned);
    Ok(CollectionSpec {
        name: own_name.clone(),
        dimension: usize::try_from(dimension)?,
        fingerprint: Fingerprint(fingerprint.to_owned()),
        made_with: MadeWith::default(),
        indexes: Vec::new(),
        vector: layout::vector_name(layout),
        keywords,
        nesting: layout::nesting(layout),
    })
}

/// All points of a collection.
///
/// # Errors
/// If they cannot be read.
pub async fn points(collection: &impl Search) -> Result<Vec<StoredPoint>> {
    let (mut points, mut from) = (Vec::new(), None);
    loop {
        let page = collection.page(from, PAGE, false).await?;
        points.extend(page.points.into_iter().map(|point| StoredPoint::from_raw(point.id, point.payload)));
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(points),
        }
    }
}

/// Returns which points, of an evenly spread selection, are not found by the vector that their text should have.
async fn wrong_vectors(collection: &impl Search, stored: &[(PointId, String)], model: &str) -> Result<Vec<String>> {
    let embedder = HashEmbedder::from_name(model)?;
    let mut wrong = Vec::new();
    for (id, text) in stored.iter().step_by(stored.len().div_ceil(VECTORS).max(1)) {
        let vector = embedder.embed(vec![text.clone()]).await?.remove(0)?;
        // Other points may have the same vector, so the point need not be the first hit.
        let request =
            SearchRequest { query: Query::Dense(vector), limit: PAGE, filter: Filter::default(), min_score: None };
        let hits = collection.search(request).await?;
        let same: Vec<PointId> = hits.iter().filter(|hit| hit.score >= SAME_VECTOR).map(|hit| hit.id).collect();
        if !same.contains(id) && same.len() < PAGE {
            wrong.push(format!("{id} {text:?}"));
        }
    }
    Ok(wrong)
}

/// Returns which points lack the sparse vector of their text, or have one that they should not have.
async fn wrong_keywords(collection: &impl Search, stored: &[(PointId, String)], hybrid: bool) -> Result<Vec<String>> {
    let keywords = Keywords::new("english").map_err(|_| anyhow!("the engine does not know English"))?;
    let mut wrong = Vec::new();
    for page in stored.chunks(PAGE) {
        let texts: HashMap<PointId, &String> = page.iter().map(|(id, text)| (*id, text)).collect();
        for point in collection.get(texts.keys().copied().collect(), true).await? {
            let text = texts.get(&point.id).context("a point that nobody asked for")?;
            let wanted = Some(keywords.document(text)).filter(|wanted| hybrid && !wanted.is_empty());
            if point.keywords != wanted {
                wrong.push(format!("{} {text:?}: {:?}", point.id, point.keywords));
            }
        }
    }
    Ok(wrong)
}

/// One column of the table.
struct Column {
    name: String,
    /// The type under all domains, as `pg_type` names it, e.g. `int4`, or `_int4` for its array.
    base: String,
    /// Its place in the primary key, from 1; 0 outside.
    key: i64,
}

impl Column {
    /// Returns an SQL expression for the column's value in JSON, as documented for `walvec_model::Value`.
    fn as_json(&self) -> String {
        const HELD_BY_JSON: [&str; 8] = ["bool", "int2", "int4", "int8", "float4", "float8", "json", "jsonb"];
        let name = quoted(&self.name);
        let element = self.base.strip_prefix('_');
        match element {
            _ if HELD_BY_JSON.contains(&element.unwrap_or(&self.base)) => format!("to_jsonb({name})"),
            Some(_) => format!("to_jsonb({name}::text[])"),
            // A cast to text would cut the padding of char(n).
            None => format!("CASE WHEN {name} IS NOT NULL THEN to_jsonb(format('%s', {name})) END"),
        }
    }
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

async fn columns(context: &TestContext, expected: &Expected) -> Result<Vec<Column>> {
    let query = "
        WITH RECURSIVE base (attnum, oid) AS (
            SELECT attnum, atttypid FROM pg_attribute
            WHERE attrelid = to_regclass(format('%I.%I', $1::text, $2::text)) AND attnum > 0 AND NOT attisdropped
              AND attgenerated = ''
            UNION ALL
            SELECT attnum, typbasetype FROM base JOIN pg_type USING (oid) WHERE typbasetype <> 0)
        SELECT attname::text, typname::text, coalesce(array_position(indkey::int2[], attnum), -1)::bigint + 1
        FROM base
        JOIN pg_type t ON t.oid = base.oid AND typbasetype = 0
        JOIN pg_attribute a USING (attnum)
        JOIN pg_index ON indrelid = attrelid AND indisprimary
        WHERE attrelid = to_regclass(format('%I.%I', $1::text, $2::text))
        ORDER BY attnum";
    let found = context.sql.query(query, &[&expected.schema, &expected.table]).await?;
    if found.is_empty() {
        bail!("{}.{} does not exist or has no primary key", expected.schema, expected.table);
    }
    Ok(found.iter().map(|row| Column { name: row.get(0), base: row.get(1), key: row.get(2) }).collect())
}

/// Returns the table's rows by the ids that their points should have.
async fn rows(context: &TestContext, expected: &Expected) -> Result<BTreeMap<PointId, Image>> {
    let columns = columns(context, expected).await?;
    let fields: Vec<String> =
        columns.iter().map(|column| format!("'{}', {}", column.name.replace('\'', "''"), column.as_json())).collect();
    let query = format!(
        "SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET bytea_output = 'hex'; \
         SELECT jsonb_build_object({})::text, {} FROM {}.{} WHERE {}",
        fields.join(", "),
        expected.sql.unwrap_or("NULL"),
        quoted(expected.schema),
        quoted(expected.table),
        expected.filter.unwrap_or("true")
    );
    let mut rows = BTreeMap::new();
    for message in context.sql.simple_query(&query).await? {
        let tokio_postgres::SimpleQueryMessage::Row(row) = message else { continue };
        let text = row.get(1).map(str::to_owned);
        let row: Payload = serde_json::from_str(row.get(0).context("a row without JSON")?)?;
        let text = text.unwrap_or_else(|| (expected.text)(&row));
        for mut image in images(&row, text, &columns, expected) {
            let id = point_id(&columns, &image.key, image.chunk.0, expected)?;
            image.payload = layout::laid_out(expected.layout, id, &image.text, image.payload);
            rows.insert(id, image);
        }
    }
    Ok(rows)
}

fn images(row: &Payload, text: String, columns: &[Column], expected: &Expected) -> Vec<Image> {
    let mut key: Vec<&Column> = columns.iter().filter(|column| column.key > 0).collect();
    key.sort_by_key(|column| column.key);
    let selected = |name: &str| expected.payload.is_none_or(|payload| payload.contains(&name));
    let payload = row.iter().filter(|(name, _)| selected(name));
    let payload: Payload = payload.map(|(name, value)| (name.clone(), value.clone())).collect();
    let key: Vec<Value> = key.iter().map(|column| row[&column.name].clone()).collect();
    let Some(words) = expected.words else { return vec![Image { payload, key, text, chunk: (0, 1) }] };
    let all: Vec<&str> = text.split(' ').collect();
    let count = u32::try_from(all.len().div_ceil(words)).unwrap_or(u32::MAX);
    let chunk = |(number, words): (u32, &[&str])| {
        let text = words.join(" ");
        let mut payload = payload.clone();
        payload.insert("chunk".to_owned(), text.clone().into());
        Image { payload, key: key.clone(), text, chunk: (number, count) }
    };
    (0..).zip(all.chunks(words)).map(chunk).collect()
}

/// Returns a point's id, computed as `walvec_transform::point_id` documents it.
fn point_id(columns: &[Column], key: &[Value], chunk: u32, expected: &Expected) -> Result<PointId> {
    const NAMESPACE: Uuid = Uuid::from_u128(0xb3f4_9d0e_6c1a_5f27_8e5d_41c7_9a02_d6be);
    let key_column = columns.iter().find(|column| column.key > 0 && expected.words.is_none());
    if let ([value], Some(column)) = (key, key_column) {
        match (column.base.as_str(), value) {
            ("int2" | "int4" | "int8", Value::Number(number)) if number.is_u64() => {
                return Ok(PointId::Num(number.as_u64().context("an id")?));
            }
            ("uuid", Value::String(text)) => return Ok(PointId::Uuid(text.parse()?)),
            _ => {}
        }
    }
    let with_length = |bytes: &[u8]| [&(bytes.len() as u64).to_be_bytes(), bytes].concat();
    let texts = key.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let canonical: Vec<u8> = texts.flat_map(|text| with_length(text.as_bytes())).collect();
    let parts = [expected.schema.as_bytes(), expected.table.as_bytes(), &canonical].map(with_length);
    let name = [parts.concat(), u64::from(chunk).to_be_bytes().to_vec()].concat();
    Ok(PointId::Uuid(Uuid::new_v5(&NAMESPACE, &name)))
}
