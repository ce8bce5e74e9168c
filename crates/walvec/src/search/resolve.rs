//! The meaning of a condition for the field that it names: values are converted to the field's type, and conditions that can never
//! match are refused.

use serde_json::Value;
use uuid::Uuid;
use walvec_sink::{Bounds, Condition, Datetime, FieldPath, Filter};
use walvec_transform::{Compared, Field, nearest};

use super::filter::{FieldCondition, Literal, Requirement};
use crate::api::problem::{ApiProblem, Reason};

/// The payload fields of a collection; `None` while they are not known, because no row of the table was read yet.
pub(crate) type KnownFields = Option<Vec<Field>>;

/// Builds the filter for a collection with these fields.
pub(crate) fn filter(wanted: &[FieldCondition], known: &KnownFields) -> Result<Filter, ApiProblem> {
    wanted.iter().map(|wanted| condition(wanted, known)).collect::<Result<_, _>>().map(Filter)
}

fn condition(wanted: &FieldCondition, known: &KnownFields) -> Result<Condition, ApiProblem> {
    let refused = |reason: String| ApiProblem::new(Reason::BadFilter, format!("filter \"{}\": {reason}", wanted.field));
    let (field, compared) = find(&wanted.field, known).map_err(refused)?;
    let target = TypedField { field, compared };
    let any = |values: &[Literal]| match values {
        [value] => target.equals(value),
        values => values.iter().map(|value| target.equals(value)).collect::<Result<_, _>>().map(Condition::AnyOf),
    };
    match &wanted.test {
        Requirement::OneOf(values) => any(values),
        Requirement::NoneOf(values) => any(values).map(|condition| Condition::Not(Box::new(condition))),
        Requirement::Within(bounds) => target.within(bounds),
    }
    .map_err(refused)
}

/// Returns the path of a field and the type that it is compared as; or why the field does not exist.
pub(crate) fn find(name: &str, known: &KnownFields) -> Result<(FieldPath, Compared), String> {
    let path = FieldPath::parse(name).filter(|path| !path.steps.is_empty());
    let Some(fields) = known else { return Ok((path.unwrap_or_else(|| name.into()), Compared::Any)) };
    if let Some(field) = fields.iter().find(|field| field.name == name) {
        return Ok((name.into(), field.compared));
    }
    let first = path.as_ref().map_or(name, |path| &path.name).to_owned();
    let Some((path, field)) = path.zip(fields.iter().find(|field| field.name == first)) else {
        let nearest = nearest(&first, fields.iter().map(|field| field.name.as_str()));
        let suggestion = nearest.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
        return Err(format!("there is no such field{suggestion}; there are: {}", list(fields)));
    };
    match field.compared {
        Compared::Json | Compared::Any => Ok((path, Compared::Any)),
        other => Err(format!("\"{}\" holds no JSON, so it has no members: it is {other}", field.name)),
    }
}

/// Lists the fields with the types that they are compared as.
fn list(fields: &[Field]) -> String {
    let shown: Vec<String> = fields.iter().map(|field| format!("{} ({})", field.name, field.compared)).collect();
    shown.join(", ")
}

struct TypedField {
    field: FieldPath,
    compared: Compared,
}

impl TypedField {
    fn equals(&self, given: &Literal) -> Result<Condition, String> {
        if *given == Literal::Json(Value::Null) {
            return Ok(Condition::Null { field: self.field.clone() });
        }
        let text = text_of(given);
        let no = |what: &str| format!("{} is no {what}, which the field holds", shown(given));
        match self.compared {
            Compared::Boolean => boolean(&text).map(|flag| self.is(flag)).ok_or_else(|| no("true or false")),
            Compared::Whole => whole(&text).map(|number| self.is(number)).ok_or_else(|| no("whole number")),
            Compared::Number => self.number(&text).ok_or_else(|| no("number")),
            Compared::Digits(scale) => {
                digits(&text, scale).map(|text| self.is(text)).map_err(|reason| format!("{} {reason}", shown(given)))
            }
            Compared::Text => Ok(self.is(text)),
            Compared::Uuid => uuid(&text).map(|uuid| self.is(uuid.to_string())).ok_or_else(|| no("UUID")),
            Compared::Moment => self.moment(&text).ok_or_else(|| no("date or time, such as 2024-01-31")),
            Compared::Json | Compared::Any => Ok(self.anything(given, &text)),
        }
    }

    fn is(&self, value: impl Into<Value>) -> Condition {
        Condition::Equals { field: self.field.clone(), value: value.into() }
    }

    /// Compares numbers. Fractions are compared as a range of one number; a text that is not a number is compared with PostgreSQL's
    /// word for it, as it is stored.
    fn number(&self, text: &str) -> Option<Condition> {
        let word = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| word.eq_ignore_ascii_case(text.trim()));
        if let Some(word) = word {
            return Some(self.is(word));
        }
        finite(text).map(|number| self.exactly(number))
    }

    fn exactly(&self, number: f64) -> Condition {
        let bounds = Bounds { gte: Some(number), lte: Some(number), ..Bounds::default() };
        Condition::Range { field: self.field.clone(), bounds }
    }

    /// Compares moments. A moment outside of the engine's calendar is compared as the text that PostgreSQL writes.
    fn moment(&self, text: &str) -> Option<Condition> {
        let word = ["infinity", "-infinity"].into_iter().find(|word| word.eq_ignore_ascii_case(text.trim()));
        if let Some(word) = word {
            return Some(self.is(word));
        }
        if let Ok(moment) = text.trim().parse::<Datetime>() {
            let bounds = Bounds { gte: Some(moment), lte: Some(moment), ..Bounds::default() };
            return Some(Condition::DatetimeRange { field: self.field.clone(), bounds });
        }
        let year = text.split('-').next().unwrap_or_default();
        let is_far = text.ends_with(" BC") || year.len() > 4;
        let is_date = year.chars().all(|c| c.is_ascii_digit()) && text.matches('-').count() >= 2;
        (is_far && is_date && !year.is_empty()).then(|| self.is(text))
    }

    /// Compares a value of any type. A JSON value has its own type. In a query string `1898` may be a number or a text: both match.
    fn anything(&self, given: &Literal, text: &str) -> Condition {
        let number = |text: &str| -> Vec<Condition> {
            let whole = text.parse::<i64>().ok().map(|number| self.is(number));
            whole.into_iter().chain(finite(text).map(|number| self.exactly(number))).collect()
        };
        let mut any = match given {
            Literal::Json(Value::Bool(flag)) => vec![self.is(*flag)],
            Literal::Json(Value::Number(_)) => number(text),
            Literal::Json(_) => vec![self.is(text)],
            Literal::Plain(_) => {
                let flag = text.parse::<bool>().ok().map(|flag| self.is(flag));
                flag.into_iter().chain(number(text)).chain([self.is(text)]).collect()
            }
        };
        if any.len() == 1 { any.remove(0) } else { Condition::AnyOf(any) }
    }

    fn within(&self, bounds: &Bounds<Literal>) -> Result<Condition, String> {
        let field = self.field.clone();
        if !self.compared.has_order() {
            let remedy = match self.compared {
                Compared::Digits(_) => {
                    format!("; indexed as a number it would be one: index: {{ {}: float }}", self.field.name)
                }
                _ => String::new(),
            };
            return Err(format!("the field is {}, which has no order that a range could go by{remedy}", self.compared));
        }
        let numbers = bounds.clone().try_map(|end| finite(&text_of(&end)).ok_or(end));
        let moments = || {
            bounds.clone().try_map(|end| match &end {
                Literal::Json(Value::Number(_)) => Err(end),
                end => text_of(end).trim().parse::<Datetime>().map_err(|_| end.clone()),
            })
        };
        let is_text = bounds.given().any(|end| matches!(end, Literal::Json(Value::String(_))));
        match self.compared {
            Compared::Whole | Compared::Number => match numbers {
                Ok(bounds) => Ok(Condition::Range { field, bounds }),
                Err(end) => Err(format!("{} is no number, which the field holds", shown(&end))),
            },
            Compared::Moment => match moments() {
                Ok(bounds) => Ok(Condition::DatetimeRange { field, bounds }),
                Err(end) => Err(format!("{} is no date or time, such as 2024-01-31T18:00:00Z", shown(&end))),
            },
            _ => match (numbers, moments()) {
                (Ok(bounds), _) if !is_text => Ok(Condition::Range { field, bounds }),
                (_, Ok(bounds)) => Ok(Condition::DatetimeRange { field, bounds }),
                (_, Err(end)) => Err(format!(
                    "{}: the ends of a range are all numbers, or all dates such as 2024-01-31",
                    shown(&end)
                )),
            },
        }
    }
}

/// Returns the value as it is written, without the quotes of JSON.
pub(crate) fn text_of(given: &Literal) -> String {
    match given {
        Literal::Plain(text) | Literal::Json(Value::String(text)) => text.clone(),
        Literal::Json(value) => value.to_string(),
    }
}

fn shown(given: &Literal) -> String {
    format!("\"{}\"", text_of(given))
}

/// Parses a UUID as PostgreSQL does: in any case, with or without hyphens, with or without braces.
fn uuid(text: &str) -> Option<Uuid> {
    let text = text.trim();
    let inside = text.strip_prefix('{').map_or(Some(text), |rest| rest.strip_suffix('}'))?;
    let digits = inside.replace('-', "");
    (digits.len() == 32).then(|| Uuid::try_parse(&digits).ok())?
}

/// Parses a boolean as PostgreSQL does.
fn boolean(text: &str) -> Option<bool> {
    let text = text.trim().to_ascii_lowercase();
    match text.as_str() {
        "1" | "on" => Some(true),
        "0" | "of" | "off" => Some(false),
        "" => None,
        text if "true".starts_with(text) || "yes".starts_with(text) => Some(true),
        text if "false".starts_with(text) || "no".starts_with(text) => Some(false),
        _ => None,
    }
}

fn whole(text: &str) -> Option<i64> {
    let text = text.trim();
    let whole = text.parse().ok();
    #[expect(clippy::cast_possible_truncation, reason = "a whole number that an i64 holds")]
    let of_float = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
    whole.or_else(|| of_float(finite(text)?))
}

fn finite(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

/// Returns a number as PostgreSQL prints it in a column with this scale; as it is written if no scale is declared.
fn digits(text: &str, scale: Option<i16>) -> Result<String, String> {
    let text = text.trim();
    let (sign, unsigned) = text.strip_prefix('-').map_or(("", text.trim_start_matches('+')), |rest| ("-", rest));
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let is_number = (whole.to_owned() + fraction).bytes().all(|byte| byte.is_ascii_digit()) && !unsigned.is_empty();
    if ["nan", "infinity", "-infinity"].contains(&text.to_ascii_lowercase().as_str()) {
        return Ok(text.to_owned());
    }
    if !is_number || unsigned == "." {
        return Err("is no number, which the field holds".to_owned());
    }
    let Some(scale) = scale else { return Ok(text.to_owned()) };
    let (scale, fraction) = (usize::try_from(scale).unwrap_or(0), fraction.trim_end_matches('0'));
    if fraction.len() > scale {
        return Err(format!("has more than {scale} digits behind the point, which the field never has"));
    }
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let is_zero = whole == "0" && fraction.is_empty();
    let sign = if is_zero { "" } else { sign };
    Ok(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction:0<scale$}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::Type;

    use super::*;
    use crate::search::filter::condition_from_text;

    fn known() -> KnownFields {
        let field = |(name, compared): (&str, Compared)| Field { name: name.to_owned(), compared, ty: Type::Unknown };
        Some(
            [
                ("in_stock", Compared::Boolean),
                ("year", Compared::Whole),
                ("weight", Compared::Number),
                ("price", Compared::Digits(Some(2))),
                ("ledger", Compared::Digits(None)),
                ("isbn", Compared::Text),
                ("owner", Compared::Uuid),
                ("sold_at", Compared::Moment),
                ("meta", Compared::Json),
                ("computed", Compared::Any),
                ("a.b", Compared::Text),
            ]
            .map(field)
            .to_vec(),
        )
    }

    fn read(text: &str) -> Result<Condition, ApiProblem> {
        Ok(filter(&[condition_from_text(text)?], &known())?.0.remove(0))
    }

    fn equals(field: &str, value: Value) -> Condition {
        Condition::Equals { field: FieldPath::parse(field).unwrap(), value }
    }

    #[test]
    fn a_value_is_read_as_what_the_field_holds() {
        for (text, field, value) in [
            ("in_stock=yes", "in_stock", json!(true)),
            ("in_stock=F", "in_stock", json!(false)),
            ("in_stock=0", "in_stock", json!(false)),
            ("year=1898", "year", json!(1898)),
            ("year=1898.0", "year", json!(1898)),
            ("weight=nan", "weight", json!("NaN")),
            ("price=12.5", "price", json!("12.50")),
            ("price=-0.50", "price", json!("-0.50")),
            ("price=007", "price", json!("7.00")),
            ("price=-0", "price", json!("0.00")),
            ("ledger=12.50", "ledger", json!("12.50")),
            ("isbn=9780141439518", "isbn", json!("9780141439518")),
            ("isbn=true", "isbn", json!("true")),
            ("owner=A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "owner", json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
            ("owner={a0eebc999c0b4ef8bb6d6bb9bd380a11}", "owner", json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
            ("sold_at=Infinity", "sold_at", json!("infinity")),
            ("sold_at=0044-03-15 BC", "sold_at", json!("0044-03-15 BC")),
            ("meta.color=red", "meta.color", json!("red")),
            ("meta.items[].name=\"7\"", "meta.items[].name", json!("7")),
            ("computed=red", "computed", json!("red")),
        ] {
            assert_eq!(read(text), Ok(equals(field, value)), "{text}");
        }
        assert_eq!(read("a.b=x"), Ok(Condition::Equals { field: "a.b".into(), value: json!("x") }));
        assert_eq!(read("isbn is null"), Ok(Condition::Null { field: "isbn".into() }));
        assert!(matches!(read("weight=12.5"), Ok(Condition::Range { .. })));
        assert!(matches!(read("sold_at=2024-01-31"), Ok(Condition::DatetimeRange { .. })));
        assert!(matches!(read("year!=[1,\"2\"]"), Ok(Condition::Not(_))));
    }

    #[test]
    fn what_is_not_known_to_be_a_number_or_a_text_may_be_either() {
        let Ok(Condition::AnyOf(any)) = read("meta.size=42") else { panic!("not any of") };
        assert!(any.contains(&equals("meta.size", json!(42))) && any.contains(&equals("meta.size", json!("42"))));
        let typed = FieldCondition {
            field: "meta.size".to_owned(),
            test: Requirement::OneOf(vec![Literal::Json(json!("42"))]),
        };
        assert_eq!(filter(&[typed], &known()).unwrap().0, [equals("meta.size", json!("42"))]);
    }

    #[test]
    fn what_can_never_match_is_refused_with_the_reason() {
        for (text, part) in [
            ("colour=red", "there is no such field; there are: in_stock (true or false), year (whole number)"),
            ("yaer=1", "did you mean \"year\"?"),
            ("isbn.x=1", "\"isbn\" holds no JSON, so it has no members: it is text"),
            ("in_stock=maybe", "\"maybe\" is no true or false"),
            ("year=1898.5", "\"1898.5\" is no whole number"),
            ("weight=heavy", "\"heavy\" is no number"),
            ("price=12.505", "has more than 2 digits behind the point"),
            ("price=cheap", "\"cheap\" is no number"),
            ("price<50", "index: { price: float }"),
            ("owner=me", "\"me\" is no UUID"),
            ("sold_at=yesterday", "is no date or time"),
            ("isbn>1", "the field is text, which has no order"),
            ("in_stock>0", "has no order"),
            ("year>=x", "\"x\" is no number"),
            ("year>=nan", "\"nan\" is no number"),
            ("sold_at>=2024-02-30", "is no date"),
            ("sold_at>5", "is no date"),
            ("meta.a>x", "all numbers, or all dates"),
        ] {
            let problem = read(text).unwrap_err();
            assert_eq!(problem.reason(), Reason::BadFilter, "{text}");
            assert!(problem.detail().contains(part), "{text}: {}", problem.detail());
        }
    }

    #[test]
    fn while_the_fields_are_not_known_nothing_is_refused_for_them() {
        let read = |text: &str| filter(&[condition_from_text(text).unwrap()], &None).map(|filter| filter.0);
        assert_eq!(read("colour=red"), Ok(vec![equals("colour", json!("red"))]));
        assert_eq!(read("meta.color=red"), Ok(vec![equals("meta.color", json!("red"))]));
        assert!(matches!(read("year>=1800").unwrap()[0], Condition::Range { .. }));
        assert!(matches!(read("sold_at<2024-02-01").unwrap()[0], Condition::DatetimeRange { .. }));
    }
}
