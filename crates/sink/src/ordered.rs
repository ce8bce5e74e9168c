//! Points in the order of a field, page by page.
//!
//! An engine sorts by the index of a field. It leaves the order of equal values open, and leaves out points without a value. So this
//! module reads points with equal values in the order of their ids, and those without a value at the end. A page begins at a value and an
//! id, so that each point is on exactly one page, however many points share a value.

use std::cmp::Ordering;

use walvec_model::{PointId, RawPoint};

use crate::filter::{Bounds, Condition, Datetime, FieldPath, Filter};
use crate::{IndexType, Search, SinkError};

/// How many times as many points are asked for, if those that came all have one value.
const FURTHER: usize = 4;

/// The first moment of the year 1, the first year that all engines know.
const FIRST_MOMENT: Datetime = Datetime(-62_135_596_800_000_000);

/// The type of the values that a field is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortedBy {
    /// Whole numbers.
    Whole,
    /// Floating-point numbers.
    Number,
    /// Moments.
    Moment,
}

impl SortedBy {
    /// Returns what an index of this type sorts by; `None` if it has no order.
    #[must_use]
    pub const fn index(index: IndexType) -> Option<Self> {
        match index {
            IndexType::Integer => Some(Self::Whole),
            IndexType::Float => Some(Self::Number),
            IndexType::Datetime => Some(Self::Moment),
            IndexType::Keyword | IndexType::Bool | IndexType::Text | IndexType::Uuid => None,
        }
    }
}

/// A value that a point is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum SortValue {
    /// A whole number.
    Whole(i64),
    /// A floating-point number; never NaN.
    Number(f64),
    /// A moment.
    Moment(Datetime),
}

/// The order of the points of a collection by a field that has an index. Points with equal values are in the order of their ids. Points
/// whose field holds nothing that the index sorts (NULL, for example) come last, in either direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// The field.
    pub field: FieldPath,
    /// The type of the values that its index sorts by.
    pub by: SortedBy,
    /// Whether the greatest value comes first.
    pub descending: bool,
}

/// A part of the sorted points, as [`Search::sorted`] takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct SortRequest {
    /// The order.
    pub order: Order,
    /// Points with this value or an earlier one may be left out; all points behind it are wanted.
    pub after: Option<SortValue>,
    /// How many points at most.
    pub limit: usize,
    /// Whether vectors are wanted.
    pub with_vectors: bool,
}

/// The place where a page begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SortPlace {
    /// The value of its first point; `None` if that point has none, and so none of the following ones has.
    pub value: Option<SortValue>,
    /// The id of its first point. If that point is gone, the page begins with the next one.
    pub id: PointId,
}

/// A page in the order of a field.
#[derive(Clone, Debug, PartialEq)]
pub struct SortedPage {
    /// The points of this page, exactly as they are stored.
    pub points: Vec<RawPoint>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<SortPlace>,
}

/// The value at which an engine begins to sort.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum SortStart {
    Number(f64),
    Moment(Datetime),
}

impl Order {
    /// Matches the points with this value; `None`: those without one.
    fn equal(&self, value: Option<SortValue>) -> Condition {
        match value {
            Some(SortValue::Whole(whole)) => Condition::Equals { field: self.field.clone(), value: whole.into() },
            Some(SortValue::Number(number)) => {
                self.range(Bounds { gte: Some(number), lte: Some(number), ..Bounds::default() })
            }
            Some(SortValue::Moment(moment)) => {
                self.moments(Bounds { gte: Some(moment), lte: Some(moment), ..Bounds::default() })
            }
            None => Condition::Not(Box::new(match self.by {
                SortedBy::Whole | SortedBy::Number => self.range(Bounds { gte: Some(f64::MIN), ..Bounds::default() }),
                SortedBy::Moment => self.moments(Bounds { gte: Some(FIRST_MOMENT), ..Bounds::default() }),
            })),
        }
    }

    /// Matches the points behind a value. The ends of ranges are floating-point numbers, which cannot represent every whole number: then
    /// only points with exactly this value are left out.
    fn behind(&self, value: SortValue) -> Condition {
        match value {
            SortValue::Whole(_) => Condition::Not(Box::new(self.equal(Some(value)))),
            SortValue::Number(number) => self.range(self.open(number)),
            SortValue::Moment(moment) => self.moments(self.open(moment)),
        }
    }

    fn open<T>(&self, end: T) -> Bounds<T> {
        let open = Bounds::default();
        if self.descending { Bounds { lt: Some(end), ..open } } else { Bounds { gt: Some(end), ..open } }
    }

    fn range(&self, bounds: Bounds<f64>) -> Condition {
        Condition::Range { field: self.field.clone(), bounds }
    }

    fn moments(&self, bounds: Bounds<Datetime>) -> Condition {
        Condition::DatetimeRange { field: self.field.clone(), bounds }
    }

    /// Compares two values in this order.
    fn compare(&self, left: SortValue, right: SortValue) -> Ordering {
        let ascending = left.partial_cmp(&right).unwrap_or(Ordering::Equal);
        if self.descending { ascending.reverse() } else { ascending }
    }
}

impl SortRequest {
    /// Returns a filter that leaves out points with the value of [`after`](Self::after), of which there may be many.
    pub(crate) fn filter(&self) -> Filter {
        Filter(self.after.map(|after| self.order.behind(after)).into_iter().collect())
    }

    /// Returns where the engine begins, to find what is behind [`after`](Self::after): at that value, or a little before it.
    pub(crate) fn start(&self) -> Option<SortStart> {
        Some(match self.after? {
            SortValue::Whole(whole) if self.order.descending => SortStart::Number(rounded_up(whole)),
            SortValue::Whole(whole) => SortStart::Number(rounded_down(whole)),
            SortValue::Number(number) => SortStart::Number(number),
            SortValue::Moment(moment) => SortStart::Moment(moment),
        })
    }

    /// Adds the remedy to an engine's refusal to sort without an index; other errors stay as they are.
    pub(crate) fn explained(&self, error: SinkError) -> SinkError {
        if !error.to_string().contains("No range index") {
            return error;
        }
        SinkError::BadRequest(format!(
            "the collection has no index that sorts \"{}\": name the field in `index:` of the collection in walvec's configuration and start \
             walvec again, or run `walvec reindex` if it is named there",
            self.order.field
        ))
    }

    /// Makes the error for an order that the type of the index does not have.
    pub(crate) fn other_index(&self) -> SinkError {
        SinkError::BadRequest(format!(
            "the collection's index of \"{}\" has another type than `index:` in walvec's configuration says: `walvec reindex` builds it again",
            self.order.field
        ))
    }
}

/// Returns the greatest floating-point number that is not greater than `whole`.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "what is lost is made good")]
fn rounded_down(whole: i64) -> f64 {
    let near = whole as f64;
    if near as i128 > i128::from(whole) { near.next_down() } else { near }
}

/// Returns the least floating-point number that is not less than `whole`.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "what is lost is made good")]
fn rounded_up(whole: i64) -> f64 {
    let near = whole as f64;
    if (near as i128) < i128::from(whole) { near.next_up() } else { near }
}

/// Returns a page of at most `limit` points in this order.
///
/// While nothing is written, consecutive pages hold every point once.
///
/// # Errors
/// Those of [`Search::sorted`].
pub async fn page_in_order(
    collection: &dyn Search,
    order: &Order,
    from: Option<SortPlace>,
    limit: usize,
    with_vectors: bool,
) -> Result<SortedPage, SinkError> {
    // One more point tells whether there is another page, and where it begins.
    let wanted = limit.saturating_add(1);
    let mut reading = PageReading { collection, order, with_vectors, wanted, found: Vec::new() };
    if let Some(place) = from {
        reading.equal(place.value, Some(place.id)).await?;
    }
    if from.is_none_or(|place| place.value.is_some()) {
        reading.behind(from.and_then(|place| place.value)).await?;
        reading.equal(None, None).await?;
    }
    let mut found = reading.found;
    let next = found.get(limit).map(|(value, point)| SortPlace { value: *value, id: point.id });
    found.truncate(limit);
    Ok(SortedPage { points: found.into_iter().map(|(_, point)| point).collect(), next })
}

/// A page that is being read.
struct PageReading<'a> {
    collection: &'a dyn Search,
    order: &'a Order,
    with_vectors: bool,
    /// How many points the page shall have, with the one that begins the next page.
    wanted: usize,
    found: Vec<(Option<SortValue>, RawPoint)>,
}

impl PageReading<'_> {
    fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.found.len())
    }

    /// Adds the points with this value, or without one, in the order of their ids.
    async fn equal(&mut self, value: Option<SortValue>, from: Option<PointId>) -> Result<(), SinkError> {
        if self.missing() == 0 {
            return Ok(());
        }
        let filter = Filter(vec![self.order.equal(value)]);
        let page = self.collection.page_where(filter, from, self.missing(), self.with_vectors).await?;
        self.found.extend(page.points.into_iter().map(|point| (value, point)));
        Ok(())
    }

    /// Adds the points behind this value, without those that have no value.
    async fn behind(&mut self, mut after: Option<SortValue>) -> Result<(), SinkError> {
        let mut limit = self.missing();
        while self.missing() > 0 {
            let order = self.order.clone();
            let request = SortRequest { order, after, limit, with_vectors: self.with_vectors };
            let mut sorted = self.collection.sorted(request).await?;
            let is_all = sorted.len() < limit;
            sorted.retain(|(value, _)| after.is_none_or(|after| self.order.compare(after, *value).is_lt()));
            sorted.sort_by(|(left, one), (right, other)| self.order.compare(*left, *right).then(one.id.cmp(&other.id)));
            let last = sorted.last().map(|(value, _)| *value);
            match last {
                _ if is_all => {}
                // The limit may have cut off other points with the last value and lower ids.
                Some(last) => sorted.retain(|(value, _)| *value != last),
                None => limit = limit.saturating_mul(FURTHER),
            }
            self.found.extend(sorted.into_iter().map(|(value, point)| (Some(value), point)));
            if is_all {
                return Ok(());
            }
            if last.is_some() {
                self.equal(last, None).await?;
                after = last;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_whole_number_is_rounded_to_the_side_that_leaves_nothing_out() {
        for whole in
            [0, 7, -7, 1 << 53, (1 << 53) + 1, -(1 << 53) - 1, i64::MAX, i64::MIN, (1 << 62) + 600, (1 << 62) + 300]
        {
            let (down, up) = (rounded_down(whole), rounded_up(whole));
            let exact = i128::from(whole);
            #[expect(clippy::cast_possible_truncation, reason = "as far as an i128 goes")]
            let (below, above) = (down as i128, up as i128);
            assert!(below <= exact && exact <= above, "{whole}: {down} {up}");
            assert!(below == exact && above == exact || down.next_up() >= up, "{whole}: {down} {up}");
        }
    }
}
