//! A source of rows that are read again, in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use walvec_model::{Lookup, Row, RowKey, Table, TableName, Value};

use crate::error::PipelineError;
use crate::testing::rows::table;
use crate::writer::row_source::{Fetched, LookedUp, RowSource, RowsAnswer, arranged};

/// A source of rows; without any, none is configured.
#[derive(Default)]
pub(crate) struct TestRowSource {
    /// The rows of [`table`] by the text of their keys.
    rows: Mutex<Option<BTreeMap<String, Row>>>,
    /// What is looked up, by the text of the key that it is found by.
    looked_up: Mutex<Option<BTreeMap<String, Value>>>,
    asked: Mutex<Vec<Vec<RowKey>>>,
    /// The answers of the next questions.
    next: Mutex<VecDeque<Result<String, PipelineError>>>,
}

impl TestRowSource {
    /// Creates a source with these rows of [`table`].
    pub(crate) fn with(rows: impl IntoIterator<Item = (RowKey, Row)>) -> Self {
        let rows = rows.into_iter().map(|(key, row)| (key.to_string(), row)).collect();
        Self { rows: Mutex::new(Some(rows)), ..Self::default() }
    }

    /// Creates a source in which these values are looked up.
    pub(crate) fn looking_up(found: impl IntoIterator<Item = (RowKey, Value)>) -> Self {
        let found = found.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        Self { looked_up: Mutex::new(Some(found)), ..Self::default() }
    }

    /// Lets the next question find no table.
    pub(crate) fn lose_table(&self, reason: &str) {
        self.next.lock().unwrap().push_back(Ok(reason.to_owned()));
    }

    /// Lets the next question fail.
    pub(crate) fn fail(&self, error: PipelineError) {
        self.next.lock().unwrap().push_back(Err(error));
    }

    /// Takes the keys of the questions since the last time, question by question.
    pub(crate) fn take_asked(&self) -> Vec<Vec<RowKey>> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn answer<T>(&self, keys: &[RowKey], found: T) -> Result<RowsAnswer<T>, PipelineError> {
        self.asked.lock().unwrap().push(keys.to_vec());
        let next = self.next.lock().unwrap().pop_front();
        next.map_or(Ok(RowsAnswer::Found(found)), |next| next.map(RowsAnswer::NoTable))
    }
}

impl RowSource for TestRowSource {
    fn rows<'a>(&'a self, of: &'a Table, keys: &'a [RowKey]) -> Option<Fetched<'a>> {
        let rows = self.rows.lock().unwrap().clone()?;
        let found = keys.iter().filter_map(|key| Some((key.clone(), rows.get(&key.to_string())?.clone())));
        let found = found.map(|(key, row)| (key, arranged(row, &table(), of))).collect();
        Some(Box::pin(std::future::ready(self.answer(keys, found))))
    }

    fn look_up<'a>(&'a self, _main: &'a TableName, _lookup: &'a Lookup, wanted: &'a [RowKey]) -> Option<LookedUp<'a>> {
        let values = self.looked_up.lock().unwrap().clone()?;
        let found = wanted.iter().enumerate().filter_map(|(at, key)| Some((at, values.get(&key.to_string())?.clone())));
        Some(Box::pin(std::future::ready(self.answer(wanted, found.collect()))))
    }
}
