//! What every file has to keep to, so that the next reader finds the place of a change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use walvec_tidy::files::{self, SourceFile};
use walvec_tidy::{modules, types};

/// The longest file.
const LINES: usize = 450;

/// The longest line of a comment, in characters.
const COMMENT: usize = 150;

/// Files that are longer, and their lines. One that shrinks below the limit goes from this list; none may grow.
const LONGER: &[(&str, usize)] = &[];

/// Names of types that more than one thing has, with the reason. One that names a single thing goes from this list.
const SHARED: &[(&str, &str)] = &[
    ("OnGap", "a setting, and the value of the pipeline that it becomes: stages do not know the configuration"),
    ("OnLong", "a setting, and the value of the pipeline that it becomes: stages do not know the configuration"),
];

/// How a doc comment must not begin: it is read alone, where the pointer hovers over a name.
const DEPENDENT: [&str; 4] = ["The same", "As above", "See ", "Like "];

fn sources() -> Vec<SourceFile> {
    ["crates", "tests", "bench"].iter().flat_map(|directory| files::below(directory).unwrap()).collect()
}

#[test]
fn no_file_is_too_long_to_be_read_at_once() {
    let longer: BTreeMap<&str, usize> = LONGER.iter().copied().collect();
    let mut wrong = Vec::new();
    for file in sources() {
        let (name, lines) = (file.name(), file.lines().count());
        match longer.get(name.as_str()) {
            Some(_) if lines <= LINES => wrong.push(format!("{name} has {lines} lines: take it from the list")),
            Some(&most) if lines > most => wrong.push(format!("{name} has grown from {most} to {lines} lines")),
            None if lines > LINES => wrong.push(format!("{name} has {lines} lines")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "at most {LINES} lines: {wrong:#?}");
}

#[test]
fn modules_use_each_other_in_one_direction() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(files::root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let directory = format!("crates/{name}/src");
        let uses = modules::uses(&files::below(&directory).unwrap(), Path::new(&directory));
        wrong.extend(modules::circles(&uses).into_iter().map(|circle| format!("{name}: {circle:?}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_name_of_a_type_means_one_thing() {
    let excepted: BTreeSet<&str> = SHARED.iter().map(|(name, _)| *name).collect();
    let shared = types::shared_names(&files::below("crates").unwrap());
    let wrong: BTreeMap<_, _> = shared.iter().filter(|(name, _)| !excepted.contains(name.as_str())).collect();
    assert!(wrong.is_empty(), "names that several types share: {wrong:#?}");
    let single: Vec<_> = excepted.iter().filter(|name| !shared.contains_key(**name)).collect();
    assert!(single.is_empty(), "take these from the list, each names one type by now: {single:#?}");
}

#[test]
fn every_map_of_modules_is_complete() {
    let mut wrong = Vec::new();
    for file in files::below("crates").unwrap() {
        if file.path.iter().any(|part| part == "tests" || part == "tests.rs") {
            continue;
        }
        let map: String = file.text.lines().filter(|line| line.starts_with("//!")).collect();
        if map.contains("one file each") {
            continue;
        }
        for module in modules_of(&file.text) {
            let is_named =
                [format!("`{module}`"), format!("[{module}]"), format!("(mod@{module})"), format!("(mod {module})")]
                    .iter()
                    .any(|form| map.contains(form.as_str()));
            if !is_named {
                wrong.push(format!("{}: {module}", file.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "modules that the `//!` of their parent does not name: {wrong:#?}");
}

/// The modules with files of their own that a file declares, but for those of its tests.
fn modules_of(text: &str) -> impl Iterator<Item = &str> {
    let before = std::iter::once("").chain(text.lines());
    before
        .zip(text.lines())
        .filter(|(before, _)| *before != "#[cfg(test)]")
        .filter_map(|(_, line)| module_of(line))
        .filter(|name| *name != "tests")
}

/// The module that a line declares, if it has a file of its own.
fn module_of(line: &str) -> Option<&str> {
    let declared = line.strip_prefix("mod ").or_else(|| line.strip_prefix("pub mod "));
    declared.or_else(|| line.strip_prefix("pub(crate) mod "))?.strip_suffix(';')
}

#[test]
fn comments_fit_on_a_line_and_stand_alone() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (number, line) in file.lines() {
            let text = line.trim_start();
            // A table's row cannot be broken.
            if text.starts_with("//") && !text.contains(" | ") && line.chars().count() > COMMENT {
                wrong.push(format!("{}:{number} is longer than {COMMENT} characters", file.name()));
            }
            let begins_alone = |doc: &str| !DEPENDENT.iter().any(|start| doc.starts_with(start));
            if text.strip_prefix("/// ").is_some_and(|doc| !begins_alone(doc)) && !continues(&file, number) {
                wrong.push(format!("{}:{number} begins with words that need another comment: {text}", file.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether a line of a doc comment has one before it.
fn continues(file: &SourceFile, number: usize) -> bool {
    file.lines().nth(number.wrapping_sub(2)).is_some_and(|(_, before)| before.trim_start().starts_with("///"))
}
