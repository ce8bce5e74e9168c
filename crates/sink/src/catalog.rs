//! Which collection a name stands for.
//!
//! The name that a user gives a collection is an alias. The points lie in a collection `<name>__<number>`, so that another
//! one can be filled beside it and take over the name in one step.

use crate::{BoxFuture, SinkError};

/// Between a name and the number of a collection of that name.
const SEPARATOR: &str = "__";

/// The collections of one place, and the names under which they are served.
pub trait Catalog: Send + Sync {
    /// The collection that `name` stands for; `None` if nothing was ever stored under it.
    fn serving<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, SinkError>>;

    /// The numbers of walvec's own collections of that name, served or not, in ascending order.
    fn numbers<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<u64>, SinkError>>;

    /// Whether there is a collection of that name of its own, whoever made it.
    fn is_taken<'a>(&'a self, collection: &'a str) -> BoxFuture<'a, Result<bool, SinkError>>;

    /// Lets each name stand for the collection beside it, durably and all of them in one step.
    fn switch(&self, names: Vec<(String, String)>) -> BoxFuture<'_, Result<(), SinkError>>;

    /// Removes a collection that no name stands for; removing what is not there is no error.
    fn remove<'a>(&'a self, collection: &'a str) -> BoxFuture<'a, Result<(), SinkError>>;
}

/// The collection of that name with that number.
#[must_use]
pub fn numbered(name: &str, number: u64) -> String {
    format!("{name}{SEPARATOR}{number}")
}

/// The number of a collection, if it is one of that name.
#[must_use]
pub fn number_of(name: &str, collection: &str) -> Option<u64> {
    let digits = collection.strip_prefix(name)?.strip_prefix(SEPARATOR)?;
    digits.parse().ok().filter(|&number| numbered(name, number) == collection)
}

/// The numbers of the collections of that name among `collections`, in ascending order.
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
