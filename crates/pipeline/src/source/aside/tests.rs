use serde_json::json;
use walvec_capture::CaptureError;

use super::*;
use crate::observe::status::CollectionStatus;
use crate::source::fixtures::{altered, plain, table, unfit};

fn names(unfit: &[Unfit]) -> Vec<&str> {
    tables_of(unfit).map(|table| table.name.as_str()).collect()
}

/// Returns the baseline of a data directory that has followed books and films.
fn baseline() -> Baseline {
    Baseline { shapes: vec![(table("books"), plain(1)), (table("films"), plain(2))], ..Baseline::default() }
}

#[test]
fn a_table_that_was_lost_is_told_from_a_mistake_in_the_settings() {
    let found = || vec![unfit("books", "E_TABLE"), unfit("films", "E_CONFIG"), unfit("songs", "E_TABLE")];
    assert_eq!(names(&lost(found(), &baseline(), &[])), ["books"], "songs was never followed");
    for code in ["E_TABLE", "E_NO_KEY", "E_RIGHTS", "E_PUBLICATION"] {
        assert_eq!(names(&lost(vec![unfit("films", code)], &baseline(), &[])), ["films"], "{code}");
    }
}

#[test]
fn a_table_that_was_taken_out_stays_out_whatever_is_wrong_with_it_later() {
    let found = || vec![unfit("films", "E_CONFIG")];
    assert!(lost(found(), &baseline(), &[]).is_empty());
    let in_this_session = [unfit("films", "E_TABLE")];
    assert_eq!(names(&lost(found(), &baseline(), &in_this_session)), ["films"]);
    let before = Baseline { aside: vec![table("films")], ..baseline() };
    assert_eq!(names(&lost(found(), &before, &[])), ["films"], "after a restart");
    let never_followed = Baseline { aside: vec![table("songs")], ..baseline() };
    assert!(lost(vec![unfit("songs", "E_CONFIG")], &never_followed, &[]).is_empty());
}

#[test]
fn the_others_go_on_without_a_table_unless_an_operator_decides_or_none_would_be_left() {
    let cases = [
        (OnGap::Resync, true, true),
        (OnGap::Resync, false, false),
        (OnGap::Stop, true, false),
        (OnGap::Stop, false, false),
    ];
    for (on_gap, has_others, goes_on) in cases {
        assert_eq!(goes_on_without(on_gap, has_others), goes_on, "{on_gap:?}, others: {has_others}");
    }
}

#[test]
fn other_columns_mean_that_the_table_was_altered_and_not_the_template() {
    let followed = baseline().shapes;
    let with_other_columns = altered(&json!({ "columns": "d" }));
    let changed = |name, now: Option<&Shape>| has_changed(&table(name), now, &followed);
    assert!(changed("books", Some(&with_other_columns)));
    assert!(!changed("books", Some(&plain(1))), "the template asks for another column");
    assert!(!changed("books", None), "it is gone, and another check finds that");
    assert!(!changed("songs", Some(&with_other_columns)), "it was not followed");
}

#[test]
fn the_status_of_a_table_that_is_aside_says_why_and_of_the_others_nothing() {
    let collection = |name: &str| CollectionStatus { table: table(name).to_string(), ..CollectionStatus::default() };
    let telemetry = Telemetry::new(vec![collection("books"), collection("films")], false);
    let codes = || -> Vec<Option<String>> {
        let status = telemetry.subscribe().borrow().clone();
        status.collections.into_iter().map(|collection| collection.set_aside.map(|aside| aside.code)).collect()
    };
    show(&[unfit("films", "E_NO_KEY")], &telemetry);
    assert_eq!(codes(), [None, Some("E_NO_KEY".to_owned())]);
    show(&[], &telemetry);
    assert_eq!(codes(), [None, None], "it is followed again");
}

#[test]
fn only_errors_that_a_single_table_may_cause_let_the_tables_be_examined() {
    let (text, name) = (|| "words".to_owned(), || table("books"));
    let about_a_table: [PipelineError; 4] = [
        CaptureError::Table { table: name(), reason: text() }.into(),
        CaptureError::NoKey { table: name(), reason: text() }.into(),
        CaptureError::Rights { doing: text(), reason: text(), grant: None }.into(),
        CaptureError::Schema { table: name(), reason: text() }.into(),
    ];
    for error in about_a_table {
        assert!(is_about_a_table(&error), "{error}");
    }
    let others: [PipelineError; 4] = [
        CaptureError::Connect { server: text(), reason: text() }.into(),
        CaptureError::SlotLost { slot: text(), reason: text() }.into(),
        CaptureError::Altered { table: name(), reason: text() }.into(),
        PipelineError::Disowned,
    ];
    for error in others {
        assert!(!is_about_a_table(&error), "{error}");
    }
}

#[test]
fn a_table_without_a_column_that_a_template_needs_keeps_the_error_and_what_helps() {
    let error = CaptureError::NoKey { table: table("books"), reason: "none".to_owned() };
    let found = finding(&error.into());
    assert_eq!((found.severity, found.code), (Severity::Error, "E_NO_KEY"));
    assert!(
        found.message.contains("public.books") && found.remedy.to_string().contains("ADD PRIMARY KEY"),
        "{found:?}"
    );
}
