use walvec_capture::Resource;

use super::*;
use crate::source::fixtures::finding;

#[test]
fn what_passes_by_itself_or_is_decided_elsewhere_does_not_stop_a_start() {
    let limits = |during| {
        [Resource::ReplicationSlots, Resource::WalSenders, Resource::Connections, Resource::Memory, Resource::Disk]
            .map(|resource| is_definite(Subject::Limit(resource), during))
    };
    assert_eq!(limits(During::FirstStart), [true; 5], "a person is watching");
    assert_eq!(limits(During::Running), [false; 5], "our own dying session may count towards it");
    for during in During::ALL {
        assert!(!is_definite(Subject::Slot, during), "the decision how to start knows more about it");
        assert!(is_definite(Subject::Published, during) && is_definite(Subject::Other, during));
    }
}

#[test]
fn a_refusal_names_every_error_and_what_helps_against_each() {
    let of = |code, remedy: &str| Finding {
        remedy: remedy.to_owned().into(),
        ..finding(Severity::Error, code, Subject::Other)
    };
    let errors = [of("E_WAL_LEVEL", "restart"), of("E_NO_KEY", "add a key")];
    let refusal = refusal(&errors, || Some("ALTER SYSTEM;".to_owned())).unwrap();
    assert_eq!(refusal.code, "E_WAL_LEVEL", "that of the first");
    assert_eq!(refusal.what, "E_WAL_LEVEL was found; E_NO_KEY was found");
    assert_eq!(refusal.remedy, "restart; add a key; paste this:\nALTER SYSTEM;");
    let without_script = super::refusal(&errors[..1], || None).unwrap();
    assert_eq!(without_script.remedy, "restart");
}

#[test]
fn nothing_is_refused_without_an_error() {
    assert_eq!(refusal(&[], || Some("ALTER SYSTEM;".to_owned())), None);
}

#[test]
fn statements_are_given_once_as_a_script() {
    let statements =
        Finding { remedy: Remedy::Statements(Vec::new()), ..finding(Severity::Error, "E_RIGHTS", Subject::Other) };
    let refusal = refusal(&[statements], || Some("GRANT;".to_owned())).unwrap();
    assert_eq!(refusal.remedy, "paste this:\nGRANT;");
}
