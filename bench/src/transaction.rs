//! Measures how much memory the program needs for one transaction over a whole table.

use std::time::{Duration, Instant};

use crate::Plan;
use crate::program::{Settings, Walvec};
use crate::workbench::Workbench;

/// How often the memory is read.
const PAUSE: Duration = Duration::from_millis(20);

/// The arguments of `make bench ARGS=scale`.
#[derive(clap::Args, Clone)]
pub(crate) struct Arguments {
    /// Rows that one transaction inserts, one updates, and one deletes.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    #[command(flatten)]
    pub(crate) plan: Plan,
}

/// Prints a table: the engine inside the program, and a server, for which the program keeps nothing.
pub(crate) async fn measure(Arguments { rows, plan }: &Arguments) -> anyhow::Result<()> {
    let workbench = Workbench::start().await?;
    let server = walvec_test_qdrant::TestServer::start()?;
    println!("One transaction over {rows} short rows, hash/64\n");
    println!("| Points in | Statement | Seconds | Anonymous memory at most, MB |\n|---|---|---|---|");
    for (place, qdrant) in [("the engine inside the program", None), ("a Qdrant server", Some(server.url()))] {
        for Measured { statement, seconds, peak } in transactions(plan, &workbench, *rows, qdrant.as_deref()).await? {
            println!("| {place} | {statement} | {seconds:.0} | {} |", peak / 1_000_000);
        }
    }
    workbench.close().await
}

struct Measured {
    statement: &'static str,
    seconds: f64,
    /// The most memory, in bytes.
    peak: u64,
}

async fn transactions(
    plan: &Plan,
    workbench: &Workbench,
    rows: u64,
    qdrant: Option<&str>,
) -> anyhow::Result<Vec<Measured>> {
    const NAME: &str = "transaction";
    let url = workbench.cluster.create_database(NAME).await?;
    let client = workbench.cluster.connect(NAME).await?;
    client.batch_execute("CREATE TABLE books (id integer PRIMARY KEY, body text NOT NULL, n integer NOT NULL)").await?;
    let directory = tempfile::tempdir()?;
    let settings = Settings { qdrant, ..Settings::new(&url, "{{ body }}", "hash/64") };
    if let Some(qdrant) = qdrant {
        settings.purge(qdrant).await?;
    }
    let walvec = Walvec::start(plan, &settings, directory.path()).await?;
    let insert = format!("INSERT INTO books SELECT i, 'title ' || i, 0 FROM generate_series(1, {rows}) i");
    let mut measured = Vec::new();
    for (statement, sql) in
        [("INSERT", insert.as_str()), ("UPDATE", "UPDATE books SET n = n + 1"), ("DELETE", "DELETE FROM books")]
    {
        client.batch_execute(sql).await?;
        let (began, mut peak) = (Instant::now(), 0);
        let mut reached = std::pin::pin!(walvec.reached(&client, PAUSE));
        loop {
            peak = peak.max(walvec.anonymous_memory()?);
            tokio::select! {
                reached = &mut reached => break reached?,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        measured.push(Measured { statement, seconds: began.elapsed().as_secs_f64(), peak });
    }
    walvec.stop().await?;
    client.execute("SELECT pg_drop_replication_slot('walvec')", &[]).await?;
    drop(client);
    workbench.cluster.drop_database(NAME).await?;
    Ok(measured)
}
