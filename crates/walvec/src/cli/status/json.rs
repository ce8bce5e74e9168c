//! The status as JSON: the same fields whether walvec runs or not, null where a value is not known.

use serde_json::{Map, Value, json};
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::{BrokerStatus, CollectionStatus, LATEST_DEAD_LETTERS};

use super::Process;
use super::stopped::Stopped;
use crate::config::{CollectionConfig, Config};
use crate::daemon::last_run::LastRun;

/// Returns the status of the one process without a broker, and of all processes by name with one.
pub(super) fn of_all(config: &Config, processes: &[(String, Process)]) -> Value {
    let all = processes.iter().map(|(name, process)| (name.clone(), of(config, process)));
    match config.broker {
        Some(_) => Value::Object(all.collect()),
        None => all.map(|(_, status)| status).next().unwrap_or_default(),
    }
}

fn of(config: &Config, process: &Process) -> Value {
    let (is_running, last_stop, status) = match process {
        Process::Running(status) => (true, Value::Null, status.as_object().cloned().unwrap_or_default()),
        Process::Starting => (true, Value::Null, of_none(config, "starting")),
        Process::Stopped(stopped) => (false, last_stop(stopped), of_stopped(config, stopped)),
    };
    let mut fields = Map::from_iter([("running".to_owned(), is_running.into()), ("last_stop".to_owned(), last_stop)]);
    fields.extend(status);
    Value::Object(fields)
}

/// Returns when and why the last run ended.
fn last_stop(stopped: &Stopped) -> Value {
    let Some(LastRun { ended, .. }) = &stopped.last_run else { return Value::Null };
    let at = ended.as_ref().map(|ended| ended.at);
    match ended.as_ref().map(|ended| &ended.error) {
        Some(Some(error)) => json!({"at": at, "code": error.code, "message": error.message, "remedy": error.remedy}),
        Some(None) => json!({"at": at, "code": null, "message": "asked to stop", "remedy": null}),
        None => {
            json!({"at": null, "code": null, "message": "ended without a word: killed, or a crash", "remedy": null})
        }
    }
}

/// Returns the status of a process that does not answer.
fn of_none(config: &Config, phase: &str) -> Map<String, Value> {
    let broker = config.broker.as_ref().map(|_| BrokerStatus::default());
    let mut status = unknown(&Status { broker, ..Status::default() });
    status.insert("phase".to_owned(), phase.into());
    status.insert("collections".to_owned(), config.collections.iter().map(of_unknown_collection).collect());
    status
}

fn of_stopped(config: &Config, stopped: &Stopped) -> Map<String, Value> {
    let mut status = of_none(config, "stopped");
    let generation = stopped.checkpoint.as_ref().map(|checkpoint| checkpoint.generation);
    status.insert("generation".to_owned(), json!(generation));
    status.insert("applied_lsn".to_owned(), json!(stopped.position().map(|position| position.applied)));
    let collections = config.collections.iter().map(|collection| of_collection(collection, stopped));
    status.insert("collections".to_owned(), collections.collect());
    status
}

fn of_unknown_collection(collection: &CollectionConfig) -> Value {
    let mut status = unknown(&CollectionStatus::default());
    status.insert("collection".to_owned(), collection.name.clone().into());
    status.insert("table".to_owned(), collection.table.to_string().into());
    Value::Object(status)
}

fn of_collection(collection: &CollectionConfig, stopped: &Stopped) -> Value {
    let mut status = of_unknown_collection(collection);
    let mut parked = stopped.parked.iter().flatten();
    if let Some((_, parked)) = parked.find(|(name, _)| *name == collection.name) {
        let latest = parked.iter().take(LATEST_DEAD_LETTERS);
        status["dead_letters"] = parked.len().into();
        status["latest_dead_letters"] = json!(latest.collect::<Vec<_>>());
    }
    status
}

/// Returns the fields of a status, all null.
fn unknown(status: &impl serde::Serialize) -> Map<String, Value> {
    let fields = serde_json::to_value(status).unwrap_or_default();
    let names = fields.as_object().into_iter().flat_map(Map::keys);
    names.map(|name| (name.clone(), Value::Null)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cli::hits::testkit::config;
    use crate::testkit::streaming;

    fn keys(value: &Value) -> Vec<&String> {
        value.as_object().unwrap().keys().collect()
    }

    fn stopped() -> Stopped {
        Stopped { directory: PathBuf::new(), last_run: None, checkpoint: None, parked: Some(Vec::new()) }
    }

    #[test]
    fn the_status_has_the_same_fields_whether_walvec_runs_or_not() {
        let config = config("text: '{{ name }}'");
        let of = |process| of_all(&config, &[("all".to_owned(), process)]);
        let running = of(Process::Running(serde_json::to_value(streaming()).unwrap()));
        let starting = of(Process::Starting);
        let stopped = of(Process::Stopped(Box::new(stopped())));
        assert_eq!((keys(&running), keys(&running)), (keys(&stopped), keys(&starting)));
        assert_eq!((&starting["running"], &starting["phase"]), (&json!(true), &json!("starting")));
        assert_eq!(keys(&running["collections"][0]), keys(&stopped["collections"][0]));
        assert_eq!((&running["running"], &stopped["running"]), (&json!(true), &json!(false)));
        assert_eq!((&running["phase"], &stopped["phase"]), (&json!("streaming"), &json!("stopped")));
        assert_eq!((&stopped["lag_ms"], &stopped["collections"][0]["points"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn why_it_stopped_is_told_to_programs() {
        let config = config("text: '{{ name }}'");
        let last_stop = |ended: Value| {
            let run = serde_json::from_value(json!({"began": "2026-11-20T20:49:03Z", "ended": ended})).unwrap();
            let process = Process::Stopped(Box::new(Stopped { last_run: Some(run), ..stopped() }));
            of_all(&config, &[("all".to_owned(), process)])["last_stop"].clone()
        };
        let at = "2026-11-20T21:00:00Z";
        let error = json!({"code": "E_SLOT_LOST", "message": "lost", "remedy": "walvec reset"});
        let expected = json!({"at": at, "code": "E_SLOT_LOST", "message": "lost", "remedy": "walvec reset"});
        assert_eq!(last_stop(json!({"at": at, "error": error})), expected);
        assert_eq!(last_stop(json!({"at": at, "error": null}))["message"], "asked to stop");
        assert_eq!(last_stop(Value::Null)["at"], Value::Null);
    }
}
