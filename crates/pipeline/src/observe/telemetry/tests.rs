use super::*;
use crate::observe::problems::ProblemGuard;
use crate::observe::recorded::Recorded;

fn collection(name: &str) -> CollectionStatus {
    CollectionStatus { collection: name.to_owned(), ..CollectionStatus::default() }
}

fn seen(telemetry: &Telemetry) -> Status {
    telemetry.subscribe().borrow().clone()
}

#[test]
fn a_lag_that_is_not_known_is_not_zero() {
    let telemetry = Telemetry::new(Vec::new(), false);
    let none = (None, None, None);
    let lag = || {
        let status = seen(&telemetry);
        (status.lag_ms, status.lag_bytes, status.retained_wal_bytes)
    };
    assert_eq!(lag(), none);
    let json = serde_json::to_value(seen(&telemetry)).unwrap();
    for field in ["lag_ms", "lag_bytes", "retained_wal_bytes", "applied_lsn", "server_lsn", "server_asked"] {
        assert!(json[field].is_null(), "{field}: {}", json[field]);
    }
    assert!(json["lag_unknown_since"].is_string());

    telemetry.phase(Phase::Snapshot);
    telemetry.observed(Lsn(100), 30);
    assert_eq!(lag(), (None, None, Some(30)), "nothing of the log has been read");
    telemetry.applied(Lsn(60));
    telemetry.phase(Phase::Streaming);
    let of_now = || {
        let (ms, bytes, retained) = lag();
        (ms.is_some_and(|ms| ms < 60_000), bytes, retained) == (true, Some(40), Some(30))
    };
    assert!(of_now(), "{:?}", lag());
    assert_eq!(seen(&telemetry).lag_unknown_since, None);

    telemetry.unobserved();
    assert_eq!(lag(), none, "PostgreSQL does not answer");
    assert_eq!(seen(&telemetry).lag_unknown_since, seen(&telemetry).server_asked);
    telemetry.observed(Lsn(100), 30);
    assert!(of_now(), "{:?}", lag());
    telemetry.phase(Phase::Starting);
    assert_eq!(lag(), none, "the connection broke");
    assert_eq!(seen(&telemetry).applied_lsn, Lsn(60));
}

#[test]
fn the_lag_grows_while_nothing_of_what_the_server_has_written_arrives() {
    let telemetry = Telemetry::new(Vec::new(), false);
    telemetry.phase(Phase::Streaming);
    telemetry.applied(Lsn(100));
    telemetry.observed(Lsn(100), 0);
    assert_eq!(seen(&telemetry).lag_ms, Some(0));
    let long_ago = SystemTime::now() - Duration::from_secs(60);
    *telemetry.0.ahead.lock().unwrap() = Some((Lsn(200), long_ago));
    // Neither a later look nor applying a part of the missing WAL makes the lag start over.
    telemetry.observed(Lsn(300), 0);
    telemetry.applied(Lsn(199));
    assert!(seen(&telemetry).lag_ms.is_some_and(|lag| lag >= 60_000), "{:?}", seen(&telemetry).lag_ms);
    telemetry.applied(Lsn(200));
    assert!(seen(&telemetry).lag_ms.is_some_and(|lag| lag < 60_000), "{:?}", seen(&telemetry).lag_ms);
    telemetry.applied(Lsn(300));
    assert_eq!(seen(&telemetry).lag_ms, Some(0));
}

#[test]
fn behind_a_broker_the_lag_is_known_while_the_broker_answers() {
    let telemetry = Telemetry::that_reads(ReadsFrom::Topics, Vec::new(), false);
    telemetry.phase(Phase::Streaming);
    assert_eq!((seen(&telemetry).lag_ms, seen(&telemetry).lag_bytes), (Some(0), None));
    telemetry.broker_trouble(Some(&walvec_broker::BrokerError::Closed));
    assert_eq!(seen(&telemetry).lag_ms, None);
    assert!(seen(&telemetry).lag_unknown_since.is_some());
    telemetry.broker_trouble(None);
    assert_eq!(seen(&telemetry).lag_ms, Some(0));
}

#[test]
fn a_pipeline_that_follows_another_one_counts_on() {
    let before = Status {
        collections: vec![CollectionStatus {
            points: Some(5),
            embeddings_computed: 5,
            snapshot_rows_copied: 5,
            dead_letters: 1,
            ..collection("books")
        }],
        counted_since: Some("2026-11-20T20:49:03Z".parse().unwrap()),
        ..Status::default()
    };
    let telemetry = Telemetry::new(vec![collection("films"), collection("books")], false);
    telemetry.count_on(&before);
    telemetry.collection(1, |status| status.embeddings_computed += 2);
    let status = telemetry.subscribe().borrow().clone();
    assert_eq!(status.counted_since, before.counted_since);
    assert_eq!(status.collections[0], collection("films"));
    let expected = CollectionStatus { embeddings_computed: 7, dead_letters: 0, ..before.collections[0].clone() };
    assert_eq!(status.collections[1], expected);
}

fn in_books(table: &str) -> CollectionStatus {
    CollectionStatus { table: table.to_owned(), ..collection("books") }
}

fn problem(part: &str) -> Problem {
    Problem { part: part.to_owned(), message: "away".to_owned(), remedy: None, attempts: 1 }
}

fn partition(number: i32, lag: u64) -> PartitionStatus {
    PartitionStatus { topic: "t".to_owned(), partition: number, next: 0, lag }
}

#[test]
fn a_part_is_down_as_long_as_one_of_its_owners_has_a_problem() {
    let up = |run: fn(&mut ProblemGuard, &mut ProblemGuard)| {
        let recorded = Recorded::during(|| {
            let telemetry = Telemetry::new(Vec::new(), true);
            let (mut one, mut other) = (ProblemGuard::new(&telemetry), ProblemGuard::new(&telemetry));
            run(&mut one, &mut other);
            std::mem::forget((one, other));
        });
        ["source", "embedder", "sink"].map(|part| recorded.value(&format!("walvec_up{{part={part}}}")))
    };
    assert_eq!(up(|_, _| {}), [Some(1.0); 3], "before anything is known");
    let both = |one: &mut ProblemGuard, other: &mut ProblemGuard| {
        one.show(problem("sink"));
        other.show(problem("sink"));
    };
    assert_eq!(up(both), [Some(1.0), Some(1.0), Some(0.0)]);
    let one_recovers = |one: &mut ProblemGuard, other: &mut ProblemGuard| {
        one.show(problem("sink"));
        other.show(problem("sink"));
        one.end();
    };
    assert_eq!(up(one_recovers), [Some(1.0), Some(1.0), Some(0.0)]);
    let both_recover = |one: &mut ProblemGuard, other: &mut ProblemGuard| {
        one.show(problem("sink"));
        other.show(problem("sink"));
        one.end();
        other.end();
    };
    assert_eq!(up(both_recover), [Some(1.0); 3]);
}

#[test]
fn a_problem_of_another_part_takes_the_place_of_the_owner_s_former_one() {
    let recorded = Recorded::during(|| {
        let telemetry = Telemetry::new(Vec::new(), true);
        let mut owner = ProblemGuard::new(&telemetry);
        owner.show(problem("sink"));
        owner.show(problem("embedder"));
        assert_eq!(seen(&telemetry).problem, Some(problem("embedder")));
        std::mem::forget(owner);
    });
    let up = |part: &str| recorded.value(&format!("walvec_up{{part={part}}}"));
    assert_eq!((up("sink"), up("embedder")), (Some(1.0), Some(0.0)));
}

#[test]
fn a_gauge_of_a_lag_that_is_not_known_has_no_number() {
    let lag = |run: fn(&Telemetry)| {
        let recorded = Recorded::during(|| {
            let telemetry = Telemetry::new(Vec::new(), true);
            telemetry.phase(Phase::Streaming);
            telemetry.applied(Lsn(60));
            telemetry.observed(Lsn(100), 30);
            run(&telemetry);
        });
        (recorded.value(LAG_BYTES).unwrap(), recorded.value(RETAINED_BYTES).unwrap())
    };
    assert_eq!(lag(|_| {}), (40.0, 30.0));
    assert_eq!(lag(|telemetry| telemetry.applied(Lsn(200))), (0.0, 30.0), "never below zero");
    let (lag, retained) = lag(Telemetry::unobserved);
    assert!(lag.is_nan() && retained.is_nan());
}

#[test]
fn a_pipeline_that_fills_collections_for_later_sets_no_gauge() {
    let recorded = Recorded::during(|| {
        let telemetry = Telemetry::new(vec![in_books("public.books")], false);
        telemetry.phase(Phase::Streaming);
        telemetry.observed(Lsn(100), 30);
        telemetry.collection(0, |status| status.dead_letters = 1);
        telemetry.set_aside(|_| None);
        telemetry.searchable(SystemTime::now(), 1);
        telemetry.published(SystemTime::now(), 1);
        ProblemGuard::new(&telemetry).show(problem("sink"));
    });
    assert!(recorded.names().is_empty(), "{:?}", recorded.names());
}

#[test]
fn the_gauges_of_a_collection_follow_its_status() {
    let recorded = Recorded::during(|| {
        let telemetry = Telemetry::new(vec![in_books("public.books")], true);
        telemetry.collection(0, |status| {
            (status.dead_letters, status.snapshot_rows_estimated, status.snapshot_rows_copied) = (2, 10, 7);
        });
        telemetry.collection(1, |_| panic!("there is no such collection"));
    });
    let rows = |state: &str| recorded.value(&format!("walvec_snapshot_rows{{table=public.books,state={state}}}"));
    assert_eq!((rows("estimated"), rows("copied")), (Some(10.0), Some(7.0)));
    assert_eq!(recorded.value("walvec_dead_letters{table=public.books}"), Some(2.0));
}

#[test]
fn a_table_that_is_set_aside_is_not_followed_and_says_why_until_it_is_again() {
    let aside = || SetAside { code: "E_TABLE".to_owned(), message: "gone".to_owned(), remedy: "make it".to_owned() };
    let recorded = Recorded::during(|| {
        let telemetry = Telemetry::new(vec![in_books("public.books"), in_books("public.films")], true);
        telemetry.set_aside(|_| Some(aside()));
        telemetry.set_aside(|table| (table == "public.films").then(aside));
        let shown: Vec<_> = seen(&telemetry).collections.into_iter().map(|collection| collection.set_aside).collect();
        assert_eq!(shown, [None, Some(aside())]);
    });
    let followed = |table: &str| recorded.value(&format!("walvec_followed{{table={table}}}"));
    assert_eq!((followed("public.books"), followed("public.films")), (Some(1.0), Some(0.0)));
}

#[test]
fn a_partition_that_another_worker_has_taken_over_does_not_keep_its_last_lag() {
    let recorded = Recorded::during(|| {
        let telemetry = Telemetry::that_reads(ReadsFrom::Topics, Vec::new(), true);
        telemetry.reading(vec![partition(0, 5), partition(1, 7)], 1, 10);
        telemetry.reading(vec![partition(1, 6)], 2, 11);
        let broker = seen(&telemetry).broker.unwrap();
        assert_eq!((broker.partitions, broker.rebalances, broker.consumed), (vec![partition(1, 6)], 2, 11));
    });
    let lag = |number: i32| recorded.value(&format!("walvec_consumer_lag_records{{topic=t,partition={number}}}"));
    assert_eq!((lag(0), lag(1)), (Some(0.0), Some(6.0)));
}

#[test]
fn what_a_worker_has_applied_never_goes_back_and_a_replay_of_the_stream_does() {
    let telemetry = Telemetry::new(Vec::new(), false);
    telemetry.applied_at_least(Lsn(50));
    telemetry.applied_at_least(Lsn(40));
    assert_eq!(seen(&telemetry).applied_lsn, Lsn(50));
    telemetry.applied(Lsn(40));
    assert_eq!(seen(&telemetry).applied_lsn, Lsn(40), "rows may be back whose deletion is still to come");
}

#[test]
#[should_panic(expected = "what is confirmed is durable in the sink")]
fn nothing_is_shown_as_confirmed_that_was_not_applied() {
    let telemetry = Telemetry::new(Vec::new(), false);
    telemetry.applied(Lsn(50));
    telemetry.confirmed(Lsn(50));
    telemetry.confirmed(Lsn(51));
}

#[test]
fn the_oldest_of_what_is_read_and_what_is_known_to_be_there_makes_the_lag() {
    let telemetry = Telemetry::new(Vec::new(), false);
    telemetry.phase(Phase::Streaming);
    telemetry.applied(Lsn(100));
    telemetry.observed(Lsn(100), 0);
    let ago = |seconds| SystemTime::now() - Duration::from_secs(seconds);
    telemetry.waiting_since(Some(ago(60)));
    let lag = || seen(&telemetry).lag_ms.unwrap();
    assert!((60_000..600_000).contains(&lag()), "{}", lag());
    *telemetry.0.ahead.lock().unwrap() = Some((Lsn(200), ago(3600)));
    telemetry.age();
    assert!(lag() >= 3_600_000, "{}", lag());
    telemetry.applied(Lsn(200));
    telemetry.waiting_since(None);
    assert_eq!(lag(), 0);
    telemetry.waiting_since(Some(SystemTime::now() + Duration::from_secs(60)));
    assert_eq!(lag(), 0, "the server's clock is ahead of this machine's");
}

#[test]
fn only_the_tables_that_are_read_again_show_how_far() {
    let telemetry = Telemetry::new(vec![in_books("public.books"), in_books("public.films")], false);
    let read = |rows| ReadAgain { rows, rows_estimated: None };
    telemetry.read_again(|_| Some(read(1)));
    telemetry.read_again(|table| (table == "public.books").then(|| read(2)));
    let shown: Vec<_> = seen(&telemetry).collections.into_iter().map(|collection| collection.read_again).collect();
    assert_eq!(shown, [Some(read(2)), None]);
}

#[test]
fn a_position_that_does_not_exist_yet_is_null_and_comes_back_as_none() {
    let status = Status { applied_lsn: Lsn(0x10), ..Status::default() };
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!((&json["applied_lsn"], &json["confirmed_lsn"]), (&"0/10".into(), &serde_json::Value::Null));
    assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);
}

#[test]
fn the_rows_of_a_snapshot_are_those_of_all_collections() {
    let of = |copied, estimated| CollectionStatus {
        snapshot_rows_copied: copied,
        snapshot_rows_estimated: estimated,
        ..CollectionStatus::default()
    };
    let status = Status { collections: vec![of(3, 10), of(4, 20)], ..Status::default() };
    assert_eq!(status.snapshot_rows(), (7, 30));
}
