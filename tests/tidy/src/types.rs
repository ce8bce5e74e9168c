//! The types that a crate declares, and the names that several declarations share.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::SourceFile;

/// The names that more than one file declares a struct, an enum, a trait or a type alias with, each with these files.
///
/// Only the top level of a file counts: types inside functions are not seen elsewhere. Files of tests are left out, and so are files
/// called `absent.rs`: they hold stand-ins for builds without a feature.
#[must_use]
pub fn shared_names(files: &[SourceFile]) -> BTreeMap<String, Vec<String>> {
    let tests: BTreeSet<String> = files.iter().flat_map(test_modules).collect();
    let mut declared: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files.iter().filter(|file| !is_left_out(&file.name(), &tests)) {
        for name in declared_by(&file.text) {
            declared.entry(name.to_owned()).or_default().push(file.name());
        }
    }
    declared.retain(|_, files| files.len() > 1);
    declared
}

/// The modules that a file declares for its tests, as paths without an extension.
fn test_modules(file: &SourceFile) -> Vec<String> {
    let name = file.name();
    let stem = name.strip_suffix(".rs").unwrap_or(&name);
    let parent = ["/mod", "/lib", "/main"].iter().find_map(|root| stem.strip_suffix(root)).unwrap_or(stem);
    let is_of_tests = |line: &&str| line.starts_with("#[cfg(test)]");
    let pairs = file.text.lines().zip(file.text.lines().skip(1)).filter(|(line, _)| is_of_tests(line));
    pairs.filter_map(|(_, next)| Some(format!("{parent}/{}", module(next)?))).collect()
}

fn module(line: &str) -> Option<&str> {
    without_visibility(line).strip_prefix("mod ")?.strip_suffix(';')
}

fn is_left_out(name: &str, tests: &BTreeSet<String>) -> bool {
    let stem = name.strip_suffix(".rs").unwrap_or(name);
    let is_within = |module: &String| stem == module || stem.starts_with(&format!("{module}/"));
    stem.ends_with("/absent")
        || stem.ends_with("_tests")
        || stem.split('/').any(|part| part == "tests")
        || tests.iter().any(is_within)
}

/// The types that a text declares at its top level, before its tests.
fn declared_by(text: &str) -> impl Iterator<Item = &str> {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().filter_map(declared)
}

fn declared(line: &str) -> Option<&str> {
    let line = without_visibility(line);
    let rest = ["struct ", "enum ", "trait ", "type "].iter().find_map(|kind| line.strip_prefix(kind))?;
    rest.split(|character: char| !character.is_alphanumeric() && character != '_').next()
}

fn without_visibility(line: &str) -> &str {
    let Some(rest) = line.strip_prefix("pub") else { return line };
    let rest = rest.strip_prefix('(').and_then(|scope| Some(scope.split_once(')')?.1)).unwrap_or(rest);
    rest.strip_prefix(' ').unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: PathBuf::from(path), text: text.to_owned() }
    }

    #[test]
    fn a_name_is_shared_across_crates_kinds_and_visibilities() {
        let files = [
            file("crates/a/src/one.rs", "pub(crate) struct Place<T> {\n    type Item = u8;\n}\n"),
            file("crates/b/src/two.rs", "enum Place {}\npub type Item = u8;\nfn f() {\n    struct Local;\n}\n"),
            file("crates/b/src/three.rs", "pub(in crate::x) trait Local {}\n"),
        ];
        let names: Vec<String> = shared_names(&files).into_keys().collect();
        assert_eq!(names, ["Place"]);
    }

    #[test]
    fn tests_and_stand_ins_may_use_any_name() {
        let files = [
            file(
                "crates/a/src/lib.rs",
                "struct Place;\n#[cfg(test)]\nmod kit;\n#[cfg(test)]\nmod tests {\nstruct Other;\n}\n",
            ),
            file("crates/a/src/kit.rs", "struct Place;\nstruct Other;\n"),
            file("crates/a/src/kit/more.rs", "struct Place;\n"),
            file("crates/a/src/absent.rs", "pub struct Place;\n"),
            file("crates/a/tests/one.rs", "struct Place;\n"),
            file("crates/a/src/lib_tests.rs", "struct Place;\n"),
        ];
        assert_eq!(shared_names(&files), BTreeMap::new());
    }
}
