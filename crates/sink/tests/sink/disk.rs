//! A full disk: a small volume in memory, which only root may mount.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use walvec_sink::embedded::Embedded;
use walvec_sink::{Search, Sink, SinkError, Write};

use crate::common::{DIMENSION, nearest_to, point, spec, upserts};

/// A tmpfs that is unmounted when dropped.
struct Volume(tempfile::TempDir);

impl Volume {
    /// `None` where mounting is not allowed.
    fn mount(mebibytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(directory.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(directory));
        }
        eprintln!("SKIPPED: no right to mount a small volume (run as root to test a full disk)");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[tokio::test]
async fn a_full_disk_stops_writes_but_neither_searches_nor_the_process() {
    let Some(volume) = Volume::mount(160) else { return };
    let sink = Embedded::open(volume.path(), spec(DIMENSION)).unwrap();
    let filler = volume.path().join("filler");
    let text = "x".repeat(4000);
    let batch = |first: u64| (first..first + 200).map(|id| Write::Upsert(point(id, json!({ "text": text })))).collect();
    let mut durable = 0;
    let error = loop {
        match sink.write(batch(durable)).await {
            Ok(()) => durable += 200,
            Err(error) => break error,
        }
        assert!(durable < 1_000_000, "the disk never filled up");
    };
    assert!(durable > 0, "{error}");
    let SinkError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    assert!(error.is_retryable());
    // Somebody else takes the rest.
    fs::write(&filler, vec![1; 32 << 20]).unwrap();
    assert!(sink.write(upserts([1])).await.is_err());
    assert!(sink.optimize().await.is_err());
    assert_eq!(sink.search(nearest_to(1, 1)).await.unwrap()[0].id, walvec_model::PointId::Num(1));
    assert_eq!(sink.count().await.unwrap(), durable);
    sink.close().await.unwrap();
    assert!(matches!(Embedded::open(volume.path(), spec(DIMENSION)), Err(SinkError::Io { .. })));

    fs::remove_file(&filler).unwrap();
    let sink = Embedded::open(volume.path(), spec(DIMENSION)).unwrap();
    assert_eq!(sink.count().await.unwrap(), durable);
    sink.write(upserts(2_000_000..2_000_010)).await.unwrap();
    assert_eq!(sink.count().await.unwrap(), durable + 10);
    sink.close().await.unwrap();
}
