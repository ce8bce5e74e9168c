//! From a document to the settings: a serde deserializer that knows the dotted key and the position of every value, and
//! resolves `${VAR}` in it.

use std::fmt;

use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};

use super::document::{Key, Node, NodeValue, TextPosition, YamlDocument};
use super::interpolate::interpolate;
use crate::config::Config;
use crate::config::environment::Environment;
use crate::config::error::ConfigError;

/// Reads the settings.
pub(in crate::config) fn read(document: &YamlDocument, environment: &Environment) -> Result<Config, ConfigError> {
    let reader = Reader { node: &document.root, key: String::new(), document, environment };
    serde::Deserialize::deserialize(reader).map_err(|error: ReadError| {
        let Located { key, place, reason } = error.at("", document.root.place);
        document.error(&key, place, reason)
    })
}

/// An error while reading. Serde makes errors without a position; the reader adds it on the way out.
#[derive(Debug)]
struct ReadError(Box<ReadProblem>);

#[derive(Debug)]
enum ReadProblem {
    /// The value that was being read is wrong.
    Value(String),
    /// A key is missing in the section that was being read.
    Missing(&'static str),
    /// An unexpected key, and the expected ones.
    Unknown(String, &'static [&'static str]),
    /// An error whose position is known.
    Located(Located),
}

/// An error and its position.
#[derive(Debug)]
struct Located {
    key: String,
    place: TextPosition,
    reason: String,
}

impl ReadError {
    fn new(reason: impl Into<String>) -> Self {
        Self(Box::new(ReadProblem::Value(reason.into())))
    }

    /// Adds the position, unless a more deeply nested value has done so.
    fn at(self, key: &str, place: TextPosition) -> Located {
        let (key, reason) = match *self.0 {
            ReadProblem::Located(located) => return located,
            ReadProblem::Value(reason) => (key.to_owned(), reason),
            ReadProblem::Missing(field) => (join(key, field), "missing; it has no default".to_owned()),
            ReadProblem::Unknown(field, known) => {
                let key = join(key, &field);
                let reason = unknown_key(&field, known);
                (key, reason)
            }
        };
        Located { key, place, reason }
    }

    /// Adds the position with [`at`](Self::at), and returns the result as an error.
    fn located(self, key: &str, place: TextPosition) -> Self {
        Self(Box::new(ReadProblem::Located(self.at(key, place))))
    }
}

fn join(key: &str, field: &str) -> String {
    if key.is_empty() { field.to_owned() } else { format!("{key}.{field}") }
}

fn unknown_key(field: &str, known: &[&str]) -> String {
    let suggestion = walvec_transform::nearest(field, known.iter().copied())
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default();
    format!("unknown key{suggestion} (keys here: {})", known.join(", "))
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("found {unexpected}, expected {expected}"))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self(Box::new(ReadProblem::Unknown(field.to_owned(), known)))
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        let suggestion = walvec_transform::nearest(variant, known.iter().copied())
            .map(|name| format!("; did you mean {name}?"))
            .unwrap_or_default();
        Self::new(format!("\"{variant}\" is none of {}{suggestion}", known.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self(Box::new(ReadProblem::Missing(field)))
    }
}

struct Reader<'a> {
    node: &'a Node,
    key: String,
    document: &'a YamlDocument,
    environment: &'a Environment,
}

impl<'a> Reader<'a> {
    /// Reads a value that is nested in this one.
    fn read<'de, T: DeserializeSeed<'de>>(&self, node: &'a Node, key: String, seed: T) -> Result<T::Value, ReadError> {
        let reader = Reader { node, key: key.clone(), ..*self };
        seed.deserialize(reader).map_err(|error| error.located(&key, node.place))
    }

    /// Returns the text of a scalar, with references resolved. The value of a variable may be a secret, whatever the key
    /// is, so it is hidden in messages.
    fn text(&self, expected: &str) -> Result<String, ReadError> {
        match &self.node.value {
            NodeValue::Scalar(text) => {
                let resolved = interpolate(text, self.environment).map_err(ReadError::new)?;
                if resolved != *text {
                    self.document.hide(&resolved, text);
                }
                Ok(resolved)
            }
            NodeValue::Null => Err(ReadError::new(format!("nothing is given, expected {expected}"))),
            NodeValue::List(_) => Err(ReadError::new(format!("found a list, expected {expected}"))),
            NodeValue::Map(_) => Err(ReadError::new(format!("found keys and values, expected {expected}"))),
        }
    }

    fn unsigned(&self) -> Result<u64, ReadError> {
        let text = self.text("a whole number")?;
        text.parse().map_err(|_| ReadError::new(format!("\"{text}\" is not a whole number of at least 0")))
    }

    fn boolean(&self) -> Result<bool, ReadError> {
        let text = self.text("true or false")?;
        text.parse().map_err(|_| ReadError::new(format!("\"{text}\" is neither true nor false")))
    }
}

/// Implements methods that read a text and hand it to the visitor.
macro_rules! read_text {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            visitor.visit_string(self.text("a text")?)
        }
    )*};
}

/// Implements methods that read a whole number and hand it to the visitor.
macro_rules! read_unsigned {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            visitor.visit_u64(self.unsigned()?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = ReadError;

    read_text! { deserialize_any deserialize_str deserialize_string deserialize_identifier deserialize_char }

    read_unsigned! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_bool(self.boolean()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.node.value {
            NodeValue::Null => visitor.visit_none(),
            NodeValue::Scalar(_) | NodeValue::List(_) | NodeValue::Map(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            NodeValue::List(items) => visitor.visit_seq(Items { items, reader: self, next: 0 }),
            NodeValue::Null | NodeValue::Scalar(_) | NodeValue::Map(_) => Err(ReadError::new("expected a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let entries: &[(Key, Node)] = match &self.node.value {
            NodeValue::Map(entries) => entries,
            // A section in which all keys are commented out.
            NodeValue::Null => &[],
            NodeValue::Scalar(_) | NodeValue::List(_) => return Err(ReadError::new("expected keys and values")),
        };
        visitor.visit_map(MapEntries { reader: self, entries, next: 0 })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let variant: StringDeserializer<ReadError> = self.text("a text")?.into_deserializer();
        visitor.visit_enum(variant)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 bytes byte_buf unit unit_struct tuple tuple_struct ignored_any
    }
}

struct Items<'a> {
    reader: Reader<'a>,
    items: &'a [Node],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        let key = format!("{}[{}]", self.reader.key, self.next);
        self.next += 1;
        self.reader.read(node, key, seed).map(Some)
    }
}

struct MapEntries<'a> {
    reader: Reader<'a>,
    entries: &'a [(Key, Node)],
    next: usize,
}

impl<'de> de::MapAccess<'de> for MapEntries<'_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        let Some((key, _)) = self.entries.get(self.next) else { return Ok(None) };
        let name: StrDeserializer<'_, ReadError> = key.name.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|error| error.located(&self.reader.key, key.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some((key, node)) = self.entries.get(self.next) else {
            return Err(ReadError::new("a value without a key"));
        };
        self.next += 1;
        self.reader.read(node, join(&self.reader.key, &key.name), seed)
    }
}
