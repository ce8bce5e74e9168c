//! Records of a real Debezium engine, where they have been recorded: `tests/golden/debezium-engine-*.jsonl`, one object
//! `{"topic","key","value","headers"}` in each line, key and value as texts or null.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;
use walvec_broker::Record;
use walvec_broker::wire::{Decoder, Event, Format};
use walvec_model::TableName;

/// The recorded files, with their names.
fn recorded() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("debezium-engine-") && name.ends_with(".jsonl")
    });
    files.sort();
    files.iter().map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap())).collect()
}

fn record(line: &Value, offset: i64) -> Record {
    let bytes = |name: &str| line[name].as_str().map(|text| text.as_bytes().to_vec());
    let header = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (name.clone(), text.into_bytes())
    };
    Record {
        topic: line["topic"].as_str().unwrap().into(),
        partition: 0,
        offset,
        timestamp: None,
        key: bytes("key"),
        value: bytes("value"),
        headers: line["headers"].as_object().into_iter().flatten().map(header).collect(),
    }
}

#[test]
fn whatever_a_real_debezium_writes_can_be_read() {
    for (file, text) in recorded() {
        let mut decoder = Decoder::new(Format::Debezium, HashMap::new());
        for (offset, line) in (0..).zip(text.lines().filter(|line| !line.trim().is_empty())) {
            let record = record(&serde_json::from_str(line).unwrap(), offset);
            let table = match record.topic.split('.').collect::<Vec<_>>().as_slice() {
                [_, schema, name] => Some(TableName::new(*schema, *name)),
                _ => None,
            };
            let event = decoder.decode(&record, table.as_ref());
            let event = event.unwrap_or_else(|malformed| panic!("{file}, line {}: {malformed}", offset + 1));
            if let (Event::Change(arrived), Some(table)) = (event, table) {
                assert_eq!(arrived.change.table.name, table, "{file}, line {}", offset + 1);
            }
        }
    }
}
