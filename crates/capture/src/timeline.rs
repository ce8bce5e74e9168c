//! Finds where the server's history left a given timeline.

use walvec_model::Lsn;

use crate::CaptureError;
use crate::catalog::parse_lsn;
use crate::connect::Replication;
use crate::server::Source;

/// Returns where the server's present timeline, or one of its ancestors, branched off `timeline`. Both have the same
/// WAL up to there. `None` if `timeline` is not an ancestor.
pub(crate) async fn left_at(source: &Source, timeline: u32) -> Result<Option<Lsn>, CaptureError> {
    let server = source.server();
    // The first timeline has no history, and therefore no history file.
    if server.timeline <= 1 {
        return Ok(None);
    }
    let mut session = Replication::open(&source.catalog.info, &source.config.slot, server.version_num).await?;
    let row = session.query(&format!("TIMELINE_HISTORY {}", server.timeline)).await;
    session.close().await;
    let content = row?.into_iter().nth(1).flatten().unwrap_or_default();
    branch_of(timeline, &content)
}

/// Parses a history file: a line for each ancestor, with its number, the position at which it was left, and the reason.
/// <https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES>
fn branch_of(timeline: u32, history: &str) -> Result<Option<Lsn>, CaptureError> {
    let mut entries = history.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        Some((fields.next()?.parse::<u32>().ok()?, fields.next()?))
    });
    entries.find(|(ancestor, _)| *ancestor == timeline).map(|(_, lsn)| parse_lsn(lsn)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTORY: &str = "1\t0/3000060\tno recovery target specified\n\n2\t0/50000A0\tbefore 2026-11-29 10:00:00+00\n";

    #[test]
    fn the_place_where_a_timeline_was_left_is_found() {
        assert_eq!(branch_of(1, HISTORY).unwrap(), Some(Lsn(0x0300_0060)));
        assert_eq!(branch_of(2, HISTORY).unwrap(), Some(Lsn(0x0500_00A0)));
        assert_eq!(branch_of(3, HISTORY).unwrap(), None, "it is no ancestor");
        assert_eq!(branch_of(1, "").unwrap(), None);
    }

    #[test]
    fn a_history_that_cannot_be_read_is_an_error() {
        assert!(branch_of(1, "1\tnowhere\tfor no reason\n").is_err());
    }
}
