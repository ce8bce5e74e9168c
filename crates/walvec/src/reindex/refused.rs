//! What a reindex must not change.

use walvec_pipeline::state::records::Checkpoint;

use crate::assembly::source::published_tables;
use crate::config::{CollectionConfig, Config};
use crate::failure::Failure;

/// Refuses two different databases, because their positions cannot be compared.
pub(super) fn refuse_other_source(main: &Checkpoint, candidate: &Checkpoint) -> Result<(), Failure> {
    // A standby may have been promoted meanwhile: both pipelines follow it.
    if main.source.is_same_database(&candidate.source) {
        return Ok(());
    }
    let what = "walvec.yaml names another database than the one that the served collections are filled from";
    Err(Failure::definite("E_SOURCE", what).with_remedy("put the former `source.url` back, then reindex"))
}

/// Refuses a change of which rows there are: a reindex changes only what points look like, and both pipelines read the same
/// publication.
pub(super) fn refuse_other_rows(current: &Config, next: &Config) -> Result<(), Failure> {
    let rows = |config: &Config| -> Vec<_> {
        let rows = |collection: &CollectionConfig| {
            (collection.name.clone(), collection.table.to_string(), collection.filter.clone())
        };
        config.collections.iter().map(rows).collect()
    };
    let place = |config: &Config| {
        let url = config.sink.qdrant.as_ref().map(|qdrant| qdrant.url.clone());
        (config.source.slot.clone(), config.source.publication.clone(), config.sink.directory().to_owned(), url)
    };
    let (published, wanted) = (published_tables(current), published_tables(next));
    if let Some(table) = wanted.symmetric_difference(&published).next().filter(|_| rows(current) == rows(next)) {
        let what = format!(
            "the lookups need another publication, with or without {table}: it cannot be altered under a stream that is being read"
        );
        let remedy =
            "stop walvec, alter the publication as `walvec check` says, then `walvec reset --purge` and `walvec run`";
        return Err(Failure::new(2, "E_CONFIG", what).with_remedy(remedy));
    }
    if rows(current) == rows(next) && place(current) == place(next) {
        return Ok(());
    }
    let what = "the configuration differs in more than a reindex can change: collections, tables, `where`, slot, \
                publication or the place of the collections";
    let remedy = "put those back, reindex, then change them and start `walvec run` again";
    Err(Failure::new(2, "E_CONFIG", what).with_remedy(remedy))
}
