//! What is left to read, cut into pieces that each take a moment.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use walvec_model::TableName;

use super::plan::{Pages, Plan, TablePart};

/// The desired amount of text in a piece, in bytes: large enough that the cost of one more statement does not matter.
const PIECE_BYTES: u64 = 8 << 20;
/// How many milliseconds the server may take to send a piece, during which the table is locked.
const PIECE_MILLIS: u64 = 250;

/// A piece that turns out to have more bytes than this is abandoned, and read in smaller ones.
pub(super) const LARGEST_PIECE: u64 = 8 * PIECE_BYTES;

/// The number of pages in a table's first piece, before the amount of text in a page is known (2 MiB with pages of 8 KiB).
const FIRST_PAGES: u64 = 256;

/// How many times larger the next piece may be than the one before.
const GROWTH: u64 = 4;

/// The rows that one statement copies. The table is locked while the statement runs.
#[derive(Clone)]
pub(super) struct Piece {
    pub(super) plan: Arc<Plan>,
    part: usize,
    /// The pages; `None` for all of them.
    pages: Option<Pages>,
}

impl Piece {
    pub(super) fn part(&self) -> &TablePart {
        &self.plan.parts[self.part]
    }

    pub(super) fn query(&self) -> String {
        self.plan.query(self.part(), self.pages)
    }

    pub(super) fn ctids(&self) -> String {
        self.plan.ctids(self.part(), self.pages)
    }

    /// Returns the number of pages.
    fn size(&self) -> u64 {
        let Pages { from, end } = self.pages.unwrap_or(Pages { from: 0, end: None });
        end.unwrap_or_else(|| self.part().pages).saturating_sub(from)
    }

    /// Returns whether the piece can be read in smaller pieces.
    pub(super) fn can_be_cut(&self) -> bool {
        self.size() > 1
    }
}

/// The pieces that no worker has taken yet, and the tables that have to be read again.
pub(super) struct PieceQueue(Mutex<QueueState>);

struct QueueState {
    /// What is left of each part, as one piece. It is cut when a worker takes from it.
    left: VecDeque<Piece>,
    /// The number of pages in the next piece of each table.
    pages: Vec<(Arc<Plan>, u64)>,
    rewritten: BTreeSet<TableName>,
}

impl PieceQueue {
    pub(super) fn new(plans: Vec<Plan>) -> Self {
        let plans: Vec<Arc<Plan>> = plans.into_iter().map(Arc::new).collect();
        let whole = |plan: &Arc<Plan>| {
            let plan = Arc::clone(plan);
            (0..plan.parts.len()).map(move |part| {
                // Rows that an index may find are first read as a whole.
                let whole = plan.parts[part].is_selected || plan.parts[part].pages == 0;
                let pages = (!whole).then_some(Pages { from: 0, end: None });
                Piece { plan: Arc::clone(&plan), part, pages }
            })
        };
        let left = plans.iter().flat_map(whole).collect();
        let pages = plans.into_iter().map(|plan| (plan, FIRST_PAGES)).collect();
        Self(Mutex::new(QueueState { left, pages, rewritten: BTreeSet::new() }))
    }

    /// Takes the next piece; `None` if there is nothing left.
    pub(super) fn take(&self) -> Option<Piece> {
        let mut state = self.lock();
        let piece = state.left.pop_front()?;
        let Some(Pages { from, .. }) = piece.pages else { return Some(piece) };
        let count = *state.pages_of(&piece.plan);
        if piece.size() <= count {
            return Some(match piece.pages {
                // A table that is read by one statement needs no range.
                Some(Pages { from: 0, end: None }) => Piece { pages: None, ..piece },
                _ => piece,
            });
        }
        let cut = from + count;
        let rest = piece.pages.map(|pages| Pages { from: cut, ..pages });
        state.left.push_front(Piece { pages: rest, ..piece.clone() });
        Some(Piece { pages: Some(Pages { from, end: Some(cut) }), ..piece })
    }

    /// Adjusts the size of the next pieces by how much text a piece had, and how long it took to arrive.
    pub(super) fn learn(&self, piece: &Piece, bytes: u64, took: Duration) {
        let size = piece.size();
        if piece.pages.is_some() && size > 0 {
            let by_bytes = size.saturating_mul(PIECE_BYTES) / bytes.max(1);
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
            let by_time = size.saturating_mul(PIECE_MILLIS) / millis;
            let fitting = by_bytes.min(by_time);
            let mut state = self.lock();
            let pages = state.pages_of(&piece.plan);
            *pages = fitting.clamp(1, pages.saturating_mul(GROWTH));
        }
    }

    /// Puts back a piece that could not be read.
    pub(super) fn put_back(&self, piece: Piece) {
        self.lock().left.push_front(piece);
    }

    /// Puts back a piece that is too large to be read by one statement.
    pub(super) fn put_back_to_be_cut(&self, piece: Piece) {
        let fitting = (piece.size() / (2 * LARGEST_PIECE / PIECE_BYTES)).max(1);
        let mut state = self.lock();
        let pages = state.pages_of(&piece.plan);
        *pages = fitting.min(*pages);
        let range = piece.pages.or(Some(Pages { from: 0, end: None }));
        state.left.push_front(Piece { pages: range, ..piece });
    }

    /// Records that a table was rewritten. What was read of it is inconsistent, and the rest need not be read.
    pub(super) fn discard(&self, table: &TableName) {
        let mut state = self.lock();
        state.left.retain(|piece| piece.plan.table.name != *table);
        state.rewritten.insert(table.clone());
    }

    pub(super) fn is_discarded(&self, table: &TableName) -> bool {
        self.lock().rewritten.contains(table)
    }

    /// Returns the tables that were rewritten.
    pub(super) fn rewritten(&self) -> Vec<TableName> {
        self.lock().rewritten.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn pages_of(&mut self, plan: &Arc<Plan>) -> &mut u64 {
        let index = self.pages.iter().position(|(known, _)| Arc::ptr_eq(known, plan)).unwrap_or(0);
        &mut self.pages[index].1
    }
}
