use walvec_capture::{Holder, Severity, Subject};

use super::*;
use crate::observe::telemetry::Telemetry;
use crate::source::fixtures::finding;

fn shown(telemetry: &Telemetry) -> Option<Problem> {
    telemetry.subscribe().borrow().problem.clone()
}

#[test]
fn a_comparison_that_takes_long_rests_long_and_a_short_one_does_not_wait_for_it() {
    let ms = Duration::from_millis;
    for (took, rest) in [(0, 0), (50, 0), (60, 200), (1000, 19_000)] {
        assert_eq!(rest_after(ms(took)), ms(rest), "after {took} ms");
    }
}

#[test]
fn a_slot_at_risk_is_shown_until_it_is_safe_again() {
    let telemetry = Telemetry::new(Vec::new(), false);
    let mut trouble = ProblemGuard::new(&telemetry);
    let risk = || Some(finding(Severity::Warning, "E_SLOT_AT_RISK", Subject::Slot));
    show_risk(risk(), &mut trouble);
    show_risk(risk(), &mut trouble);
    let problem = shown(&telemetry).unwrap();
    assert_eq!((problem.message.as_str(), problem.remedy.as_deref()), ("E_SLOT_AT_RISK was found", Some("do it")));
    show_risk(None, &mut trouble);
    assert_eq!(shown(&telemetry), None);
}

#[test]
fn transactions_that_keep_the_slot_waiting_are_named_with_what_ends_them() {
    let telemetry = Telemetry::new(Vec::new(), false);
    let mut trouble = ProblemGuard::new(&telemetry);
    let blocker = |held_by| Blocker { held_by, role: "app".to_owned(), database: "d".to_owned(), age: None };
    let session = Holder::Session { pid: 4711, application: "psql".to_owned(), query: "SELECT".to_owned() };
    let prepared = Holder::Prepared { gid: "transfer 7".to_owned() };
    show_blockers(&[blocker(session), blocker(prepared)], &mut trouble);
    let Problem { message, remedy, .. } = shown(&telemetry).unwrap();
    assert!(message.contains("4711") && message.contains("transfer 7"), "{message}");
    let remedy = remedy.unwrap();
    assert!(remedy.contains("pg_terminate_backend(4711)") && remedy.contains("ROLLBACK PREPARED"), "{remedy}");
    show_blockers(&[], &mut trouble);
    assert_eq!(shown(&telemetry), None);
}
