//! Removes points: by their ids, by a filter, or as long as they have certain versions.

use std::sync::atomic::Ordering;

use qdrant_client::qdrant::{DeletePoints, Filter as ClientFilter, PointsSelector};
use walvec_model::{PointId, Position};

use super::{ORDERING, Remote, collection, convert, read, tenants};
use crate::SinkError;

impl Remote {
    /// Removes the points that match `filter`.
    ///
    /// Removes them by their ids if a crash of the server may bring back points that were removed by a filter. Not if another process
    /// may write one meanwhile, nor if another shard may have another point of the same id.
    pub(super) async fn delete(&self, filter: ClientFilter) -> Result<(), SinkError> {
        let brings_back = self.0.brings_back.load(Ordering::Relaxed);
        if brings_back && self.0.is_alone && self.0.tenants.is_none() {
            let by_ids = |ids: &[PointId]| PointsSelector::from(convert::client_ids(ids));
            return self.delete_found(&filter, by_ids).await;
        }
        match self.delete_points(PointsSelector::from(filter.clone())).await {
            Err(SinkError::Limited(limited)) if limited.is_too_large => {
                let as_found = |ids: &[PointId]| PointsSelector::from(convert::among(&filter, ids));
                self.delete_found(&filter, as_found).await
            }
            deleted => deleted,
        }
    }

    /// Finds the points that match `filter`, and removes some of them at a time by what `selector` makes of them.
    async fn delete_found(
        &self,
        filter: &ClientFilter,
        selector: impl Fn(&[PointId]) -> PointsSelector,
    ) -> Result<(), SinkError> {
        let mut from = None;
        loop {
            let (ids, next) = read::ids(&self.0, from, filter.clone()).await?;
            self.delete_each(&ids, &selector).await?;
            if next.is_none() {
                return Ok(());
            }
            from = next;
        }
    }

    /// Removes points, as many at a time as the server takes.
    async fn delete_each<T>(&self, points: &[T], selector: impl Fn(&[T]) -> PointsSelector) -> Result<(), SinkError> {
        let (size, mut rest) = (&self.0.pace.writes, points);
        while !rest.is_empty() {
            let (some, later) = rest.split_at(size.of(rest.len()));
            match self.delete_points(selector(some)).await {
                Ok(()) => rest = later,
                Err(SinkError::Limited(limited)) if size.refused(&limited, some.len()) => {}
                Err(error) => return Err(error),
            }
        }
        size.passed(points.len());
        Ok(())
    }

    /// Removes points as long as they have these versions. Where no other process writes, they always have. Elsewhere the server must
    /// compare the versions, which a server in strict mode refuses until there is an index.
    pub(super) async fn delete_versions(&self, points: &[(PointId, Position)]) -> Result<(), SinkError> {
        if self.0.is_alone && self.0.tenants.is_none() {
            let ids: Vec<PointId> = points.iter().map(|(id, _)| *id).collect();
            return self.delete_each(&ids, |ids| PointsSelector::from(convert::client_ids(ids))).await;
        }
        let as_seen = |points: &[(PointId, Position)]| PointsSelector::from(convert::with_versions(points));
        match self.delete_each(points, as_seen).await {
            Err(SinkError::BadRequest(_)) => {
                collection::index_versions(&self.0, &self.0.name()).await?;
                self.delete_each(points, as_seen).await
            }
            deleted => deleted,
        }
    }

    async fn delete_points(&self, points: PointsSelector) -> Result<(), SinkError> {
        let place = &self.0.place;
        let request = DeletePoints {
            collection_name: self.0.name(),
            wait: Some(true),
            points: Some(points),
            ordering: Some(ORDERING),
            shard_key_selector: tenants::everywhere(&self.0).await?,
            ..DeletePoints::default()
        };
        let mut writes = self.0.server.connections.writes().get(&self.0.server, place)?;
        let response = writes.delete(request).await.map_err(|status| self.0.write_failed(&status))?;
        place.completed(response.get_ref().result.as_ref())
    }
}
