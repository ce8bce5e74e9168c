//! The point that a row should have.

use std::sync::Arc;

use serde_json::{Number, Value};
use walvec_model::point::MAX_NESTING;
use walvec_model::{InputHash, Payload, PointId, RESERVED_KEY, RawPoint};

use crate::digest::{self, Digest, Fractions, OWN_PARTS};
use crate::id::Ids;
use crate::lookup::SentLookup;
use crate::null::TemplateRow;
use crate::render::Renderer;
use crate::report::Difference;
use crate::table::{SentTable, TextForm};
use crate::values;
use crate::{Chunks, CompareJob, ComparedCollection, StoredLayout, VerifyError};

/// The rule by which the rows of a table become points.
#[derive(Debug)]
pub(crate) struct Imager {
    pub(crate) table: SentTable,
    pub(crate) joined: Vec<SentLookup>,
    pub(crate) ids: Ids,
    renderer: Renderer,
    names: Arc<[String]>,
    kinds: Vec<TextForm>,
    numerics: Arc<[bool]>,
    /// Fields that are stored as numbers; true for whole numbers.
    numbers: Vec<(String, bool)>,
    /// Stored columns, with their indexes.
    stored: Vec<(String, usize)>,
    tag: Value,
    fingerprint: Value,
    pub(crate) layout: StoredLayout,
    pub(crate) fractions: Fractions,
    chunks: Option<Chunks>,
}

/// A point that a row should have.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) id: PointId,
    pub(crate) key: Vec<Value>,
    /// The content of the point, or why it cannot be determined.
    pub(crate) content: Result<Content, String>,
}

/// The content that the point of a row should have.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) text: String,
    payload: Payload,
    /// The parts of walvec's own field, in the order of [`OWN_PARTS`].
    own: [Value; OWN_PARTS.len()],
    layout: StoredLayout,
    fractions: Fractions,
}

impl Imager {
    /// Reads the tables of a job from the catalogue.
    pub(crate) async fn find(job: &CompareJob<'_>) -> Result<Self, VerifyError> {
        let mut table = SentTable::find(job.query_session, job.publication, &job.spec.table).await?;
        table.leave_out(|column| job.spec.cannot_use(column));
        let mut joined = Vec::with_capacity(job.spec.lookups.len());
        for lookup in &job.spec.lookups {
            joined.push(SentLookup::find(job.query_session, job.publication, lookup).await?);
        }
        Self::new(&job.spec, table, joined)
    }

    fn new(spec: &ComparedCollection, table: SentTable, joined: Vec<SentLookup>) -> Result<Self, VerifyError> {
        let renderer = Renderer::new(spec)?;
        let names: Arc<[String]> = table.columns.iter().map(|column| column.name.clone()).collect();
        let selected = spec.payload.clone().unwrap_or_else(|| names.to_vec());
        let mut stored = Vec::with_capacity(selected.len());
        for name in selected.into_iter().filter(|name| !renderer.computes(name)) {
            let index = names.iter().position(|column| *column == name).ok_or_else(|| VerifyError::Table {
                table: table.name.clone(),
                reason: format!("has no published column \"{name}\", which the payload names"),
            })?;
            stored.push((name, index));
        }
        Ok(Self {
            ids: Ids::new(&table.name, &table.key_types(), spec.chunks.is_some()),
            kinds: table.columns.iter().map(|column| column.kind.clone()).collect(),
            numerics: table.columns.iter().map(|column| column.kind.is_numeric()).collect(),
            numbers: spec.numbers.clone(),
            tag: table.name.to_string().into(),
            fingerprint: spec.fingerprint.0.clone().into(),
            layout: spec.layout,
            fractions: spec.fractions,
            chunks: spec.chunks.clone(),
            renderer,
            names,
            stored,
            table,
            joined,
        })
    }

    /// Returns how many texts a row has: those of its columns, then those of its lookups.
    pub(crate) fn texts(&self) -> usize {
        self.table.columns.len() + self.joined.len()
    }

    /// Returns the images of a row, chunk by chunk, from the text of each column and of each lookup. There is at least
    /// one.
    pub(crate) fn images<'a>(&self, mut texts: impl Iterator<Item = Option<&'a str>>) -> Vec<Image> {
        let columns = texts.by_ref().take(self.kinds.len()).zip(&self.kinds);
        let values: Vec<Value> = columns.map(|(text, kind)| values::value(text, kind)).collect();
        let looked_up = self.joined.iter().zip(texts);
        let looked_up =
            looked_up.map(|(joined, text)| (joined.name().to_owned(), joined.value(text), joined.numerics())).collect();
        let value = |index: usize| values.get(index).cloned().unwrap_or_default();
        let key: Vec<Value> = self.table.key.iter().map(|index| value(*index)).collect();
        let first = self.ids.of(&key);
        let mut fields: Payload = self.stored.iter().map(|(name, index)| (name.clone(), value(*index))).collect();
        let row =
            Arc::new(TemplateRow { names: Arc::clone(&self.names), values, numerics: Arc::clone(&self.numerics) });
        let rendered =
            self.renderer.render(&row, looked_up).and_then(|(text, computed)| Ok((self.pieces(text)?, computed)));
        let (pieces, computed) = match rendered {
            Ok(rendered) => rendered,
            Err(reason) => return vec![Image { id: first, key, content: Err(reason) }],
        };
        fields.extend(computed);
        for (name, is_whole) in &self.numbers {
            if let Some(field) = fields.get_mut(name) {
                *field = as_number(field.take(), *is_whole);
            }
        }
        let fields: Payload = fields.into_iter().map(|(name, field)| (name, shallow(field, MAX_NESTING))).collect();
        let count = pieces.len();
        let image = |(chunk, text): (u64, String)| {
            let id = if chunk == 0 { first } else { self.ids.chunk(&key, chunk) };
            let mut fields = fields.clone();
            if let (Some(chunks), StoredLayout::Flat) = (&self.chunks, self.layout) {
                fields.insert(chunks.field.clone(), text.as_str().into());
            }
            let payload = self.layout.expected(id, first, &text, fields);
            let hash = InputHash::of(&text);
            let own = [
                self.tag.clone(),
                key.iter().map(key_part).collect(),
                hash.0.into(),
                self.fingerprint.clone(),
                chunk.into(),
                count.into(),
            ];
            Image {
                id,
                key: key.clone(),
                content: Ok(Content { text, payload, own, layout: self.layout, fractions: self.fractions }),
            }
        };
        debug_assert!(count > 0, "a row has an image");
        (0..).zip(pieces).map(image).collect()
    }

    fn pieces(&self, text: String) -> Result<Vec<String>, String> {
        match &self.chunks {
            Some(chunks) => (chunks.split)(&text),
            None => Ok(vec![text]),
        }
    }
}

impl Image {
    /// Returns the digest that the point should have; `None` if it cannot be determined.
    pub(crate) fn digest(&self) -> Option<Digest> {
        self.content.as_ref().ok().map(Content::digest)
    }
}

impl Content {
    pub(crate) fn digest(&self) -> Digest {
        digest::digest(&self.payload, self.own.each_ref(), self.fractions)
    }

    /// Returns the hash of the text, as points hold it.
    pub(crate) fn text_hash(&self) -> &Value {
        let [_, _, hash, ..] = &self.own;
        hash
    }

    /// Returns the fields in which a stored point differs. Parts of walvec's own field are named `_walvec.h` and so
    /// on.
    pub(crate) fn differences(&self, point: &RawPoint) -> Vec<Difference> {
        let mut differences = Vec::new();
        let stored_payload = self.layout.read(&point.payload);
        let mut compare = |field: String, expected: Option<&Value>, stored: Option<&Value>| {
            let same = match (expected, stored) {
                (Some(expected), Some(stored)) => digest::same(expected, stored, self.fractions),
                (expected, stored) => expected.is_none() && stored.is_none(),
            };
            if !same {
                differences.push(Difference { field, expected: expected.cloned(), stored: stored.cloned() });
            }
        };
        for (name, expected) in &self.payload {
            compare(name.clone(), Some(expected), stored_payload.get(name));
        }
        let own_names = |name: &String| name == RESERVED_KEY || self.payload.contains_key(name);
        for (name, stored) in stored_payload.iter().filter(|(name, _)| !own_names(name)) {
            compare(name.clone(), None, Some(stored));
        }
        let stored = point.payload.get(RESERVED_KEY);
        for (part, expected) in OWN_PARTS.into_iter().zip(&self.own) {
            compare(format!("{RESERVED_KEY}.{part}"), Some(expected), stored.and_then(|own| own.get(part)));
        }
        differences
    }
}

/// Converts a value of a field that is indexed as a number to the form that points hold: a text that reads as a number
/// becomes one.
fn as_number(value: Value, is_whole: bool) -> Value {
    match value {
        Value::String(text) => match (text.parse::<i64>(), text.parse::<f64>().map(Number::from_f64)) {
            (Ok(whole), _) if is_whole => whole.into(),
            (_, Ok(Some(number))) => number.into(),
            _ => text.into(),
        },
        Value::Array(items) => items.into_iter().map(|item| as_number(item, is_whole)).collect(),
        other => other,
    }
}

/// Converts a value to the form that points hold: an array or object that is nested too deeply becomes its JSON text.
fn shallow(value: Value, levels: usize) -> Value {
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => value.to_string().into(),
        Value::Array(items) => items.into_iter().map(|item| shallow(item, levels - 1)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, field)| (name, shallow(field, levels - 1))).collect(),
        scalar => scalar,
    }
}

/// Converts a value of a key to the form that points hold: one that is nested too deeply becomes its JSON text as a
/// whole.
fn key_part(value: &Value) -> Value {
    let whole = || value.to_string().into();
    Some(shallow(value.clone(), MAX_NESTING)).filter(|held| held == value).unwrap_or_else(whole)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::{Fingerprint, TableName};

    use super::*;
    use crate::table::SentColumn;

    fn imager(payload: Option<&[&str]>) -> Imager {
        let column = |name: &str, kind, type_oid| SentColumn {
            name: name.to_owned(),
            kind,
            type_oid,
            type_name: "integer".to_owned(),
            equality: "=".to_owned(),
        };
        let table = SentTable {
            name: TableName::new("public", "books"),
            columns: vec![
                column("id", TextForm::Plain, 23),
                column("name", TextForm::Text, 25),
                column("year", TextForm::Plain, 23),
            ],
            key: vec![0],
            filter: None,
            partitioned: false,
        };
        let spec = ComparedCollection {
            collection: "books".to_owned(),
            table: table.name.clone(),
            text: "{{ name }}".to_owned(),
            payload: payload.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            computed: vec![("year".to_owned(), "{{ 100 // year }}".to_owned())],
            fingerprint: Fingerprint::of(&["model"]),
            numbers: Vec::new(),
            layout: StoredLayout::Flat,
            chunks: None,
            keywords: None,
            fractions: Fractions::Exact,
            lookups: Vec::new(),
        };
        Imager::new(&spec, table, Vec::new()).unwrap()
    }

    fn point(payload: Value) -> RawPoint {
        let Value::Object(payload) = payload else { panic!("a payload") };
        RawPoint { id: PointId::Num(7), payload, vector: None, keywords: None }
    }

    #[test]
    fn a_point_that_shows_its_row_has_the_digest_of_the_image() {
        let image = imager(None).images([Some("7"), Some("Dune"), Some("50")].into_iter()).remove(0);
        assert_eq!(image.id, PointId::Num(7));
        let hash = InputHash::of("Dune").0;
        let stored = point(json!({
            "_walvec": {"v": "0/1.1", "t": "public.books", "k": [7], "h": hash, "m": Fingerprint::of(&["model"]).0,
                        "g": 3, "c": 0, "n": 1},
            "year": 2, "name": "Dune", "id": 7}));
        let content = image.content.clone().unwrap();
        assert_eq!(content.differences(&stored), []);
        let digest = digest::digest(&stored.payload, digest::stored_parts(&stored.payload), Fractions::Exact);
        assert_eq!(image.digest(), Some(digest));
    }

    #[test]
    fn every_difference_is_named() {
        let image = imager(Some(&["name"])).images([Some("7"), Some("Dune"), None].into_iter()).remove(0);
        let stored =
            point(json!({"name": "Dun", "more": 1, "_walvec": {"t": "public.books", "k": [8], "c": 0, "n": 2}}));
        let differences = image.content.unwrap().differences(&stored);
        let fields: Vec<_> = differences.iter().map(|difference| difference.field.as_str()).collect();
        assert_eq!(fields, ["name", "year", "more", "_walvec.k", "_walvec.h", "_walvec.m", "_walvec.n"]);
        assert_eq!((&differences[1].expected, &differences[1].stored), (&Some(Value::Null), &None));
    }

    #[test]
    fn every_chunk_has_an_image_and_the_id_that_its_number_gives_it() {
        let mut imager = imager(Some(&[]));
        imager.ids = Ids::new(&imager.table.name, &imager.table.key_types(), true);
        let split = |text: &str| Ok(text.split(' ').map(str::to_owned).collect());
        imager.chunks = Some(Chunks { split: Arc::new(split), field: "part".to_owned() });
        let images = imager.images([Some("7"), Some("Dune Messiah"), Some("50")].into_iter());
        let ids: Vec<PointId> = images.iter().map(|image| image.id).collect();
        assert_eq!(ids, [imager.ids.chunk(&[json!(7)], 0), imager.ids.chunk(&[json!(7)], 1)]);
        let stored =
            point(json!({"part": "Messiah", "year": 2, "_walvec": {"t": "public.books", "k": [7], "c": 1, "n": 2,
            "h": InputHash::of("Messiah").0, "m": Fingerprint::of(&["model"]).0}}));
        assert_eq!(images[1].content.as_ref().unwrap().differences(&stored), []);
        assert!(!images[0].content.as_ref().unwrap().differences(&stored).is_empty());
    }

    #[test]
    fn a_row_that_cannot_be_rendered_keeps_its_id_and_says_why() {
        let image = imager(None).images([Some("7"), Some("Dune"), Some("0")].into_iter()).remove(0);
        assert_eq!((image.id, image.digest()), (PointId::Num(7), None));
        assert!(image.content.unwrap_err().contains("computed.year"));
    }
}
