//! The meaning of every error code: one table, which `walvec explain` and docs/errors.md show.
//!
//! - [`configuration`], [`postgresql`], [`gaps`], [`tables`], [`embedding`], [`store`], [`broker`] and [`api`]: the codes, by subject
//! - `page`: the table as docs/errors.md
//!
//! A code that is new or gone fails a test here. `WALVEC_WRITE_DOCS=1 cargo test -p walvec --features failpoints codes` writes the page.

mod api;
mod broker;
mod configuration;
mod embedding;
mod gaps;
#[cfg(test)]
mod page;
mod postgresql;
mod store;
mod tables;

use walvec_transform::similarity;

/// A code that walvec shows: on the last line of stderr, in a check, in the log, in the status, or of a parked row.
///
/// Texts are Markdown in which only code spans are marked, so that a terminal can show them as they are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Code {
    /// The code.
    pub(crate) name: &'static str,
    /// What was found. In lists of codes only its first sentence is shown.
    pub(crate) meaning: &'static str,
    /// What may be lost, missing or out of date.
    pub(crate) risk: &'static str,
    /// What to type or to change.
    pub(crate) remedy: &'static str,
    /// The page in docs that says more, and its heading.
    pub(crate) see: Option<&'static str>,
}

/// The codes of one subject.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CodeSubject {
    /// The heading of the subject.
    pub(crate) title: &'static str,
    /// What holds for all of its codes.
    pub(crate) intro: Option<&'static str>,
    /// The codes.
    pub(crate) codes: &'static [Code],
}

/// All codes.
pub(crate) static SUBJECTS: [&CodeSubject; 8] = [
    &configuration::SUBJECT,
    &postgresql::SUBJECT,
    &gaps::SUBJECT,
    &tables::SUBJECT,
    &embedding::SUBJECT,
    &store::SUBJECT,
    &broker::SUBJECT,
    &api::SUBJECT,
];

/// The risk of a command that was refused before it did anything.
const UNTOUCHED: &str = "Nothing. The command has changed nothing.";

/// How many codes are suggested at most.
const MOST_NEAR: usize = 5;

impl Code {
    /// Returns the first sentence of the meaning, without its full stop.
    pub(crate) fn brief(&self) -> &'static str {
        self.meaning.split_once(". ").map_or(self.meaning, |(first, _)| first).trim_end_matches('.')
    }
}

/// Returns all codes, each with its subject.
pub(crate) fn all() -> impl Iterator<Item = (&'static CodeSubject, &'static Code)> {
    SUBJECTS.iter().flat_map(|subject| subject.codes.iter().map(move |code| (*subject, code)))
}

/// Finds the code that was typed, in capitals or not, with `E_` or without.
pub(crate) fn find(typed: &str) -> Option<(&'static CodeSubject, &'static Code)> {
    let wanted = bare(typed);
    all().find(|(_, code)| bare(code.name) == wanted)
}

/// Returns the codes that a misspelled name may mean, the likeliest first.
pub(crate) fn near(typed: &str) -> Vec<&'static str> {
    let wanted = bare(typed);
    // Two letters occur in many names.
    let is_part = |name: &str| wanted.len() > 2 && name.contains(&wanted);
    let score = |name: &str| if is_part(name) { Some(1.0) } else { similarity(&wanted, name) };
    let scored = all().filter_map(|(_, code)| Some((score(&bare(code.name))?, code.name)));
    let mut near: Vec<(f64, &'static str)> = scored.collect();
    near.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    near.into_iter().map(|(_, name)| name).take(MOST_NEAR).collect()
}

/// Returns a code in capitals, without the common prefix `E_`.
fn bare(name: &str) -> String {
    let name = name.trim().to_ascii_uppercase().replace('-', "_");
    name.strip_prefix("E_").unwrap_or(&name).to_owned()
}

#[cfg(test)]
mod tests;
