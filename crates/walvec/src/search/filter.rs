//! Conditions as they are written: in a query string, on the command line, in JSON.
//!
//! The meaning of a value depends on the field, which is not known here: see [`resolve`](super::resolve).

use serde::Deserialize;
use serde_json::{Map, Value};
use walvec_sink::Bounds;

use crate::api::problem::{ApiProblem, Reason};

/// The most values that one filter compares with.
const MAX_CONDITIONS: usize = 32;

/// A condition on a field, as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FieldCondition {
    /// The field, or the path to a member of one.
    pub(crate) field: String,
    /// The requirement on the field.
    pub(crate) test: Requirement,
}

/// A requirement on a field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Requirement {
    /// One of these values; there is at least one.
    OneOf(Vec<Literal>),
    /// None of these values; there is at least one.
    NoneOf(Vec<Literal>),
    /// Inside these bounds, of which at least one is given.
    Within(Box<Bounds<Literal>>),
}

/// A value, as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    /// In a query string, where `1898` may be a number or a text.
    Plain(String),
    /// In JSON.
    Json(Value),
}

/// Checks all conditions of a filter.
pub(crate) fn checked(conditions: Vec<FieldCondition>) -> Result<Vec<FieldCondition>, ApiProblem> {
    let count: usize = conditions.iter().map(size).sum();
    if count > MAX_CONDITIONS {
        let detail = format!("the filter has {count} conditions; at most {MAX_CONDITIONS} are read");
        return Err(ApiProblem::new(Reason::BadFilter, detail));
    }
    Ok(conditions)
}

/// Returns how many values a condition compares with.
fn size(wanted: &FieldCondition) -> usize {
    match &wanted.test {
        Requirement::OneOf(values) | Requirement::NoneOf(values) => values.len(),
        Requirement::Within(_) => 1,
    }
}

/// Parses `field=value`, `field!=value`, `field>=end` with `>`, `>=`, `<` or `<=`, `field is null`, or `field is not null`.
///
/// Several values, one of which must match, are a JSON list: `author=["Jane Austen","H.G. Wells"]`. A value in double quotes is a
/// JSON text, so that one can begin with a bracket or a quote.
pub(crate) fn condition_from_text(text: &str) -> Result<FieldCondition, ApiProblem> {
    let operator = text.find(['=', '<', '>']).filter(|at| !text[..*at].trim_end_matches('!').is_empty());
    let Some((field, rest)) = operator.map(|at| text.split_at(at)) else {
        return null_test(text).ok_or_else(|| {
            let detail = format!(
                "\"{text}\" is no condition; expected field=value, field!=value, field=[\"one\",\"other\"], field>=end with >, >=, \
                 < or <=, or field is null"
            );
            ApiProblem::new(Reason::BadFilter, detail)
        });
    };
    let end = |end: &str| Some(Literal::Plain(end.to_owned()));
    let open = Bounds::default();
    if let Some(gte) = rest.strip_prefix(">=") {
        within(field, Bounds { gte: end(gte), ..open })
    } else if let Some(lte) = rest.strip_prefix("<=") {
        within(field, Bounds { lte: end(lte), ..open })
    } else if let Some(gt) = rest.strip_prefix('>') {
        within(field, Bounds { gt: end(gt), ..open })
    } else if let Some(lt) = rest.strip_prefix('<') {
        within(field, Bounds { lt: end(lt), ..open })
    } else {
        let values = values(field, plain(rest.strip_prefix('=').unwrap_or(rest)))?;
        let (field, test) = match field.strip_suffix('!') {
            Some(field) => (field, Requirement::NoneOf(values)),
            None => (field, Requirement::OneOf(values)),
        };
        Ok(FieldCondition { field: field.trim_end().to_owned(), test })
    }
}

/// Parses `field is null`, or `field is not null`.
fn null_test(text: &str) -> Option<FieldCondition> {
    let ends_with = |end: &str| {
        let at = text.len().checked_sub(end.len())?;
        let (field, rest) = (text.get(..at)?, text.get(at..)?);
        (rest.eq_ignore_ascii_case(end) && !field.trim().is_empty()).then(|| field.trim().to_owned())
    };
    let null = || vec![Literal::Json(Value::Null)];
    let is_not = ends_with(" is not null").map(|field| FieldCondition { field, test: Requirement::NoneOf(null()) });
    is_not.or_else(|| Some(FieldCondition { field: ends_with(" is null")?, test: Requirement::OneOf(null()) }))
}

/// Parses the members of a JSON object, each a field and its requirement: a value, a list of values of which one must match, the
/// bounds of a range, or what it must not be.
pub(crate) fn conditions_from_json(members: Map<String, Value>) -> Result<Vec<FieldCondition>, ApiProblem> {
    members.into_iter().map(|(field, value)| condition_from_json(&field, value)).collect()
}

/// The bounds of a range, named as Qdrant names them; or values that a field must not have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonCondition {
    gt: Option<Value>,
    gte: Option<Value>,
    lt: Option<Value>,
    lte: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    not: Option<Value>,
}

/// Reads a member that is present, even if it is null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn condition_from_json(field: &str, value: Value) -> Result<FieldCondition, ApiProblem> {
    if field.is_empty() {
        return Err(ApiProblem::new(Reason::BadFilter, "a filter names an empty field"));
    }
    if !value.is_object() {
        return Ok(FieldCondition {
            field: field.to_owned(),
            test: Requirement::OneOf(values(field, Literal::Json(value))?),
        });
    }
    let JsonCondition { gt, gte, lt, lte, not } = serde_json::from_value(value).map_err(|error| {
        let detail = format!("filter \"{field}\": {error}; expected {{\"gte\": …, \"lt\": …}} or {{\"not\": …}}");
        ApiProblem::new(Reason::BadFilter, detail)
    })?;
    let bounds = Bounds { gt, gte, lt, lte };
    match not {
        Some(value) if bounds.given().next().is_none() => Ok(FieldCondition {
            field: field.to_owned(),
            test: Requirement::NoneOf(values(field, Literal::Json(value))?),
        }),
        Some(_) => Err(refused(field, "not excludes the ends of a range; say one of them")),
        None => {
            let end = |end: Option<Value>| end.map(Literal::Json);
            let Bounds { gt, gte, lt, lte } = bounds;
            within(field, Bounds { gt: end(gt), gte: end(gte), lt: end(lt), lte: end(lte) })
        }
    }
}

/// Returns the value, or those of a list.
fn values(field: &str, value: Literal) -> Result<Vec<Literal>, ApiProblem> {
    let is_value = |value: &Value| !matches!(value, Value::Array(_) | Value::Object(_));
    match value {
        Literal::Json(Value::Array(values)) if !values.is_empty() && values.iter().all(is_value) => {
            Ok(values.into_iter().map(Literal::Json).collect())
        }
        Literal::Json(Value::Array(_) | Value::Object(_)) => Err(refused(
            field,
            "a text, a number, true, false, null, a list of them, {\"gte\": …, \"lt\": …} or {\"not\": …} is expected",
        )),
        value => Ok(vec![value]),
    }
}

fn within(field: &str, bounds: Bounds<Literal>) -> Result<FieldCondition, ApiProblem> {
    if bounds.given().next().is_none() {
        return Err(refused(field, "none of gt, gte, lt and lte is given"));
    }
    Ok(FieldCondition { field: field.trim_end().to_owned(), test: Requirement::Within(Box::new(bounds)) })
}

fn refused(field: &str, detail: &str) -> ApiProblem {
    ApiProblem::new(Reason::BadFilter, format!("filter \"{field}\": {detail}"))
}

/// Parses a value of a query string; see [`condition_from_text`].
fn plain(text: &str) -> Literal {
    match serde_json::from_str(text) {
        Ok(value @ (Value::String(_) | Value::Array(_))) => Literal::Json(value),
        _ => Literal::Plain(text.to_owned()),
    }
}

/// Writes a condition `field=value` for links, in the form that [`condition_from_text`] parses; `None` for values that no condition
/// can express.
pub(crate) fn equals_as_text(field: &str, value: &Value) -> Option<String> {
    // A field name that contains an operator would be parsed as another condition.
    if field.is_empty() || field.contains(['=', '<', '>']) || field.ends_with(['!', ' ']) {
        return None;
    }
    let is_only_text = |text: &str| serde_json::from_str::<Value>(text).is_err();
    let value = match value {
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if is_only_text(text) => text.clone(),
        Value::String(text) => Value::String(text.clone()).to_string(),
        Value::Null => return Some(format!("{field} is null")),
        Value::Array(_) | Value::Object(_) => return None,
    };
    Some(format!("{field}={value}"))
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use serde_json::json;

    use super::*;

    fn one_of(values: Vec<Literal>) -> FieldCondition {
        FieldCondition { field: "f".to_owned(), test: Requirement::OneOf(values) }
    }

    fn none_of(values: Vec<Literal>) -> FieldCondition {
        FieldCondition { field: "f".to_owned(), test: Requirement::NoneOf(values) }
    }

    fn text(text: &str) -> Literal {
        Literal::Plain(text.to_owned())
    }

    /// Returns the only condition of a JSON filter on the field `f`, as it is understood.
    fn of_json(value: Value) -> Result<FieldCondition, ApiProblem> {
        Ok(conditions_from_json(once(("f".to_owned(), value)).collect())?.remove(0))
    }

    #[test]
    fn a_condition_in_a_query_string_is_taken_apart() {
        for value in ["1813", "true", "Jane Austen", "007", "1.50", "null", "a=b", "a>b", ""] {
            assert_eq!(condition_from_text(&format!("f={value}")), Ok(one_of(vec![text(value)])), "{value}");
        }
        let json = Literal::Json;
        assert_eq!(condition_from_text("f=\"1813\""), Ok(one_of(vec![json(json!("1813"))])));
        assert_eq!(condition_from_text("f=[\"a\",1]"), Ok(one_of(vec![json(json!("a")), json(json!(1))])));
        assert_eq!(condition_from_text("f!=a"), Ok(none_of(vec![text("a")])));
        for condition in ["f is null", "f IS NULL"] {
            assert_eq!(condition_from_text(condition), Ok(one_of(vec![json(Value::Null)])));
        }
        assert_eq!(condition_from_text("f is not null"), Ok(none_of(vec![json(Value::Null)])));
        assert_eq!(condition_from_text("f=a is null"), Ok(one_of(vec![text("a is null")])));
        let open = Bounds::default();
        for (condition, bounds) in [
            ("f>=1800", Bounds { gte: Some(text("1800")), ..open.clone() }),
            ("f>x", Bounds { gt: Some(text("x")), ..open.clone() }),
            ("f<=1.5", Bounds { lte: Some(text("1.5")), ..open.clone() }),
            ("f<2024-01-31", Bounds { lt: Some(text("2024-01-31")), ..open }),
        ] {
            assert_eq!(
                condition_from_text(condition).unwrap().test,
                Requirement::Within(Box::new(bounds)),
                "{condition}"
            );
        }
    }

    #[test]
    fn values_can_be_listed_and_excluded() {
        let json = Literal::Json;
        assert_eq!(
            of_json(json!(["a", 1, null])),
            Ok(one_of(vec![json(json!("a")), json(json!(1)), json(json!(null))]))
        );
        assert_eq!(of_json(json!({"not": true})), Ok(none_of(vec![json(json!(true))])));
        assert_eq!(of_json(json!({"not": null})), Ok(none_of(vec![json(json!(null))])));
        let bounds = Bounds { gt: Some(json(json!(1))), lte: Some(json(json!(2.5))), ..Bounds::default() };
        assert_eq!(of_json(json!({"gt": 1, "lte": 2.5})).unwrap().test, Requirement::Within(Box::new(bounds)));
    }

    #[test]
    fn a_filter_that_is_no_condition_is_refused() {
        for text in ["", "year", "=1", "!=1", "f=[]", "f=[[1]]", ">=1", "<1", " is null", "is null"] {
            assert_eq!(condition_from_text(text).unwrap_err().reason(), Reason::BadFilter, "{text}");
        }
        for value in [
            json!([]),
            json!([[1]]),
            json!({}),
            json!({"not": {"gte": 1}}),
            json!({"not": 1, "gte": 1}),
            json!({"above": 1}),
        ] {
            assert_eq!(of_json(value.clone()).unwrap_err().reason(), Reason::BadFilter, "{value}");
        }
        let nameless = conditions_from_json(once((String::new(), json!(1))).collect());
        assert_eq!(nameless.unwrap_err().reason(), Reason::BadFilter);
        let many = vec![one_of(vec![text("1")]); MAX_CONDITIONS + 1];
        assert_eq!(checked(many).unwrap_err().reason(), Reason::BadFilter);
    }

    #[test]
    fn a_filter_link_asks_for_exactly_the_value_it_was_made_from() {
        for value in [json!("Dune"), json!("[1]"), json!("1813"), json!("true"), json!("\"quoted\""), json!("")] {
            let text = equals_as_text("f", &value).unwrap();
            let read = condition_from_text(&text).unwrap();
            let Requirement::OneOf(values) = read.test else { panic!("{text}") };
            let read = match &values[0] {
                Literal::Plain(text) => text.clone().into(),
                Literal::Json(value) => value.clone(),
            };
            assert_eq!(read, value, "{text}");
        }
        assert_eq!(equals_as_text("f", &json!(1.5)).unwrap(), "f=1.5");
        assert_eq!(equals_as_text("f", &json!(null)).unwrap(), "f is null");
        for (field, value) in
            [("f", json!([1])), ("a=b", json!(1)), ("a>", json!(1)), ("a<b", json!(1)), ("a!", json!(1))]
        {
            assert_eq!(equals_as_text(field, &value), None);
        }
    }
}
