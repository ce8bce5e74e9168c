//! Finds out whether rows that the stream has brought can already be read.
//!
//! A transaction is streamed as soon as its commit is in the WAL. Other sessions see it a moment later or, if it waits for a
//! synchronous standby, only when that has answered. Code that reads rows because of a change has to wait for that.

use tokio_postgres::error::SqlState;

use crate::CaptureError;
use crate::connect::statement_error;
use crate::server::Source;

impl Source {
    /// Returns those of these committed transactions, numbered as in the stream, that a statement cannot see yet.
    ///
    /// # Errors
    /// Fails if the server cannot be asked.
    pub async fn invisible(&self, xids: &[u32]) -> Result<Vec<u32>, CaptureError> {
        let row = self.session().await?.query_one("SELECT pg_current_snapshot()::text", &[]).await;
        let text: String = row.map_err(|error| statement_error("asking for a snapshot", &error))?.get(0);
        let snapshot = ServerSnapshot::parse(&text)
            .ok_or_else(|| CaptureError::Protocol { reason: format!("pg_current_snapshot() is \"{text}\"") })?;
        Ok(xids.iter().copied().filter(|xid| !snapshot.sees(*xid)).collect())
    }
}

impl Source {
    /// Returns those of these transactions that this server has never begun. They come from another server whose topics
    /// or files have outlived it.
    ///
    /// # Errors
    /// Fails if the server cannot be asked.
    pub async fn never_begun(&self, xids: &[u32]) -> Result<Vec<u32>, CaptureError> {
        let failed = |error| statement_error("asking for a transaction", &error);
        let session = self.session().await?;
        let end: String = session
            .query_one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text", &[])
            .await
            .map_err(failed)?
            .get(0);
        let end =
            end.parse().map_err(|_| CaptureError::Protocol { reason: format!("a transaction id is \"{end}\"") })?;
        let mut never = Vec::new();
        for xid in xids {
            let full = ServerSnapshot { end, open: Vec::new() }.full(*xid).to_string();
            match session.query_one("SELECT pg_xact_status($1::text::xid8)", &[&full]).await {
                Ok(_) => {}
                // The server's message is "transaction ID is in the future".
                Err(error) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => never.push(*xid),
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(never)
    }
}

/// A standby is never this many transactions behind its primary.
const FAR: i32 = 1 << 30;

/// PostgreSQL's `pg_snapshot`: all transactions before `end` have ended, except those in `open`.
struct ServerSnapshot {
    end: u64,
    open: Vec<u64>,
}

impl ServerSnapshot {
    /// Reads `xmin:xmax:xip,xip,...`.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':').skip(1);
        let end = parts.next()?.parse().ok()?;
        let open = parts.next()?.split(',').filter(|xid| !xid.is_empty()).map(str::parse).collect::<Result<_, _>>();
        Some(Self { end, open: open.ok()? })
    }

    /// Returns whether the snapshot sees a transaction whose number is cut to 32 bits. A transaction from the stream is
    /// less than 2^31 away. One from a topic's record may be older; if it seems to be very far ahead, it is behind.
    fn sees(&self, xid: u32) -> bool {
        let full = self.full(xid);
        self.distance(xid) >= FAR || (full < self.end && !self.open.contains(&full))
    }

    fn distance(&self, xid: u32) -> i32 {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let end = self.end as u32;
        xid.wrapping_sub(end).cast_signed()
    }

    /// Returns the full number of a transaction: the candidate closest to the end.
    fn full(&self, xid: u32) -> u64 {
        self.end.wrapping_add_signed(self.distance(xid).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sees(snapshot: &str, xid: u32) -> bool {
        ServerSnapshot::parse(snapshot).unwrap().sees(xid)
    }

    #[test]
    fn a_transaction_is_seen_once_it_is_no_longer_open() {
        assert!(sees("10:20:", 10) && sees("10:20:10,12", 11));
        assert!(!sees("10:20:10,12", 12), "its commit is not finished");
        assert!(!sees("10:20:", 20) && !sees("10:20:", 25), "it ends after the snapshot");
        assert!(ServerSnapshot::parse("10").is_none());
    }

    #[test]
    fn what_seems_to_be_far_ahead_is_of_long_ago() {
        assert!(sees("10:20:", (1 << 30) + 20) && !sees("10:20:", (1 << 30) + 19));
    }

    #[test]
    fn numbers_that_have_wrapped_around_are_told_apart() {
        let wrapped = 1_u64 << 32;
        let snapshot = format!("{}:{}:{}", wrapped - 10, wrapped + 5, wrapped + 1);
        assert!(sees(&snapshot, u32::MAX - 3), "before the wrap");
        assert!(sees(&snapshot, 4) && !sees(&snapshot, 1) && !sees(&snapshot, 5));
    }
}
