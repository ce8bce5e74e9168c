//! Creates the slot, and finds out what keeps the server from creating it.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::info;
use walvec_model::Position;

use crate::CaptureError;
use crate::blockers::ShownBlockers;
use crate::catalog::parse_lsn;
use crate::connect::{Replication, Session};
use crate::server::Source;
use crate::slot;

/// How long a creation may take before walvec looks for what it waits for.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// How often to look for the transactions that the server waits for.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A created slot, with the snapshot of its consistent point.
pub(super) struct Exported {
    pub(super) position: Position,
    /// The name for `SET TRANSACTION SNAPSHOT`. Valid as long as `session` lives and runs nothing else.
    pub(super) snapshot: String,
    pub(super) session: Replication,
}

/// Creates the slot. The server first waits for all open transactions to end.
pub(super) async fn slot(source: &Source) -> Result<Exported, CaptureError> {
    let slot = &source.config.slot;
    let exported = create(source, |_| slot::create_command(slot, source.server().capabilities.failover_slots)).await?;
    info!(slot, position = %exported.position.commit_lsn, "created the replication slot");
    Ok(exported)
}

/// Exports a snapshot through a temporary slot, which is dropped with its session at the latest.
pub(super) async fn temporary(source: &Source) -> Result<Exported, CaptureError> {
    create(source, |pid| slot::create_temporary_command(&format!("walvec_reread_{pid}"))).await
}

async fn create(source: &Source, command: impl FnOnce(i32) -> String) -> Result<Exported, CaptureError> {
    let slot = &source.config.slot;
    let mut session = Replication::open(&source.catalog.info, slot, source.server().version_num).await?;
    let pid = session.pid();
    let guard = CancelOnDrop::new(source, pid);
    let created = {
        let command = command(pid);
        let mut creation = std::pin::pin!(session.query(&command));
        let shown = ShownBlockers(&source.waiting);
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + FIRST_LOOK, LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                created = &mut creation => break created,
                _ = look.tick() => shown.look(source.session().await, pid).await,
            }
        }
    };
    guard.disarm();
    let row = created?;
    let field = |index: usize| {
        row.get(index).cloned().flatten().ok_or_else(|| CaptureError::Protocol {
            reason: "CREATE_REPLICATION_SLOT did not answer with a position and a snapshot".to_owned(),
        })
    };
    let consistent_point = parse_lsn(&field(1)?)?;
    Ok(Exported { position: Position::snapshot(consistent_point), snapshot: field(2)?, session })
}

/// Cancels a slot creation on the server when walvec no longer waits for it. It would otherwise leave a slot behind.
struct CancelOnDrop {
    target: Option<(crate::connect::ConnInfo, i32)>,
}

impl CancelOnDrop {
    fn new(source: &Source, pid: i32) -> Self {
        Self { target: Some((source.catalog.info.clone(), pid)) }
    }

    fn disarm(mut self) {
        self.target = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some((info, pid)) = self.target.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Ok(session) = Session::open(&info).await {
                    let _ = session.execute("SELECT pg_cancel_backend($1)", &[&pid]).await;
                }
            });
        }
    }
}
