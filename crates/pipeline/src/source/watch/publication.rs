//! Finds out whether the publication has left changes out since the rows were read.

use std::collections::BTreeMap;

use walvec_capture::PublicationIdentity;
use walvec_model::TableName;

use super::Watch;
use crate::error::PipelineError;
use crate::source::gap::{self, OnGap};
use crate::state::records::{Baseline, SnapshotState};

/// How the publication differs from the one that the rows were read with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PublicationDifference {
    /// It does not.
    None,
    /// There is none with the configured name.
    Gone,
    /// Only its owner is another.
    Owner,
    /// It was altered or made again, and may have left changes out meanwhile.
    Altered,
}

/// Compares the version of the publication `now` with the version that the rows were read with. `handed_over_from`: the
/// version at the last look, if only the owner has changed since.
fn compare(as_read: &str, now: Option<&str>, handed_over_from: Option<&str>) -> PublicationDifference {
    match now {
        None => PublicationDifference::Gone,
        Some(now) if now == as_read => PublicationDifference::None,
        // Only a change that was seen to happen between two looks of this session: there is no time for anything else.
        Some(_) if handed_over_from == Some(as_read) => PublicationDifference::Owner,
        Some(_) => PublicationDifference::Altered,
    }
}

/// Returns the first of the tables that was not published all the time since `version`, given the present entries.
fn first_unpublished<'t>(
    version: &str,
    entries: &BTreeMap<TableName, String>,
    mut tables: impl Iterator<Item = &'t TableName>,
) -> Option<TableName> {
    tables.find(|table| !PublicationIdentity::lists(version, entries.get(*table))).cloned()
}

impl Watch<'_> {
    /// Fails if the publication may have left changes out since the snapshot began. `before`: the publication at the
    /// last look.
    pub(super) async fn compare_publication(
        &mut self,
        before: Option<PublicationIdentity>,
    ) -> Result<(), PipelineError> {
        let as_read = match self.as_read.take() {
            Some(as_read) => as_read,
            // Loaded once: the checkpoint has very many parts where there are very many collections.
            None => match self.store.checkpoint()?.filter(|stored| stored.snapshot == SnapshotState::Done) {
                Some(checkpoint) => checkpoint.publication,
                None => return Ok(()),
            },
        };
        let now = self.publication.as_ref();
        let handed_over = now.zip(before).filter(|(now, before)| now.is_handed_over(before));
        let handed_over_from = handed_over.as_ref().map(|(_, before)| before.version.as_str());
        let version = now.map(|now| now.version.as_str());
        match compare(&as_read, version, handed_over_from) {
            PublicationDifference::None => {
                self.as_read = Some(as_read);
                Ok(())
            }
            PublicationDifference::Gone => {
                let called = self.source.publication_called(&as_read).await.ok().flatten();
                Err(gap::found(gap::publication_changed(called.as_deref()), self.on_gap))
            }
            PublicationDifference::Owner => {
                let (baseline, publication) = (self.store.baseline()?.unwrap_or_default(), version.map(str::to_owned));
                tracing::info!("the publication has another owner; nothing else has changed");
                Ok(self.store.save_baseline(&Baseline { publication, ..baseline })?)
            }
            PublicationDifference::Altered => match self.unpublished_since(&as_read).await {
                // The next session reads the table again, or reports a gap.
                Some(table) => Err(PipelineError::Altered { table }),
                None => Err(gap::found(gap::publication_changed(None), self.on_gap)),
            },
        }
    }

    /// Returns a table that has not been published all the time since `version`; `None` if there is none, or if the
    /// publication has changed in another way too.
    async fn unpublished_since(&self, version: &str) -> Option<TableName> {
        let now = self.publication.as_ref().filter(|_| self.on_gap == OnGap::Resync)?;
        if !PublicationIdentity::differ_in_tables_only(version, &now.version) {
            return None;
        }
        let entries = self.source.publication_entries().await.ok()?;
        first_unpublished(version, &entries, self.tables.iter().map(|table| &table.name))
    }
}

#[cfg(test)]
mod tests {
    use PublicationDifference::{Altered, Gone, None as Unchanged, Owner};

    use super::*;

    #[test]
    fn only_a_publication_that_was_seen_to_change_its_owner_and_nothing_else_goes_on() {
        let cases = [
            ("the same", Some("p1:5"), None, Unchanged),
            ("renamed or dropped", None, None, Gone),
            ("dropped while its owner changed", None, Some("p1:5"), Gone),
            ("altered", Some("p1:6"), None, Altered),
            ("handed over between two looks", Some("p1:6"), Some("p1:5"), Owner),
            ("altered before, then handed over", Some("p1:7"), Some("p1:6"), Altered),
        ];
        for (what, now, handed_over_from, expected) in cases {
            assert_eq!(compare("p1:5", now, handed_over_from), expected, "{what}");
        }
    }

    #[test]
    fn a_table_that_was_taken_out_for_a_while_was_not_published_all_the_time() {
        let table = |name| TableName::new("public", name);
        let tables = ["books", "films", "songs"].map(table);
        let entries =
            |films: &str| BTreeMap::from([(table("books"), "r1:5".to_owned()), (table("films"), films.to_owned())]);
        let first = |version, films| first_unpublished(version, &entries(films), tables.iter().take(2));
        assert_eq!(first("p1:5 r1:5 r2:5", "r2:5"), None);
        assert_eq!(first("p1:5 r1:5 r2:5", "r2:9"), Some(table("films")), "added again");
        assert_eq!(first("p1:5 r1:5", "r2:5"), Some(table("films")), "added since");
        assert_eq!(first("p1:5 r2:5", "r2:5"), Some(table("books")), "the first one");
        let without_entry = first_unpublished("p1:5 r1:5 r2:5", &entries("r2:5"), tables.iter());
        assert_eq!(without_entry, Some(table("songs")), "it is not in the publication");
    }
}
