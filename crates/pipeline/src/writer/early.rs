//! Embeds the texts of rows that were just inserted while their points are read.
//!
//! Unless the stream is being replayed, an inserted row has no point whose vector it could keep. So its text is embedded
//! at once, and a lone row becomes searchable the sooner. If a point turns out to have the vector, the early one is
//! dropped: this costs a model in this process some time, but would cost money at a provider.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use walvec_model::{Document, InputHash, PointId, RowKey, Vector};
use walvec_transform::Completed;

use super::coalesce::{FinalRow, RowState};
use super::embed::{EmbedJob, Texts};
use super::known::Versioned;
use super::long::Length;
use super::prepare::VectorSource;
use super::{Batch, Writer};

/// How many rows a batch has at most that is embedded early. A larger one takes much longer to embed than to read.
const EARLY_ROWS: usize = 4;

/// Vectors that are being computed, by point and text. Dropping this ends the computation.
pub(super) struct EarlyVectors(AbortOnDropHandle<HashMap<(PointId, InputHash), Vector>>);

impl EarlyVectors {
    /// Waits for the vectors. Those that could not be computed are missing.
    pub(super) async fn computed(self) -> HashMap<(PointId, InputHash), Vector> {
        self.0.await.unwrap_or_default()
    }
}

impl Writer {
    /// Begins to embed the texts of a small batch of inserted rows. Returns `None` where that may be in vain.
    pub(super) fn embed_early(&self, batch: &Batch) -> Option<EarlyVectors> {
        let transform = &self.collection.transform;
        let is_worth_it = batch.has_inserts_only
            && batch.entries.len() <= EARLY_ROWS
            && self.collection.embedder.is_local()
            && transform.lookups().is_empty();
        if !is_worth_it {
            return None;
        }
        let (transform, rows) = (Arc::clone(transform), batch.entries.clone());
        let render = move || {
            let documents = |(key, FinalRow { table, state, .. }): &(RowKey, FinalRow)| {
                let RowState::Present { row, .. } = state else { return Vec::new() };
                let values = transform.complete(table, row.clone(), None);
                let Completed::Row(values) = values else { return Vec::new() };
                transform.render_joined(table, key, &values, &[]).unwrap_or_default()
            };
            rows.iter().flat_map(documents).collect()
        };
        let texts = self.texts(CancellationToken::new());
        Some(EarlyVectors(AbortOnDropHandle::new(tokio::spawn(async move {
            let documents = tokio::task::spawn_blocking(render).await.unwrap_or_default();
            texts.of(documents).await
        }))))
    }
}

impl Texts {
    /// Waits for the vectors that began early, and keeps those that the part needs.
    pub(super) async fn take_early(&self, part: &mut EmbedJob) {
        let Some(early) = part.early.take() else { return };
        let mut computed = early.computed().await;
        let documents = part.rows.iter().flat_map(|row| &row.documents);
        let new = documents.filter(|(_, origin)| *origin == VectorSource::New);
        let vectors: Vec<(PointId, Vector)> = new
            .filter_map(|(Versioned { document, .. }, _)| {
                Some((document.id, computed.remove(&(document.id, document.input_hash.clone()))?))
            })
            .collect();
        self.count(vectors.len());
        part.vectors.extend(vectors);
    }

    /// Returns the vectors of these documents. The regular course deals with texts that are too long, or that cannot be
    /// embedded.
    async fn of(&self, documents: Vec<Document>) -> HashMap<(PointId, InputHash), Vector> {
        let (ids, texts): (Vec<_>, Vec<_>) =
            documents.into_iter().map(|document| ((document.id, document.input_hash), document.text)).unzip();
        let vectors = self.embed(&texts, Length::Whole).await.unwrap_or_default();
        ids.into_iter().zip(vectors).filter_map(|(id, vector)| Some((id, vector.ok()?))).collect()
    }
}

#[cfg(test)]
mod tests;
