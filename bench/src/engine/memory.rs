//! How much memory this process has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use walvec_test_program::memory;

/// A task that records the most anonymous memory of this process.
pub(super) struct Memory(Arc<AtomicU64>, JoinHandle<()>);

impl Memory {
    pub(super) fn watch() -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn({
            let most = Arc::clone(&most);
            async move {
                loop {
                    most.fetch_max(anonymous_bytes().unwrap_or(0), Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        Self(most, task)
    }

    pub(super) fn most(self) -> u64 {
        self.1.abort();
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) fn anonymous_bytes() -> anyhow::Result<u64> {
    memory(std::process::id(), "RssAnon")
}
