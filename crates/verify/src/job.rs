//! The parts of a comparison: the collection, what it is compared with, and the receiver of its progress.

use std::sync::Arc;

use tokio_postgres::Client;
use walvec_embed::Embedder;
use walvec_model::{Fingerprint, Lookup, Lsn, SparseVector, TableName};

use crate::{Fractions, ParkedRow, Points, Running, StoredLayout, VerifyError};

/// A collection as the configuration describes it.
#[derive(Clone, Debug)]
pub struct ComparedCollection {
    /// The collection's name.
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
    /// Fields that are indexed as numbers, and so are stored as numbers; true for whole numbers.
    pub numbers: Vec<(String, bool)>,
    /// How payloads are laid out.
    pub layout: StoredLayout,
    /// The fingerprint of what made the vectors.
    pub fingerprint: Fingerprint,
    /// How numbers with a fraction are compared: it depends on where the points lie.
    pub fractions: Fractions,
    /// How texts are cut into chunks; `None`: a row is one point.
    pub chunks: Option<Chunks>,
    /// The function that makes the sparse vectors; `None` if points have none.
    pub keywords: Option<KeywordFunction>,
}

impl ComparedCollection {
    /// Returns whether no text and no field can show a column. The check is coarse: a template that contains the column's name anywhere, or
    /// may look at the row as a whole, counts as using it.
    pub(crate) fn cannot_use(&self, column: &str) -> bool {
        let Some(payload) = &self.payload else { return false };
        let mut templates = std::iter::once(&self.text).chain(self.computed.iter().map(|(_, template)| template));
        let is_in_template = templates.any(|template| template.contains("row") || template.contains(column));
        let joins = |lookup: &Lookup| lookup.on.iter().any(|(_, ours)| ours == column);
        !is_in_template && !payload.iter().any(|name| name == column) && !self.lookups.iter().any(joins)
    }
}

/// Computes the sparse vector of a text: numbers of tokens, ascending, and their weights. Empty if there is none to store.
#[derive(Clone)]
pub struct KeywordFunction(pub Arc<dyn Fn(&str) -> SparseVector + Send + Sync>);

impl std::fmt::Debug for KeywordFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keywords")
    }
}

/// Cuts a text into pieces, at least one, or says why the row cannot be rendered.
pub type Split = Arc<dyn Fn(&str) -> Result<Vec<String>, String> + Send + Sync>;

/// How texts are cut into chunks.
#[derive(Clone)]
pub struct Chunks {
    /// The function that cuts a text.
    pub split: Split,
    /// The payload field for a chunk's text, in the layout that has no place of its own for it.
    pub field: String,
}

impl std::fmt::Debug for Chunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks").field("field", &self.field).finish_non_exhaustive()
    }
}

/// The points whose vectors are computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorSample {
    /// This many points, chosen by the seed.
    Points(usize),
    /// Every point.
    All,
}

/// One comparison.
pub struct CompareJob<'a> {
    /// The collection.
    pub spec: ComparedCollection,
    /// The publication that decides which rows and columns are sent.
    pub publication: &'a str,
    /// A session for the comparison alone: it holds the snapshot of the table.
    pub reader: &'a Client,
    /// A session for everything else, with the same settings.
    pub query_session: &'a Client,
    /// The walvec that fills the collection.
    pub running: &'a dyn Running,
    /// The collection's points.
    pub points: &'a dyn Points,
    /// The model that made the vectors.
    pub embedder: Arc<dyn Embedder>,
    /// The points whose vectors are computed again.
    pub sample: VectorSample,
    /// The seed that chooses the sample; the same seed chooses the same points.
    pub seed: u64,
    /// A callback that receives the progress of the comparison.
    pub watch: &'a (dyn Fn(ComparisonStage) + Send + Sync),
}

impl CompareJob<'_> {
    /// Calls `show` for every row that the running walvec could not process. There may be many.
    pub(crate) async fn each_parked(&self, show: impl FnMut(ParkedRow)) -> Result<(), VerifyError> {
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
pub enum ComparisonStage {
    /// This many rows have been read.
    Reading(u64),
    /// Waiting until the running walvec has applied everything up to a position.
    Waiting {
        /// The position.
        until: Lsn,
        /// The running walvec's applied position.
        now: Lsn,
        /// The running walvec's problem, if it reports one.
        problem: Option<String>,
    },
    /// Waiting for the Qdrant server to show this many points that it holds back.
    HeldBack(u64),
    /// This many points have been compared with this many rows.
    Comparing {
        /// Points.
        points: u64,
        /// Rows.
        rows: u64,
    },
    /// This many suspects are being read again.
    Rechecking(usize),
    /// This many vectors have been computed again.
    Embedding(u64),
    /// Some of the findings have been sent to the running walvec.
    Repairing {
        /// How many have been sent.
        sent: u64,
        /// How many there are.
        of: u64,
        /// The state of the last portion in the running walvec.
        state: Option<crate::RepairState>,
    },
}
