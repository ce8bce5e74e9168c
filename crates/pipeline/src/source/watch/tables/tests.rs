use serde_json::json;
use walvec_capture::Subject;
use walvec_model::Column;

use super::*;
use crate::source::fixtures::{altered, finding, plain, table};
use crate::source::reread::Jobs;

#[test]
fn a_name_that_belongs_to_another_table_is_noticed_among_many() {
    let known = [(table("books"), plain(1)), (table("films"), plain(2))];
    let now = |films| [(table("songs"), Some(plain(7))), (table("books"), None), (table("films"), films)];
    assert!(!is_any_replaced(&known, &now(Some(plain(2)))), "a table that was not known replaces none");
    assert!(!is_any_replaced(&known, &now(None)));
    assert!(is_any_replaced(&known, &now(Some(plain(3)))));
    assert!(!is_replaced(&plain(1), &altered(&json!({ "columns": "d" }))), "altered, and the same table");
}

#[test]
fn a_table_is_the_same_if_the_stream_shows_the_same_columns_and_key() {
    let books = |column: &str, key: Vec<usize>| {
        let columns = vec![Column::new(column, "text", 25), Column::new("id", "bigint", 20)];
        Arc::new(Table { name: table("books"), columns, key })
    };
    let films = Arc::new(Table { name: table("films"), columns: Vec::new(), key: Vec::new() });
    let before = [Arc::clone(&films), books("title", vec![1])];
    let is_same = |now: &[Arc<Table>]| is_same_in(&table("books"), now, &before);
    assert!(is_same(&[books("title", vec![1])]), "other tables do not matter");
    assert!(!is_same(&[books("name", vec![1])]));
    assert!(!is_same(&[books("title", vec![0])]));
    assert!(!is_same(&[films]));
}

#[test]
fn the_first_error_of_an_examination_is_shown_unless_it_is_about_the_slot() {
    let found = |severity, code| finding(severity, code, Subject::Other);
    let findings = vec![
        found(Severity::Warning, "E_RIGHTS"),
        found(Severity::Error, "E_SLOT_LOST"),
        found(Severity::Error, "E_REPLICA_IDENTITY"),
        found(Severity::Error, "E_NO_KEY"),
    ];
    assert_eq!(first_error(findings.clone()).map(|finding| finding.code), Some("E_REPLICA_IDENTITY"));
    assert_eq!(first_error(findings[..2].to_vec()), None);
}

#[tokio::test]
async fn the_status_shows_how_far_the_present_table_has_come_and_which_wait() {
    let waiting = BTreeSet::from(["public.films".to_owned(), "public.books".to_owned()]);
    assert_eq!(how_far(None, &waiting, "public.films"), Some(ReadAgain::default()));
    assert_eq!(how_far(None, &waiting, "public.songs"), None);
    let mut reading = Reading::of(table("books"), plain(1), None, vec![table("books")], Lsn(1));
    let (jobs, mut queue) = Jobs::channel();
    let job = JobSpec::Altered { table: table("books"), partitions: None, may_sweep_most: false };
    reading.given(jobs.give(job).ok());
    queue.recv().await.unwrap().update(|progress| (progress.rows, progress.rows_estimated) = (3, Some(8)));
    let read = ReadAgain { rows: 3, rows_estimated: Some(8) };
    assert_eq!(how_far(Some(&reading), &waiting, "public.books"), Some(read));
    assert_eq!(how_far(Some(&reading), &waiting, "public.films"), Some(ReadAgain::default()), "it comes next");
}

#[test]
fn a_table_that_could_not_be_read_is_named_with_the_reason() {
    let ended = Ended { code: "E_X".to_owned(), message: "it is too fast".to_owned(), remedy: Some("wait".to_owned()) };
    let problem = unread(&table("books"), ended);
    assert_eq!(problem.message, "table public.books could not be read again: it is too fast");
    assert_eq!(problem.remedy.as_deref(), Some("wait"));
}
