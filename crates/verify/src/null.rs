//! Conversion of a row's values for templates, and of a template's values back to JSON.
//!
//! NULL prints as nothing, is false, `is none`, is not `defined`, and is replaced by `default`. A missing JSON key and every
//! part of NULL behave in the same way. Booleans print as `true` and `false`, arrays and objects as JSON.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, Value as Inner, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use serde_json::{Map, Value};
use walvec_model::operands;

/// How deep a computed value may be nested.
const DEPTH: usize = 128;

#[derive(Debug)]
struct Null;

impl Object for Null {
    // Of the engine's kinds of object, an empty map is the only one that is false without being a list.
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, _: &Inner) -> Option<Inner> {
        Some(null())
    }

    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// A numeric: it prints with its own digits, and operators get a number.
#[derive(Debug)]
struct Exact(String, f64);

impl Object for Exact {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.1 != 0.0
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The stand-in for NULL in comparisons that must not hold for it: greater than everything.
#[derive(Debug)]
struct Top;

impl Object for Top {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

#[derive(Debug)]
struct FieldMap(Map<String, Value>);

/// A row of another table, and the names of its columns that hold numerics.
#[derive(Debug)]
struct LookedUpRow(Map<String, Value>, Arc<[String]>);

impl Object for LookedUpRow {
    fn get_value(self: &Arc<Self>, key: &Inner) -> Option<Inner> {
        let name = key.as_str()?;
        let is_numeric = self.1.iter().any(|column| column == name);
        Some(self.0.get(name).map_or_else(null, |value| if is_numeric { exact(value) } else { inside(value) }))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().map(|name| Inner::from(name.as_str())).collect())
    }
}

impl Object for FieldMap {
    fn get_value(self: &Arc<Self>, key: &Inner) -> Option<Inner> {
        let name = key.as_str()?;
        Some(self.0.get(name).map_or_else(null, inside))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().map(|name| Inner::from(name.as_str())).collect())
    }
}

/// A row: its columns by name, and the whole row as `walvec_row`, and as `row` unless a column has that name.
#[derive(Debug)]
pub(crate) struct TemplateRow {
    pub(crate) names: Arc<[String]>,
    pub(crate) values: Vec<Value>,
    /// For each column, whether it holds numerics.
    pub(crate) numerics: Arc<[bool]>,
}

impl Object for TemplateRow {
    fn get_value(self: &Arc<Self>, key: &Inner) -> Option<Inner> {
        let name = key.as_str()?;
        match self.names.iter().position(|column| column == name) {
            Some(index) if self.numerics.get(index) == Some(&true) => self.values.get(index).map(exact),
            Some(index) => Some(self.values.get(index).map_or_else(null, inside)),
            None => (name == "row" || name == "walvec_row").then(|| Inner::from_dyn_object(Arc::clone(self))),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.names.iter().map(|name| Inner::from(name.as_str())).collect())
    }
}

/// A row together with its lookups.
#[derive(Debug)]
pub(crate) struct WithLookups {
    pub(crate) row: Arc<TemplateRow>,
    pub(crate) looked_up: Vec<LookedUpRows>,
}

/// The result of a lookup: its name; an object or a list of objects; the names of their columns that hold numerics.
pub(crate) type LookedUpRows = (String, Value, Arc<[String]>);

impl Object for WithLookups {
    fn get_value(self: &Arc<Self>, key: &Inner) -> Option<Inner> {
        let found = self.looked_up.iter().find(|(name, ..)| key.as_str() == Some(name));
        found.map_or_else(|| self.row.get_value(key), |(_, value, numerics)| Some(rows(value, numerics)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let names = self.row.names.iter().chain(self.looked_up.iter().map(|(name, ..)| name));
        Enumerator::Values(names.map(|name| Inner::from(name.as_str())).collect())
    }
}

fn null() -> Inner {
    Inner::from_object(Null)
}

fn is_null(value: &Inner) -> bool {
    value.is_undefined() || value.is_none() || value.downcast_object_ref::<Null>().is_some()
}

fn rows(value: &Value, numerics: &Arc<[String]>) -> Inner {
    match value {
        Value::Object(row) => Inner::from_object(LookedUpRow(row.clone(), Arc::clone(numerics))),
        Value::Array(list) => Inner::from(list.iter().map(|row| rows(row, numerics)).collect::<Vec<_>>()),
        other => inside(other),
    }
}

/// Wraps a numeric, or an array of numerics.
fn exact(value: &Value) -> Inner {
    match value {
        Value::Array(items) => Inner::from(items.iter().map(exact).collect::<Vec<_>>()),
        Value::String(text) => {
            text.parse().map_or_else(|_| inside(value), |number| Inner::from_object(Exact(text.clone(), number)))
        }
        other => inside(other),
    }
}

/// Converts a value to what operators calculate with.
fn operand(value: Inner) -> Inner {
    if let Some(Exact(_, number)) = value.downcast_object_ref() {
        return (*number).into();
    }
    let is_list = value.kind() == ValueKind::Seq;
    let has_numerics = || {
        let mut items = value.try_iter().into_iter().flatten();
        items.any(|item| item.downcast_object_ref::<Exact>().is_some())
    };
    if is_list && has_numerics() {
        return Inner::from(value.try_iter().into_iter().flatten().map(operand).collect::<Vec<_>>());
    }
    value
}

fn inside(value: &Value) -> Inner {
    match value {
        Value::Null => null(),
        Value::Bool(flag) => (*flag).into(),
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => Inner::from(items.iter().map(inside).collect::<Vec<_>>()),
        Value::Object(fields) => Inner::from_object(FieldMap(fields.clone())),
        Value::Number(number) => {
            let whole = number.as_i64().map(Inner::from).or_else(|| number.as_u64().map(Inner::from));
            whole.or_else(|| number.as_f64().map(Inner::from)).unwrap_or_else(null)
        }
    }
}

/// Converts a template's value to JSON. A whole number beyond 64 bits becomes text.
pub(crate) fn outside(value: &Inner) -> Result<Value, Error> {
    outside_at(value, 0)
}

fn outside_at(value: &Inner, depth: usize) -> Result<Value, Error> {
    let refused = |reason: String| Error::new(ErrorKind::BadSerialization, reason);
    if depth >= DEPTH {
        return Err(refused("the value is nested too deeply".to_owned()));
    }
    if is_null(value) {
        return Ok(Value::Null);
    }
    if let Some(Exact(text, _)) = value.downcast_object_ref() {
        return Ok(text.as_str().into());
    }
    match value.kind() {
        ValueKind::Bool => Ok(value.is_true().into()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().into()),
        ValueKind::Number if value.is_integer() => Ok(match (value.as_i64(), u64::try_from(value.clone())) {
            (Some(signed), _) => signed.into(),
            (None, Ok(unsigned)) => unsigned.into(),
            (None, Err(_)) => value.to_string().into(),
        }),
        ValueKind::Number => {
            let float = f64::try_from(value.clone())?;
            let number = serde_json::Number::from_f64(float).ok_or_else(|| refused(format!("{float} is no number")))?;
            Ok(number.into())
        }
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.map(|item| outside_at(&item, depth + 1)).collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        ValueKind::Map => {
            let field = |name: Inner| Ok((name.to_string(), outside_at(&value.get_item(&name)?, depth + 1)?));
            value.try_iter()?.map(field).collect::<Result<Map<_, _>, Error>>().map(Value::Object)
        }
        other => Err(refused(format!("{other} is no data"))),
    }
}

fn print(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Inner) -> Result<(), Error> {
    let text = match value.kind() {
        _ if is_null(value) => return Ok(()),
        ValueKind::Bool | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => outside(value)?.to_string(),
        _ => value.to_string(),
    };
    Ok(out.write_str(&text)?)
}

/// Implements `value|default(other)`. With `true` as second argument it also replaces what is empty, 0 or false.
fn default(value: Inner, arguments: Rest<Inner>) -> Inner {
    let also_false = arguments.get(1).is_some_and(Inner::is_true);
    if !is_null(&value) && (value.is_true() || !also_false) {
        return value;
    }
    arguments.first().cloned().unwrap_or_else(|| "".into())
}

/// Adds these filters and operators to an environment.
pub(crate) fn teach(environment: &mut Environment<'_>) {
    environment.set_formatter(print);
    environment.add_test("none", |value: Inner| is_null(&value));
    environment.add_test("undefined", |value: Inner| is_null(&value));
    environment.add_test("defined", |value: Inner| !is_null(&value));
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter(operands::NUMBER, operand);
    let compared = |null: Inner| move |value: Inner| if is_null(&value) { null.clone() } else { operand(value) };
    environment.add_filter(operands::LEAST, compared(().into()));
    environment.add_filter(operands::GREATEST, compared(Inner::from_object(Top)));
    environment.add_filter("tojson", |value: Inner| outside(&value).map(|value| value.to_string()));
}
