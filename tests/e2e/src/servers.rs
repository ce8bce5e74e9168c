//! Which PostgreSQL servers the tests run on.

use std::env;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;
use walvec_throwaway::{Cluster, ClusterDir, ClusterOptions, Durability, Installation, SearchPlaces, Version};

/// The newest major version that `make test` fetches.
const NEWEST: &str = "18";

/// A server under test, and its cluster, which most tests share.
#[derive(Debug)]
pub struct Server {
    installation: Installation,
    cluster: OnceCell<Arc<Cluster>>,
}

impl Server {
    fn new(installation: Installation) -> Self {
        Self { installation, cluster: OnceCell::new() }
    }

    /// Returns the server's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.installation.version()
    }

    /// Returns whether publications can have row filters and column lists: since 15.
    #[must_use]
    pub fn supports_row_filters(&self) -> bool {
        self.version().major >= 15
    }

    /// Returns the cluster that tests share, each in a database of its own. The first test that asks starts it.
    pub(crate) async fn cluster(&self) -> Result<Arc<Cluster>> {
        let start = || async { Ok::<_, anyhow::Error>(Arc::new(self.own_cluster(&[]).await?)) };
        self.cluster.get_or_try_init(start).await.map(Arc::clone)
    }

    /// Starts a cluster for one test alone.
    pub(crate) async fn own_cluster(&self, settings: &[(&str, &str)]) -> Result<Cluster> {
        self.cluster_in(ClusterDir::Temporary, settings).await
    }

    /// Starts a cluster for one test alone, with its files in a given directory.
    pub(crate) async fn cluster_in(&self, data_dir: ClusterDir, settings: &[(&str, &str)]) -> Result<Cluster> {
        let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let options = ClusterOptions::new(self.installation.clone());
        Ok(Cluster::start(ClusterOptions { data_dir, durability: Durability::Volatile, settings, ..options }).await?)
    }
}

/// Returns the servers that `WALVEC_TEST_POSTGRES` names (major versions or directories, separated by commas or
/// spaces). If the variable is not set: the server that walvec would use on this machine, and PostgreSQL 18.
///
/// # Errors
/// If a server that was named, or any server at all, is missing.
pub fn under_test() -> Result<Vec<Arc<Server>>> {
    let places = SearchPlaces::from_env();
    let named = env::var("WALVEC_TEST_POSTGRES").unwrap_or_default();
    let mut installations = Vec::new();
    for name in named.split([',', ' ']).filter(|name| !name.is_empty()) {
        installations.push(Installation::named(&places, name).context("WALVEC_TEST_POSTGRES")?);
    }
    if installations.is_empty() {
        installations.push(Installation::find(&places)?);
        installations.push(Installation::named(&places, NEWEST)?);
    }
    let mut versions = Vec::new();
    // Two installations of one version would give two tests the same name, and test nothing more.
    installations.retain(|installation| {
        let new = !versions.contains(&installation.version());
        versions.push(installation.version());
        new
    });
    Ok(installations.into_iter().map(|installation| Arc::new(Server::new(installation))).collect())
}
