//! The few statements that a cluster's owner needs.

use tokio_postgres::{Client, Config, NoTls};

use crate::ThrowawayError;

/// Connects; the connection's task ends with the client.
pub(crate) async fn connect(config: &Config, database: &str) -> Result<Client, ThrowawayError> {
    let failed = |source| ThrowawayError::Sql { doing: format!("connecting to database \"{database}\""), source };
    let mut config = config.clone();
    let (client, connection) = config.dbname(database).connect(NoTls).await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a temporary PostgreSQL ended");
        }
    });
    Ok(client)
}

/// Creates an empty database.
pub(crate) async fn create_database(client: &Client, name: &str) -> Result<(), ThrowawayError> {
    let doing = || format!("creating database \"{name}\"");
    // The template is not template1, which the user of a kept cluster may have changed.
    let statement = format!("CREATE DATABASE {} TEMPLATE template0", quoted(name));
    client.batch_execute(&statement).await.map_err(|source| ThrowawayError::Sql { doing: doing(), source })
}

/// Drops a database with its replication slots, and ends all connections to it.
pub(crate) async fn drop_database(client: &Client, name: &str) -> Result<(), ThrowawayError> {
    let failed = |source| ThrowawayError::Sql { doing: format!("dropping database \"{name}\""), source };
    // A slot in use cannot be dropped, and neither can a database with a slot.
    let release = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                   WHERE database = $1 AND active_pid IS NOT NULL";
    client.execute(release, &[&name]).await.map_err(failed)?;
    let slots = "SELECT slot_name::text FROM pg_replication_slots WHERE database = $1";
    for row in client.query(slots, &[&name]).await.map_err(failed)? {
        let slot: String = row.get(0);
        drop_slot(client, &slot).await.map_err(failed)?;
    }
    let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name));
    client.batch_execute(&statement).await.map_err(failed)
}

/// Drops a slot as soon as its terminated walsender has released it.
async fn drop_slot(client: &Client, slot: &str) -> Result<(), tokio_postgres::Error> {
    const TRIES: u32 = 200;
    let mut tries = 0;
    loop {
        let dropped = client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await;
        let in_use = tokio_postgres::error::SqlState::OBJECT_IN_USE;
        match dropped {
            Err(error) if error.code() == Some(&in_use) && tries < TRIES => {
                // PostgreSQL sends no notification when a walsender releases its slot.
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(25)).await;
            }
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
}

/// Quotes an identifier.
fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
