use super::*;
use crate::source::fixtures::{at, plain, table};

/// A reading with the jobs that it is given.
struct Run {
    reading: Reading,
    floors: BTreeMap<TableName, Position>,
    job: Option<watch::Sender<Progress>>,
    now: Instant,
}

impl Run {
    fn new(partitions: Option<&[u32]>, dependents: &[&str]) -> Self {
        let dependents = dependents.iter().map(|name| table(name)).collect();
        let reading = Reading::of(table("books"), plain(1), partitions, dependents, Lsn(90));
        Self { reading, floors: BTreeMap::new(), job: None, now: Instant::now() }
    }

    fn step(&mut self) -> ReadingStep {
        self.reading.step(self.now, &mut self.floors)
    }

    /// Takes a step that has to give a job, and gives it. Returns what is to be read.
    fn give(&mut self) -> PartOfTable {
        let ReadingStep::Give(part) = self.step() else { panic!("no job") };
        let (job, progress) = watch::channel(Progress::default());
        self.job = Some(job);
        self.reading.given(Some(progress));
        part
    }

    fn end(&self, ended: Result<(), Ended>, superseded: Option<(TableName, Position)>) {
        let progress = Progress { superseded, ended: Some(ended), ..Progress::default() };
        self.job.as_ref().unwrap().send_replace(progress);
    }
}

fn failure() -> Ended {
    Ended { code: "E_TOO_FAST".to_owned(), message: "too fast".to_owned(), remedy: None }
}

#[tokio::test]
async fn the_tables_that_depend_on_it_are_read_one_after_the_other() {
    let mut run = Run::new(None, &["books", "films"]);
    assert_eq!(run.give(), (table("films"), None));
    assert_eq!(run.step(), ReadingStep::Wait, "one job at a time");
    run.end(Ok(()), Some((table("films"), at(100))));
    assert_eq!(run.give(), (table("books"), None));
    run.end(Ok(()), Some((table("books"), at(120))));
    assert_eq!(run.step(), ReadingStep::Done);
    assert_eq!(run.floors, BTreeMap::from([(table("films"), at(100)), (table("books"), at(120))]));
    assert_eq!((run.reading.since, run.reading.from), (Some(at(100)), Some(Lsn(90))), "as of the first of them");
}

#[tokio::test]
async fn a_table_that_no_collection_depends_on_is_done_at_once() {
    assert_eq!(Run::new(None, &[]).step(), ReadingStep::Done);
}

#[tokio::test]
async fn only_the_table_itself_is_read_in_part() {
    let mut run = Run::new(Some(&[7, 8]), &["books", "films"]);
    assert_eq!(run.give(), (table("films"), None), "any of its rows may look up a row of the new partitions");
    run.end(Ok(()), None);
    assert_eq!(run.give(), (table("books"), Some(vec![7, 8])));
    run.end(Ok(()), None);
    assert_eq!(run.step(), ReadingStep::Done);
    assert_eq!(run.reading.from, None, "the stream of before goes on to count");
    assert!(run.floors.is_empty());
}

#[tokio::test]
async fn a_job_for_which_there_was_no_room_is_given_at_the_next_look() {
    let mut run = Run::new(None, &["books"]);
    assert_eq!(run.step(), ReadingStep::Give((table("books"), None)));
    run.reading.given(None);
    assert_eq!(run.give(), (table("books"), None));
}

#[tokio::test]
async fn a_table_that_could_not_be_read_is_tried_again_after_a_pause_and_from_the_start() {
    let mut run = Run::new(None, &["books", "films"]);
    run.give();
    run.end(Err(failure()), None);
    assert_eq!(run.step(), ReadingStep::Failed(failure()));
    run.now += PAUSE - Duration::from_millis(1);
    assert_eq!(run.step(), ReadingStep::Wait, "it is reported once");
    run.now += Duration::from_millis(1);
    assert_eq!(run.step(), ReadingStep::Forget, "the next look finds the table still owed");
}

#[tokio::test]
async fn the_status_shows_the_table_that_is_being_read() {
    let mut run = Run::new(None, &["books", "films"]);
    assert_eq!(run.reading.shown(), (Some(&table("films")), Progress::default()));
    run.give();
    let progress = Progress { rows: 5, rows_estimated: Some(9), ..Progress::default() };
    run.job.as_ref().unwrap().send_replace(progress.clone());
    assert_eq!(run.reading.shown(), (Some(&table("films")), progress));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_job_wakes_the_looks_and_a_failure_or_a_lost_job_does_not() {
    let is_ended = |run: &Run| futures::FutureExt::now_or_never(ended(Some(&run.reading))).is_some();
    assert!(futures::FutureExt::now_or_never(ended(None)).is_none());
    let mut run = Run::new(None, &["books"]);
    assert!(!is_ended(&run), "nothing was given");
    run.give();
    assert!(!is_ended(&run), "it runs");
    run.end(Err(failure()), None);
    assert!(is_ended(&run));
    run.step();
    assert!(!is_ended(&run), "the looks would turn in a circle during the pause");
    let mut run = Run::new(None, &["books"]);
    run.give();
    run.job = None;
    assert!(!is_ended(&run), "the pipeline ends too");
}
