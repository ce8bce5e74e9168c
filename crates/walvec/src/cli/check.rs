//! `walvec check`: everything that would stop `run`, each with its remedy.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use walvec_broker::kafka::topics::Topics;
use walvec_capture::{Severity, Source};
use walvec_embed::Embedder;
use walvec_pipeline::start::decide;
use walvec_pipeline::{PipelineError, Store, facts};
use walvec_sink::qdrant;

use super::running::Running;
use super::{ConfigArgs, Failure, output};
use crate::collection::Opened;
use crate::config::{CollectionConfig, Config, KafkaSettings, QdrantSettings, Stage};
use crate::{app, broker};

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only what can be checked without PostgreSQL.
    #[arg(long)]
    offline: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One thing that was checked.
struct Outcome {
    subject: String,
    /// `ok`, `warning` or `error`.
    result: &'static str,
    detail: Value,
}

impl Outcome {
    fn ok(subject: impl Into<String>, detail: impl Into<Value>) -> Self {
        Self { subject: subject.into(), result: "ok", detail: detail.into() }
    }

    fn error(subject: impl Into<String>, failure: &Failure) -> Self {
        Self { subject: subject.into(), result: "error", detail: failure.to_json() }
    }
}

pub(crate) async fn execute(args: CheckArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load()?;
    let mut outcomes = vec![Outcome::ok("configuration", "valid")];
    let running = Running::first(&config, &[Stage::Capture, Stage::Index]).await;
    check_here(&config, running.is_some(), &mut outcomes).await;
    if let (false, Some(broker)) = (args.offline, &config.broker) {
        outcomes.push(check_broker(&config, &broker.kafka).await);
    }
    if !args.offline && !config.source.url.expose_secret().is_empty() {
        check_source(&config, running.is_some(), &mut outcomes).await;
    }
    report(&outcomes, args.json)
}

/// Model, templates, stored collections, port.
async fn check_here(config: &Config, is_running: bool, outcomes: &mut Vec<Outcome>) {
    let embedder = match check_model(config).await {
        Ok((embedder, detail)) => {
            outcomes.push(Outcome::ok("model", detail));
            Some(embedder)
        }
        Err(failure) => {
            outcomes.push(Outcome::error("model", &failure));
            None
        }
    };
    if config.embedding.shows_its_key() {
        let message = "the provider's key and every text travel unencrypted: whoever listens can read both";
        let detail = json!({"code": "E_TLS", "message": message, "remedy": "let `embedding.url` begin with https://"});
        outcomes.push(Outcome { subject: "model".to_owned(), result: "warning", detail });
    }
    let directory = config.sink.directory();
    if is_running {
        outcomes.push(Outcome::ok("data directory", format!("{} is in use by a running walvec", directory.display())));
        return;
    }
    outcomes.push(match TcpListener::bind(config.server.listen).await {
        Ok(_) => Outcome::ok("listen address", config.server.listen.to_string()),
        Err(error) => Outcome::error("listen address", &Failure::definite("E_LISTEN", error)),
    });
    // What does not exist yet is created by `run`, not by a check.
    let data_dir = match directory.exists().then(|| app::lock(directory)).transpose() {
        Ok(data_dir) => data_dir,
        Err(failure) => return outcomes.push(Outcome::error("data directory", &failure)),
    };
    if data_dir.is_none() {
        outcomes.push(Outcome::ok("data directory", format!("{} will be created", directory.display())));
    }
    if config.sink.qdrant.is_none()
        && let Some(version) = qdrant::local_version().await
    {
        let detail = format!("version {version} answers at {}; `sink.qdrant.url` would use it", qdrant::LOCAL);
        outcomes.push(Outcome::ok("Qdrant", detail));
    }
    if config.sink.qdrant.as_ref().is_some_and(QdrantSettings::shows_its_key) {
        let message = "the API key travels unencrypted, and with it whoever listens can read and delete everything";
        let detail =
            json!({"code": "E_TLS", "message": message, "remedy": "let `sink.qdrant.url` begin with https://"});
        outcomes.push(Outcome { subject: "Qdrant".to_owned(), result: "warning", detail });
    }
    for collection in &config.collections {
        let subject = format!("collection {}", collection.name);
        outcomes.push(match check_collection(config, collection, embedder.as_deref()).await {
            Ok(detail) => Outcome::ok(subject, detail),
            Err(failure) => Outcome::error(subject, &failure),
        });
    }
    drop(data_dir);
}

/// Loads the model and says what it is. A provider is asked for a vector, even if its dimension is configured.
async fn check_model(config: &Config) -> Result<(Arc<dyn Embedder>, String), Failure> {
    let embedder = app::load_embedder(config).await?;
    let info = embedder.info();
    let mut detail = format!("{}, {} dimensions", info.model, info.dimension);
    if let Some(address) = config.embedding.address() {
        let asked = Instant::now();
        embedder.embed_query("walvec".to_owned()).await.map_err(PipelineError::from)?;
        detail.push_str(&format!(", {address} answers in {} ms", asked.elapsed().as_millis()));
    }
    Ok((embedder, detail))
}

/// Whether the broker answers and lets us in, and which topics there are.
async fn check_broker(config: &Config, kafka: &KafkaSettings) -> Outcome {
    let there = async {
        let topics = Topics::new(&broker::connection(kafka)).map_err(PipelineError::from)?;
        topics.partitions().await.map_err(|error| Failure::from(PipelineError::from(error)))
    };
    let there = match there.await {
        Ok(there) => there,
        Err(failure) => return Outcome::error("broker", &failure),
    };
    let mut topics: Vec<String> = config.collections.iter().map(|collection| kafka.topic_of(collection)).collect();
    topics.dedup();
    let described = topics.iter().map(|topic| match there.get(topic) {
        Some(partitions) => format!("topic {topic} has {partitions} partitions"),
        None => format!("topic {topic} will be created by capture with {} partitions", kafka.partitions()),
    });
    Outcome::ok("broker", format!("{} answers; {}", kafka.bootstrap, described.collect::<Vec<_>>().join(", ")))
}

/// Its templates, and what is stored, if the model is known that has to fit.
async fn check_collection(
    config: &Config,
    collection: &CollectionConfig,
    embedder: Option<&dyn Embedder>,
) -> Result<&'static str, Failure> {
    app::transform(collection, Arc::new(str::len))?;
    let Some(embedder) = embedder else { return Ok("templates are valid") };
    app::check_chunks(collection, embedder)?;
    let fingerprint = app::fingerprint(embedder, collection);
    let found = Opened::find(config, collection, embedder.info().dimension, &fingerprint).await?;
    let Some(opened) = found else { return Ok("templates are valid; nothing is stored yet") };
    opened.close().await.map_err(|error| Failure::definite("E_SINK", error))?;
    Ok("templates and stored vectors fit the configuration")
}

/// Whether the data directory and the slot belong together, as `run` decides it.
async fn check_start(config: &Config, source: &Source) -> Result<(), Failure> {
    let directory = &match config.broker {
        Some(_) => config.directory_of(Stage::Capture),
        None => config.sink.directory().to_owned(),
    };
    let stored = if directory.join("state.redb").exists() {
        let _data_dir = app::lock(directory)?;
        Store::open(directory).and_then(|store| store.checkpoint()).map_err(PipelineError::from)?
    } else {
        None
    };
    // Which collections those are is looked at elsewhere, and creating the missing ones is up to `run`.
    let collections = stored.as_ref().map(|checkpoint| checkpoint.collections.clone()).unwrap_or_default();
    let digest = app::config_digest(config);
    let facts = facts(source, &config.source.slot, &digest, collections).await?;
    decide(stored.as_ref(), &facts).map(drop).map_err(PipelineError::from)?;
    Ok(())
}

async fn check_source(config: &Config, is_running: bool, outcomes: &mut Vec<Outcome>) {
    let failed = |error| Outcome::error("PostgreSQL", &Failure::from(PipelineError::Source(error)));
    let source = match Source::connect(app::source_config(config)).await {
        Ok(source) => source,
        Err(error) => return outcomes.push(failed(error)),
    };
    let server = source.server();
    outcomes.push(Outcome::ok(
        "PostgreSQL",
        format!("version {}, database {}", server.version_num / 10_000, server.database),
    ));
    let before = outcomes.len();
    match source.preflight().await {
        // A running walvec reads from the slot: that is how it should be.
        Ok(findings) => {
            outcomes.extend(findings.into_iter().filter(|finding| !(is_running && finding.code == "E_SLOT_BUSY")).map(
                |finding| Outcome {
                    subject: "PostgreSQL".to_owned(),
                    result: match finding.severity {
                        Severity::Error => "error",
                        Severity::Warning => "warning",
                    },
                    detail: json!({"code": finding.code, "message": finding.message, "remedy": finding.remedy}),
                },
            ))
        }
        Err(error) => outcomes.push(failed(error)),
    }
    if !is_running {
        outcomes.push(match check_start(config, &source).await {
            Ok(()) => Outcome::ok("slot", "fits the data directory"),
            Err(failure) => Outcome::error("slot", &failure),
        });
    }
    if outcomes[before..].iter().any(|outcome| outcome.result == "error") {
        return;
    }
    match source.followed_tables().await {
        Ok(tables) => {
            for collection in &config.collections {
                let Some(table) = tables.iter().find(|table| table.name == collection.table) else { continue };
                let checked = app::transform(collection, Arc::new(str::len)).and_then(|transform| {
                    transform.check_among(table, &tables).map_err(|error| {
                        PipelineError::Transform { collection: collection.name.clone(), source: error.into() }.into()
                    })
                });
                outcomes.push(match checked {
                    Ok(()) => Outcome::ok(format!("table {}", table.name), format!("{} columns", table.columns.len())),
                    Err(failure) => Outcome::error(format!("table {}", table.name), &failure),
                });
            }
        }
        Err(error) => outcomes.push(failed(error)),
    }
}

fn report(outcomes: &[Outcome], as_json: bool) -> Result<ExitCode, Failure> {
    let failed = outcomes.iter().any(|outcome| outcome.result == "error");
    if as_json {
        let list: Vec<Value> = outcomes
            .iter()
            .map(|outcome| json!({"subject": outcome.subject, "result": outcome.result, "detail": outcome.detail}))
            .collect();
        output::json(&json!({"ok": !failed, "checks": list}))?;
    } else {
        for Outcome { subject, result, detail } in outcomes {
            output::line(&describe(subject, result, detail))?;
        }
        output::line(if failed { "\n`walvec run` would stop." } else { "\nReady: walvec run" })?;
    }
    Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn describe(subject: &str, result: &str, detail: &Value) -> String {
    let text = |field| detail.get(field).and_then(Value::as_str);
    let message = detail.as_str().or_else(|| text("message")).unwrap_or_default();
    let code = text("code").map(|code| format!(" [{code}]")).unwrap_or_default();
    let remedy = text("remedy").filter(|remedy| !remedy.is_empty());
    let remedy = remedy.map(|remedy| format!("\n           help: {remedy}")).unwrap_or_default();
    format!("{result:>7}  {subject}: {message}{code}{remedy}")
}
