//! Records which database a collection is filled from, with collections that other processes can reach.

use futures::FutureExt as _;

use crate::PipelineError;
use crate::rounds::answers;
use crate::state::records::SourceIdentity;
use crate::writer::Writer;

/// Records the database with every collection, before anything is written.
///
/// `former`: the database that this data directory was filled from. `database` may replace it: the session has decided
/// that when it began.
///
/// # Errors
/// If a collection is filled from another database.
pub(crate) async fn record(
    writers: &[Writer],
    database: &SourceIdentity,
    former: Option<&SourceIdentity>,
) -> Result<(), PipelineError> {
    let (database, former) = (words(database), former.map(words));
    let recorded = writers.iter().filter(|writer| writer.collection.sink.is_shared()).map(|writer| {
        let (database, former) = (database.as_str(), former.as_deref());
        async move {
            let recorded = writer.collection.sink.record_database(database, former).await;
            recorded.map_err(|source| PipelineError::Sink { collection: writer.collection.name.clone(), source })
        }
        .boxed()
    });
    answers(recorded.collect()).await.map(drop)
}

/// Describes a database. The text is the same before and after a failover, and for every slot.
fn words(database: &SourceIdentity) -> String {
    format!("cluster {}, database {}", database.system_id, database.database_oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_described_alike_before_and_after_a_failover_and_for_every_slot() {
        let database =
            SourceIdentity { system_id: "7".to_owned(), timeline: 1, database_oid: 5, slot: "walvec".to_owned() };
        let same = SourceIdentity { timeline: 2, slot: "other".to_owned(), ..database.clone() };
        assert_eq!(words(&database), words(&same));
        let (of_another_cluster, another) = (
            SourceIdentity { system_id: "8".to_owned(), ..database.clone() },
            SourceIdentity { database_oid: 6, ..database.clone() },
        );
        assert!(words(&of_another_cluster) != words(&database) && words(&another) != words(&database));
    }
}
