//! The labels of a table's enums, from PostgreSQL.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use walvec_capture::{CaptureError, open_session};
use walvec_model::TableName;

/// How long a search waits for PostgreSQL's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long PostgreSQL is not asked again after it did not answer, so that not every search waits for it.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Asks for labels when a filter needs them, and caches the answer.
///
/// A label can be added at any time, and searches find rows with it at once. So PostgreSQL is asked again about an unknown label before it is
/// refused. Each time it is asked in a new session, because that happens seldom.
pub(crate) struct EnumLabels {
    url: SecretString,
    table: TableName,
    cached: Mutex<CachedLabels>,
    /// Held by the caller that asks PostgreSQL. A caller that finds its label in the cache does not wait for it.
    asking: tokio::sync::Mutex<()>,
}

/// The cached answer.
#[derive(Default)]
struct CachedLabels {
    /// The labels of the columns that hold enums.
    labels: HashMap<String, Vec<String>>,
    /// When the cached answer was asked for.
    asked: Option<Instant>,
    /// When PostgreSQL last did not answer.
    failed: Option<Instant>,
}

impl EnumLabels {
    pub(crate) fn new(url: SecretString, table: TableName) -> Self {
        Self { url, table, cached: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// Returns the labels of a column: the cached ones if `wanted` is among them, else the present ones; `None` if they are not known.
    pub(crate) async fn of(&self, column: &str, wanted: &str) -> Option<Vec<String>> {
        let now = Instant::now();
        if let Some(labels) = self.cached().with(column, wanted) {
            return Some(labels.clone());
        }
        let _asking = self.asking.lock().await;
        // If another caller has asked since this call began, its answer is recent enough.
        if self.cached().asked.is_none_or(|asked| asked < now) {
            self.ask_again().await?;
        }
        self.cached().labels.get(column).cloned()
    }

    /// Caches the present labels; `None` if PostgreSQL does not answer, or did not a moment ago.
    async fn ask_again(&self) -> Option<()> {
        if self.cached().failed.is_some_and(|failed| failed.elapsed() < RETRY_PAUSE) {
            return None;
        }
        let asked = Instant::now();
        let reason = match tokio::time::timeout(ANSWER_TIMEOUT, self.ask()).await {
            Ok(Ok(labels)) => {
                *self.cached() = CachedLabels { labels, asked: Some(asked), failed: None };
                return Some(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "PostgreSQL has not answered in time".to_owned(),
        };
        tracing::debug!("a filter on an enum is not checked: its labels are not known: {reason}");
        self.cached().failed = Some(Instant::now());
        None
    }

    fn cached(&self) -> MutexGuard<'_, CachedLabels> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self) -> Result<HashMap<String, Vec<String>>, CaptureError> {
        open_session(&self.url).await?.enum_labels(&self.table).await
    }
}

impl CachedLabels {
    fn with(&self, column: &str, wanted: &str) -> Option<&Vec<String>> {
        self.labels.get(column).filter(|labels| labels.iter().any(|label| label == wanted))
    }
}
