use super::*;

fn source() -> SourceIdentity {
    SourceIdentity { system_id: "7".to_owned(), timeline: 1, database_oid: 5, slot: "walvec".to_owned() }
}

fn facts(slot: Slot) -> Facts {
    Facts {
        source: source(),
        left_at: None,
        slot,
        publication: Some("9".to_owned()),
        publication_called: None,
        replaced: false,
        server: Lsn(1000),
        config_digest: "a".to_owned(),
        collections: collections("1"),
        shown: BTreeMap::new(),
        tables: BTreeMap::new(),
    }
}

fn ready(confirmed: u64) -> Slot {
    Slot::Ready { confirmed: Lsn(confirmed) }
}

fn checkpoint(snapshot: SnapshotState, applied: u64) -> Checkpoint {
    Checkpoint {
        source: source(),
        generation: Generation(4),
        snapshot,
        applied: Lsn(applied),
        last_commit: Lsn(applied.min(450)),
        written_to: Some(Lsn(applied.min(450))),
        resync: None,
        sweep_waits: false,
        witnesses: BTreeMap::new(),
        tables: BTreeMap::new(),
        publication: "9".to_owned(),
        config_digest: "a".to_owned(),
        digests: Vec::new(),
        collections: collections("1"),
        written: BTreeMap::new(),
    }
}

fn resume(checkpoint: Checkpoint) -> Start {
    Start::Resume { checkpoint: Box::new(checkpoint), anew: anew::TablesToRead::default() }
}

fn collections(id: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("books".to_owned(), id.to_owned())])
}

/// Returns the code of the gap for which the tables are read again.
fn resync(stored: &Checkpoint, facts: &Facts) -> Option<String> {
    match decide(Some(stored), facts, OnGap::Resync) {
        Ok(Start::Snapshot { resync: Some(resync), .. }) => Some(resync.code),
        Ok(_) => None,
        Err(refusal) => panic!("{refusal}"),
    }
}

fn refused(stored: Option<&Checkpoint>, facts: &Facts) -> &'static str {
    decide(stored, facts, OnGap::Stop).unwrap_err().code
}

#[test]
fn the_first_start_takes_a_snapshot() {
    assert_eq!(decide(None, &facts(Slot::Missing), OnGap::Resync), Ok(first_snapshot()));
}

#[test]
fn a_slot_that_this_directory_never_read_is_left_alone() {
    assert_eq!(refused(None, &facts(ready(10))), "E_SLOT_EXISTS");
}

#[test]
fn an_interrupted_snapshot_starts_again_as_a_new_generation() {
    let stored = checkpoint(SnapshotState::Copying, 0);
    for (slot, in_the_way) in [(Slot::Missing, false), (ready(10), true)] {
        let Ok(Start::Snapshot { generation, drop_slot, .. }) = decide(Some(&stored), &facts(slot), OnGap::Stop) else {
            panic!("no snapshot");
        };
        assert_eq!((generation, drop_slot), (Generation(5), in_the_way));
    }
}

#[test]
fn a_finished_snapshot_is_followed_by_the_stream() {
    let stored = checkpoint(SnapshotState::Done, 500);
    assert_eq!(decide(Some(&stored), &facts(ready(500)), OnGap::Stop), Ok(resume(stored.clone())));
    let lagging = decide(Some(&stored), &facts(ready(400)), OnGap::Stop);
    assert_eq!(lagging, Ok(resume(stored)), "feedback may lag");
}

#[test]
fn a_slot_that_is_gone_is_never_replaced_and_continued() {
    let stored = checkpoint(SnapshotState::Done, 500);
    assert_eq!(refused(Some(&stored), &facts(Slot::Missing)), "E_SLOT_MISSING");
    let lost = Slot::Lost { reason: "wal_removed".to_owned() };
    assert_eq!(refused(Some(&stored), &facts(lost.clone())), "E_SLOT_LOST");
    assert_eq!(resync(&stored, &facts(Slot::Missing)).as_deref(), Some("E_SLOT_MISSING"));
    assert_eq!(resync(&stored, &facts(lost)).as_deref(), Some("E_SLOT_LOST"));
}

#[test]
fn positions_that_cannot_be_are_refused() {
    let stored = checkpoint(SnapshotState::Done, 500);
    assert_eq!(refused(Some(&stored), &facts(ready(501))), "E_POSITION", "the slot was read by somebody else");
    let tampered = checkpoint(SnapshotState::Done, 1001);
    assert_eq!(refused(Some(&tampered), &facts(ready(500))), "E_POSITION", "ahead of the server");
    assert_eq!(resync(&tampered, &facts(ready(500))).as_deref(), Some("E_POSITION"));
}

#[test]
fn a_publication_that_was_made_anew_is_refused() {
    let stored = checkpoint(SnapshotState::Done, 500);
    for now in [None, Some("10".to_owned())] {
        let facts = Facts { publication: now, ..facts(ready(500)) };
        assert_eq!(refused(Some(&stored), &facts), "E_PUBLICATION");
        assert_eq!(resync(&stored, &facts).as_deref(), Some("E_PUBLICATION"));
    }
}

#[test]
fn another_cluster_is_refused() {
    let mut stored = checkpoint(SnapshotState::Done, 500);
    stored.source.system_id = "8".to_owned();
    for snapshot in [SnapshotState::Done, SnapshotState::Again, SnapshotState::Copying] {
        stored.snapshot = snapshot;
        let refusal = decide(Some(&stored), &facts(ready(500)), OnGap::Resync).unwrap_err();
        assert_eq!(refusal.code, "E_SOURCE", "{snapshot:?}: its rows would be swept");
    }
    stored.snapshot = SnapshotState::Wanted;
    assert!(decide(Some(&stored), &facts(ready(500)), OnGap::Stop).is_ok(), "a reset heals it");
}

#[test]
fn another_slot_is_refused_by_both_names() {
    let mut stored = checkpoint(SnapshotState::Done, 500);
    stored.source.slot = "former".to_owned();
    let refusal = decide(Some(&stored), &facts(Slot::Missing), OnGap::Resync).unwrap_err();
    assert_eq!(refusal.code, "E_SOURCE");
    assert!(refusal.what.contains("\"former\"") && refusal.what.contains("\"walvec\""), "{refusal}");
    assert!(refusal.remedy.contains("source.slot: former"), "{}", refusal.remedy);
}

#[test]
fn a_promoted_standby_goes_on_if_it_has_everything_that_was_applied() {
    let stored = checkpoint(SnapshotState::Done, 500);
    let promoted = |left_at: Option<u64>| {
        let mut facts = Facts { left_at: left_at.map(Lsn), ..facts(ready(400)) };
        facts.source.timeline = 2;
        facts
    };
    let Ok(Start::Resume { checkpoint: resumed, .. }) = decide(Some(&stored), &promoted(Some(480)), OnGap::Stop) else {
        panic!("the last transaction ended at 450");
    };
    assert_eq!((resumed.applied, resumed.source.timeline), (Lsn(480), 2));
    assert_eq!(resync(&stored, &promoted(Some(449))).as_deref(), Some("E_TIMELINE"), "a transaction was lost");
    assert_eq!(resync(&stored, &promoted(None)).as_deref(), Some("E_TIMELINE"), "no ancestor");
    let killed = Checkpoint { written_to: None, ..stored };
    assert_eq!(resync(&killed, &promoted(Some(480))).as_deref(), Some("E_TIMELINE"), "what it wrote is not known");
    let Ok(Start::Resume { checkpoint: resumed, .. }) = decide(Some(&killed), &facts(ready(400)), OnGap::Stop) else {
        panic!("on the same timeline nothing is lost");
    };
    assert_eq!(resumed.written_to, Some(Lsn(1000)), "no more than the server had");
}

#[test]
fn a_reason_that_was_stored_is_that_of_the_snapshot() {
    let mut stored = checkpoint(SnapshotState::Again, 500);
    stored.resync = Some(Resync::asked(false));
    assert_eq!(resync(&stored, &facts(ready(500))).as_deref(), Some("asked"));
    stored.snapshot = SnapshotState::Copying;
    assert_eq!(resync(&stored, &facts(ready(500))).as_deref(), Some("asked"), "after an interruption too");
}

#[test]
fn a_collection_that_was_made_anew_is_filled_again() {
    let stored = checkpoint(SnapshotState::Done, 500);
    let facts = Facts { collections: collections("2"), ..facts(ready(500)) };
    assert!(matches!(
        decide(Some(&stored), &facts, OnGap::Stop),
        Ok(Start::Snapshot { generation: Generation(5), .. })
    ));
}

#[test]
fn a_changed_configuration_reads_the_tables_again() {
    let mut stored = checkpoint(SnapshotState::Done, 500);
    stored.config_digest = "b".to_owned();
    assert!(matches!(
        decide(Some(&stored), &facts(ready(500)), OnGap::Stop),
        Ok(Start::Snapshot { generation: Generation(5), drop_slot: true, .. })
    ));
}

/// Says how a start with this state goes on, in a few words.
fn outcome(stored: &Checkpoint, facts: &Facts, on_gap: OnGap) -> String {
    match decide(Some(stored), facts, on_gap) {
        Ok(Start::Resume { .. }) => "resume".to_owned(),
        Ok(Start::Snapshot { generation, drop_slot, resync, .. }) => {
            assert_eq!(generation, stored.generation.next());
            let (slot, code) = (if drop_slot { "drop slot" } else { "no slot" }, resync.map(|resync| resync.code));
            format!("{slot}, {}", code.as_deref().unwrap_or("no gap"))
        }
        Err(refusal) => refusal.code.to_owned(),
    }
}

#[test]
fn every_state_of_the_slot_meets_every_state_of_the_snapshot() {
    let slots = || [Slot::Missing, ready(500), ready(501), Slot::Lost { reason: "wal_removed".to_owned() }];
    let anyway = ["no slot, no gap", "drop slot, no gap", "drop slot, no gap", "drop slot, no gap"];
    let followed = ["no slot, E_SLOT_MISSING", "resume", "drop slot, E_POSITION", "drop slot, E_SLOT_LOST"];
    let refused = ["E_SLOT_MISSING", "resume", "E_POSITION", "E_SLOT_LOST"];
    let cases = [
        (SnapshotState::Wanted, anyway, anyway),
        (SnapshotState::Copying, anyway, anyway),
        (SnapshotState::Again, anyway, anyway),
        (SnapshotState::Done, followed, refused),
    ];
    for (state, resyncing, stopping) in cases {
        for (slot, (resyncing, stopping)) in slots().into_iter().zip(resyncing.into_iter().zip(stopping)) {
            let (stored, facts) = (checkpoint(state, 500), facts(slot));
            assert_eq!(outcome(&stored, &facts, OnGap::Resync), resyncing, "{state:?}, {:?}", facts.slot);
            assert_eq!(outcome(&stored, &facts, OnGap::Stop), stopping, "{state:?}, {:?}, stop", facts.slot);
        }
    }
}

#[test]
fn another_database_of_the_cluster_is_refused_with_both_named() {
    for state in [SnapshotState::Done, SnapshotState::Again, SnapshotState::Copying] {
        let mut stored = checkpoint(state, 500);
        stored.source.database_oid = 6;
        for on_gap in [OnGap::Resync, OnGap::Stop] {
            let refusal = decide(Some(&stored), &facts(ready(500)), on_gap).unwrap_err();
            assert_eq!(refusal.code, "E_SOURCE", "{state:?}");
            assert!(refusal.what.contains("database 6") && refusal.what.contains("database 5"), "{refusal}");
        }
    }
}

#[test]
fn a_promotion_does_not_make_it_another_source() {
    let mut stored = checkpoint(SnapshotState::Copying, 0);
    stored.source.timeline = 9;
    assert_eq!(outcome(&stored, &facts(ready(10)), OnGap::Stop), "drop slot, no gap");
}

#[test]
fn points_that_wait_for_an_operator_go_on_waiting_when_the_stream_is_continued() {
    let stored = Checkpoint { sweep_waits: true, ..checkpoint(SnapshotState::Done, 500) };
    let Ok(Start::Resume { checkpoint: resumed, .. }) = decide(Some(&stored), &facts(ready(500)), OnGap::Resync) else {
        panic!("no resume");
    };
    assert!(resumed.sweep_waits);
}

#[test]
fn the_reason_of_the_last_resync_stays_until_there_is_another_one() {
    let asked = Checkpoint { resync: Some(Resync::asked(true)), ..checkpoint(SnapshotState::Done, 500) };
    let Ok(Start::Resume { checkpoint: resumed, .. }) = decide(Some(&asked), &facts(ready(500)), OnGap::Stop) else {
        panic!("no resume");
    };
    assert_eq!(resumed.resync, asked.resync);
    let Ok(Start::Snapshot { resync: Some(resync), .. }) = decide(Some(&asked), &facts(Slot::Missing), OnGap::Resync)
    else {
        panic!("no resync");
    };
    assert_eq!((resync.code.as_str(), resync.may_sweep_most), ("E_SLOT_MISSING", false), "that sweep was not allowed");
}

#[test]
fn the_server_may_be_exactly_at_what_was_applied_and_not_behind_it() {
    let stored = checkpoint(SnapshotState::Done, 1000);
    assert_eq!(outcome(&stored, &facts(ready(1000)), OnGap::Stop), "resume");
    let behind = Facts { server: Lsn(999), ..facts(ready(900)) };
    assert_eq!(outcome(&stored, &behind, OnGap::Stop), "E_POSITION");
}

#[test]
fn a_promotion_at_exactly_the_last_write_loses_nothing() {
    let stored = checkpoint(SnapshotState::Done, 500);
    for (left_at, expected) in [(450, "resume"), (449, "E_TIMELINE")] {
        let mut facts = Facts { left_at: Some(Lsn(left_at)), ..facts(ready(400)) };
        facts.source.timeline = 2;
        assert_eq!(outcome(&stored, &facts, OnGap::Stop), expected, "left at {left_at}");
    }
}

#[test]
fn the_first_checkpoint_of_a_generation_claims_nothing() {
    let facts = Facts { collections: collections("3"), ..facts(ready(10)) };
    let first = facts.clone().first_checkpoint(Generation(7));
    assert_eq!((first.generation, first.snapshot), (Generation(7), SnapshotState::Copying));
    assert_eq!((first.applied, first.last_commit, first.written_to), (Lsn::ZERO, Lsn::ZERO, None));
    assert_eq!((&first.source, &first.collections), (&facts.source, &facts.collections));
    assert_eq!(outcome(&first, &facts, OnGap::Stop), "drop slot, no gap", "a crash repeats it");
}
