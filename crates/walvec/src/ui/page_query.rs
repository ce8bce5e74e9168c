//! The page's address: a tolerant parser, and links to other addresses.

use std::fmt::Write as _;

use crate::api::problem::ApiProblem;
use crate::search::request::{DEFAULT_LIMIT, SearchQuery};

/// The page's address, parsed. Unlike the API, the page ignores parameters that it does not know: addresses are
/// shared, shortened and decorated by other programs.
pub(super) struct PageQuery {
    /// The text of the query box.
    pub(super) text: String,
    /// The chosen collection.
    pub(super) collection: String,
    /// The chosen mode as text, which may be invalid. Empty: the best that the collection has.
    pub(super) mode: String,
    /// The chosen number of hits as text, which may be invalid.
    pub(super) limit: String,
    /// Conditions, as the API writes them.
    pub(super) filters: Vec<String>,
}

impl PageQuery {
    pub(super) fn from_pairs(pairs: Vec<(String, String)>, collections: &[String]) -> Self {
        let mut page_query = Self {
            text: String::new(),
            collection: collections.first().cloned().unwrap_or_default(),
            mode: String::new(),
            limit: DEFAULT_LIMIT.to_string(),
            filters: Vec::new(),
        };
        for (name, value) in pairs {
            match name.as_str() {
                "q" => page_query.text = value,
                "collection" if !value.is_empty() => page_query.collection = value,
                "mode" => page_query.mode = value,
                "limit" if !value.is_empty() => page_query.limit = value,
                "filter" if !value.is_empty() => page_query.filters.push(value),
                _ => {}
            }
        }
        page_query
    }

    /// Returns the search, checked as the API checks it; `None` if there is no query.
    pub(super) fn to_query(&self) -> Option<Result<SearchQuery, ApiProblem>> {
        if self.text.trim().is_empty() {
            return None;
        }
        let pair = |name: &str, value: &String| (name.to_owned(), value.clone());
        let mut pairs = vec![pair("q", &self.text), pair("collection", &self.collection), pair("limit", &self.limit)];
        pairs.extend((!self.mode.is_empty()).then(|| pair("mode", &self.mode)));
        pairs.extend(self.filters.iter().map(|filter| pair("filter", filter)));
        Some(SearchQuery::from_pairs(pairs))
    }

    /// Returns the address of another query in the same collection.
    pub(super) fn link_to_text(&self, text: &str) -> String {
        self.link(text, &[])
    }

    /// Returns the address of the same query with one more condition.
    pub(super) fn link_with(&self, filter: &str) -> String {
        let filters: Vec<&str> = self.filters.iter().map(String::as_str).chain([filter]).collect();
        self.link(&self.text, &filters)
    }

    /// Returns the address of the same query without one of its conditions.
    pub(super) fn link_without(&self, filter: &str) -> String {
        let filters: Vec<&str> = self.filters.iter().map(String::as_str).filter(|other| *other != filter).collect();
        self.link(&self.text, &filters)
    }

    /// Returns the address of the same query without any condition.
    pub(super) fn link_without_filters(&self) -> String {
        self.link(&self.text, &[])
    }

    fn link(&self, text: &str, filters: &[&str]) -> String {
        let mut link =
            format!("/?q={}&collection={}&limit={}", encode(text), encode(&self.collection), encode(&self.limit));
        if !self.mode.is_empty() {
            link.push_str("&mode=");
            link.push_str(&encode(&self.mode));
        }
        for filter in filters {
            link.push_str("&filter=");
            link.push_str(&encode(filter));
        }
        link
    }
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_what_it_does_not_change() {
        let pairs = [("q", "café & más"), ("limit", "20"), ("filter", "year=1813"), ("utm_source", "x")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let page_query = PageQuery::from_pairs(pairs, &["books".to_owned()]);
        let base = "/?q=caf%C3%A9%20%26%20m%C3%A1s&collection=books&limit=20";
        assert_eq!(page_query.link_with("a=\"b\""), format!("{base}&filter=year%3D1813&filter=a%3D%22b%22"));
        assert_eq!(page_query.link_without("year=1813"), base);
        assert_eq!(page_query.link_to_text("x"), "/?q=x&collection=books&limit=20");
    }
}
