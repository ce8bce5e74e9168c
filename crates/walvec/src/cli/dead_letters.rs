//! `walvec dead-letters`: parked rows.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;
use walvec_model::RowKey;
use walvec_pipeline::state::dead_letters::DeadLetter;
use walvec_pipeline::state::dead_letters::DeadLetterStore;
use walvec_pipeline::{PipelineError, Store};
use walvec_sink::embedded::DataDir;

use super::{ConfigArgs, Failure, output, task};
use crate::api::tasks::RepairRequest;
use crate::assembly;
use crate::assembly::broker::Broker;
use crate::client::Client;
use crate::config::{Config, Stage};

/// List, retry and drop parked rows.
///
/// A row is parked when its text cannot be rendered or embedded, when the sink refuses its point, or when its record cannot
/// be read. The other rows are not held up. A newer version of the row removes it from the list. So fix the cause (the template, the
/// model, the row, the program that writes the topic), then retry.
///
/// With a broker, parked rows are in the topic `<prefix>.dead-letters`, which all workers share.
#[derive(Args)]
pub(crate) struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Subcommand)]
enum DeadLettersCommand {
    /// Show parked rows: which row, why, and where its record is.
    List {
        #[command(flatten)]
        selection: LetterSelection,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Process parked rows again: their rows are read again, or, with a broker, their records are written again.
    Retry {
        #[command(flatten)]
        selection: LetterSelection,
    },
    /// Forget parked rows. Their points stay missing, or as they were, until the rows change.
    Drop {
        #[command(flatten)]
        selection: LetterSelection,
    },
}

#[derive(Args)]
struct LetterSelection {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only parked rows of this collection.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Only the parked row with this key, as `list` shows it.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

impl LetterSelection {
    fn wants(&self, letter: &DeadLetter) -> bool {
        let key = || RowKey::new(letter.key.clone()).to_string();
        self.collection.as_ref().is_none_or(|name| *name == letter.collection)
            && self.key.as_ref().is_none_or(|wanted| *wanted == key())
    }
}

pub(crate) async fn execute(args: DeadLettersArgs) -> Result<ExitCode, Failure> {
    let (DeadLettersCommand::List { selection, .. }
    | DeadLettersCommand::Retry { selection }
    | DeadLettersCommand::Drop { selection }) = &args.command;
    let mut config = selection.config.load_to_ask()?;
    if config.broker.is_some() {
        config = selection.config.load_to_read_topics()?;
    }
    let storage = LetterStorage::find(&config).await?;
    let mut letters = storage.all(&config).await?;
    letters.retain(|letter| selection.wants(letter));
    match &args.command {
        DeadLettersCommand::List { json, .. } => list(&letters, *json),
        DeadLettersCommand::Retry { .. } => storage.retry(letters).await,
        DeadLettersCommand::Drop { .. } => storage.forget(letters).await,
    }
}

fn list(letters: &[DeadLetter], as_json: bool) -> Result<ExitCode, Failure> {
    if as_json {
        return output::json(&json!({ "dead_letters": letters }));
    }
    if letters.is_empty() {
        return output::line("No row is parked.");
    }
    let mut table = output::table(&["collection", "row", "code", "reason", "record"]);
    for letter in letters {
        let place = letter.place.as_ref().map(|place| format!("{}/{}@{}", place.topic, place.partition, place.offset));
        table.add_row([
            letter.collection.clone(),
            RowKey::new(letter.key.clone()).to_string(),
            letter.code.clone(),
            letter.reason.clone(),
            place.unwrap_or_default(),
        ]);
    }
    output::line(&table.to_string())
}

/// Where the parked rows are stored.
enum LetterStorage<'a> {
    /// In a running walvec.
    Running(Client),
    /// In the state file of a walvec that does not run.
    Stopped { store: Arc<Store>, _data_dir: DataDir },
    /// In a topic of the broker.
    Topic(Broker<'a>),
}

impl<'a> LetterStorage<'a> {
    async fn find(config: &'a Config) -> Result<Self, Failure> {
        if let Some(broker) = &config.broker {
            return Ok(Self::Topic(Broker::connect(config, &broker.kafka).await?));
        }
        if let Some(running) = Client::first(config, &[Stage::All]).await {
            return Ok(Self::Running(running));
        }
        let directory = config.sink.directory();
        let data_dir = assembly::lock(directory)?;
        let store = Store::open(directory).map_err(PipelineError::from)?;
        Ok(Self::Stopped { store: Arc::new(store), _data_dir: data_dir })
    }

    async fn all(&self, config: &Config) -> Result<Vec<DeadLetter>, Failure> {
        let mut all = Vec::new();
        for collection in &config.collections {
            match self {
                Self::Running(running) => all.extend(of_running(running, &collection.name).await?),
                Self::Stopped { store, .. } => all.extend(store.of(&collection.name)?),
                Self::Topic(broker) => all.extend(broker.letters().of(&collection.name)?),
            }
        }
        Ok(all)
    }

    async fn retry(&self, letters: Vec<DeadLetter>) -> Result<ExitCode, Failure> {
        match self {
            Self::Running(running) => retry_rows(running, letters).await,
            Self::Stopped { .. } => Err(Failure::definite(
                "E_NOT_RUNNING",
                "no walvec runs that could process the parked rows",
            )
            .with_remedy(
                "walvec run: it tries a parked row again when the row changes; then `walvec dead-letters retry`",
            )),
            Self::Topic(broker) => retry_records(broker, letters).await,
        }
    }

    async fn forget(&self, letters: Vec<DeadLetter>) -> Result<ExitCode, Failure> {
        let count = letters.len();
        let kept: Arc<dyn DeadLetterStore> = match self {
            Self::Running(_) => {
                return Err(Failure::definite("E_LOCKED", "a running walvec keeps the parked rows")
                    .with_remedy("stop it first"));
            }
            Self::Stopped { store, .. } => Arc::<Store>::clone(store),
            Self::Topic(broker) => broker.letters(),
        };
        let mut by_collection: BTreeMap<String, (Vec<DeadLetter>, Vec<RowKey>)> = BTreeMap::new();
        for letter in letters {
            let (rows, records) = by_collection.entry(letter.collection.clone()).or_default();
            // A row may change later and remove the letter; an unreadable record is not a row.
            if letter.is_about_a_record() {
                records.push(RowKey::new(letter.key));
            } else {
                rows.push(DeadLetter { dropped: true, ..letter });
            }
        }
        for (collection, (rows, records)) in by_collection {
            kept.update(&collection, &rows, &records).await?;
        }
        output::line(&format!("{count} parked rows were forgotten."))
    }
}

fn by_collection(letters: Vec<DeadLetter>) -> BTreeMap<String, Vec<RowKey>> {
    let mut keys: BTreeMap<String, Vec<RowKey>> = BTreeMap::new();
    for letter in letters {
        keys.entry(letter.collection).or_default().push(RowKey::new(letter.key));
    }
    keys
}

async fn of_running(running: &Client, collection: &str) -> Result<Vec<DeadLetter>, Failure> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = running.dead_letters(collection, after).await?;
        all.extend(page.dead_letters);
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

async fn retry_rows(running: &Client, letters: Vec<DeadLetter>) -> Result<ExitCode, Failure> {
    let mut rows = 0;
    for (collection, keys) in by_collection(letters) {
        let keys = keys.iter().map(|key| key.values().to_vec()).collect();
        let body = RepairRequest { collection, rows: keys, points: Vec::new() };
        rows += task::perform(running, "/api/v1/repair", &body).await?.rows;
    }
    output::line(&format!("{rows} rows were read again; `walvec dead-letters list` shows which are still parked."))
}

async fn retry_records(broker: &Broker<'_>, letters: Vec<DeadLetter>) -> Result<ExitCode, Failure> {
    let (mut again, mut gone) = (0, Vec::new());
    for letter in letters {
        if broker.write_again(&letter).await? { again += 1 } else { gone.push(letter) }
    }
    let mut lines =
        vec![format!("{again} records were written again; `walvec dead-letters list` shows which are still parked.")];
    for letter in &gone {
        let key = RowKey::new(letter.key.clone());
        lines.push(format!(
            "The record of row {key} of {} is gone: `walvec backfill --table {} --where ...` where capture runs writes the row again.",
            letter.table, letter.table
        ));
    }
    output::line(&lines.join("\n"))?;
    Ok(if gone.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
