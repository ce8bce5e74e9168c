//! The aliases of a Qdrant server.

use qdrant_client::Qdrant;
use qdrant_client::qdrant::alias_operations::Action;
use qdrant_client::qdrant::{AliasOperations, ChangeAliases, CreateAlias};

use super::answer::CollectionPlace;
use super::{Server, channel, collection, connect};
use crate::catalog::{self, Catalog, numbered};
use crate::{BoxFuture, SinkError};

/// The collections of a server.
#[derive(Clone)]
pub struct Aliases {
    server: Server,
}

impl Aliases {
    /// Names the collections of `server`, without sending a request.
    #[must_use]
    pub const fn new(server: Server) -> Self {
        Self { server }
    }

    fn client(&self, name: &str) -> Result<(Qdrant, CollectionPlace), SinkError> {
        let place = CollectionPlace::new(&self.server.url, name);
        let client = connect(&self.server, &place)?;
        Ok((client, place))
    }

    /// Returns whether a collection of that name exists which walvec has neither made nor taken over.
    pub(super) async fn is_foreign(&self, collection: &str) -> Result<bool, SinkError> {
        let (client, place) = self.client(collection)?;
        if !client.collection_exists(collection).await.map_err(|error| place.error(error))? {
            return Ok(false);
        }
        let response = client.collection_info(collection).await.map_err(|error| place.error(error))?;
        Ok(response.result.is_some_and(|info| !collection::is_own(&info)))
    }

    /// Changes aliases in one request. The client's own call changes one at a time, but names that belong
    /// together must change together.
    async fn change(&self, names: Vec<(String, String)>) -> Result<(), SinkError> {
        let collections: Vec<_> = names.iter().map(|(_, collection)| collection.as_str()).collect();
        let place = CollectionPlace::new(&self.server.url, &collections.join(", "));
        let mut client = channel::collections(&self.server, &place)?;
        let actions = names.into_iter().map(|(alias_name, collection_name)| AliasOperations {
            action: Some(Action::CreateAlias(CreateAlias { collection_name, alias_name })),
        });
        let request = ChangeAliases { actions: actions.collect(), timeout: None };
        client.update_aliases(request).await.map(drop).map_err(|status| place.status(&status))
    }
}

/// Returns the collection that `name` is an alias of, or the one whose own name it is.
pub(super) async fn serving(client: &Qdrant, place: &CollectionPlace, name: &str) -> Result<Option<String>, SinkError> {
    let aliases = client.list_aliases().await.map_err(|error| place.error(error))?.aliases;
    if let Some(alias) = aliases.into_iter().find(|alias| alias.alias_name == name) {
        return Ok(Some(alias.collection_name));
    }
    let collections = collections(client, place).await?;
    Ok(collections.into_iter().find(|collection| collection == name))
}

/// Returns the numbers of walvec's own collections with this name, in ascending order. Other programs may
/// use such names too.
pub(super) async fn own_numbers(client: &Qdrant, place: &CollectionPlace, name: &str) -> Result<Vec<u64>, SinkError> {
    let mut own = Vec::new();
    for number in catalog::numbers(name, collections(client, place).await?) {
        let info = client.collection_info(numbered(name, number)).await.map_err(|error| place.error(error))?;
        if info.result.is_some_and(|info| collection::is_own(&info)) {
            own.push(number);
        }
    }
    Ok(own)
}

async fn collections(client: &Qdrant, place: &CollectionPlace) -> Result<Vec<String>, SinkError> {
    let response = client.list_collections().await.map_err(|error| place.error(error))?;
    Ok(response.collections.into_iter().map(|collection| collection.name).collect())
}

impl Catalog for Aliases {
    fn serving<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, SinkError>> {
        Box::pin(async move {
            let (client, place) = self.client(name)?;
            serving(&client, &place, name).await
        })
    }

    fn numbers<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<u64>, SinkError>> {
        Box::pin(async move {
            let (client, place) = self.client(name)?;
            own_numbers(&client, &place, name).await
        })
    }

    fn is_taken<'a>(&'a self, collection: &'a str) -> BoxFuture<'a, Result<bool, SinkError>> {
        Box::pin(async move {
            let (client, place) = self.client(collection)?;
            client.collection_exists(collection).await.map_err(|error| place.error(error))
        })
    }

    fn switch(&self, names: Vec<(String, String)>) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(self.change(names))
    }

    fn remove<'a>(&'a self, collection: &'a str) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let (client, place) = self.client(collection)?;
            client.delete_collection(collection).await.map(drop).map_err(|error| place.error(error))
        })
    }
}
