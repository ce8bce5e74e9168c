//! Which collection a name stands for.
//!
//! The name that a user gives a collection is an alias. The points lie in a collection `<name>__<number>`, so that a
//! second one can be filled at the same time and take over the name in one step.

use crate::{BoxFuture, SinkError};

/// Separates a name from the number of a collection.
const SEPARATOR: &str = "__";

/// The collections of a server or a data directory, and the names under which they are searched.
pub trait Catalog: Send + Sync {
    /// Returns the collection that `name` stands for; `None` if nothing was ever stored under it.
    fn serving<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, SinkError>>;

    /// Returns the numbers of walvec's own collections with this name, whether an alias leads to them or not, in ascending
    /// order.
    fn numbers<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<u64>, SinkError>>;

    /// Returns whether there is a collection whose own name this is, made by walvec or not.
    fn is_taken<'a>(&'a self, collection: &'a str) -> BoxFuture<'a, Result<bool, SinkError>>;

    /// Makes each name (the first of a pair) stand for a collection (the second), durably and all of them in one step.
    fn switch(&self, names: Vec<(String, String)>) -> BoxFuture<'_, Result<(), SinkError>>;

    /// Removes a collection that no name stands for. It is no error if the collection does not exist.
    fn remove<'a>(&'a self, collection: &'a str) -> BoxFuture<'a, Result<(), SinkError>>;
}

/// Returns the own name of the collection `name` with this number.
#[must_use]
pub fn numbered(name: &str, number: u64) -> String {
    format!("{name}{SEPARATOR}{number}")
}

/// Returns the number of `collection`, if it is one of the collections of `name`.
#[must_use]
pub fn number_of(name: &str, collection: &str) -> Option<u64> {
    let digits = collection.strip_prefix(name)?.strip_prefix(SEPARATOR)?;
    digits.parse().ok().filter(|&number| numbered(name, number) == collection)
}

/// Returns the numbers of the collections of `name` among `collections`, in ascending order.
pub(crate) fn numbers(name: &str, collections: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<u64> {
    let mut numbers: Vec<u64> =
        collections.into_iter().filter_map(|collection| number_of(name, collection.as_ref())).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_is_told_from_those_of_similar_names() {
        assert_eq!(number_of("books", &numbered("books", 12)), Some(12));
        for other in ["books", "books__", "books__x", "books__012", "books__+1", "old_books__1", "books__1__2"] {
            assert_eq!(number_of("books", other), None, "{other}");
        }
        assert_eq!(numbers("a", ["a__10", "a__9", "a", "b__1"]), [9, 10]);
    }
}
