//! The merge of both sides, in id order.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use serde_json::Value;
use walvec_model::{Lsn, PointId, RawPoint};

use crate::digest::{self, Digest};
use crate::image::Imager;
use crate::sort::{Expected, Sorted};
use crate::suspect::{Suspect, claim, is_foreign, version};
use crate::vectors::Sampler;

/// How many suspects are collected before they are read again.
const SUSPECTS: usize = 10_000;

/// Some points, and a position of the server that is at or after all of their versions.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) points: Vec<RawPoint>,
    pub(crate) upper: Lsn,
}

/// A point, reduced to what the merge needs.
#[derive(Debug)]
struct StoredVersion {
    id: PointId,
    digest: Digest,
    /// The key of the row that belongs under this id, if it is known.
    key: Option<Vec<Value>>,
    /// Whether its version is one that no row can have had.
    impossible: bool,
}

/// The state of the merge.
#[derive(Debug)]
pub(crate) struct Merge {
    imager: Arc<Imager>,
    sorted: Sorted,
    head: Option<Expected>,
    stored: VecDeque<StoredVersion>,
    /// Whether all points have been given to it.
    ended: bool,
    done: bool,
    pub(crate) points: u64,
    pub(crate) suspects: Vec<Suspect>,
    pub(crate) sampler: Sampler,
}

impl Merge {
    pub(crate) fn new(imager: Arc<Imager>, mut sorted: Sorted, sampler: Sampler) -> io::Result<Self> {
        let head = sorted.next()?;
        Ok(Self {
            imager,
            sorted,
            head,
            stored: VecDeque::new(),
            ended: false,
            done: false,
            points: 0,
            suspects: Vec::new(),
            sampler,
        })
    }

    /// Returns whether it has used up all points that it was given.
    pub(crate) fn is_hungry(&self) -> bool {
        self.stored.is_empty()
    }

    /// Returns whether both sides have ended.
    pub(crate) const fn is_done(&self) -> bool {
        self.done
    }

    /// Returns whether suspects or the sample should be handled before the merge goes on.
    pub(crate) fn is_full(&self) -> bool {
        self.suspects.len() >= SUSPECTS || self.sampler.is_full()
    }

    /// Takes points and merges until it is hungry, full, or done. `last`: no further points will come.
    /// Blocks.
    pub(crate) fn run(&mut self, scanned: Option<Scanned>, last: bool) -> io::Result<()> {
        if let Some(Scanned { points, upper }) = scanned {
            self.points += points.len() as u64;
            self.stored.extend(points.iter().map(|point| self.imager.stored(point, upper)));
        }
        self.ended = last;
        while !self.is_full() {
            let (row, point) = match (&self.head, self.stored.front()) {
                (_, None) if !self.ended => return Ok(()),
                (None, None) => {
                    self.done = true;
                    return Ok(());
                }
                (Some(_), None) => (true, false),
                (None, Some(_)) => (false, true),
                (Some(expected), Some(stored)) => (expected.id <= stored.id, stored.id <= expected.id),
            };
            let row = if row { self.next_row()? } else { None };
            let point = if point { self.stored.pop_front() } else { None };
            self.compare(row, point);
        }
        Ok(())
    }

    fn next_row(&mut self) -> io::Result<Option<Expected>> {
        let next = self.sorted.next()?;
        let is_in_order = self.head.as_ref().zip(next.as_ref()).is_none_or(|(head, next)| head.id <= next.id);
        debug_assert!(is_in_order, "the expected side comes in id order");
        Ok(std::mem::replace(&mut self.head, next))
    }

    fn compare(&mut self, row: Option<Expected>, point: Option<StoredVersion>) {
        match (row, point) {
            (Some(row), Some(point)) if row.digest == Some(point.digest) && !point.impossible => {
                self.sampler.offer(row.id, &row.key);
            }
            (Some(row), _) => {
                self.suspects.push(Suspect { id: row.id, key: serde_json::from_slice(&row.key).ok() });
            }
            (None, Some(point)) => self.suspects.push(Suspect { id: point.id, key: point.key }),
            (None, None) => {}
        }
    }
}

impl Imager {
    fn stored(&self, point: &RawPoint, upper: Lsn) -> StoredVersion {
        let payload = self.layout.read(&point.payload);
        StoredVersion {
            id: point.id,
            digest: digest::digest(&payload, digest::stored_parts(&payload), self.fractions),
            key: self.ids.key_for(point.id, claim(point)),
            impossible: version(point).is_none_or(|version| version.commit_lsn > upper && !is_foreign(point)),
        }
    }
}
