//! A list of tests, each run once per server.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use walvec_throwaway::{Cluster, Volume};

use crate::context::{TestContext, next_database};
use crate::{Server, is_full, servers};

/// How much of each log a failed test shows.
const LOG_LINES: usize = 40;

/// How many of the slowest tests are shown.
const SLOWEST: usize = 25;

/// The body of a test.
pub type Body = fn(TestContext) -> LocalBoxFuture<'static, Result<()>>;

/// A test that is not yet assigned to servers. Made by [`test!`](crate::test).
#[derive(Clone, Debug)]
pub struct Test {
    name: &'static str,
    body: Body,
    since: u32,
    own_server: Option<&'static [(&'static str, &'static str)]>,
    needs_volume: bool,
    once: bool,
}

impl Test {
    /// Returns a test that runs on every server, in a database of its own.
    ///
    /// `path` is the function's path with its crate, which the name leaves out.
    #[must_use]
    pub fn new(path: &'static str, body: Body) -> Self {
        let name = path.split_once("::").map_or(path, |(_crate, name)| name);
        Self { name, body, since: 0, own_server: None, needs_volume: false, once: false }
    }

    /// Limits the test to servers from this major version on; on older servers it is shown as ignored.
    #[must_use]
    pub const fn since(mut self, major: u32) -> Self {
        self.since = major;
        self
    }

    /// Gives the test a server that no other test uses: for tests that stop it, change its settings, or count what it
    /// does.
    #[must_use]
    pub const fn on_own_server(mut self, settings: &'static [(&'static str, &'static str)]) -> Self {
        self.own_server = Some(settings);
        self
    }

    /// Marks a test that fills up a [`Volume`]: it is shown as ignored where none can be mounted.
    #[must_use]
    pub const fn on_a_volume(mut self) -> Self {
        self.needs_volume = true;
        self
    }

    /// Runs the test on the newest server under test only: for tests in which PostgreSQL's version does not matter.
    #[must_use]
    pub const fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Runs the test on one server, and on every server only with `make prove`: for tests in which PostgreSQL's version hardly
    /// matters.
    #[must_use]
    pub fn once_unless_proving(mut self) -> Self {
        self.once |= !is_full();
        self
    }

    fn trial(&self, server: &Arc<Server>, times: &Times) -> Trial {
        let (test, server, times) = (self.clone(), Arc::clone(server), times.clone());
        let name = format!("{}::pg{}", test.name, server.version());
        Trial::ignorable_test(name.clone(), move || {
            if server.version().major < test.since {
                return Ok(Completion::ignored_with(format!("needs PostgreSQL {}", test.since)));
            }
            if let (true, Err(error)) = (test.needs_volume, Volume::mount(1)) {
                return Ok(Completion::ignored_with(format!("needs root, to mount a small volume: {error}")));
            }
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let begun = Instant::now();
            let outcome = runtime.block_on(test.run(&server));
            times.note(name, begun.elapsed());
            outcome.map(|()| Completion::Completed)
        })
    }

    async fn run(&self, server: &Arc<Server>) -> Result<(), Failed> {
        let work = tempfile::tempdir()?;
        let cluster = match self.own_server {
            None => server.cluster().await,
            Some(settings) => server.own_cluster(settings).await.map(Arc::new),
        };
        let cluster = cluster.map_err(|error| format!("{error:#}"))?;
        let outcome = self.run_in(work.path(), server, &cluster).await;
        let outcome = outcome.map_err(|error| format!("{error:#}\n{}", logs(work.path(), &cluster)));
        // Only the last owner closes the cluster. By now only a cluster of the test's own has a single owner.
        if let Ok(own) = Arc::try_unwrap(cluster) {
            own.close().await.map_err(|error| error.to_string())?;
        }
        outcome.map_err(Failed::from)
    }

    /// Runs the body in a database that is dropped afterwards, even if the body fails.
    async fn run_in(&self, work: &Path, server: &Arc<Server>, cluster: &Arc<Cluster>) -> Result<()> {
        let database = next_database();
        cluster.create_database(&database).await?;
        let context = TestContext::new(Arc::clone(server), Arc::clone(cluster), &database, work).await?;
        let body = AssertUnwindSafe((self.body)(context)).catch_unwind().await;
        let outcome = body.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
        // A server of the test's own may be down, and is ended anyway.
        if self.own_server.is_none() {
            let dropped = cluster.drop_database(&database).await;
            return outcome.and(dropped.context("after the test"));
        }
        outcome
    }
}

/// How long each test took. Clones share the same times.
#[derive(Clone, Default)]
struct Times(Arc<Mutex<Vec<(Duration, String)>>>);

impl Times {
    fn note(&self, test: String, took: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((took, test));
    }

    /// Shows which tests took longest, if there were many.
    #[allow(clippy::print_stdout)]
    fn show(&self) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        if times.len() > 2 * SLOWEST {
            println!("The slowest of {} tests:", times.len());
            times.iter().take(SLOWEST).for_each(|(took, test)| println!("{:6.1} s  {test}", took.as_secs_f64()));
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> anyhow::Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    anyhow!("{}", text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the test panicked"))
}

/// Returns the ends of the program's logs and of the server's log.
fn logs(work: &Path, cluster: &Cluster) -> String {
    let entries = std::fs::read_dir(work).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    paths.sort();
    paths.push(cluster.log().to_owned());
    let tail = |path: &Path| {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    };
    paths.iter().map(|path| format!("--- the end of {}\n{}\n", path.display(), tail(path))).collect()
}

/// Runs `tests` on every server, and returns the exit code for a test binary's `main`.
///
/// The arguments are those of `cargo test`: names to select by (`pg18` selects a server), `--test-threads`, `--list`.
#[must_use]
pub fn main(tests: &[Test]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most of the time a test waits, for a session to end or for a check that runs every second.
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    arguments.test_threads.get_or_insert(3 * processors);
    let servers = match servers::under_test().and_then(|servers| walvec_test_program::check().map(|()| servers)) {
        Ok(servers) => servers,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let newest = servers.iter().map(|server| server.version()).max();
    let wanted = |server: &Arc<Server>, test: &&Test| !test.once || Some(server.version()) == newest;
    let times = Times::default();
    let times = &times;
    let trials_on =
        |server| tests.iter().filter(move |test| wanted(server, test)).map(move |test| test.trial(server, times));
    let trials = servers.iter().flat_map(trials_on).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // This stops the servers. If this process is killed before, their guards do it.
    drop(servers);
    times.show();
    conclusion.exit_code()
}

#[allow(clippy::print_stderr)]
fn complain(error: &anyhow::Error) {
    eprintln!("error: the end-to-end tests cannot run: {error:#}");
}

/// Makes a [`Test`] of an `async fn(TestContext) -> anyhow::Result<()>` in the same module.
#[macro_export]
macro_rules! test {
    ($body:ident) => {
        $crate::Test::new(concat!(module_path!(), "::", stringify!($body)), |context| Box::pin($body(context)))
    };
}
