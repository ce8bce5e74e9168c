//! Whether this worker may still write.
//!
//! Between reading a record and writing its point lies an embedding, and perhaps a pause of the whole machine. So
//! before each write the claim is checked. Every partition that was read must still be owned, in the assignment in
//! which it was read, or have been revoked after everything was written. And the group must have confirmed the
//! membership recently. The time that the write itself takes remains unchecked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use walvec_broker::kafka::consumer::{Member, Offsets};
use walvec_broker::{BrokerError, Partition, Received};

use crate::error::PipelineError;
use crate::shared::Fence;

/// The records that a worker has read and not written yet, and the membership in which it read them.
#[derive(Default)]
pub(super) struct WriteFence(Mutex<Fenced>);

#[derive(Default)]
struct Fenced {
    member: Option<Arc<Member>>,
    /// The assignment of each partition that was read and not revoked.
    read: BTreeMap<Partition, u64>,
    /// The offset of each partition before which everything is durable.
    durable: Offsets,
}

impl WriteFence {
    fn lock(&self) -> MutexGuard<'_, Fenced> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a membership.
    pub(super) fn open(&self, member: Arc<Member>) {
        *self.lock() = Fenced { member: Some(member), ..Fenced::default() };
    }

    /// Ends the membership.
    pub(super) fn close(&self) {
        *self.lock() = Fenced::default();
    }

    /// Notes that a record was read.
    pub(super) fn add(&self, received: &Received) {
        let mut claimed = self.lock();
        let partition = received.record.partition();
        claimed.durable.entry(partition.clone()).or_insert(received.record.offset);
        claimed.read.insert(partition, received.assignment);
    }

    /// Notes that everything before these offsets is durable.
    pub(super) fn durable(&self, reached: &Offsets) {
        let mut claimed = self.lock();
        claimed.durable.extend(reached.iter().map(|(partition, offset)| (partition.clone(), *offset)));
    }

    /// Forgets the assignment of a partition that will be read in a new one. Nothing read in the former one may still
    /// have to be written.
    pub(super) fn read_anew(&self, partition: &Partition) {
        self.lock().read.remove(partition);
    }

    /// Forgets revoked partitions.
    pub(super) fn forget(&self, partitions: &[Partition]) {
        let mut claimed = self.lock();
        for partition in partitions {
            claimed.read.remove(partition);
            claimed.durable.remove(partition);
        }
    }

    async fn holds(&self) -> Result<(), PipelineError> {
        let (member, durable) = {
            let claimed = self.lock();
            let Some(member) = claimed.member.clone() else { return Err(BrokerError::Closed.into()) };
            if let Some((partition, _)) =
                claimed.read.iter().find(|(partition, assignment)| !member.owns(partition, **assignment))
            {
                let reason = format!("{partition} is no longer this worker's; what it read of it is dropped");
                return Err(BrokerError::Fenced { reason }.into());
            }
            (member, claimed.durable.clone())
        };
        Ok(member.prove(&durable).await?)
    }
}

impl Fence for WriteFence {
    fn check(&self) -> BoxFuture<'_, Result<(), PipelineError>> {
        Box::pin(self.holds())
    }
}
