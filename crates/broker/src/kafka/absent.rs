//! A stand-in for the client, in a program that was built without it. It never connects to anything.
//!
//! It has the client's modules and names. A type that only a connection can create has no values here.

#![allow(missing_docs, clippy::missing_errors_doc, reason = "the client's own modules say what these do")]

pub mod connection {
    use crate::error::BrokerError;
    pub use crate::kafka::settings::{BrokerConnection, Sasl, Tls};

    #[derive(Clone, Debug, Default)]
    pub struct LastClientError;

    impl LastClientError {
        pub const fn current(&self) -> Option<BrokerError> {
            None
        }
    }
}

pub mod consumer {
    use std::convert::Infallible;
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::connection::{BrokerConnection, LastClientError};
    use crate::error::BrokerError;
    pub use crate::kafka::settings::{ConsumerState, GroupSharing, Membership, Offsets, Polled};
    use crate::record::Partition;

    pub struct Consumer(Infallible);

    pub struct Member(Infallible);

    impl Consumer {
        pub const fn join(_connection: &BrokerConnection, _membership: &Membership) -> Result<Self, BrokerError> {
            Err(BrokerError::NotBuilt)
        }

        pub async fn next(&mut self) -> Polled {
            match self.0 {}
        }

        pub const fn next_now(&mut self) -> Option<Polled> {
            match self.0 {}
        }

        pub const fn member(&self) -> Arc<Member> {
            match self.0 {}
        }

        pub const fn reading(&self) -> watch::Receiver<ConsumerState> {
            match self.0 {}
        }

        pub async fn close(self) {
            match self.0 {}
        }
    }

    impl Member {
        pub const fn owns(&self, _partition: &Partition, _assignment: u64) -> bool {
            match self.0 {}
        }

        pub async fn prove(&self, _reached: &Offsets) -> Result<(), BrokerError> {
            match self.0 {}
        }

        pub async fn commit(&self, _offsets: &Offsets) -> Result<(), BrokerError> {
            match self.0 {}
        }

        pub async fn renew(&self) -> Result<(), BrokerError> {
            match self.0 {}
        }

        pub async fn committed(&self, _topic: &str, _partitions: usize) -> Result<Vec<i64>, BrokerError> {
            match self.0 {}
        }

        pub const fn pause(&self, _partition: &Partition) -> Result<(), BrokerError> {
            match self.0 {}
        }

        pub async fn resume(&self, _partition: &Partition, _from: i64) -> Result<(), BrokerError> {
            match self.0 {}
        }

        pub const fn trouble(&self) -> &LastClientError {
            match self.0 {}
        }
    }
}

pub mod lookup {
    use super::connection::BrokerConnection;
    use crate::error::BrokerError;
    use crate::record::{Partition, Record};

    pub async fn record(_: &BrokerConnection, _: Partition, _offset: i64) -> Result<Option<Record>, BrokerError> {
        Err(BrokerError::NotBuilt)
    }

    pub async fn next(_: &BrokerConnection, _: Partition, _offset: i64) -> Result<Option<Record>, BrokerError> {
        Err(BrokerError::NotBuilt)
    }

    pub async fn rewind(_: &BrokerConnection, _group: &str, _topics: &[(String, i32)]) -> Result<(), BrokerError> {
        Err(BrokerError::NotBuilt)
    }

    pub async fn committed(
        _: &BrokerConnection,
        _group: &str,
        _topics: &[(String, i32)],
    ) -> Result<Vec<(Partition, i64, i64)>, BrokerError> {
        Err(BrokerError::NotBuilt)
    }
}

pub mod producer {
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::watch;

    use super::connection::{BrokerConnection, LastClientError};
    use crate::error::BrokerError;
    pub use crate::kafka::settings::{LARGEST_RECORD, Sending};
    use crate::record::{Outgoing, Record};

    #[derive(Debug)]
    pub struct Segment;

    impl Segment {
        pub fn new() -> Arc<Self> {
            Arc::new(Self)
        }

        pub const fn is_done(&self) -> Result<bool, BrokerError> {
            Err(BrokerError::NotBuilt)
        }
    }

    pub struct Producer(Infallible);

    impl Producer {
        pub fn new(_connection: &BrokerConnection, _sending: Sending) -> Result<Self, BrokerError> {
            Err(BrokerError::NotBuilt)
        }

        pub async fn send(
            &self,
            _topic: &str,
            _partition: Option<i32>,
            _record: &Outgoing,
            _segment: &Arc<Segment>,
        ) -> Result<(), BrokerError> {
            match self.0 {}
        }

        pub async fn send_again(
            &self,
            _record: Record,
            _to_be_asked: bool,
            _segment: &Arc<Segment>,
        ) -> Result<(), BrokerError> {
            match self.0 {}
        }

        pub const fn close(&self, _segment: &Segment) {
            match self.0 {}
        }

        pub async fn done(&self, _segment: &Segment) -> Result<(), BrokerError> {
            match self.0 {}
        }

        pub const fn progress(&self) -> watch::Receiver<()> {
            match self.0 {}
        }

        pub const fn acknowledged(&self) -> u64 {
            match self.0 {}
        }

        pub const fn ends(&self) -> BTreeMap<String, i64> {
            match self.0 {}
        }

        pub async fn end_offsets(&self, _topic: &str, _partitions: i32) -> Result<Vec<i64>, BrokerError> {
            match self.0 {}
        }

        pub const fn trouble(&self) -> &LastClientError {
            match self.0 {}
        }

        pub async fn flush(&self, _limit: Duration) {
            match self.0 {}
        }
    }
}

pub mod statistics {
    pub use crate::kafka::settings::{ConsumerState, PartitionProgress};
}

pub mod table {
    use std::convert::Infallible;

    use super::connection::BrokerConnection;
    use crate::error::BrokerError;
    use crate::record::Record;

    pub struct CompactedTopic(Infallible);

    impl CompactedTopic {
        pub const fn open(_connection: &BrokerConnection, _topic: &str, _partitions: i32) -> Result<Self, BrokerError> {
            Err(BrokerError::NotBuilt)
        }

        pub async fn news(&self) -> Result<Vec<Record>, BrokerError> {
            match self.0 {}
        }
    }
}

pub mod topics {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::connection::BrokerConnection;
    use crate::error::BrokerError;
    pub use crate::kafka::settings::TopicSpec;

    pub struct Topics(Infallible);

    impl Topics {
        pub const fn new(_connection: &BrokerConnection) -> Result<Self, BrokerError> {
            Err(BrokerError::NotBuilt)
        }

        pub async fn partitions(&self) -> Result<BTreeMap<String, i32>, BrokerError> {
            match self.0 {}
        }

        pub async fn ensure(&self, _specs: &[TopicSpec]) -> Result<BTreeMap<String, i32>, BrokerError> {
            match self.0 {}
        }

        pub async fn deletes_kept(&self, _topics: &[String]) -> BTreeMap<String, std::time::Duration> {
            match self.0 {}
        }

        pub async fn largest_record(&self, _topics: &[String]) -> Option<usize> {
            match self.0 {}
        }
    }
}
