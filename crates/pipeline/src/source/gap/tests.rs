use super::*;
use crate::source::fixtures::table;

fn lost(reason: &str) -> PipelineError {
    CaptureError::SlotLost { slot: "walvec".to_owned(), reason: reason.to_owned() }.into()
}

/// Makes an error.
type Made = fn() -> PipelineError;

fn text() -> String {
    "words".to_owned()
}

/// Returns the code of the resync that an error of a session becomes, or else that of the error itself.
fn closed(error: PipelineError, on_gap: OnGap) -> Result<String, &'static str> {
    match found_in(error, on_gap) {
        PipelineError::Resync(resync) => Ok(resync.code),
        error => Err(error.code()),
    }
}

#[test]
fn errors_of_the_stream_that_are_gaps_are_closed_by_reading_the_tables_again() {
    let gaps: [(Made, &str); 5] = [
        (|| CaptureError::SlotMissing { slot: text() }.into(), "E_SLOT_MISSING"),
        (|| lost("wal_removed"), "E_SLOT_LOST"),
        (|| CaptureError::Publication { publication: text(), difference: text(), sql: text() }.into(), "E_PUBLICATION"),
        (|| CaptureError::Unsendable { reason: text() }.into(), "E_TOO_LARGE"),
        (|| PipelineError::Behind { collection: "books".to_owned() }, "E_SINK_BEHIND"),
    ];
    for (error, code) in gaps {
        assert_eq!(closed(error(), OnGap::Resync), Ok(code.to_owned()));
        assert_eq!(closed(error(), OnGap::Stop), Err(code), "an operator decides");
    }
}

#[test]
fn no_other_error_lets_the_tables_be_read_again() {
    let others: [Made; 6] = [
        || CaptureError::Connect { server: text(), reason: text() }.into(),
        || CaptureError::SlotBusy { slot: text(), reason: text() }.into(),
        || CaptureError::SlotExists { slot: text() }.into(),
        || CaptureError::TooLarge { doing: text(), reason: text() }.into(),
        || CaptureError::ForeignPublication { publication: text(), difference: text() }.into(),
        || PipelineError::Altered { table: table("books") },
    ];
    for error in others {
        let code = error().code();
        for on_gap in [OnGap::Resync, OnGap::Stop] {
            assert_eq!(closed(error(), on_gap), Err(code));
        }
    }
}

#[test]
fn a_refusal_says_what_closes_the_gap_and_what_prevents_the_next_one() {
    let refusal = |gap: Gap| match found(gap, OnGap::Stop) {
        PipelineError::Refused(refusal) => refusal,
        error => panic!("{error}"),
    };
    let missing = refusal(missing_slot("walvec", Lsn(0x500)));
    assert_eq!(missing.code, "E_SLOT_MISSING");
    assert!(missing.what.contains("\"walvec\"") && missing.what.contains("0/500"), "{}", missing.what);
    assert!(missing.remedy.contains("`walvec resync`") && missing.remedy.ends_with("which does that by itself"));
    let lost = refusal(lost_slot("walvec", Lsn(5), "wal_removed"));
    assert!(lost.what.contains("wal_removed"), "{}", lost.what);
    assert!(lost.remedy.contains("`walvec resync`") && lost.remedy.contains("`max_slot_wal_keep_size`"));
    let renamed = refusal(publication_changed(Some("other")));
    assert!(renamed.what.contains("\"other\"") && renamed.remedy.contains("`source.publication`"), "{renamed:?}");
    assert!(!refusal(publication_changed(None)).remedy.contains("`source.publication`"));
}

#[test]
fn a_gap_keeps_its_code_and_reason_when_it_is_closed() {
    let PipelineError::Resync(resync) = found(most_has_gone("books", &table("books"), 6, 10), OnGap::Resync) else {
        panic!("no resync");
    };
    assert_eq!((resync.code.as_str(), resync.may_sweep_most), ("E_SWEEP", false), "the points still wait");
    assert!(resync.why.contains("6 of the 10 points of collection \"books\""), "{}", resync.why);
}

#[test]
fn a_promotion_says_what_may_be_lost_with_the_former_server() {
    let what = |left_at: Option<u64>, written_to: Option<u64>| {
        let gap = timeline_left(1, 2, left_at.map(Lsn), written_to.map(Lsn));
        assert_eq!(gap.code, "E_TIMELINE");
        gap.what
    };
    let ahead = what(Some(0x10), Some(0x20));
    assert!(ahead.contains("at 0/10") && ahead.contains("up to 0/20"), "{ahead}");
    assert!(what(Some(0x10), None).contains("in the middle of its work"));
    assert!(what(None, Some(0x20)).contains("does not descend from timeline 1"));
    assert_eq!(what(None, None), what(None, Some(0x20)));
}

#[test]
fn positions_that_contradict_each_other_name_both() {
    let (one, other) = (Lsn(0x10), Lsn(0x20));
    for gap in [slot_ahead("walvec", other, one), server_behind(one, other), history_changed(one, other)] {
        assert_eq!(gap.code, "E_POSITION");
        assert!(gap.what.contains("0/10") && gap.what.contains("0/20"), "{}", gap.what);
    }
}

#[test]
fn a_sweep_of_more_than_half_of_a_collection_waits() {
    let most = |old, all| held_words([("books", (old, all))].into_iter(), is_most);
    for (old, all) in [(0, 0), (0, 10), (1, 3), (5, 10), (2, 5)] {
        assert_eq!(most(old, all), None, "{old} of {all}");
    }
    for (old, all) in [(1, 1), (2, 3), (6, 10), (3, 5)] {
        let words = most(old, all).unwrap();
        assert!(words.contains(&format!("{old} of {all} points of collection \"books\"")), "{words}");
    }
}

#[test]
fn every_collection_with_points_that_wait_is_named_and_the_others_are_not() {
    let counted = [("books", (6, 10)), ("films", (1, 10)), ("songs", (9, 9))];
    let words = held_words(counted.into_iter(), is_most).unwrap();
    assert!(words.contains("\"books\"") && words.contains("\"songs\"") && !words.contains("\"films\""), "{words}");
}

#[test]
fn points_that_wait_are_shown_until_they_are_decided_about() {
    let telemetry = Telemetry::new(Vec::new(), false);
    let shown = || telemetry.subscribe().borrow().problem.clone();
    let held = HeldPoints::shown("6 of 10".to_owned(), &telemetry);
    let problem = shown().unwrap();
    assert_eq!((problem.part.as_str(), problem.message.as_str()), ("sink", "6 of 10"));
    assert!(problem.remedy.unwrap().contains("walvec resync --force"));
    drop(held);
    assert_eq!(shown(), None);
}

#[test]
fn the_status_says_why_the_tables_are_read_again() {
    let telemetry = Telemetry::new(Vec::new(), false);
    let why = || telemetry.subscribe().borrow().resync.as_ref().map(|resync| resync.code.clone());
    announce(Some(&publication_changed(None).resync()), &telemetry);
    assert_eq!(why().as_deref(), Some("E_PUBLICATION"));
    announce(None, &telemetry);
    assert_eq!(why(), None, "a later snapshot has another reason, or none");
}
