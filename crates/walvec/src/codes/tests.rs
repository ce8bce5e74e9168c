//! Tests that the table, the page and the sources name the same codes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::page::page;
use super::*;

/// Texts in the sources that look like a code but are none, and why.
const NO_CODES: [(&str, &str); 1] = [("E_SLOT_", "the beginning by which codes of slots are told from others")];

/// Returns the directory of the crates.
fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the sources of all crates, without tests and without the table.
fn sources() -> Vec<PathBuf> {
    let table = crates().join("walvec").join("src").join("codes");
    let of_crates = fs::read_dir(crates()).unwrap().map(|entry| entry.unwrap().path().join("src"));
    let mut directories: Vec<PathBuf> = of_crates.filter(|sources| sources.is_dir()).collect();
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                directories.extend((name != "tests" && path != table).then_some(path));
            } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Returns what is quoted like a code in a source, up to its tests.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let text = text.split("\nmod tests {").next().unwrap_or_default();
    let code = move |at: usize| {
        let rest = text.get(at + 1..)?;
        let end = rest.find(|character: char| !character.is_ascii_uppercase() && character != '_')?;
        let (name, behind) = rest.split_at(end);
        (name.len() > 2 && behind.starts_with('"')).then_some(name)
    };
    text.match_indices("\"E_").filter_map(move |(at, _)| code(at))
}

#[test]
fn every_code_in_the_sources_is_in_the_table_and_none_besides() {
    let texts: Vec<String> = sources().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut shown: BTreeSet<&str> = texts.iter().flat_map(|text| quoted(text)).collect();
    for (name, why) in NO_CODES {
        assert!(shown.remove(name), "{name} ({why}) is in no source any more");
    }
    let explained: BTreeSet<&str> = all().map(|(_, code)| code.name).collect();
    assert_eq!(explained.len(), all().count(), "a code is in the table twice");
    let missing: Vec<&&str> = shown.difference(&explained).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    let unused: Vec<&&str> = explained.difference(&shown).collect();
    assert!(unused.is_empty(), "in no source: {unused:?}");
}

#[test]
fn the_page_of_errors_is_what_the_table_says() {
    let path = crates().join("..").join("docs").join("errors.md");
    if std::env::var_os("WALVEC_WRITE_DOCS").is_some() {
        fs::write(&path, page()).unwrap();
    }
    let is_same = fs::read_to_string(&path).unwrap() == page();
    assert!(is_same, "write it: WALVEC_WRITE_DOCS=1 cargo test -p walvec --features failpoints codes");
}

#[test]
fn every_code_says_what_it_means_what_is_at_risk_and_what_to_do() {
    for (_, code) in all() {
        let Code { name, meaning, risk, remedy, .. } = code;
        for text in [meaning, risk, remedy] {
            assert!(text.ends_with('.'), "{name}: {text}");
            // Each code span is closed, and nothing else needs escaping in Markdown.
            assert_eq!(text.matches('`').count() % 2, 0, "{name}: {text}");
            let prose: String = text.split('`').step_by(2).collect();
            assert!(!prose.contains(['<', '>', '*', '_', '[', '|']), "{name}: {text}");
            assert!(!text.contains("  "), "{name}: {text}");
        }
        assert!(code.brief().chars().count() <= 100, "{name}: {}", code.brief());
    }
}

#[test]
fn a_code_is_found_however_it_is_typed() {
    for typed in ["E_SLOT_LOST", "e_slot_lost", "slot_lost", "Slot-Lost", " SLOT_LOST "] {
        assert_eq!(find(typed).map(|(_, code)| code.name), Some("E_SLOT_LOST"), "{typed}");
    }
    assert_eq!(find("E_"), None);
    assert_eq!(find(""), None);
}

#[test]
fn a_name_that_is_none_is_near_to_what_may_be_meant() {
    assert_eq!(near("E_SLOT_LSOT").first(), Some(&"E_SLOT_LOST"));
    assert!(near("conection").contains(&"E_CONNECT"));
    assert!(near("slot").contains(&"E_SLOT_BUSY") && near("slot").len() == MOST_NEAR);
    assert!(near("zzz").is_empty() && near("").is_empty());
}
