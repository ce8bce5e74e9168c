//! The top-level modules of a crate, and the circles in which they use each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::files::SourceFile;

/// Which top-level modules of a crate each of them uses, tests left out.
pub type Uses = BTreeMap<String, BTreeSet<String>>;

/// Reads the files of a crate's `src`, which lies at `directory`.
#[must_use]
pub fn uses(files: &[SourceFile], directory: &Path) -> Uses {
    let modules: BTreeSet<String> = files.iter().filter_map(|file| module_of(&file.path, directory)).collect();
    let mut uses: Uses = modules.iter().map(|module| (module.clone(), BTreeSet::new())).collect();
    for file in files {
        let Some(module) = module_of(&file.path, directory) else { continue };
        if file.path.iter().any(|part| part == "tests" || part == "tests.rs") {
            continue;
        }
        let used =
            paths(&without_tests(&file.text)).into_iter().filter(|name| modules.contains(name) && *name != module);
        uses.entry(module.clone()).or_default().extend(used.collect::<Vec<_>>());
    }
    uses
}

/// The groups of modules that use each other in a circle, each in order; the largest first.
#[must_use]
pub fn circles(uses: &Uses) -> Vec<BTreeSet<&str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = uses.keys().map(|from| (from.as_str(), reach(uses, from))).collect();
    let mut circles: Vec<BTreeSet<&str>> = Vec::new();
    for (from, to) in &reached {
        let circle: BTreeSet<&str> =
            to.iter().copied().filter(|other| reached.get(other).is_some_and(|back| back.contains(from))).collect();
        if circle.len() > 1 && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    circles
}

/// Every module that one uses, at first hand or through others.
fn reach<'a>(uses: &'a Uses, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = uses.get(from).into_iter().flatten().map(String::as_str).collect();
    while let Some(module) = open.pop() {
        if reached.insert(module) {
            open.extend(uses.get(module).into_iter().flatten().map(String::as_str));
        }
    }
    reached
}

/// The top-level module that a file belongs to; none for the crate's root.
fn module_of(path: &Path, directory: &Path) -> Option<String> {
    let first = path.strip_prefix(directory).ok()?.iter().next()?.to_string_lossy().into_owned();
    let module = first.strip_suffix(".rs").unwrap_or(&first).to_owned();
    (module != "lib" && module != "main").then_some(module)
}

/// A file's text up to its tests, without comments.
fn without_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first names behind each `crate::`, those in braces included.
fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => found.extend(names_in_group(group)),
            None => found.extend(first_name(rest)),
        }
    }
    found
}

/// The names at the first level of a group in braces, whose opening brace has been read.
fn names_in_group(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut begins) = (1_usize, Vec::new(), true);
    for (at, character) in group.char_indices() {
        if begins && !character.is_whitespace() {
            names.extend(group.get(at..).and_then(first_name));
            begins = false;
        }
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => begins = true,
            _ => {}
        }
    }
    names
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_paths_and_in_groups() {
        let code = "use crate::one::{self, Two};\nuse crate::{Three, four::Five, six::{seven, eight}, nine};\nfn f() { crate::ten::g() }";
        let names: Vec<String> = paths(code).into_iter().collect();
        assert_eq!(names, ["Three", "four", "nine", "one", "six", "ten"]);
    }

    #[test]
    fn a_circle_is_found_through_others_and_a_chain_is_none() {
        let uses: Uses = [("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["a", "d"]), ("d", vec![])]
            .into_iter()
            .map(|(from, to)| (from.to_owned(), to.into_iter().map(str::to_owned).collect()))
            .collect();
        assert_eq!(circles(&uses), [BTreeSet::from(["a", "b", "c"])]);
    }
}
