//! What a template looked at and did not find: the commonest reason why it fails on some rows only.
//!
//! Watching costs time, so a template is rendered once more for it after it has failed.

use std::sync::{Arc, Mutex, PoisonError};

/// Everything absent that was looked at, in the order in which it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absences(Arc<Mutex<Vec<Absence>>>);

/// Something absent that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Absence {
    /// As the template writes it.
    path: String,
    /// In what way it is absent, as a sentence.
    what: String,
}

impl Absences {
    /// Notes what was looked at, once.
    fn note(&self, path: &str, what: String) {
        let mut absences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if absences.iter().all(|known| known.path != path) {
            absences.push(Absence { path: path.to_owned(), what });
        }
    }

    /// Says that all of it may be the reason, and what to write then; empty if nothing was absent.
    pub(crate) fn hint(&self) -> String {
        let absences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Absence { path, .. }) = absences.first() else { return String::new() };
        let whats: Vec<&str> = absences.iter().map(|absence| absence.what.as_str()).collect();
        format!("; {}; where that matters write {{% if {path} is not none %}}", whats.join(", "))
    }
}

/// A value that is watched: where it is, and who hears of what is absent there.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    path: String,
    absences: Absences,
}

impl Watch {
    /// Watches what the template calls `name`.
    pub(crate) fn variable(name: &str, absences: &Absences) -> Self {
        let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let path = if is_word { name.to_owned() } else { format!("row[\"{name}\"]") };
        Self { path, absences: absences.clone() }
    }

    /// Watches a key of it.
    pub(crate) fn key(&self, key: &str) -> Self {
        Self { path: format!("{}.{key}", self.path), absences: self.absences.clone() }
    }

    /// Watches an element of it.
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
