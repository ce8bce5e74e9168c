//! The labels of the enums of a table, as PostgreSQL has them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use walvec_capture::{CaptureError, open_session};
use walvec_model::TableName;

/// How long a search waits for PostgreSQL to tell them.
const LONGEST: Duration = Duration::from_secs(2);

/// How long PostgreSQL is not asked after it has not answered, so that searches do not wait for it again and again.
const PAUSE: Duration = Duration::from_secs(10);

/// Asks for labels when a filter needs them, and remembers what it was told.
///
/// A label can be added at any time, and rows with it are found at once. So PostgreSQL is asked again about a label that is not known, before
/// anybody is told that there is none. It is asked in a session that is closed again: it happens seldom.
pub(crate) struct Labels {
    url: SecretString,
    table: TableName,
    told: Mutex<Told>,
    /// Held by the one that asks. Whoever needs only what is remembered does not wait for it.
    asking: tokio::sync::Mutex<()>,
}

/// What was told.
#[derive(Default)]
struct Told {
    /// The labels of the columns that hold enums.
    labels: HashMap<String, Vec<String>>,
    /// When it was asked for.
    asked: Option<Instant>,
    /// When there was no answer.
    failed: Option<Instant>,
}

impl Labels {
    pub(crate) fn new(url: SecretString, table: TableName) -> Self {
        Self { url, table, told: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// The labels of a column, as they were remembered if `wanted` is among them, else as they are now; `None` if that cannot be told.
    pub(crate) async fn of(&self, column: &str, wanted: &str) -> Option<Vec<String>> {
        let now = Instant::now();
        if let Some(labels) = self.told().with(column, wanted) {
            return Some(labels.clone());
        }
        let _asking = self.asking.lock().await;
        // Who has waited for a question that was asked after this one needs no other.
        if self.told().asked.is_none_or(|asked| asked < now) {
            self.ask_again().await?;
        }
        self.told().labels.get(column).cloned()
    }

    /// Remembers what PostgreSQL says now; `None` if it does not answer, or did not a moment ago.
    async fn ask_again(&self) -> Option<()> {
        if self.told().failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
            return None;
        }
        let asked = Instant::now();
        let reason = match tokio::time::timeout(LONGEST, self.ask()).await {
            Ok(Ok(labels)) => {
                *self.told() = Told { labels, asked: Some(asked), failed: None };
                return Some(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "PostgreSQL has not answered in time".to_owned(),
        };
        tracing::debug!("a filter on an enum is not checked: its labels are not known: {reason}");
        self.told().failed = Some(Instant::now());
        None
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self) -> Result<HashMap<String, Vec<String>>, CaptureError> {
        open_session(&self.url).await?.enum_labels(&self.table).await
    }
}

impl Told {
    fn with(&self, column: &str, wanted: &str) -> Option<&Vec<String>> {
        self.labels.get(column).filter(|labels| labels.iter().any(|label| label == wanted))
    }
}
