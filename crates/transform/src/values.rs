//! Converts row values into and out of the template engine, and defines what NULL means there.
//!
//! The engine's own `none` prints as "None" wherever a value is joined to a text, which must never end up in an
//! embedding. NULL is therefore an object of our own that prints as nothing; the few tests and filters that ask whether
//! a value is absent are replaced by ones that recognise it.
//!
//! A numeric is an object too. It prints all its digits, and operators receive it as a number ([`operands`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, Value as Rendered, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use walvec_model::operands;
use walvec_model::{Type, Value};

use crate::absent::WatchedValue;

/// The deepest nesting of a computed value. PostgreSQL limits json by its stack, but templates can build cycles.
const MAX_DEPTH: usize = 128;

/// SQL's NULL inside a template.
#[derive(Debug)]
struct SqlNull;

impl Object for SqlNull {
    // An empty map is false, has length 0 and nothing to loop over. A sequence would turn `NULL * 2` into an empty list.
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, _key: &Rendered) -> Option<Rendered> {
        Some(Rendered::from_dyn_object(Arc::clone(self)))
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Rendered]) -> Result<Rendered, Error> {
        Err(Error::new(ErrorKind::UnknownMethod, "values have no methods; use a filter, for example name|upper"))
    }

    fn render(self: &Arc<Self>, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

/// A numeric inside a template: a number that prints with all its digits.
#[derive(Debug)]
struct Numeric {
    digits: String,
    number: f64,
}

impl Object for Numeric {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.number != 0.0
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.digits)
    }
}

/// A value that is greater than any other, so that comparisons of NULL by size do not hold.
#[derive(Debug)]
struct Greatest;

impl Object for Greatest {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// A row in which every column exists and is NULL.
#[derive(Debug)]
struct Nulls;

impl Object for Nulls {
    fn get_value(self: &Arc<Self>, key: &Rendered) -> Option<Rendered> {
        // The engine looks here first. Its own functions must stay visible.
        let is_function = matches!(key.as_str(), Some("range" | "dict" | "namespace"));
        (!is_function).then(null)
    }
}

/// A JSON object inside a template.
#[derive(Debug)]
struct JsonObject {
    map: serde_json::Map<String, Value>,
    watch: Option<WatchedValue>,
    /// The column types, if the object is a row of a table.
    types: Option<Arc<Types>>,
}

/// The types of a table's columns, by their names.
pub(crate) type Types = BTreeMap<String, Type>;

impl Object for JsonObject {
    fn get_value(self: &Arc<Self>, key: &Rendered) -> Option<Rendered> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Rendered> {
        let Some(value) = self.map.get(key) else {
            if let Some(watch) = &self.watch {
                watch.has_no_key(key);
            }
            return Some(null());
        };
        let watch = self.watch.as_ref().map(|watch| watch.key(key));
        if let (Value::Null, Some(watch)) = (value, &watch) {
            watch.is_null();
        }
        let ty = self.types.as_ref().and_then(|types| types.get(key));
        Some(from_typed(value, ty.unwrap_or(&Type::Unknown), watch))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.map.keys().map(|key| Rendered::from(key.as_str())).collect())
    }
}

/// Returns NULL.
pub(crate) fn null() -> Rendered {
    Rendered::from_object(SqlNull)
}

/// Returns a context for trial runs, in which every column is NULL.
pub(crate) fn row_of_nulls() -> Rendered {
    Rendered::from_object(Nulls)
}

/// Returns whether a template's value is NULL, or was never given.
pub(crate) fn is_absent(value: &Rendered) -> bool {
    value.is_undefined() || value.is_none() || value.downcast_object_ref::<SqlNull>().is_some()
}

/// Converts a row's value to what templates see. `watch` records the absent values in it that a template looks at.
pub(crate) fn from_json(value: &Value, watch: Option<WatchedValue>) -> Rendered {
    match value {
        Value::Null => null(),
        Value::Bool(flag) => Rendered::from(*flag),
        Value::String(text) => Rendered::from(text.as_str()),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) => Rendered::from(signed),
            (None, Some(unsigned)) => Rendered::from(unsigned),
            (None, None) => number.as_f64().map_or_else(null, Rendered::from),
        },
        Value::Array(items) => {
            let element = |(index, item)| from_json(item, watch.as_ref().map(|watch| watch.element(index)));
            Rendered::from(items.iter().enumerate().map(element).collect::<Vec<_>>())
        }
        Value::Object(map) => Rendered::from_object(JsonObject { map: map.clone(), watch, types: None }),
    }
}

/// Converts a column's value to what templates see.
pub(crate) fn from_typed(value: &Value, ty: &Type, watch: Option<WatchedValue>) -> Rendered {
    match (ty, value) {
        (Type::Numeric { .. }, Value::String(digits)) => match digits.parse() {
            Ok(number) => Rendered::from_object(Numeric { digits: digits.clone(), number }),
            Err(_) => from_json(value, watch),
        },
        (Type::Array(element), Value::Array(items)) if ty.is_numeric() => {
            let element = |(index, item): (usize, &Value)| {
                // PostgreSQL's arrays have several dimensions but one type.
                let ty = if matches!(item, Value::Array(_)) { ty } else { element };
                from_typed(item, ty, watch.as_ref().map(|watch| watch.element(index)))
            };
            Rendered::from(items.iter().enumerate().map(element).collect::<Vec<_>>())
        }
        _ => from_json(value, watch),
    }
}

/// Converts rows of another table, an object or a list of objects, to what templates see.
pub(crate) fn from_rows(value: &Value, types: &Arc<Types>, watch: Option<WatchedValue>) -> Rendered {
    match value {
        Value::Object(map) => {
            Rendered::from_object(JsonObject { map: map.clone(), watch, types: Some(Arc::clone(types)) })
        }
        Value::Array(rows) => {
            let row = |(index, row)| from_rows(row, types, watch.as_ref().map(|watch| watch.element(index)));
            Rendered::from(rows.iter().enumerate().map(row).collect::<Vec<_>>())
        }
        other => from_json(other, watch),
    }
}

/// Converts a template's value to JSON. Whole numbers beyond 64 bits become text, as everywhere else where JSON would round.
pub(crate) fn to_json(value: &Rendered) -> Result<Value, Error> {
    to_json_within(value, MAX_DEPTH)
}

fn to_json_within(value: &Rendered, depth: usize) -> Result<Value, Error> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Error::new(ErrorKind::BadSerialization, "the value is nested too deeply"));
    };
    if is_absent(value) {
        return Ok(Value::Null);
    }
    if let Some(numeric) = value.downcast_object_ref::<Numeric>() {
        return Ok(Value::String(numeric.digits.clone()));
    }
    Ok(match value.kind() {
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number => number_to_json(value)?,
        ValueKind::String => Value::String(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| to_json_within(&item, depth));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        ValueKind::Map => {
            let entry = |key: Rendered| Ok((key.to_string(), to_json_within(&value.get_item(&key)?, depth)?));
            Value::Object(value.try_iter()?.map(entry).collect::<Result<_, Error>>()?)
        }
        other => return Err(Error::new(ErrorKind::BadSerialization, format!("{other} is not data"))),
    })
}

fn number_to_json(value: &Rendered) -> Result<Value, Error> {
    if value.is_integer() {
        let number = value.as_i64().map(Value::from).or_else(|| u64::try_from(value.clone()).ok().map(Value::from));
        return Ok(number.unwrap_or_else(|| Value::String(value.to_string())));
    }
    let float = f64::try_from(value.clone())?;
    let number = serde_json::Number::from_f64(float);
    number.map(Value::Number).ok_or_else(|| Error::new(ErrorKind::BadSerialization, format!("{float} is not a number")))
}

/// Prints a value as it reads in a text.
fn print(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Rendered) -> Result<(), Error> {
    if is_absent(value) {
        return Ok(());
    }
    match value.kind() {
        ValueKind::String => out.write_str(value.as_str().unwrap_or_default())?,
        ValueKind::Bool => out.write_str(if value.is_true() { "true" } else { "false" })?,
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => out.write_str(&to_json(value)?.to_string())?,
        _ => write!(out, "{value}")?,
    }
    Ok(())
}

/// Installs in `env` the meaning of NULL and the way values print.
pub(crate) fn install(env: &mut Environment<'_>) {
    env.set_formatter(print);
    env.add_test("none", |value: Rendered| is_absent(&value));
    env.add_test("defined", |value: Rendered| !is_absent(&value));
    env.add_test("undefined", |value: Rendered| is_absent(&value));
    env.add_filter("default", or_default);
    env.add_filter("d", or_default);
    env.add_filter(operands::NUMBER, number);
    env.add_filter(
        operands::LEAST,
        |value: Rendered| if is_absent(&value) { Rendered::from(()) } else { number(value) },
    );
    env.add_filter(operands::GREATEST, |value: Rendered| match is_absent(&value) {
        true => Rendered::from_object(Greatest),
        false => number(value),
    });
    env.add_filter("tojson", |value: Rendered| to_json(&value).map(|json| json.to_string()));
}

/// Converts a numeric, alone or in a list, to a floating-point number. Returns any other value as it is.
fn number(value: Rendered) -> Rendered {
    if let Some(numeric) = value.downcast_object_ref::<Numeric>() {
        return Rendered::from(numeric.number);
    }
    if value.kind() != ValueKind::Seq {
        return value;
    }
    let items: Vec<Rendered> = value.try_iter().into_iter().flatten().collect();
    match items.iter().any(|item| item.downcast_object_ref::<Numeric>().is_some()) {
        true => Rendered::from(items.into_iter().map(number).collect::<Vec<_>>()),
        false => value,
    }
}

/// Implements `value|default(other)`. With `true` as second argument, `other` also replaces a value that is empty, 0 or false.
fn or_default(value: Rendered, arguments: Rest<Rendered>) -> Rendered {
    let lax = arguments.get(1).is_some_and(Rendered::is_true);
    if is_absent(&value) || (lax && !value.is_true()) {
        arguments.first().cloned().unwrap_or_else(|| Rendered::from(""))
    } else {
        value
    }
}
