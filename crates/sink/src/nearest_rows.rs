//! Searches in which a row counts once, however many chunks of it are near.

use std::collections::HashSet;

use walvec_model::Value;

use crate::{Hit, MAX_HITS, Search, SearchRequest, SinkError};

/// How many times as many points as rows are asked for at first.
const AHEAD: usize = 4;

/// Returns the nearest rows, each as its nearest chunk, best first. Asks for more points until there are `request.limit`
/// rows, or no more points.
///
/// # Errors
/// Those of [`Search::search`].
pub async fn nearest_rows(collection: &dyn Search, request: SearchRequest) -> Result<Vec<Hit>, SinkError> {
    let wanted = request.limit;
    let mut limit = wanted.saturating_mul(AHEAD).min(MAX_HITS);
    loop {
        let hits = collection.search(SearchRequest { limit, ..request.clone() }).await?;
        let is_all = hits.len() < limit || limit >= MAX_HITS;
        let rows = one_per_row(hits, wanted);
        if rows.len() >= wanted || is_all {
            return Ok(rows);
        }
        limit = limit.saturating_mul(AHEAD).min(MAX_HITS);
    }
}

/// Returns the first hit of each row, up to `limit`. A point that another program wrote is a row of its own.
pub(crate) fn one_per_row(hits: Vec<Hit>, limit: usize) -> Vec<Hit> {
    let mut seen = HashSet::new();
    let is_new = |hit: &Hit| match &hit.provenance {
        Some(row) => seen.insert((row.table.clone(), Value::Array(row.key.clone()).to_string())),
        None => true,
    };
    hits.into_iter().filter(is_new).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;
    use walvec_model::{Fingerprint, Generation, InputHash, Payload, PointId, Position, Provenance, RawPage, RawPoint};

    use super::*;
    use crate::{BoxFuture, Filter, Query, SortRequest, SortValue};

    /// A collection in which the chunks of each row are nearer than those of the next one.
    struct Rows {
        chunks: u64,
        rows: u64,
        asked: Mutex<Vec<usize>>,
    }

    impl Search for Rows {
        fn search(&self, request: SearchRequest) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
            self.asked.lock().unwrap().push(request.limit);
            let hit = |number: u64| Hit {
                id: PointId::Num(number),
                score: 1.0,
                payload: Payload::new(),
                provenance: Some(Provenance {
                    position: Position::default(),
                    table: "public.books".to_owned(),
                    key: vec![json!(number / self.chunks)],
                    input_hash: InputHash::of(""),
                    fingerprint: Fingerprint::of(&[]),
                    generation: Generation(1),
                    chunk: 0,
                    chunks: 1,
                }),
            };
            let hits = (0..self.rows * self.chunks).take(request.limit).map(hit).collect();
            Box::pin(std::future::ready(Ok(hits)))
        }

        fn rank(&self, _: SearchRequest, _: usize) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
            unreachable!("nobody reads pages of hits")
        }

        fn page_where(
            &self,
            _: Filter,
            _: Option<PointId>,
            _: usize,
            _: bool,
        ) -> BoxFuture<'_, Result<RawPage, SinkError>> {
            unreachable!("nobody reads pages")
        }

        fn sorted(&self, _: SortRequest) -> BoxFuture<'_, Result<Vec<(SortValue, RawPoint)>, SinkError>> {
            unreachable!("this test does not sort")
        }

        fn get(&self, _: Vec<PointId>, _: bool) -> BoxFuture<'_, Result<Vec<RawPoint>, SinkError>> {
            unreachable!("nobody reads points")
        }
    }

    async fn found(chunks: u64, rows: u64, limit: usize) -> (Vec<u64>, Vec<usize>) {
        let collection = Rows { chunks, rows, asked: Mutex::default() };
        let request =
            SearchRequest { query: Query::Dense(vec![1.0]), limit, filter: Filter::default(), min_score: None };
        let hits = nearest_rows(&collection, request).await.unwrap();
        let keys = hits.iter().map(|hit| hit.provenance.as_ref().unwrap().key[0].as_u64().unwrap());
        (keys.collect(), collection.asked.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_row_with_many_near_chunks_does_not_push_others_out() {
        assert_eq!(found(1, 10, 3).await, (vec![0, 1, 2], vec![12]));
        assert_eq!(found(20, 10, 3).await, (vec![0, 1, 2], vec![12, 48]));
    }

    #[tokio::test]
    async fn fewer_rows_than_wanted_are_all_found() {
        assert_eq!(found(20, 2, 3).await.0, [0, 1]);
        assert_eq!(found(1, 0, 3).await.0, [0_u64; 0]);
    }
}
