//! What is compared, with what, and who is told.

use std::sync::Arc;

use tokio_postgres::Client;
use walvec_embed::Embedder;
use walvec_model::{Fingerprint, Lookup, Lsn, SparseVector, TableName};

use crate::{Fractions, Layout, Parked, Points, Running, VerifyError};

/// A collection as the configuration describes it.
#[derive(Clone, Debug)]
pub struct CollectionSpec {
    /// Its name.
    pub collection: String,
    /// The table that it is the image of.
    pub table: TableName,
    /// Template of the text that is embedded.
    pub text: String,
    /// Rows of other tables that the text is rendered with.
    pub lookups: Vec<Lookup>,
    /// Columns that are stored; `None` for every published one.
    pub payload: Option<Vec<String>>,
    /// Further fields: name and template. One that is exactly one `{{ expression }}` keeps its type.
    pub computed: Vec<(String, String)>,
    /// Fields that are indexed as numbers, and so are stored as numbers: true for whole ones.
    pub numbers: Vec<(String, bool)>,
    /// How payloads are laid out.
    pub layout: Layout,
    /// What made the vectors.
    pub fingerprint: Fingerprint,
    /// How numbers with a fraction are compared: it depends on where the points lie.
    pub fractions: Fractions,
    /// How texts are cut into chunks; `None`: a row is one point.
    pub chunks: Option<Chunks>,
    /// What makes the sparse vectors; `None`: points have none.
    pub keywords: Option<Keywords>,
}

impl CollectionSpec {
    /// Whether nothing can show a column. Coarse: a template that has the column's name anywhere, or may look at the row as a whole, uses it.
    pub(crate) fn cannot_use(&self, column: &str) -> bool {
        let Some(payload) = &self.payload else { return false };
        let mut templates = std::iter::once(&self.text).chain(self.computed.iter().map(|(_, template)| template));
        let is_in_template = templates.any(|template| template.contains("row") || template.contains(column));
        let joins = |lookup: &Lookup| lookup.on.iter().any(|(_, ours)| ours == column);
        !is_in_template && !payload.iter().any(|name| name == column) && !self.lookups.iter().any(joins)
    }
}

/// The sparse vector of a text: numbers of tokens, ascending, and their weights. Empty if there is none to store.
#[derive(Clone)]
pub struct Keywords(pub Arc<dyn Fn(&str) -> SparseVector + Send + Sync>);

impl std::fmt::Debug for Keywords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keywords")
    }
}

/// The pieces of a text, at least one, or why the row cannot be shown.
pub type Split = Arc<dyn Fn(&str) -> Result<Vec<String>, String> + Send + Sync>;

/// How texts are cut into chunks.
#[derive(Clone)]
pub struct Chunks {
    /// Cuts a text.
    pub split: Split,
    /// The payload field for a chunk's text, in the layout that has no place of its own for it.
    pub field: String,
}

impl std::fmt::Debug for Chunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks").field("field", &self.field).finish_non_exhaustive()
    }
}

/// Whose vectors are computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// This many points, chosen by the seed.
    Points(usize),
    /// Every point.
    All,
}

/// One comparison.
pub struct Job<'a> {
    /// The collection.
    pub spec: CollectionSpec,
    /// The publication that decides which rows and columns are sent.
    pub publication: &'a str,
    /// A session that nobody else uses: it holds the snapshot of the table.
    pub reader: &'a Client,
    /// A session for everything else, with the same settings.
    pub asker: &'a Client,
    /// The walvec that fills the collection.
    pub running: &'a dyn Running,
    /// The collection's points.
    pub points: &'a dyn Points,
    /// The model that made the vectors.
    pub embedder: Arc<dyn Embedder>,
    /// Whose vectors are computed again.
    pub sample: Sample,
    /// Chooses the sample; the same seed chooses the same points.
    pub seed: u64,
    /// Is told how far the comparison has come.
    pub watch: &'a (dyn Fn(Stage) + Send + Sync),
}

impl Job<'_> {
    /// Shows every row that the running walvec could not process. They may be many.
    pub(crate) async fn each_parked(&self, show: impl FnMut(Parked)) -> Result<(), VerifyError> {
        let (mut show, mut after) = (show, None);
        loop {
            let page = self.running.parked(&self.spec.collection, after).await?;
            page.rows.into_iter().for_each(&mut show);
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

/// How far a comparison has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// So many rows have been read.
    Reading(u64),
    /// Waiting until the running walvec has applied everything up to a position.
    Waiting {
        /// The position.
        until: Lsn,
        /// Where it is.
        now: Lsn,
        /// What holds it up, if it says so.
        problem: Option<String>,
    },
    /// Waiting for the Qdrant server to show this many points that it holds back.
    HeldBack(u64),
    /// So many points have been compared, with so many rows.
    Comparing {
        /// Points.
        points: u64,
        /// Rows.
        rows: u64,
    },
    /// So many suspects are being looked at again.
    Rechecking(usize),
    /// So many vectors have been computed again.
    Embedding(u64),
    /// So many of so many findings have been sent to be mended.
    Repairing {
        /// Sent.
        sent: u64,
        /// Found.
        of: u64,
        /// What the running walvec does with the last ones.
        state: Option<crate::RepairState>,
    },
}
