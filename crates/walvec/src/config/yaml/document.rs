//! A YAML text as a tree with positions, and excerpts of it that hide secrets.

use std::cell::RefCell;
use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{Location, Spanned};

use crate::config::error::{ConfigError, Excerpt};

/// Keys whose values are never shown, wherever they are.
const SECRET_KEYS: [&str; 4] = ["url", "token", "api_key", "password"];

/// Endings of the names of librdkafka's settings whose values are never shown, for example `ssl.key.password`.
const SECRET_ENDINGS: [&str; 5] = [".password", ".secret", ".passphrase", ".pem", ".oauthbearer.config"];

/// Shorter texts are not searched for in messages: they are not secrets, and occur in many words.
const SHORTEST_HIDDEN: usize = 6;

/// Replaces a secret, and the rest of its line.
const HIDDEN: &str = "***";

/// A parsed YAML text.
pub(in crate::config) struct YamlDocument {
    file: String,
    source: String,
    pub(in crate::config) root: Node,
    /// Character ranges of the secrets in `source`.
    secrets: Vec<(usize, usize)>,
    /// Texts that no message may repeat, and their replacements.
    hidden: RefCell<Vec<(String, String)>>,
}

/// A value and its position.
pub(in crate::config) struct Node {
    pub(in crate::config) value: NodeValue,
    pub(in crate::config) place: TextPosition,
}

/// A value.
pub(in crate::config) enum NodeValue {
    Null,
    /// A scalar, as it was written if it was not quoted: whether it is a number or a boolean depends on the setting that is
    /// read.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key and its position.
pub(in crate::config) struct Key {
    pub(in crate::config) name: String,
    pub(in crate::config) place: TextPosition,
}

/// A line and a column, from 1, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct TextPosition {
    line: usize,
    column: usize,
}

impl YamlDocument {
    /// Parses `source`; `file` is its name in messages.
    pub(in crate::config) fn parse(file: &str, source: &str) -> Result<Self, ConfigError> {
        // Some editors put a byte order mark first; positions do not count it.
        let source = source.trim_start_matches('\u{feff}');
        let is_empty = source.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        let mut document = Self {
            file: file.to_owned(),
            source: source.to_owned(),
            root: Node::empty(),
            secrets: Vec::new(),
            hidden: RefCell::default(),
        };
        if !is_empty {
            let options = serde_saphyr::options! { with_snippet: false };
            let parsed: Spanned<Parsed> =
                serde_saphyr::from_str_with_options(source, options).map_err(|error| document.syntax_error(&error))?;
            let mut builder = Builder { characters: source.chars().collect(), secrets: Vec::new(), texts: Vec::new() };
            document.root = builder.node(parsed, false);
            document.secrets = builder.secrets;
            builder.texts.iter().for_each(|text| document.hide(text, HIDDEN));
        }
        Ok(document)
    }

    /// Makes messages show `instead` where they would repeat `text`.
    pub(in crate::config) fn hide(&self, text: &str, instead: &str) {
        if text.len() >= SHORTEST_HIDDEN {
            self.hidden.borrow_mut().push((text.to_owned(), instead.to_owned()));
        }
    }

    /// Removes the scalar at the dotted `key` from the tree if its text `is_unwanted`. The key leads through sections only.
    pub(in crate::config) fn leave_out(&mut self, key: &str, is_unwanted: impl Fn(&str) -> bool) {
        let (sections, name) = key.rsplit_once('.').unwrap_or(("", key));
        let mut node = Some(&mut self.root);
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            node = node.and_then(|node| match &mut node.value {
                NodeValue::Map(entries) => {
                    entries.iter_mut().find(|(key, _)| key.name == section).map(|(_, node)| node)
                }
                NodeValue::Null | NodeValue::Scalar(_) | NodeValue::List(_) => None,
            });
        }
        if let Some(Node { value: NodeValue::Map(entries), .. }) = node {
            let unwanted = |node: &Node| matches!(&node.value, NodeValue::Scalar(text) if is_unwanted(text));
            entries.retain(|(key, node)| key.name != name || !unwanted(node));
        }
    }

    /// Makes an error at `place`.
    pub(in crate::config) fn error(&self, key: &str, place: TextPosition, reason: impl Into<String>) -> ConfigError {
        let hidden = self.hidden.borrow();
        let reason = hidden.iter().fold(reason.into(), |reason, (text, instead)| reason.replace(text, instead));
        let text = self.line_without_secrets(place);
        let excerpt = Excerpt { file: self.file.clone(), line: place.line, column: place.column, text };
        ConfigError::Invalid { key: key.to_owned(), reason, excerpt: Some(excerpt) }
    }

    /// Makes an error at the value of the dotted `key`, or at its nearest enclosing value that exists.
    pub(in crate::config) fn error_at(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        self.error(key, self.root.place_of(key), reason)
    }

    fn line_without_secrets(&self, place: TextPosition) -> String {
        let line = self.source.lines().nth(place.line - 1).unwrap_or_default();
        let start: usize =
            self.source.split_inclusive('\n').take(place.line - 1).map(|line| line.chars().count()).sum();
        let end = start + line.chars().count();
        let secret = self.secrets.iter().filter(|(from, to)| *from < end && *to > start).map(|(from, _)| *from).min();
        secret.map_or_else(
            || line.to_owned(),
            |from| line.chars().take(from.saturating_sub(start)).collect::<String>() + HIDDEN,
        )
    }

    /// Makes the error for a text that is not YAML. Without a tree it is not known where values end, so the excerpt is only
    /// a line that has a key of its own, up to what may belong to a secret. The library's message may quote the text, so it
    /// is shown only with a whole line.
    fn syntax_error(&self, error: &serde_saphyr::Error) -> ConfigError {
        let place = error.location().map_or(TextPosition { line: 1, column: 1 }, TextPosition::from);
        let line = self.source.lines().nth(place.line - 1).unwrap_or_default();
        let shown = cut_secrets(line);
        let reason = match &shown {
            text if text == line => {
                let hint = if text.contains("${") {
                    "; between { } or [ ], put quotes around a reference: \"${VAR}\""
                } else {
                    ""
                };
                let options = serde_saphyr::render_options! { snippets: serde_saphyr::SnippetMode::Off };
                format!("{}{hint}", error.render_with_options(options))
            }
            _ => "not valid YAML; put the value between single quotes".to_owned(),
        };
        let excerpt = Excerpt { file: self.file.clone(), line: place.line, column: place.column, text: shown };
        ConfigError::Invalid { key: "YAML".to_owned(), reason, excerpt: Some(excerpt) }
    }
}

/// Returns `line` up to what may be a secret, judging by the text alone.
fn cut_secrets(line: &str) -> String {
    let name = line.trim_start().trim_start_matches("- ").split(':').next().unwrap_or_default();
    let is_key = line.contains(':') && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if !is_key {
        return HIDDEN.to_owned();
    }
    let secret_keys = SECRET_KEYS.iter().chain(&SECRET_ENDINGS);
    let suspicious = secret_keys.filter_map(|key| behind_key(line, key)).chain(line.find("://"));
    suspicious.min().map_or_else(|| line.to_owned(), |at| format!("{} {HIDDEN}", &line[..at]))
}

/// Returns the offset after the first `key:` in `line`; the key may be the end of a quoted one.
fn behind_key(line: &str, key: &str) -> Option<usize> {
    let ends = line.match_indices(key).map(|(at, _)| at + key.len());
    ends.filter_map(|end| {
        let rest = &line[end..];
        let behind = rest.trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix(':')?;
        Some(end + rest.len() - behind.len())
    })
    .min()
}

fn is_secret_key(name: &str) -> bool {
    SECRET_KEYS.contains(&name) || SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

impl Node {
    fn empty() -> Self {
        Self { value: NodeValue::Map(Vec::new()), place: TextPosition { line: 1, column: 1 } }
    }

    /// Returns the position of the value at the dotted `key`, or of its nearest enclosing value that exists.
    fn place_of(&self, key: &str) -> TextPosition {
        let (mut node, mut place) = (self, self.place);
        for step in key.split(['.', '[']).map(|step| step.trim_end_matches(']')) {
            let next = match &node.value {
                NodeValue::Map(entries) => entries.iter().find(|(key, _)| key.name == step).map(|(_, node)| node),
                NodeValue::List(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                NodeValue::Null | NodeValue::Scalar(_) => None,
            };
            let Some(next) = next else { break };
            (node, place) = (next, next.place);
        }
        place
    }
}

impl From<Location> for TextPosition {
    fn from(location: Location) -> Self {
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).max(1);
        Self { line: number(location.line()), column: number(location.column()) }
    }
}

/// The tree of the library, in which scalars that it takes for numbers or booleans have lost their spelling.
enum Parsed {
    Null,
    Text(String),
    Other,
    List(Vec<Spanned<Parsed>>),
    Map(Vec<(Spanned<String>, Spanned<Parsed>)>),
}

/// Restores the spelling of scalars, and collects the secrets.
struct Builder {
    characters: Vec<char>,
    /// The positions of secrets.
    secrets: Vec<(usize, usize)>,
    /// The texts of secrets.
    texts: Vec<String>,
}

impl Builder {
    fn node(&mut self, parsed: Spanned<Parsed>, is_secret: bool) -> Node {
        let place = TextPosition::from(parsed.referenced);
        let range = self.range(parsed.defined);
        let written = |builder: &Self| builder.characters[range.0..range.1].iter().collect::<String>();
        let value = match parsed.value {
            Parsed::Null => NodeValue::Null,
            Parsed::Text(text) => NodeValue::Scalar(text),
            Parsed::Other => NodeValue::Scalar(written(self).trim().to_owned()),
            Parsed::List(items) => NodeValue::List(items.into_iter().map(|item| self.node(item, is_secret)).collect()),
            Parsed::Map(entries) => {
                NodeValue::Map(entries.into_iter().map(|entry| self.entry(entry, is_secret)).collect())
            }
        };
        if let NodeValue::Scalar(text) = &value
            && is_secret
            && !is_reference(text)
        {
            self.secrets.push(range);
            self.texts.push(text.clone());
        }
        Node { value, place }
    }

    fn entry(&mut self, (key, value): (Spanned<String>, Spanned<Parsed>), is_secret: bool) -> (Key, Node) {
        if is_secret {
            let range = self.range(key.defined);
            self.secrets.push(range);
        }
        let is_secret = is_secret || is_secret_key(&key.value);
        (Key { name: key.value, place: TextPosition::from(key.referenced) }, self.node(value, is_secret))
    }

    fn range(&self, location: Location) -> (usize, usize) {
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let start = number(location.span().offset()).min(self.characters.len());
        (start, start.saturating_add(number(location.span().len())).min(self.characters.len()))
    }
}

/// Returns whether the text is `${NAME}` alone, which reveals no secret.
fn is_reference(text: &str) -> bool {
    let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParsedVisitor)
    }
}

struct ParsedVisitor;

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Null)
    }

    fn visit_none<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Parsed, E> {
        Ok(Parsed::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Parsed, E> {
        Ok(Parsed::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Parsed, E> {
        Ok(Parsed::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Parsed, E> {
        Ok(Parsed::Other)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Parsed, E> {
        Ok(Parsed::Other)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Parsed, E> {
        Ok(Parsed::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Parsed, E> {
        Ok(Parsed::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Parsed, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Parsed::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Parsed, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Parsed::Map(map))
    }
}
