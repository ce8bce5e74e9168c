//! A full disk, simulated by a small volume in memory, which only root may mount.

use std::fs;

use serde_json::json;
use walvec_sink::embedded::Embedded;
use walvec_sink::{Search, Sink, SinkError, Write};
use walvec_throwaway::Volume;

use crate::common::{DIMENSION, nearest_to, point, spec, upserts};

#[tokio::test]
async fn a_full_disk_stops_writes_but_neither_searches_nor_the_process() {
    let volume = match Volume::mount(160) {
        Ok(volume) => volume,
        Err(error) => {
            eprintln!("SKIPPED: a small volume cannot be mounted (run as root to test a full disk): {error}");
            return;
        }
    };
    let sink = Embedded::open(volume.path(), spec(DIMENSION)).unwrap();
    let text = "x".repeat(4000);
    let batch = |first: u64| {
        (first..first + 200).map(|id| Write::Upsert(point(id, json!({ "text": text })))).collect::<Vec<_>>()
    };
    let mut durable = 0;
    let error = loop {
        match sink.write(&batch(durable)).await {
            Ok(()) => durable += 200,
            Err(error) => break error,
        }
        assert!(durable < 1_000_000, "the disk never filled up");
    };
    assert!(durable > 0, "{error}");
    let SinkError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    assert!(error.is_retryable());
    // Another file takes the rest of the volume.
    let ballast = volume.fill().unwrap();
    assert!(sink.write(&upserts([1])).await.is_err());
    assert!(sink.optimize().await.is_err());
    assert_eq!(sink.search(nearest_to(1, 1)).await.unwrap()[0].id, walvec_model::PointId::Num(1));
    assert_eq!(sink.count().await.unwrap(), durable);
    // The engine writes a little when it closes. Its failure does not endanger what was durable.
    assert!(sink.close().await.is_err());
    assert!(matches!(Embedded::open(volume.path(), spec(DIMENSION)), Err(SinkError::Io { .. })));

    fs::remove_file(&ballast).unwrap();
    let sink = Embedded::open(volume.path(), spec(DIMENSION)).unwrap();
    assert_eq!(sink.count().await.unwrap(), durable);
    sink.write(&upserts(2_000_000..2_000_010)).await.unwrap();
    assert_eq!(sink.count().await.unwrap(), durable + 10);
    sink.close().await.unwrap();
}
