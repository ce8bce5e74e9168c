//! Conditions as people and programs write them: in a query string, on the command line, in JSON.

use serde::Deserialize;
use serde_json::{Map, Value};
use walvec_sink::{Bounds, Condition, Datetime, Filter};

use super::problem::{Problem, Reason};

/// Most conditions of one filter.
const MAX_CONDITIONS: usize = 32;

/// All that hits must match.
pub(crate) fn checked(conditions: Vec<Condition>) -> Result<Filter, Problem> {
    let count: usize = conditions.iter().map(size).sum();
    if count > MAX_CONDITIONS {
        let detail = format!("the filter has {count} conditions; at most {MAX_CONDITIONS} are read");
        return Err(Problem::new(Reason::BadFilter, detail));
    }
    Ok(Filter(conditions))
}

/// How many comparisons a condition takes.
fn size(condition: &Condition) -> usize {
    match condition {
        Condition::Equals { .. } | Condition::Range { .. } | Condition::DatetimeRange { .. } => 1,
        Condition::AnyOf(conditions) => conditions.iter().map(size).sum(),
        Condition::Not(condition) => size(condition),
    }
}

/// `field=value`, `field!=value`, or `field>=end` with `>`, `>=`, `<` or `<=`, where the end is a number, a date, or a date and a
/// time.
///
/// A query string has no types, a payload has: a value that reads as a whole number, `true` or `false` is taken as
/// such, everything else as text. Text that looks like a number is written in double quotes: `isbn="123"`. Several values, of
/// which one is enough, are a JSON list: `author=["Jane Austen","H.G. Wells"]`.
pub(crate) fn condition_from_text(text: &str) -> Result<Condition, Problem> {
    let operator = text.find(['=', '<', '>']).filter(|at| !text[..*at].trim_end_matches('!').is_empty());
    let Some((field, rest)) = operator.map(|at| text.split_at(at)) else {
        let detail = format!(
            "\"{text}\" is no condition; expected field=value, field!=value, field=[\"one\",\"other\"], or field>=end with >, >=, \
             < or <="
        );
        return Err(Problem::new(Reason::BadFilter, detail));
    };
    let open = Bounds::default();
    if let Some(end) = rest.strip_prefix(">=") {
        range(field, Bounds { gte: Some(bound(end)), ..open })
    } else if let Some(end) = rest.strip_prefix("<=") {
        range(field, Bounds { lte: Some(bound(end)), ..open })
    } else if let Some(end) = rest.strip_prefix('>') {
        range(field, Bounds { gt: Some(bound(end)), ..open })
    } else if let Some(end) = rest.strip_prefix('<') {
        range(field, Bounds { lt: Some(bound(end)), ..open })
    } else {
        let value = typed(rest.strip_prefix('=').unwrap_or(rest));
        match field.strip_suffix('!') {
            Some(field) => Ok(Condition::Not(Box::new(has(field, value)?))),
            None => has(field, value),
        }
    }
}

/// The members of a JSON object, each a field and what it has to be: a value, a list of values of which one is enough, the ends
/// of a range, or what it must not be.
pub(super) fn conditions_from_json(members: Map<String, Value>) -> Result<Vec<Condition>, Problem> {
    members.into_iter().map(|(field, value)| condition_from_json(&field, value)).collect()
}

/// The ends of a range, named as Qdrant names them; or values that a field must not have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonCondition {
    gt: Option<Value>,
    gte: Option<Value>,
    lt: Option<Value>,
    lte: Option<Value>,
    not: Option<Value>,
}

fn condition_from_json(field: &str, value: Value) -> Result<Condition, Problem> {
    if field.is_empty() {
        return Err(Problem::new(Reason::BadFilter, "a filter names an empty field"));
    }
    if !value.is_object() {
        return has(field, value);
    }
    let JsonCondition { gt, gte, lt, lte, not } = serde_json::from_value(value).map_err(|error| {
        let detail = format!("filter \"{field}\": {error}; expected {{\"gte\": …, \"lt\": …}} or {{\"not\": …}}");
        Problem::new(Reason::BadFilter, detail)
    })?;
    let bounds = Bounds { gt, gte, lt, lte };
    match not {
        Some(value) if bounds.given().next().is_none() => Ok(Condition::Not(Box::new(has(field, value)?))),
        Some(_) => {
            let detail = format!("filter \"{field}\": not excludes the ends of a range; say one of them");
            Err(Problem::new(Reason::BadFilter, detail))
        }
        None => range(field, bounds),
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
        "filter \"{field}\": a text, a whole number, true, false, a list of them, {{\"gte\": …, \"lt\": …}} or {{\"not\": …}} is \
         expected"
    );
    Err(Problem::new(Reason::BadFilter, detail))
}

/// A range of numbers if its ends are numbers, of moments if they are texts.
fn range(field: &str, bounds: Bounds<Value>) -> Result<Condition, Problem> {
    let refused = |detail: String| Problem::new(Reason::BadFilter, format!("filter \"{field}\": {detail}"));
    if bounds.given().next().is_none() {
        return Err(refused("none of gt, gte, lt and lte is given".to_owned()));
    }
    let field = field.to_owned();
    if bounds.given().all(Value::is_number) {
        let number = |end: Value| end.as_f64().ok_or_else(|| refused(format!("{end} is too large")));
        return Ok(Condition::Range { bounds: bounds.try_map(number)?, field });
    }
    let moment = |end: Value| match end.as_str().map(str::parse::<Datetime>) {
        Some(Ok(moment)) => Ok(moment),
        Some(Err(reason)) => Err(refused(format!("{end} is not a number, and {reason}"))),
        None => Err(refused(format!("{end} is no date; the ends of a range are all numbers or all dates"))),
    };
    Ok(Condition::DatetimeRange { bounds: bounds.try_map(moment)?, field })
}

/// The end of a range in a query string: a number, or a text.
fn bound(text: &str) -> Value {
    let number = text.parse().ok().and_then(serde_json::Number::from_f64);
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
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

/// A condition `field=value` as [`condition_from_text`] reads it back, for links; `None` for values that no condition can ask
/// for.
pub(crate) fn equals_as_text(field: &str, value: &Value) -> Option<String> {
    // A field name with an operator in it would be read as another condition.
    if field.is_empty() || field.contains(['=', '<', '>']) || field.ends_with('!') {
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
    use std::iter::once;

    use serde_json::json;

    use super::*;

    fn equal(field: &str, value: Value) -> Condition {
        Condition::Equals { field: field.to_owned(), value }
    }

    fn numbers(bounds: Bounds<f64>) -> Condition {
        Condition::Range { field: "f".to_owned(), bounds }
    }

    fn moments(bounds: Bounds<&str>) -> Condition {
        Condition::DatetimeRange { field: "f".to_owned(), bounds: bounds.try_map(str::parse).unwrap() }
    }

    /// How the only condition of a JSON filter on the field `f` is understood.
    fn of_json(value: Value) -> Result<Condition, Problem> {
        Ok(conditions_from_json(once(("f".to_owned(), value)).collect())?.remove(0))
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
            ("f=a>b", json!("a>b")),
            ("f=", json!("")),
        ] {
            assert_eq!(condition_from_text(text), Ok(equal("f", value)), "{text}");
        }
    }

    #[test]
    fn the_ends_of_a_range_are_numbers_or_moments() {
        let open = Bounds::default();
        for (text, bounds) in [
            ("f>=1800", Bounds { gte: Some(1800.0), ..open }),
            ("f>1800", Bounds { gt: Some(1800.0), ..open }),
            ("f<=1.5", Bounds { lte: Some(1.5), ..open }),
            ("f<-3e2", Bounds { lt: Some(-300.0), ..open }),
        ] {
            assert_eq!(condition_from_text(text), Ok(numbers(bounds)), "{text}");
        }
        let open = Bounds::default();
        for (text, bounds) in [
            ("f>=2024-01-31", Bounds { gte: Some("2024-01-31"), ..open }),
            ("f<2024-02-01T08:00:00+02:00", Bounds { lt: Some("2024-02-01T06:00:00Z"), ..open }),
            ("f>2024-02-01 08:00", Bounds { gt: Some("2024-02-01T08:00:00Z"), ..open }),
        ] {
            assert_eq!(condition_from_text(text), Ok(moments(bounds)), "{text}");
        }
        let both = of_json(json!({"gt": 1, "lte": 2.5}));
        assert_eq!(both, Ok(numbers(Bounds { gt: Some(1.0), lte: Some(2.5), ..Bounds::default() })));
        let both = of_json(json!({"gte": "2024-01-31", "lt": "2024-02-01"}));
        assert_eq!(both, Ok(moments(Bounds { gte: Some("2024-01-31"), lt: Some("2024-02-01"), ..open })));
    }

    #[test]
    fn a_filter_that_cannot_be_understood_is_refused() {
        for text in [
            "",
            "year",
            "=1",
            "!=1",
            "f=[]",
            "f=[1.5]",
            ">=1",
            "<1",
            "year>=",
            "year>=x",
            "year>=nan",
            "year<=inf",
            "year>",
            "day>=2024-02-30",
        ] {
            assert_eq!(condition_from_text(text).unwrap_err().reason(), Reason::BadFilter, "{text}");
        }
        for value in [
            json!(null),
            json!(1.5),
            json!(u64::MAX),
            json!([]),
            json!([1, null]),
            json!({}),
            json!({"not": {"gte": 1}}),
            json!({"not": 1, "gte": 1}),
            json!({"above": 1}),
            json!({"gte": true}),
            json!({"gte": "yesterday"}),
            json!({"gte": "2024-01-31", "lt": 5}),
            json!({"gte": 5, "lt": "2024-01-31"}),
        ] {
            assert_eq!(of_json(value.clone()).unwrap_err().reason(), Reason::BadFilter, "{value}");
        }
        let nameless = conditions_from_json(once((String::new(), json!(1))).collect());
        assert_eq!(nameless.unwrap_err().reason(), Reason::BadFilter);
        let many = vec![equal("f", json!(1)); MAX_CONDITIONS + 1];
        assert_eq!(checked(many).unwrap_err().reason(), Reason::BadFilter);
    }

    #[test]
    fn values_can_be_listed_and_excluded() {
        let any = || Condition::AnyOf(vec![equal("f", json!("a")), equal("f", json!(1))]);
        let not = |condition| Condition::Not(Box::new(condition));
        assert_eq!(condition_from_text("f=[\"a\",1]"), Ok(any()));
        assert_eq!(condition_from_text("f!=[\"a\",1]"), Ok(not(any())));
        assert_eq!(condition_from_text("f!=a"), Ok(not(equal("f", json!("a")))));
        assert_eq!(of_json(json!(["a", 1])), Ok(any()));
        assert_eq!(of_json(json!({"not": true})), Ok(not(equal("f", json!(true)))));
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
        for (field, value) in [
            ("f", json!(1.5)),
            ("f", json!(null)),
            ("f", json!([1])),
            ("a=b", json!(1)),
            ("a>", json!(1)),
            ("a<b", json!(1)),
            ("a!", json!(1)),
        ] {
            assert_eq!(equals_as_text(field, &value), None);
        }
    }
}
