use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use walvec_model::{Cell, Lsn, Position, Row, RowKey, Table};

use super::*;
use crate::error::Resync;
use crate::observe::recorded::Recorded;
use crate::observe::status::{CollectionStatus, PartitionStatus, Phase};
use crate::observe::telemetry::Telemetry;
use crate::source::gap;

/// Records each metric of the pipeline once.
fn record_everything() {
    let collection = CollectionStatus { table: "public.books".to_owned(), ..CollectionStatus::default() };
    let telemetry = Telemetry::new(vec![collection], true);
    telemetry.phase(Phase::Streaming);
    telemetry.set_aside(|_| None);
    telemetry.collection(0, |status| status.dead_letters = 1);
    telemetry.searchable(SystemTime::now(), 1);
    telemetry.published(SystemTime::now(), 1);
    telemetry.produced(1);
    telemetry.reading(vec![PartitionStatus::default()], 1, 1);
    gap::announce(Some(&Resync::asked(false)), &telemetry);
    count_changes(&[change(Op::Truncate)]);
    count_embeddings("computed", 1);
    count_cut(&TableName::new("public", "books"), 1);
    count_consumed("books");
    count_written(1);
    count_overtaken(1);
    drop(Timer::start(TimedStage::Embed));
}

fn change(op: Op) -> Change {
    let table = Arc::new(Table { name: TableName::new("public", "books"), columns: Vec::new(), key: Vec::new() });
    Change { table, position: Position { commit_lsn: Lsn(1), ordinal: 1 }, op }
}

#[test]
fn every_metric_has_a_help_text_and_every_help_text_a_metric() {
    let recorded = Recorded::during(|| {
        describe();
        record_everything();
    });
    assert_eq!(recorded.names(), recorded.described());
}

#[test]
fn the_names_that_dashboards_and_alerts_use_stay() {
    let names = [
        "walvec_changes_total",
        "walvec_commit_to_published_seconds",
        "walvec_commit_to_searchable_seconds",
        "walvec_consumer_lag_records",
        "walvec_dead_letters",
        "walvec_embeddings_total",
        "walvec_followed",
        "walvec_points_overtaken_total",
        "walvec_points_written_total",
        "walvec_rebalances_total",
        "walvec_records_consumed_total",
        "walvec_records_produced_total",
        "walvec_replication_lag_bytes",
        "walvec_resyncs_total",
        "walvec_retained_wal_bytes",
        "walvec_snapshot_rows",
        "walvec_stage_seconds",
        "walvec_texts_cut_total",
        "walvec_up",
    ];
    assert_eq!(Recorded::during(describe).described(), BTreeSet::from(names.map(str::to_owned)));
}

#[test]
fn changes_are_counted_by_table_and_operation() {
    let row = || Row(vec![Cell::Unchanged]);
    let recorded = Recorded::during(|| {
        count_changes(&[
            change(Op::Insert { new: row() }),
            change(Op::Insert { new: row() }),
            change(Op::Update { old_key: None, new: row() }),
            change(Op::Delete { key: RowKey::new(Vec::new()) }),
            change(Op::Truncate),
        ]);
    });
    let counted = |op: &str| recorded.value(&format!("walvec_changes_total{{table=public.books,op={op}}}"));
    assert_eq!(["insert", "update", "delete", "truncate"].map(counted), [Some(2.0), Some(1.0), Some(1.0), Some(1.0)]);
}

#[test]
fn each_stage_is_timed_under_a_label_of_its_own() {
    let stages = [
        TimedStage::Retrieve,
        TimedStage::RowSource,
        TimedStage::Relate,
        TimedStage::LookUp,
        TimedStage::Render,
        TimedStage::Embed,
        TimedStage::Write,
    ];
    let recorded = Recorded::during(|| stages.iter().for_each(|stage| drop(Timer::start(*stage))));
    for label in ["retrieve", "refetch", "relate", "look_up", "render", "embed", "write"] {
        assert_eq!(recorded.value(&format!("walvec_stage_seconds{{stage={label}}}")), Some(1.0), "{label}");
    }
}
