//! The JSON body of `POST /api/v1/search`. Every error names the member and what is expected of it.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::mode::Mode;
use super::request::MAX_LIMIT;
use crate::api::problem::{ApiProblem, Reason};
use crate::api::schema::ConditionSchema;

/// The members of a body, for messages.
const MEMBERS: &str =
    r#"{"query": …, "collection": …, "mode": …, "limit": …, "group": …, "min_score": …, "cursor": …, "filter": {…}}"#;

/// How many characters of a wrong value are repeated.
const MAX_SHOWN_CHARS: usize = 40;

/// A body whose members have the right types.
#[derive(Debug)]
pub(crate) struct SearchBody {
    pub(crate) query: String,
    pub(crate) collection: Option<String>,
    pub(crate) mode: Option<String>,
    pub(crate) limit: Option<i64>,
    pub(crate) group: Option<String>,
    pub(crate) min_score: Option<f32>,
    pub(crate) cursor: Option<String>,
    pub(crate) filter: Map<String, Value>,
}

/// A search. Null counts as left out.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SearchRequest)]
pub(crate) struct Members {
    /// The text to search for.
    #[schema(required, value_type = String, min_length = 1, max_length = 8192)]
    query: Option<Value>,
    /// The collection; required if there are several.
    #[schema(value_type = Option<String>)]
    collection: Option<Value>,
    /// What the search compares. Default: hybrid if the collection has it, else dense.
    #[schema(value_type = Option<Mode>)]
    mode: Option<Value>,
    /// The maximum number of hits.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 100, default = 5)]
    limit: Option<Value>,
    /// With `row`, each row is shown once, by its best chunk.
    #[schema(value_type = Option<String>, pattern = "^row$")]
    group: Option<Value>,
    /// The lowest score of a hit: a cosine similarity in the mode dense, a BM25 score in the mode keyword.
    #[schema(value_type = Option<f32>)]
    min_score: Option<Value>,
    /// The cursor: `next` of the page before. Send everything else unchanged.
    #[schema(value_type = Option<String>)]
    cursor: Option<Value>,
    /// Conditions by field, all of which have to match.
    #[schema(value_type = Option<std::collections::HashMap<String, ConditionSchema>>)]
    filter: Option<Value>,
}

impl SearchBody {
    /// Parses a body. `serde_json` stops at 128 levels of nesting, so deeper nesting is an error like any other.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ApiProblem> {
        let members: Members = object(bytes, MEMBERS)?;
        let query = text("query", members.query)?;
        Ok(Self {
            query: query.ok_or_else(|| bad_json(format!("the member \"query\" is missing; expected {MEMBERS}")))?,
            collection: text("collection", members.collection)?,
            mode: text("mode", members.mode)?,
            limit: member("limit", members.limit, &format!("a whole number from 1 to {MAX_LIMIT}"), Value::as_i64)?,
            group: text("group", members.group)?,
            cursor: text("cursor", members.cursor)?,
            min_score: member("min_score", members.min_score, "a number", score)?,
            filter: member("filter", members.filter, "an object of fields", |value| value.as_object().cloned())?
                .unwrap_or_default(),
        })
    }
}

/// Parses an object, of which `expected` is an example.
pub(crate) fn object<T: DeserializeOwned>(bytes: &[u8], expected: &str) -> Result<T, ApiProblem> {
    let syntax = |error: serde_json::Error| bad_json(format!("{error}; expected {expected}"));
    if let Some(kind) = other_kind(&serde_json::from_slice(bytes).map_err(syntax)?) {
        return Err(bad_json(format!("the body is {kind}; an object is expected: {expected}")));
    }
    // Parsed again from the bytes: the parsed value does not show which members were given twice.
    serde_json::from_slice(bytes).map_err(syntax)
}

/// Returns the kind of the value, if it is not an object.
fn other_kind(value: &Value) -> Option<&'static str> {
    match value {
        Value::Object(_) => None,
        Value::Null => Some("null"),
        Value::Bool(_) => Some("true or false"),
        Value::Number(_) => Some("a number"),
        Value::String(_) => Some("a text"),
        Value::Array(_) => Some("a list"),
    }
}

fn text(name: &str, value: Option<Value>) -> Result<Option<String>, ApiProblem> {
    member(name, value, "a text", |value| value.as_str().map(str::to_owned))
}

#[expect(clippy::cast_possible_truncation, reason = "scores have no more digits than that")]
fn score(value: &Value) -> Option<f32> {
    value.as_f64().map(|score| score as f32)
}

/// Returns the value of a member, if it is present; an error if `read` does not accept it.
fn member<T>(
    name: &str,
    value: Option<Value>,
    expected: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, ApiProblem> {
    let Some(value) = value else { return Ok(None) };
    let wrong = || {
        let all = value.to_string();
        let shown: String = all.chars().take(MAX_SHOWN_CHARS).collect();
        let more = if shown.len() < all.len() { "…" } else { "" };
        bad_json(format!("the member \"{name}\" is {shown}{more}; {expected} is expected"))
    };
    read(&value).map(Some).ok_or_else(wrong)
}

fn bad_json(detail: String) -> ApiProblem {
    ApiProblem::new(Reason::BadJson, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_names_the_member_and_none_names_a_type_of_the_program() {
        for (body, part) in [
            ("[]", "the body is a list; an object is expected"),
            ("5", "the body is a number"),
            ("{}", "the member \"query\" is missing"),
            (r#"{"query": 5}"#, "the member \"query\" is 5; a text is expected"),
            (r#"{"query": "x", "limit": "ten"}"#, "the member \"limit\" is \"ten\"; a whole number from 1 to 100"),
            (r#"{"query": "x", "limit": 2.5}"#, "the member \"limit\" is 2.5"),
            (r#"{"query": "x", "min_score": "near"}"#, "the member \"min_score\" is \"near\"; a number"),
            (r#"{"query": "x", "filter": ["a=1"]}"#, "the member \"filter\" is [\"a=1\"]; an object of fields"),
            (r#"{"query": "x", "k": 5}"#, "unknown field `k`, expected one of `query`"),
            (r#"{"query": "x", "query": "y"}"#, "duplicate field `query`"),
            (r#"{"query": "#, "EOF while parsing"),
        ] {
            let problem = SearchBody::read(body.as_bytes()).unwrap_err();
            assert!(problem.detail().contains(part), "{body}: {}", problem.detail());
            assert!(!problem.detail().contains("struct"), "{body}: {}", problem.detail());
        }
    }

    #[test]
    fn null_counts_as_left_out() {
        let body = SearchBody::read(br#"{"query": "x", "collection": null, "filter": null}"#).unwrap();
        assert_eq!((body.query.as_str(), body.collection, body.filter.len()), ("x", None, 0));
    }
}
