//! The commands, one file each.

mod backfill;
mod check;
mod collections;
mod dead_letters;
mod demo;
mod explain;
pub(crate) mod failed;
mod health;
mod hits;
mod init;
pub(crate) mod logging;
mod man;
mod model;
pub(crate) mod output;
mod reindex;
mod reset;
mod resync;
mod run;
mod search;
mod status;
mod task;
mod traces;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::config::{Config, Environment, Features, Overrides};
use crate::failure::Failure;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the answer is \"no\": a check failed, mismatches were found
  2  usage or configuration
  3  stopped by an error; its code (E_SLOT_LOST, E_SCHEMA, ...) is the last line of stderr, and
     `walvec explain CODE` says what it means
  130  ended at once, by a second Ctrl-C; nothing that was confirmed is lost

Environment:
  WALVEC_CONFIG    the configuration file (default: ./walvec.yaml)
  DATABASE_URL, PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGSSLMODE, PGSSLROOTCERT,
  PGCHANNELBINDING, PGTARGETSESSIONATTRS
                   how to connect to PostgreSQL
  WALVEC_MODELS    where models are kept (default: walvec/models in $XDG_CACHE_HOME or ~/.cache)
  WALVEC_LISTEN    the address of the search page and the API
  WALVEC_TOKEN     the token that clients send; required if that address is not loopback. Commands
                   of the user that runs walvec do not need it
  WALVEC_STAGE, WALVEC_INSTANCE   the stage that `run` runs, and the name of the worker; other
                   commands use the process with this stage and name
  WALVEC_LOG       what to log, e.g. debug, walvec_capture=trace or debug,hyper=info; a level
                   alone applies to walvec, not to libraries (default: info for `run`, else warn)
  WALVEC_POSTGRES  the server for `demo`: a major version or a directory (default: the first found)
  OTEL_EXPORTER_OTLP_ENDPOINT     where `run` sends traces, over HTTP, e.g. http://localhost:4318
                   (default: nowhere)
  HF_ENDPOINT, HF_TOKEN   the model hub for `model pull`
  COLUMNS          how wide hits and tables are printed (default: as wide as the terminal)
  NO_COLOR         no colours in the log, nothing bold in hits";

/// Keep a Qdrant collection an exact, live, searchable image of PostgreSQL tables.
///
/// Try it: `walvec demo`. With your own database: `walvec init` writes a walvec.yaml for it, `walvec check` says what is missing,
/// and `walvec run` keeps the collections in sync.
#[derive(Parser)]
#[command(version, long_version = version(), after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The format of the log on stderr.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Returns what `--version` prints: with the features of the build, which decide about usable configurations.
fn version() -> &'static str {
    static VERSION: LazyLock<String> =
        LazyLock::new(|| format!("{}\nfeatures: {}", env!("CARGO_PKG_VERSION"), Features::of_this_program().names()));
    &VERSION
}

/// The format of the log.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines of text.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Start a temporary PostgreSQL with a catalogue of books, follow it, search it and serve the search page.
    Demo(demo::DemoArgs),
    // No comment here: it would hide the long help of the arguments.
    Init(init::InitArgs),
    Run(run::RunArgs),
    Search(search::SearchArgs),
    Collections(collections::CollectionsArgs),
    Status(status::StatusArgs),
    Health(health::HealthArgs),
    /// Find everything that would stop `run`, and say how to fix it.
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Verify(verify::VerifyArgs),
    // No comment here: it would hide the long help of the arguments.
    Reindex(reindex::ReindexArgs),
    Backfill(backfill::BackfillArgs),
    DeadLetters(dead_letters::DeadLettersArgs),
    Resync(resync::ResyncArgs),
    Reset(reset::ResetArgs),
    /// List or fetch embedding models.
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Print the JSON schema of walvec.yaml, for editors.
    Schema,
    /// Print a completion script for your shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command.
    Man(man::ManArgs),
}

/// The arguments that name the configuration.
#[derive(Args, Clone, Default)]
pub(crate) struct ConfigArgs {
    /// The configuration file [default: ./walvec.yaml]
    #[arg(short, long, value_name = "FILE", env = "WALVEC_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    pub(crate) fn load(&self) -> Result<Config, Failure> {
        self.load_with(Overrides::default())
    }

    /// Loads the configuration for a command that asks a running walvec; variables that only that walvec needs may be unset.
    pub(crate) fn load_to_ask(&self) -> Result<Config, Failure> {
        self.load_with(Overrides::to_ask())
    }

    /// Loads the configuration for a command that searches the points itself because no walvec runs.
    pub(crate) fn load_to_search(&self) -> Result<Config, Failure> {
        self.load_with(Overrides::to_search())
    }

    /// Loads the configuration for a command that reads topics itself.
    pub(crate) fn load_to_read_topics(&self) -> Result<Config, Failure> {
        self.load_with(Overrides::to_read_topics())
    }

    /// Loads the configuration for a command that asks a running walvec and reads PostgreSQL itself.
    pub(crate) fn load_to_compare(&self) -> Result<Config, Failure> {
        self.load_with(Overrides::to_compare())
    }

    pub(crate) fn load_with(&self, overrides: Overrides) -> Result<Config, Failure> {
        Config::load(self.config.as_deref(), &Environment::of_process(), overrides).map_err(Failure::configuration)
    }
}

impl Cli {
    /// Returns whether the log on stderr is in JSON.
    pub(crate) fn logs_json(&self) -> bool {
        self.log_format == LogFormat::Json
    }
}

/// Parses the command line, and returns whether it asks for JSON. Exits the process if it cannot be parsed.
pub(crate) fn parse() -> (Cli, bool) {
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let wants_json = wants_json(&matches);
        Cli::from_arg_matches(&matches).map(|cli| (cli, wants_json))
    });
    parsed.unwrap_or_else(|error| {
        if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
            failed::print_json(&Failure::usage(&error));
        }
        error.exit()
    })
}

/// Returns whether the command that was given has the flag `--json`.
fn wants_json(matches: &ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, command)) => wants_json(command),
        None => matches.try_get_one("json").ok().flatten().copied().unwrap_or(false),
    }
}

/// Runs a command.
pub(crate) fn execute(arguments: Cli) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Demo(args) => block_on(demo::execute(args)),
        Command::Init(args) => block_on(init::execute(args)),
        Command::Run(args) => block_on(run::execute(args)),
        Command::Search(args) => block_on(search::execute(args)),
        Command::Collections(args) => block_on(collections::execute(args)),
        Command::Status(args) => block_on(status::execute(args)),
        Command::Health(args) => block_on(health::execute(args)),
        Command::Check(args) => block_on(check::execute(args)),
        Command::Explain(args) => explain::execute(&args),
        Command::Verify(args) => block_on(verify::execute(args)),
        Command::Reindex(args) => block_on(reindex::execute(args)),
        Command::DeadLetters(args) => block_on(dead_letters::execute(args)),
        Command::Backfill(args) => block_on(backfill::execute(args)),
        Command::Resync(args) => block_on(resync::execute(args)),
        Command::Reset(args) => block_on(reset::execute(args)),
        Command::Model(command) => block_on(model::execute(command)),
        Command::Schema => output::line(&crate::config::schema()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "walvec", &mut script);
            output::bytes(&script)
        }
        Command::Man(args) => man::execute(&args),
    }
}

/// Starts the runtime and runs a command. The configuration was loaded and checked before.
fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("walvec")
        .build()
        .map_err(|error| Failure::new(3, "E_RUNTIME", error))?;
    let outcome = runtime.block_on(command);
    // Tasks that still run are dropped: nothing waits for them.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests;
