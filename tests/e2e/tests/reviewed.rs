//! Texts that people and programs read, compared with files in `snapshots/`: a review shows each word that changes.
//!
//! `INSTA_UPDATE=always` writes the files anew.

use std::process::Output;

use insta::Settings;
use walvec_e2e::TestContext;

/// Regular expressions of what differs from run to run, from machine to machine or between PostgreSQL's versions, and what the files
/// have instead.
const DIFFERENT: &[(&str, &str)] = &[
    (r"test_\d+", "shop"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b", "LSN"),
    (r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2} UTC", "TIME"),
    (r"\b[\d.]+ ([kMG]?B|[KMG]iB)\b", "SIZE"),
    (r"\b[\d.]+ (ms|s)\b", "DURATION"),
    (r"\b(seed|process) \d+", "$1 N"),
    (r"PostgreSQL: version \d+", "PostgreSQL: version N"),
    (r"\S+/models/", "MODELS/"),
    // Since PostgreSQL 18.
    (", publish_generated_columns = stored", ""),
];

/// Fails if `snapshots/NAME.snap` has another text.
pub(crate) fn assert_reviewed(name: &str, text: &str) {
    compare(name, text, &[]);
}

/// Fails if `snapshots/NAME.snap` has another text, apart from what differs from run to run.
pub(crate) fn assert_run_reviewed(context: &TestContext, name: &str, text: &str) {
    compare(name, &text.replace(&*context.directory().to_string_lossy(), "DIRECTORY"), DIFFERENT);
}

fn compare(name: &str, text: &str, filters: &[(&str, &str)]) {
    let mut settings = Settings::new();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, instead) in filters {
        settings.add_filter(pattern, *instead);
    }
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Returns a command with what it printed, as a terminal shows it, and the exit code if it is not 0.
pub(crate) fn transcript(arguments: &[&str], output: &Output) -> String {
    let printed = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let lines: Vec<&str> = printed.iter().flat_map(|text| text.lines()).map(str::trim_end).collect();
    let end = output.status.code().filter(|code| *code != 0).map(|code| format!("[exit code {code}]\n"));
    format!("$ walvec {}\n{}\n{}\n", arguments.join(" "), lines.join("\n"), end.unwrap_or_default())
}
