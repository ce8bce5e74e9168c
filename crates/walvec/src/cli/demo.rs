//! `walvec demo`

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};
use walvec_pipeline::observe::status::Phase;
use walvec_sink::qdrant;
use walvec_throwaway::{Cluster, ClusterDir, ClusterOptions, Installation, SearchPlaces, ThrowawayError};

use super::output::Screen;
use super::{Failure, hits, output, run};
use crate::client::Client;
use crate::config::{Config, Environment, Overrides};
use crate::daemon::{Daemon, listen};
use crate::demo::{EXAMPLES, QUERY, books, configuration, fill};
use crate::terminal::progress::ReportTo;

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Exit after the first search.
    #[arg(long)]
    once: bool,
    /// What to search for.
    #[arg(long, default_value = QUERY)]
    query: String,
    /// Serve the page and the API at this address [default: 127.0.0.1:8082, with --once any free port]
    #[arg(long, value_name = "ADDR", env = "WALVEC_LISTEN")]
    listen: Option<SocketAddr>,
    /// Keep the database and the collection here, and continue with them next time.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// The number of books. The catalogue has 120; more are made by repeating them.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rows: u32,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

impl DemoArgs {
    /// Returns the address to serve at. With `--once` only the demo itself connects, so any free port
    /// will do.
    fn address(&self) -> SocketAddr {
        let port = if self.once { 0 } else { 8082 };
        self.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, port).into())
    }

    /// Returns where the progress of the snapshot is shown.
    const fn report_to(&self) -> ReportTo {
        if self.json { ReportTo::Log } else { ReportTo::Stderr }
    }
}

/// Says on stderr what the demo is doing, so that stdout holds only the answer.
struct Narrator {
    silent: bool,
}

impl Narrator {
    fn say(&self, text: &str) {
        if !self.silent {
            output::note(text);
        }
    }
}

pub(crate) async fn execute(args: DemoArgs) -> Result<ExitCode, Failure> {
    let narrator = Narrator { silent: args.json };
    let began = Instant::now();
    // A port that is in use should be reported before a database is started and filled.
    drop(listen(args.address()).await?);
    let cluster = start_postgres(&args, &narrator).await?;
    let outcome = Box::pin(sync_and_search(&args, &cluster, began, &narrator)).await;
    narrator.say("stopping PostgreSQL");
    cluster.close().await.map_err(throwaway)?;
    outcome
}

async fn start_postgres(args: &DemoArgs, narrator: &Narrator) -> Result<Cluster, Failure> {
    let installation = Installation::find(&SearchPlaces::from_env()).map_err(throwaway)?;
    narrator.say(&format!(
        "starting a temporary PostgreSQL {} from {}",
        installation.version(),
        installation.bin().display()
    ));
    let mut options = ClusterOptions::new(installation);
    options.settings.push(("max_slot_wal_keep_size".to_owned(), "1GB".to_owned()));
    if let Some(directory) = &args.keep {
        options.data_dir = ClusterDir::Kept(directory.join("postgres"));
    }
    Cluster::start(options).await.map_err(throwaway)
}

async fn sync_and_search(
    args: &DemoArgs,
    cluster: &Cluster,
    began: Instant,
    narrator: &Narrator,
) -> Result<ExitCode, Failure> {
    let rows = create_catalogue(args, cluster).await?;
    narrator.say(&format!("table books has {rows} rows"));
    let temporary;
    let directory = match &args.keep {
        Some(directory) => directory.join("walvec-data"),
        None => {
            temporary = tempfile::tempdir().map_err(|error| Failure::definite("E_DEMO", error))?;
            temporary.path().to_owned()
        }
    };
    let yaml = configuration(&cluster.url("postgres"), &directory, args.address());
    let config =
        Config::from_text(&yaml, &Environment::of_process(), Overrides::default()).map_err(Failure::configuration)?;

    if let Some(version) = qdrant::local_version().await {
        narrator.say(&format!("Qdrant {version} at {} is left alone; the demo stores in this process", qdrant::LOCAL));
    }
    narrator.say("loading the model, taking the snapshot");
    let snapshot_began = Instant::now();
    let same = config.clone();
    let reload = Box::new(move || Ok(same.clone()));
    let mut service = Daemon::start(config.clone(), EXAMPLES.map(str::to_owned).to_vec(), reload).await?;
    let progress = tokio::spawn(run::show_snapshot(service.status.clone(), args.report_to()));
    let synced = service.wait_for(|status| status.phase == Phase::Streaming).await;
    progress.abort();
    synced?;
    let searchable_after_ms = snapshot_began.elapsed().as_millis();
    narrator.say(&format!("{rows} rows are searchable after {searchable_after_ms} ms"));

    let hits = search(&args.query, &config).await?;
    if args.json {
        output::json(&json!({
            "rows": rows, "searchable_after_ms": searchable_after_ms, "query": args.query, "hits": hits
        }))?;
    } else {
        let records = hits::records(&hits, &config.collections[0], &args.query, Screen::of_stdout());
        output::line(&format!("\nSearch: {}\n\n{records}", args.query))?;
        narrator.say(&format!("from nothing to the first answer in {:.1} s", began.elapsed().as_secs_f64()));
    }
    if args.once {
        return service.shut_down().await;
    }
    output::line(&what_to_try(cluster, &service))?;
    service.finish().await
}

async fn create_catalogue(args: &DemoArgs, cluster: &Cluster) -> Result<i64, Failure> {
    let rows = usize::try_from(args.rows).unwrap_or(usize::MAX);
    let books = books(rows).map_err(|error| Failure::definite("E_DEMO", error))?;
    let mut client = cluster.connect("postgres").await.map_err(throwaway)?;
    fill(&mut client, &books)
        .await
        .map_err(|error| Failure::definite("E_DEMO", format!("filling the catalogue: {error}")))
}

async fn search(query: &str, config: &Config) -> Result<Vec<Value>, Failure> {
    let running = Client::find(config.sink.directory(), config.server.token.clone())
        .await
        .ok_or_else(|| Failure::definite("E_SERVER", "the demo's own HTTP API does not answer"))?;
    let answer: Value = running.get("/api/v1/search", &[("q", query)]).await?;
    Ok(answer.get("hits").and_then(Value::as_array).cloned().unwrap_or_default())
}

fn what_to_try(cluster: &Cluster, service: &Daemon) -> String {
    let psql = cluster.psql_command("postgres");
    let address = service.address;
    format!(
        r#"
The search page: http://{address}/

Change the table in another terminal, and search again: the change is there within milliseconds.
  {psql} -c "INSERT INTO books (name, author, year, description) VALUES ('My Book', 'Me', 2026, 'A submarine explores the seas of Europa.')"
  {psql} -c "UPDATE books SET description = 'A quiet novel about gardening.' WHERE name = 'Dune'"
  {psql} -c "DELETE FROM books WHERE name = 'The War of the Worlds'"
  curl -s 'http://{address}/api/v1/search?q=under+the+ice+of+a+moon'
  curl -s http://{address}/metrics | grep commit_to_searchable

Ctrl-C ends the demo."#
    )
}

fn throwaway(error: ThrowawayError) -> Failure {
    Failure::definite("E_DEMO", error)
}
