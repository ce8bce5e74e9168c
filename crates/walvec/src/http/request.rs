//! What was asked: query strings and JSON bodies, checked before anything is computed.

use serde::Deserialize;
use serde_json::{Map, Value};
use walvec_sink::{Condition, Filter};

use super::problem::{Problem, Reason};
use crate::mode::Mode;

/// Longest query, in bytes. Models read some hundred words at most; what is longer is a mistake or an attack.
pub(crate) const MAX_QUERY_BYTES: usize = 8 * 1024;
/// Hits when nothing is asked for.
pub(crate) const DEFAULT_LIMIT: usize = 5;
/// Most hits of one search.
pub(crate) const MAX_LIMIT: usize = 100;
/// Most conditions of one filter.
const MAX_CONDITIONS: usize = 32;

/// A search, checked: the query is neither blank nor too long, the limit and the filter are within bounds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SearchQuery {
    /// What to look for.
    pub(crate) text: String,
    /// Where; `None` if there is no choice.
    pub(crate) collection: Option<String>,
    /// What the search goes by; `None`: the best that the collection has.
    pub(crate) mode: Option<Mode>,
    /// How many hits at most.
    pub(crate) limit: usize,
    /// What every hit must match.
    pub(crate) filter: Filter,
    /// Whether a row counts once, however many of its chunks are near.
    pub(crate) by_row: bool,
    /// The lowest score of a hit.
    pub(crate) min_score: Option<f32>,
}

impl SearchQuery {
    /// Reads the pairs of a query string: `q`, `collection`, `mode`, `limit`, `group`, `min_score`, and `filter`
    /// as often as wanted.
    pub(crate) fn from_pairs(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let (mut text, mut collection, mut limit, mut conditions) = (None, None, None, Vec::new());
        let (mut mode, mut group, mut min_score) = (None, None, None);
        for (name, value) in pairs {
            match name.as_str() {
                "q" => set_once(&mut text, &name, value)?,
                "collection" => set_once(&mut collection, &name, value)?,
                "mode" => set_once(&mut mode, &name, value)?,
                "limit" => set_once(&mut limit, &name, value)?,
                "group" => set_once(&mut group, &name, value)?,
                "min_score" => set_once(&mut min_score, &name, value)?,
                "filter" => conditions.push(condition_from_text(&value)?),
                _ => {
                    let detail = format!(
                        "there is no parameter \"{name}\"; there are q, collection, mode, limit, group, \
                         min_score and filter"
                    );
                    return Err(Problem::new(Reason::BadParameter, detail));
                }
            }
        }
        let limit = limit.map_or(Ok(DEFAULT_LIMIT), |text: String| text.parse().map_err(|_| bad_limit(&text)))?;
        let min_score = min_score.map(|text| text.parse().map_err(|_| bad_score(&text))).transpose()?;
        let by_row = checked_group(group.as_deref())?;
        let mode = checked_mode(mode.as_deref())?;
        let (text, filter) = (text.unwrap_or_default(), Filter(conditions));
        Self { text, collection, mode, limit, filter, by_row, min_score }.checked()
    }

    /// Reads a JSON body. `serde_json` gives up at 128 levels of nesting, so a deep body is an error like any other.
    pub(crate) fn from_json(body: &[u8]) -> Result<Self, Problem> {
        let body: JsonBody = serde_json::from_slice(body).map_err(|error| {
            let detail = format!(
                "{error}; expected {{\"query\": …, \"collection\": …, \"mode\": …, \"limit\": …, \"group\": …, \"filter\": {{…}}}}"
            );
            Problem::new(Reason::BadJson, detail)
        })?;
        let conditions = body.filter.into_iter().map(|(field, value)| condition_from_json(field, value));
        let limit =
            body.limit.map_or(Ok(DEFAULT_LIMIT), |given| usize::try_from(given).map_err(|_| bad_limit(given)))?;
        let filter = Filter(conditions.collect::<Result<_, _>>()?);
        let (by_row, min_score) = (checked_group(body.group.as_deref())?, body.min_score);
        let mode = checked_mode(body.mode.as_deref())?;
        Self { text: body.query, collection: body.collection, mode, limit, filter, by_row, min_score }.checked()
    }

    fn checked(self) -> Result<Self, Problem> {
        if self.text.trim().is_empty() {
            let detail = "say what to look for, in the parameter q or the member \"query\"";
            return Err(Problem::new(Reason::EmptyQuery, detail));
        }
        if self.text.len() > MAX_QUERY_BYTES {
            let detail = format!("the query has {} bytes; at most {MAX_QUERY_BYTES} are read", self.text.len());
            return Err(Problem::new(Reason::QueryTooLong, detail));
        }
        if !(1..=MAX_LIMIT).contains(&self.limit) {
            return Err(bad_limit(self.limit));
        }
        let conditions: usize = self.filter.0.iter().map(size).sum();
        if conditions > MAX_CONDITIONS {
            let detail = format!("the filter has {conditions} conditions; at most {MAX_CONDITIONS} are read");
            return Err(Problem::new(Reason::BadFilter, detail));
        }
        Ok(self)
    }
}

/// How many comparisons a condition takes.
fn size(condition: &Condition) -> usize {
    match condition {
        Condition::Equals { .. } | Condition::Range { .. } => 1,
        Condition::AnyOf(conditions) => conditions.iter().map(size).sum(),
        Condition::Not(condition) => size(condition),
    }
}

fn checked_group(group: Option<&str>) -> Result<bool, Problem> {
    match group {
        None => Ok(false),
        Some("row") => Ok(true),
        Some(other) => {
            let detail = format!("hits cannot be grouped by \"{other}\"; only by \"row\"");
            Err(Problem::new(Reason::BadParameter, detail))
        }
    }
}

fn checked_mode(mode: Option<&str>) -> Result<Option<Mode>, Problem> {
    let unknown = |name: &str| {
        let detail = format!("the mode is \"{name}\"; hybrid, dense or keyword is expected");
        Problem::new(Reason::BadParameter, detail)
    };
    mode.map(|name| Mode::from_name(name).ok_or_else(|| unknown(name))).transpose()
}

fn bad_score(given: impl std::fmt::Display) -> Problem {
    Problem::new(Reason::BadParameter, format!("min_score is \"{given}\"; a number is expected"))
}

/// The body of `POST /api/v1/search`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonBody {
    query: String,
    collection: Option<String>,
    mode: Option<String>,
    limit: Option<i64>,
    group: Option<String>,
    min_score: Option<f32>,
    #[serde(default)]
    filter: Map<String, Value>,
}

/// Bounds on a number, named as Qdrant names them; or values that a field must not have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonCondition {
    gte: Option<f64>,
    lte: Option<f64>,
    not: Option<Value>,
}

fn set_once(slot: &mut Option<String>, name: &str, value: String) -> Result<(), Problem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Problem::new(Reason::BadParameter, format!("the parameter \"{name}\" is given twice"))),
    }
}

fn bad_limit(given: impl std::fmt::Display) -> Problem {
    Problem::new(
        Reason::BadLimit,
        format!("the limit is \"{given}\"; a whole number from 1 to {MAX_LIMIT} is expected"),
    )
}

/// `field=value`, `field!=value`, `field>=number` or `field<=number`.
///
/// A query string has no types, a payload has: a value that reads as a whole number, `true` or `false` is taken as
/// such, everything else as text. Text that looks like a number is written in double quotes: `isbn="123"`. Several values, of
/// which one is enough, are a JSON list: `author=["Jane Austen","H.G. Wells"]`.
pub(crate) fn condition_from_text(text: &str) -> Result<Condition, Problem> {
    let (field, value) = match text.split_once('=') {
        Some((field, value)) if !field.trim_end_matches(['<', '>', '!']).is_empty() => (field, value),
        _ => {
            let detail = format!(
                "\"{text}\" is no condition; expected field=value, field!=value, field=[\"one\",\"other\"], field>=number or \
                 field<=number"
            );
            return Err(Problem::new(Reason::BadFilter, detail));
        }
    };
    if let Some(field) = field.strip_suffix('>') {
        return range(field, Some(number(field, value)?), None);
    }
    if let Some(field) = field.strip_suffix('<') {
        return range(field, None, Some(number(field, value)?));
    }
    match field.strip_suffix('!') {
        Some(field) => Ok(Condition::Not(Box::new(has(field, typed(value))?))),
        None => has(field, typed(value)),
    }
}

fn condition_from_json(field: String, value: Value) -> Result<Condition, Problem> {
    if field.is_empty() {
        return Err(Problem::new(Reason::BadFilter, "a filter names an empty field"));
    }
    if !value.is_object() {
        return has(&field, value);
    }
    let JsonCondition { gte, lte, not } = serde_json::from_value(value).map_err(|error| {
        let detail = format!("filter \"{field}\": {error}; expected {{\"gte\": …, \"lte\": …}} or {{\"not\": …}}");
        Problem::new(Reason::BadFilter, detail)
    })?;
    match not {
        Some(value) if gte.is_none() && lte.is_none() => Ok(Condition::Not(Box::new(has(&field, value)?))),
        Some(_) => {
            let detail = format!("filter \"{field}\": not excludes gte and lte; say one of them");
            Err(Problem::new(Reason::BadFilter, detail))
        }
        None => range(&field, gte, lte),
    }
}

/// The field has the value, or one of several.
fn has(field: &str, value: Value) -> Result<Condition, Problem> {
    match value {
        Value::Array(values) if !values.is_empty() => {
            let any = values.into_iter().map(|value| equals(field, value)).collect::<Result<_, _>>()?;
            Ok(Condition::AnyOf(any))
        }
        other => equals(field, other),
    }
}

fn equals(field: &str, value: Value) -> Result<Condition, Problem> {
    let is_comparable = match &value {
        Value::String(_) | Value::Bool(_) => true,
        Value::Number(number) => number.is_i64(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    };
    if is_comparable {
        return Ok(Condition::Equals { field: field.to_owned(), value });
    }
    let detail = format!(
        "filter \"{field}\": a text, a whole number, true, false, a list of them, {{\"gte\": …, \"lte\": …}} or {{\"not\": …}} \
         is expected"
    );
    Err(Problem::new(Reason::BadFilter, detail))
}

fn range(field: &str, from: Option<f64>, to: Option<f64>) -> Result<Condition, Problem> {
    if from.is_none() && to.is_none() {
        return Err(Problem::new(Reason::BadFilter, format!("filter \"{field}\": neither gte nor lte is given")));
    }
    Ok(Condition::Range { field: field.to_owned(), from, to })
}

fn number(field: &str, text: &str) -> Result<f64, Problem> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| Problem::new(Reason::BadFilter, format!("filter \"{field}\": \"{text}\" is not a number")))
}

/// The value that the text stands for; see [`condition_from_text`].
fn typed(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Bool(flag)) => Value::Bool(flag),
        Ok(Value::Number(number)) if number.is_i64() => Value::Number(number),
        Ok(Value::String(quoted)) => Value::String(quoted),
        Ok(Value::Array(values)) => Value::Array(values),
        _ => Value::String(text.to_owned()),
    }
}

/// A condition `field=value` as [`SearchQuery::from_pairs`] reads it back, for links; `None` for values that no
/// condition can ask for.
pub(crate) fn equals_as_text(field: &str, value: &Value) -> Option<String> {
    // A field name with an operator in it would be read as another condition.
    if field.is_empty() || field.contains('=') || field.ends_with(['<', '>', '!']) {
        return None;
    }
    let value = match value {
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) if number.is_i64() => number.to_string(),
        Value::String(text) if matches!(typed(text), Value::String(ref same) if same == text) => text.clone(),
        Value::String(text) => Value::String(text.clone()).to_string(),
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(format!("{field}={value}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn equal(field: &str, value: Value) -> Condition {
        Condition::Equals { field: field.to_owned(), value }
    }

    #[test]
    fn a_filter_in_a_query_string_means_what_it_looks_like() {
        for (text, value) in [
            ("f=1813", json!(1813)),
            ("f=-5", json!(-5)),
            ("f=true", json!(true)),
            ("f=Jane Austen", json!("Jane Austen")),
            ("f=\"1813\"", json!("1813")),
            ("f=007", json!("007")),
            ("f=1.50", json!("1.50")),
            ("f=null", json!("null")),
            ("f=a=b", json!("a=b")),
            ("f=", json!("")),
        ] {
            assert_eq!(condition_from_text(text), Ok(equal("f", value)), "{text}");
        }
        let range = |from, to| Ok(Condition::Range { field: "year".to_owned(), from, to });
        assert_eq!(condition_from_text("year>=1800"), range(Some(1800.0), None));
        assert_eq!(condition_from_text("year<=1.5"), range(None, Some(1.5)));
    }

    #[test]
    fn a_filter_that_cannot_be_understood_is_refused() {
        for text in ["", "year", "=1", "!=1", "f=[]", "f=[1.5]", ">=1", "year>=", "year>=x", "year>=nan", "year<=inf"] {
            assert_eq!(condition_from_text(text).unwrap_err().reason(), Reason::BadFilter, "{text}");
        }
        for body in [
            json!({"query": "q", "filter": {"f": null}}),
            json!({"query": "q", "filter": {"f": 1.5}}),
            json!({"query": "q", "filter": {"f": u64::MAX}}),
            json!({"query": "q", "filter": {"f": []}}),
            json!({"query": "q", "filter": {"f": [1, null]}}),
            json!({"query": "q", "filter": {"f": {"not": {"gte": 1}}}}),
            json!({"query": "q", "filter": {"f": {"not": 1, "gte": 1}}}),
            json!({"query": "q", "filter": {"f": {}}}),
            json!({"query": "q", "filter": {"f": {"gt": 1}}}),
            json!({"query": "q", "filter": {"": 1}}),
        ] {
            assert_eq!(
                SearchQuery::from_json(body.to_string().as_bytes()).unwrap_err().reason(),
                Reason::BadFilter,
                "{body}"
            );
        }
        let many = vec![("filter".to_owned(), "f=1".to_owned()); MAX_CONDITIONS + 1];
        let pairs = [vec![("q".to_owned(), "q".to_owned())], many].concat();
        assert_eq!(SearchQuery::from_pairs(pairs).unwrap_err().reason(), Reason::BadFilter);
    }

    #[test]
    fn values_can_be_listed_and_excluded() {
        let any = || Condition::AnyOf(vec![equal("f", json!("a")), equal("f", json!(1))]);
        let not = |condition| Condition::Not(Box::new(condition));
        assert_eq!(condition_from_text("f=[\"a\",1]"), Ok(any()));
        assert_eq!(condition_from_text("f!=[\"a\",1]"), Ok(not(any())));
        assert_eq!(condition_from_text("f!=a"), Ok(not(equal("f", json!("a")))));
        let body = json!({"query": "q", "filter": {"f": ["a", 1], "g": {"not": true}}});
        let query = SearchQuery::from_json(body.to_string().as_bytes()).unwrap();
        assert_eq!(query.filter, Filter(vec![any(), not(equal("g", json!(true)))]));
    }

    #[test]
    fn scores_groups_and_modes_that_make_no_sense_are_refused() {
        let query = |name: &str, value: &str| {
            SearchQuery::from_pairs(vec![("q".to_owned(), "q".to_owned()), (name.to_owned(), value.to_owned())])
        };
        assert_eq!(query("min_score", "0.5").unwrap().min_score, Some(0.5));
        assert!(query("group", "row").unwrap().by_row);
        assert_eq!(query("mode", "keyword").unwrap().mode, Some(Mode::Keyword));
        for (name, value) in [("min_score", "near"), ("group", "author"), ("mode", "sparse"), ("mode", "")] {
            assert_eq!(query(name, value).unwrap_err().reason(), Reason::BadParameter, "{name}={value}");
        }
    }

    #[test]
    fn a_json_filter_keeps_its_types() {
        let body =
            json!({"query": "q", "limit": 100, "filter": {"a": "1", "b": 1, "c": false, "d": {"gte": 1, "lte": 2.5}}});
        let query = SearchQuery::from_json(body.to_string().as_bytes()).unwrap();
        let range = Condition::Range { field: "d".to_owned(), from: Some(1.0), to: Some(2.5) };
        let expected = vec![equal("a", json!("1")), equal("b", json!(1)), equal("c", json!(false)), range];
        assert_eq!(query.filter, Filter(expected));
        assert_eq!((query.limit, query.collection), (100, None));
    }

    #[test]
    fn a_filter_link_asks_for_exactly_the_value_it_was_made_from() {
        for value in [
            json!("Dune"),
            json!("[1]"),
            json!("1813"),
            json!("true"),
            json!("\"quoted\""),
            json!(7),
            json!(true),
            json!(""),
        ] {
            let text = equals_as_text("f", &value).unwrap();
            assert_eq!(condition_from_text(&text), Ok(equal("f", value)), "{text}");
        }
        for (field, value) in
            [("f", json!(1.5)), ("f", json!(null)), ("f", json!([1])), ("a=b", json!(1)), ("a>", json!(1))]
        {
            assert_eq!(equals_as_text(field, &value), None);
        }
    }
}
