//! Measures a thousand tables in one process: their cost while no row changes, and with a row per second in each.
//!
//! - `section`: the table of BENCHMARKS.md
//! - this file: what is measured

mod section;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use serde_json::json;
use tokio::time::MissedTickBehavior;
use tokio_postgres::Client;
use walvec_test_program::{CONFIGURATION, memory};
use walvec_test_qdrant::TestServer;

use self::section::section;
use crate::Plan;
use crate::program::{Walvec, command};
use crate::stats::{milliseconds, percentile};
use crate::workbench::Workbench;

const NAME: &str = "tables";
/// The role as which walvec connects, so that its statements can be distinguished from those of this program.
const ROLE: &str = "follower";
/// Rows of each table before the start.
const ROWS: u32 = 10;
/// How long the idle period takes, and how long the period under load.
const IDLE: Duration = Duration::from_secs(20);
const LOADED: Duration = Duration::from_secs(40);
/// The number of portions in which the rows of a second are inserted.
const PORTIONS: u32 = 50;
/// How often a row is followed until it can be found.
const SAMPLE: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(1);
/// The first id of the rows that are followed.
const FOLLOWED: u64 = 1_000_000;

/// The results.
struct ManyTables {
    tables: u32,
    /// Seconds of `walvec check`.
    check: f64,
    /// The first start, with the snapshot.
    first: Start,
    /// A start with slot, publication and collections in place.
    again: Start,
    idle: Period,
    loaded: Period,
    /// Seconds of `walvec status` under load.
    status: f64,
    /// Milliseconds from before the commit of a row until it can be read over HTTP.
    p50: f64,
    p99: f64,
    peak_rss: u64,
}

/// The cost of a start, until walvec follows the stream.
struct Start {
    seconds: f64,
    /// Statements that PostgreSQL was sent.
    statements: i64,
}

/// The cost of a period while walvec runs.
struct Period {
    /// Statements that PostgreSQL was sent, per second.
    statements: f64,
    /// Of these statements, those that read the catalogue: all except the checks that the owner's session lives.
    catalogue: f64,
    /// Calls to the Qdrant server, per second; 0 without one.
    calls: f64,
    /// walvec's processor time, as a share of one processor.
    busy: f64,
    /// walvec's memory at the end, in bytes.
    rss: u64,
    anonymous: u64,
}

/// Measures with the engine inside the program, and with the Qdrant server for tests, as far as the plan wants it.
pub(crate) async fn measure(plan: &Plan) -> anyhow::Result<String> {
    let mut measured = Vec::new();
    if plan.wants("tables") {
        eprintln!("==> many tables");
        measured.push(("the engine inside the program", with(plan, None).await?));
    }
    if plan.wants("tables-server") {
        eprintln!("==> many tables into a Qdrant server");
        let server = TestServer::start()?;
        measured.push(("the Qdrant server for tests", with(plan, Some(&server)).await?));
    }
    Ok(section(&measured)?)
}

async fn with(plan: &Plan, server: Option<&TestServer>) -> anyhow::Result<ManyTables> {
    let settings = [("shared_preload_libraries", "pg_stat_statements"), ("pg_stat_statements.track_utility", "on")];
    let workbench = Workbench::start_with(&settings).await?;
    let measured = Measurement::begin(plan, &workbench, server).await?.run().await?;
    workbench.close().await?;
    Ok(measured)
}

struct Measurement<'a> {
    plan: &'a Plan,
    url: String,
    /// The sessions that write the rows.
    clients: Vec<Client>,
    server: Option<&'a TestServer>,
    directory: tempfile::TempDir,
}

impl<'a> Measurement<'a> {
    async fn begin(plan: &'a Plan, workbench: &'a Workbench, server: Option<&'a TestServer>) -> anyhow::Result<Self> {
        let url = workbench.cluster.create_database(NAME).await?;
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(workbench.cluster.connect(NAME).await?);
        }
        let tables = format!(
            "CREATE EXTENSION pg_stat_statements; CREATE ROLE {ROLE} SUPERUSER LOGIN PASSWORD '{ROLE}';
             DO $$ BEGIN FOR i IN 1..{} LOOP
                 EXECUTE format('CREATE TABLE t%s (id bigint PRIMARY KEY, body text NOT NULL)', i);
                 EXECUTE format('INSERT INTO t%s SELECT g, ''row '' || g FROM generate_series(1, {ROWS}) g', i);
             END LOOP; END $$",
            plan.tables
        );
        clients[0].batch_execute(&tables).await?;
        let (scheme, rest) = url.split_once("://").context("a URL")?;
        let (_, host) = rest.split_once('@').context("a URL with a user")?;
        let url = format!("{scheme}://{ROLE}:{ROLE}@{host}");
        let measurement = Self { plan, url, clients, server, directory: tempfile::tempdir()? };
        measurement.configure()?;
        Ok(measurement)
    }

    fn configure(&self) -> anyhow::Result<()> {
        let data = self.directory.path().join("data");
        let sink = match self.server {
            Some(server) => json!({"qdrant": {"url": server.url(), "state": data}}),
            None => json!({"embedded": {"path": data}}),
        };
        let collection =
            |number| json!({"name": format!("t{number}"), "table": format!("public.t{number}"), "text": "{{ body }}"});
        let config = json!({
            "source": {"url": self.url},
            "collections": (1..=self.plan.tables).map(collection).collect::<Vec<_>>(),
            "embedding": {"model": "hash/64"},
            "sink": sink,
            "server": {"listen": "127.0.0.1:0"},
        });
        Ok(std::fs::write(self.directory.path().join(CONFIGURATION), format!("{config:#}"))?)
    }

    async fn run(&self) -> anyhow::Result<ManyTables> {
        let check = self.time(&["check"]).await?;
        let (walvec, first) = self.start().await?;
        walvec.stop().await?;
        let (walvec, again) = self.start().await?;
        let nothing = async {
            tokio::time::sleep(IDLE).await;
            Ok(())
        };
        let idle = self.period(&walvec, nothing).await?.1;
        let (loads, status) = (self.load(&walvec), async {
            tokio::time::sleep(LOADED / 2).await;
            self.time(&["status"]).await
        });
        let ((mut latencies, status), loaded) = self.period(&walvec, async { tokio::try_join!(loads, status) }).await?;
        let peak_rss = walvec.peak_rss()?;
        walvec.stop().await?;
        let (p50, p99) = (percentile(&mut latencies, 50), percentile(&mut latencies, 99));
        Ok(ManyTables { tables: self.plan.tables, check, first, again, idle, loaded, status, p50, p99, peak_rss })
    }

    /// Returns how long a command takes, in seconds.
    async fn time(&self, arguments: &[&str]) -> anyhow::Result<f64> {
        let began = Instant::now();
        let output = command(self.plan, self.directory.path(), arguments)?.output().await?;
        let words = || String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {}", words());
        Ok(began.elapsed().as_secs_f64())
    }

    async fn start(&self) -> anyhow::Result<(Walvec, Start)> {
        let (began, before) = (Instant::now(), self.statements().await?);
        let directory = self.directory.path();
        let walvec = Walvec::spawn(self.plan, directory, &["run"], &directory.join("data")).await?;
        let seconds = began.elapsed().as_secs_f64();
        Ok((walvec, Start { seconds, statements: self.statements().await? - before }))
    }

    /// Returns how many statements walvec has sent.
    async fn statements(&self) -> anyhow::Result<i64> {
        Ok(self.calls().await?.0)
    }

    /// Returns how many statements walvec has sent, and how many of them read the catalogue.
    async fn calls(&self) -> anyhow::Result<(i64, i64)> {
        let query = "SELECT coalesce(sum(calls), 0)::bigint, coalesce(sum(calls) FILTER (WHERE query <> 'SELECT $1'), 0)::bigint
                     FROM pg_stat_statements WHERE userid = $1::text::regrole";
        let row = self.clients[0].query_one(query, &[&ROLE]).await?;
        Ok((row.get(0), row.get(1)))
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    async fn period<T>(
        &self,
        walvec: &Walvec,
        during: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, Period)> {
        let asked = || self.server.map_or(0, |server| server.calls().total());
        let (began, (statements, catalogue), before, used) =
            (Instant::now(), self.calls().await?, asked(), processor_time(walvec.pid())?);
        let answer = during.await?;
        let seconds = began.elapsed().as_secs_f64();
        let (statements_now, catalogue_now) = self.calls().await?;
        let period = Period {
            statements: (statements_now - statements) as f64 / seconds,
            catalogue: (catalogue_now - catalogue) as f64 / seconds,
            calls: (asked() - before) as f64 / seconds,
            busy: (processor_time(walvec.pid())? - used) / seconds,
            rss: memory(walvec.pid(), "VmRSS")?,
            anonymous: walvec.anonymous_memory()?,
        };
        Ok((answer, period))
    }

    /// Inserts a row per second into each table, and follows some of them.
    async fn load(&self, walvec: &Walvec) -> anyhow::Result<Vec<f64>> {
        let until = Instant::now() + LOADED;
        let (writers, sampler) = self.clients.split_at(self.clients.len() - 1);
        let writing = writers.iter().enumerate().map(|(place, client)| self.write(client, place, writers.len(), until));
        let (_, latencies) = tokio::try_join!(try_join_all(writing), self.follow(&sampler[0], walvec, until))?;
        Ok(latencies)
    }

    /// Inserts rows into the tables until `until`, each in a transaction of its own.
    async fn write(&self, client: &Client, place: usize, of: usize, until: Instant) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / PORTIONS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mine: Vec<u32> = (1..=self.plan.tables).skip(place).step_by(of).collect();
        let portion = mine.len().div_ceil(PORTIONS as usize).max(1);
        for id in u64::from(ROWS) + 1.. {
            for tables in mine.chunks(portion) {
                ticks.tick().await;
                if Instant::now() >= until {
                    return Ok(());
                }
                let inserts =
                    tables.iter().map(|table| format!("INSERT INTO t{table} VALUES ({id}, 'row {id} of {table}')"));
                let inserts: Vec<String> = inserts.collect();
                try_join_all(inserts.iter().map(|insert| client.simple_query(insert))).await?;
            }
        }
        Ok(())
    }

    /// Returns the milliseconds until rows of one table after the other can be found.
    async fn follow(&self, client: &Client, walvec: &Walvec, until: Instant) -> anyhow::Result<Vec<f64>> {
        let mut ticks = tokio::time::interval(SAMPLE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut latencies = Vec::new();
        while Instant::now() < until {
            ticks.tick().await;
            let id = FOLLOWED + latencies.len() as u64;
            let name = format!("t{}", id * 37 % u64::from(self.plan.tables) + 1);
            let began = Instant::now();
            client.simple_query(&format!("INSERT INTO {name} VALUES ({id}, 'row {id}, which is followed')")).await?;
            while !walvec.has_in(&name, id).await? {
                tokio::time::sleep(POLL).await;
            }
            latencies.push(milliseconds(began.elapsed()));
        }
        Ok(latencies)
    }
}

/// Returns the seconds of processor time that a process has used.
fn processor_time(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    // The fields follow the name, which may contain blanks. `utime` and `stime` are the fields 14 and 15, in hundredths of a
    // second.
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks = |field: usize| -> anyhow::Result<f64> { Ok(fields.get(field - 3).context("no such field")?.parse()?) };
    Ok((ticks(14)? + ticks(15)?) / 100.0)
}
