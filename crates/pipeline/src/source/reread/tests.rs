use futures::future::BoxFuture;
use serde_json::json;
use walvec_model::{Cell, Column, Lsn, Row, Table};

use super::*;

fn key(id: u64) -> RowKey {
    RowKey::new(vec![json!(id)])
}

const fn at(lsn: u64, ordinal: u64) -> Position {
    Position { commit_lsn: Lsn(lsn), ordinal }
}

fn change(position: Position, op: Op) -> Change {
    let column = Column::new("id", "int4", 23);
    let table = Table { name: TableName::new("public", "books"), columns: vec![column], key: vec![0] };
    Change { table: Arc::new(table), position, op }
}

fn backfill(reader: impl FnOnce(mpsc::Sender<ReadResult>) -> BoxFuture<'static, ()>) -> RunningJob {
    let table = TableName::new("public", "books");
    let order = QueuedJob::unasked(JobSpec::Backfill { table: table.clone(), filter: None });
    let (chunks_in, chunks) = mpsc::channel(1);
    RunningJob::reading(order, table, chunks, reader(chunks_in))
}

#[tokio::test]
async fn a_job_whose_reader_panicked_has_not_read_everything() {
    let rows = || vec![change(at(5, 0), Op::Insert { new: Row(vec![Cell::Value(json!(1))]) })];
    let mut active = backfill(|chunks| {
        Box::pin(async move {
            chunks.send(Ok(Read::Rows(rows()))).await.unwrap();
            panic!("a fault in the reader");
        })
    });
    assert!(matches!(active.turn().await, JobStep::Write(written) if written.len() == 1));
    assert!(matches!(active.turn().await, JobStep::Ended(Err(PipelineError::Source(CaptureError::Closed)))));

    let mut active = backfill(|chunks| Box::pin(async move { chunks.send(Ok(Read::Rows(rows()))).await.unwrap() }));
    assert!(matches!(active.turn().await, JobStep::Write(written) if written.len() == 1));
    assert!(matches!(active.turn().await, JobStep::Ended(Ok(()))));
}

#[test]
fn a_row_that_was_deleted_or_moved_or_changed_after_it_was_read_is_not_written() {
    let row = |id: u64| Row(vec![Cell::Value(json!(id))]);
    let mut touched = KeysSeenInStream::default();
    touched.note(&change(at(10, 1), Op::Delete { key: key(1) }));
    touched.note(&change(at(10, 2), Op::Update { old_key: Some(key(2)), new: row(3) }));
    touched.note(&change(at(4, 1), Op::Insert { new: row(4) }));
    for id in 1..=3 {
        assert!(touched.is_newer(&key(id), at(5, 0)), "{id}");
    }
    assert!(!touched.is_newer(&key(4), at(5, 0)), "it was read after that change");
    assert!(!touched.is_newer(&key(5), at(5, 0)), "nothing happened to it");
}

#[test]
fn what_is_older_than_the_reading_of_an_altered_table_says_nothing_any_more() {
    let row = Row(vec![Cell::Value(json!(1))]);
    let floors = Floors::new([(TableName::new("public", "books"), at(5, 0))]);
    assert!(floors.cover(&change(at(4, 9), Op::Truncate), None));
    assert!(!floors.cover(&change(at(5, 1), Op::Insert { new: row }), None));
    assert!(!Floors::default().cover(&change(at(4, 9), Op::Truncate), None));
    let row = Row(vec![Cell::Value(json!(1))]);
    let mut read_now = [at(4, 9), at(5, 1)].map(|position| change(position, Op::Insert { new: row.clone() }));
    floors.lift(&mut read_now, None);
    assert_eq!(read_now.map(|row| row.position), [at(5, 0), at(5, 1)], "the sweep of what is older leaves both");
}

#[test]
fn no_row_of_before_a_truncate_comes_back() {
    let mut touched = KeysSeenInStream::default();
    touched.note(&change(at(10, 1), Op::Truncate));
    assert!(touched.is_newer(&key(1), at(5, 0)));
    assert!(!touched.is_newer(&key(1), at(20, 0)));
}
