//! Requests: query strings and JSON bodies, checked before anything is computed.

use super::body::SearchBody;
use super::cursor::{Cursor, NOT_A_CURSOR};
use super::filter::{self, FieldCondition, condition_from_text, conditions_from_json};
use super::mode::Mode;
use crate::api::problem::{ApiProblem, Reason};

/// The longest query, in bytes. Models read at most some hundred words; a longer query is a mistake or an attack.
pub(crate) const MAX_QUERY_BYTES: usize = 8 * 1024;
/// The default number of hits.
pub(crate) const DEFAULT_LIMIT: usize = 5;
/// The most hits of one search.
pub(crate) const MAX_LIMIT: usize = 100;

/// A checked search: the query is neither blank nor too long, the limit and the filter are within bounds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SearchQuery {
    /// What to look for.
    pub(crate) text: String,
    /// The collection to search; `None` if there is only one.
    pub(crate) collection: Option<String>,
    /// The mode of the search; `None`: the best that the collection has.
    pub(crate) mode: Option<Mode>,
    /// The most hits.
    pub(crate) limit: usize,
    /// The conditions that every hit must match.
    pub(crate) filter: Vec<FieldCondition>,
    /// Whether a row counts once, however many of its chunks are near.
    pub(crate) by_row: bool,
    /// The lowest score of a hit.
    pub(crate) min_score: Option<f32>,
    /// Where the wanted page begins; `None`: with the best hit.
    pub(crate) cursor: Option<Cursor>,
}

impl SearchQuery {
    /// Parses the pairs of a query string: `q`, `collection`, `mode`, `limit`, `group`, `min_score`, `cursor`, and any
    /// number of `filter`.
    pub(crate) fn from_pairs(pairs: Vec<(String, String)>) -> Result<Self, ApiProblem> {
        let (mut text, mut collection, mut limit, mut conditions) = (None, None, None, Vec::new());
        let (mut mode, mut group, mut min_score, mut cursor) = (None, None, None, None);
        for (name, value) in pairs {
            match name.as_str() {
                "q" => set_once(&mut text, &name, value)?,
                "collection" => set_once(&mut collection, &name, value)?,
                "mode" => set_once(&mut mode, &name, value)?,
                "limit" => set_once(&mut limit, &name, value)?,
                "group" => set_once(&mut group, &name, value)?,
                "min_score" => set_once(&mut min_score, &name, value)?,
                "cursor" => set_once(&mut cursor, &name, value)?,
                "filter" => conditions.push(condition_from_text(&value)?),
                _ => {
                    let detail = format!(
                        "there is no parameter \"{name}\"; there are q, collection, mode, limit, group, \
                         min_score, cursor and filter"
                    );
                    return Err(ApiProblem::new(Reason::BadParameter, detail));
                }
            }
        }
        let limit = limit.map_or(Ok(DEFAULT_LIMIT), |text: String| text.parse().map_err(|_| bad_limit(&text)))?;
        let min_score = min_score.map(|text| text.parse().map_err(|_| bad_score(&text))).transpose()?;
        let by_row = checked_group(group.as_deref())?;
        let mode = checked_mode(mode.as_deref())?;
        let cursor = checked_cursor(cursor.as_deref())?;
        let (text, filter) = (text.unwrap_or_default(), filter::checked(conditions)?);
        Self { text, collection, mode, limit, filter, by_row, min_score, cursor }.checked()
    }

    /// Parses a JSON body.
    pub(crate) fn from_json(body: &[u8]) -> Result<Self, ApiProblem> {
        let SearchBody { query, collection, mode, limit, group, min_score, cursor, filter } = SearchBody::read(body)?;
        let limit = limit.map_or(Ok(DEFAULT_LIMIT), |given| usize::try_from(given).map_err(|_| bad_limit(given)))?;
        let filter = filter::checked(conditions_from_json(filter)?)?;
        let by_row = checked_group(group.as_deref())?;
        let mode = checked_mode(mode.as_deref())?;
        let cursor = checked_cursor(cursor.as_deref())?;
        Self { text: query, collection, mode, limit, filter, by_row, min_score, cursor }.checked()
    }

    fn checked(self) -> Result<Self, ApiProblem> {
        if self.text.trim().is_empty() {
            let detail = "say what to look for, in the parameter q or the member \"query\"";
            return Err(ApiProblem::new(Reason::EmptyQuery, detail));
        }
        if self.text.len() > MAX_QUERY_BYTES {
            let detail = format!("the query has {} bytes; at most {MAX_QUERY_BYTES} are read", self.text.len());
            return Err(ApiProblem::new(Reason::QueryTooLong, detail));
        }
        if !(1..=MAX_LIMIT).contains(&self.limit) {
            return Err(bad_limit(self.limit));
        }
        Ok(self)
    }
}

fn checked_cursor(cursor: Option<&str>) -> Result<Option<Cursor>, ApiProblem> {
    let unreadable = |_| ApiProblem::new(Reason::BadParameter, NOT_A_CURSOR);
    cursor.map(str::parse).transpose().map_err(unreadable)
}

fn checked_group(group: Option<&str>) -> Result<bool, ApiProblem> {
    match group {
        None => Ok(false),
        Some("row") => Ok(true),
        Some(other) => {
            let detail = format!("hits cannot be grouped by \"{other}\"; only by \"row\"");
            Err(ApiProblem::new(Reason::BadParameter, detail))
        }
    }
}

fn checked_mode(mode: Option<&str>) -> Result<Option<Mode>, ApiProblem> {
    let unknown = |name: &str| {
        let detail = format!("the mode is \"{name}\"; hybrid, dense or keyword is expected");
        ApiProblem::new(Reason::BadParameter, detail)
    };
    mode.map(|name| Mode::from_name(name).ok_or_else(|| unknown(name))).transpose()
}

fn bad_score(given: impl std::fmt::Display) -> ApiProblem {
    ApiProblem::new(Reason::BadParameter, format!("min_score is \"{given}\"; a number is expected"))
}

fn set_once(slot: &mut Option<String>, name: &str, value: String) -> Result<(), ApiProblem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ApiProblem::new(Reason::BadParameter, format!("the parameter \"{name}\" is given twice"))),
    }
}

fn bad_limit(given: impl std::fmt::Display) -> ApiProblem {
    ApiProblem::new(
        Reason::BadLimit,
        format!("the limit is \"{given}\"; a whole number from 1 to {MAX_LIMIT} is expected"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_sink::Bounds;

    use super::filter::{Literal, Requirement};
    use super::*;

    #[test]
    fn scores_groups_and_modes_that_make_no_sense_are_refused() {
        let query = |name: &str, value: &str| {
            SearchQuery::from_pairs(vec![("q".to_owned(), "q".to_owned()), (name.to_owned(), value.to_owned())])
        };
        assert_eq!(query("min_score", "0.5").unwrap().min_score, Some(0.5));
        assert!(query("group", "row").unwrap().by_row);
        assert_eq!(query("mode", "keyword").unwrap().mode, Some(Mode::Keyword));
        for (name, value) in [("min_score", "near"), ("group", "author"), ("mode", "sparse"), ("mode", "")] {
            assert_eq!(query(name, value).unwrap_err().reason(), Reason::BadParameter, "{name}={value}");
        }
    }

    #[test]
    fn a_json_filter_keeps_its_types() {
        let body =
            json!({"query": "q", "limit": 100, "filter": {"a": "1", "b": 1, "c": false, "d": {"gte": 1, "lte": 2.5}}});
        let query = SearchQuery::from_json(body.to_string().as_bytes()).unwrap();
        let wanted = |field: &str, test| FieldCondition { field: field.to_owned(), test };
        let is = |value| Requirement::OneOf(vec![Literal::Json(value)]);
        let ends =
            |gte, lte| Bounds { gte: Some(Literal::Json(gte)), lte: Some(Literal::Json(lte)), ..Bounds::default() };
        let range = wanted("d", Requirement::Within(Box::new(ends(json!(1), json!(2.5)))));
        let equal = [wanted("a", is(json!("1"))), wanted("b", is(json!(1))), wanted("c", is(json!(false)))];
        assert_eq!(query.filter, equal.into_iter().chain([range]).collect::<Vec<_>>());
        assert_eq!((query.limit, query.collection), (100, None));
    }
}
