//! Fingerprints: what must be equal for two vectors to be comparable.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A digest of everything that decides how a text becomes a vector: model, revision, dimension, pooling, prefixes, text
/// template and chunking. 32 lower-case hexadecimal digits (128 bits of BLAKE3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    /// Returns the digest of `parts`, each length-prefixed, in order.
    #[must_use]
    pub fn of(parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        Self(hasher.finalize().to_hex()[..32].to_owned())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The configured parts behind a [`Fingerprint`], by name, so that an error can say which of them changed.
///
/// The parts explain the fingerprint and do not replace it: fingerprints with equal parts still differ if the model's
/// files differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MadeWith(pub BTreeMap<String, String>);

/// How many characters of a part are shown. Templates can be long.
const SHOWN: usize = 100;

/// How many characters are shown of the beginning that two long parts have in common.
const COMMON: usize = 20;

impl MadeWith {
    /// Creates a value from these names and parts.
    #[must_use]
    pub fn of(parts: &[(&str, String)]) -> Self {
        Self(parts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    /// Returns whether no parts are known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Describes the parts that differ, first as they are in `self`, then as they are in `other`. `None` if no part differs.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Option<(String, String)> {
        let names: BTreeMap<&String, ()> = self.0.keys().chain(other.0.keys()).map(|name| (name, ())).collect();
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for name in names.into_keys() {
            let (ours, theirs) = (self.0.get(name), other.0.get(name));
            if ours != theirs {
                here.push(describe(name, ours, theirs));
                there.push(describe(name, theirs, ours));
            }
        }
        (!here.is_empty()).then(|| (here.join(", "), there.join(", ")))
    }
}

/// Formats a part as `model "hash/64"`, or as `no chunk` if it is absent. Of a long value, shows the section that
/// differs from `other`.
fn describe(name: &str, value: Option<&String>, other: Option<&String>) -> String {
    let Some(value) = value else { return format!("no {name}") };
    let common = other.map_or(0, |other| value.chars().zip(other.chars()).take_while(|(a, b)| a == b).count());
    let length = value.chars().count();
    let skipped = if length > SHOWN { common.saturating_sub(COMMON).min(length - COMMON) } else { 0 };
    let shown: String = value.chars().skip(skipped).take(SHOWN).collect();
    let before = if skipped > 0 { "…" } else { "" };
    let after = if skipped + SHOWN < length { "…" } else { "" };
    format!("{name} \"{before}{}{after}\"", shown.replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_named_with_its_values() {
        let before = MadeWith::of(&[("model", "hash/64".to_owned()), ("text", "{{ a }}".to_owned())]);
        let chunk = ("chunk", "256 tokens".to_owned());
        let after = MadeWith::of(&[("model", "hash/128".to_owned()), ("text", "{{ a }}".to_owned()), chunk]);
        let (was, is) = before.differences(&after).unwrap();
        assert_eq!(was, "no chunk, model \"hash/64\"");
        assert_eq!(is, "chunk \"256 tokens\", model \"hash/128\"");
        assert_eq!(before.differences(&before), None);
    }

    #[test]
    fn a_change_deep_in_a_long_template_is_shown() {
        let of = |end: &str| MadeWith::of(&[("text", format!("{}{end}", "x".repeat(500)))]);
        let (was, is) = of("before").differences(&of("after and more")).unwrap();
        assert!(was.contains("xbefore\"") && was.chars().count() < 150, "{was}");
        assert!(is.contains("xafter and more\""), "{is}");
    }

    #[test]
    fn a_fingerprint_tells_shifted_parts_apart() {
        assert_ne!(Fingerprint::of(&["ab", "c"]), Fingerprint::of(&["a", "bc"]));
        assert_eq!(Fingerprint::of(&["ab", "c"]), Fingerprint::of(&["ab", "c"]));
        assert_eq!(Fingerprint::of(&[]).0.len(), 32);
    }
}
