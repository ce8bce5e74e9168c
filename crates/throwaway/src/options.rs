//! The options of a cluster.

use std::path::PathBuf;

use crate::Installation;

/// How to make a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The server to use.
    pub installation: Installation,
    /// The place of its files.
    pub data_dir: ClusterDir,
    /// The port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// The users who may connect.
    pub access: Access,
    /// Whether a power cut may lose what was committed.
    pub durability: Durability,
    /// Further server settings, as in postgresql.conf. They override the ones made here.
    pub settings: Vec<(String, String)>,
}

impl ClusterOptions {
    /// Returns the options of a durable cluster in a temporary directory, on a free port, behind a password.
    #[must_use]
    pub const fn new(installation: Installation) -> Self {
        Self {
            installation,
            data_dir: ClusterDir::Temporary,
            port: 0,
            access: Access::Password,
            durability: Durability::Durable,
            settings: Vec::new(),
        }
    }
}

/// The place of a cluster's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterDir {
    /// In the system's directory for temporary files, or in memory if the cluster is [volatile](Durability::Volatile) and enough memory is free;
    /// removed when the cluster ends.
    Temporary,
    /// In a temporary directory that is filled with a copy of the stopped cluster in `of`.
    Copy {
        /// The directory of the other cluster.
        of: PathBuf,
        /// Whether the copy is a standby, which follows the server that its setting `primary_conninfo` names.
        is_standby: bool,
    },
    /// In this directory, which is kept when the cluster ends. A cluster that was kept there before is started again.
    Kept(PathBuf),
}

/// The users who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Users who know the password. It is random, and part of [`Cluster::url`](crate::Cluster::url).
    ///
    /// The right choice on a machine with other users: a superuser of PostgreSQL can run programs as its account.
    Password,
    /// Every user of this machine.
    Trust,
}

/// Whether a power cut may lose what was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Commits are forced to the disk, as in production.
    Durable,
    /// Nothing is forced to the disk, and a temporary cluster may be in memory. A crash of the server alone still loses nothing; a power cut loses
    /// the cluster.
    Volatile,
}
