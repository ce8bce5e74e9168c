//! Records the absent values that a template looked at: the most common reason why it fails on some rows only.
//!
//! Recording costs time, so it happens only after a template has failed: the row is then rendered once more.

use std::sync::{Arc, Mutex, PoisonError};

/// The absent values that a template looked at, in the order in which it did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absences(Arc<Mutex<Vec<Absence>>>);

/// An absent value that a template looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Absence {
    /// The value's path, as the template writes it.
    path: String,
    /// How the value is absent, as a sentence.
    what: String,
}

impl Absences {
    /// Records an absent value, unless it was recorded before.
    fn note(&self, path: &str, what: String) {
        let mut absences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if absences.iter().all(|known| known.path != path) {
            absences.push(Absence { path: path.to_owned(), what });
        }
    }

    /// Returns a text that names the absent values as a possible reason and shows a condition to add; empty if nothing
    /// was absent.
    pub(crate) fn hint(&self) -> String {
        let absences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Absence { path, .. }) = absences.first() else { return String::new() };
        let whats: Vec<&str> = absences.iter().map(|absence| absence.what.as_str()).collect();
        format!("; {}; where that matters write {{% if {path} is not none %}}", whats.join(", "))
    }
}

/// A value that is watched: its path, and where absent values below it are recorded.
#[derive(Clone, Debug)]
pub(crate) struct WatchedValue {
    path: String,
    absences: Absences,
}

impl WatchedValue {
    /// Starts to watch the variable that the template calls `name`.
    pub(crate) fn variable(name: &str, absences: &Absences) -> Self {
        let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let path = if is_word { name.to_owned() } else { format!("row[\"{name}\"]") };
        Self { path, absences: absences.clone() }
    }

    /// Returns a watch for a key of this value.
    pub(crate) fn key(&self, key: &str) -> Self {
        Self { path: format!("{}.{key}", self.path), absences: self.absences.clone() }
    }

    /// Returns a watch for an element of this value.
    pub(crate) fn element(&self, index: usize) -> Self {
        Self { path: format!("{}[{index}]", self.path), absences: self.absences.clone() }
    }

    pub(crate) fn is_null(&self) {
        self.absences.note(&self.path, format!("{} is NULL in this row", self.path));
    }

    pub(crate) fn has_no_key(&self, key: &str) {
        let path = self.key(key).path;
        self.absences.note(&path, format!("{} has no key \"{key}\" in this row", self.path));
    }

    pub(crate) fn found_no_row(&self) {
        self.absences.note(&self.path, format!("{} found no row", self.path));
    }
}
