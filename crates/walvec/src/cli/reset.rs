//! `walvec reset`: forget the slot, the publication and the stored position.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use walvec_capture::{CaptureError, PublicationDrop, Source, SourceConfig};
use walvec_pipeline::state::records::{Checkpoint, SnapshotState, SourceIdentity};
use walvec_pipeline::{PipelineError, Store};

use super::{ConfigArgs, Failure, output};
use crate::assembly::broker::Broker;
use crate::assembly::source::source_config;
use crate::assembly::{self, collection};
use crate::config::{Config, Stage};
use crate::daemon::last_run;
use crate::model_check;
use crate::reindex::{self, cleanup};

/// Drop the slot and the publication, and forget the stored position, so that the next `run` takes a new snapshot.
///
/// A publication that walvec did not create stays. If `source.slot` was changed, the former slot is dropped too. With a broker, type this
/// where capture runs: at its next start, capture writes every row to the topics again, and the workers remove what is gone. For the
/// workers type `walvec reset --offsets`: they then read their topics again from the oldest record.
#[derive(Args)]
pub(crate) struct ResetArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Do not ask for confirmation.
    #[arg(long)]
    force: bool,
    /// Remove the stored collections too. Every text is then embedded again.
    #[arg(long)]
    purge: bool,
    /// Only set the consumer group back to the oldest records of its topics. Stop all workers of the group first.
    #[arg(long, conflicts_with = "purge")]
    offsets: bool,
    /// The stage whose consumer group is set back, with --offsets.
    #[arg(long, value_enum, value_name = "STAGE", default_value_t = Stage::Index, requires = "offsets")]
    stage: Stage,
}

pub(crate) async fn execute(args: ResetArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load()?;
    if args.offsets {
        return rewind(&Config { stage: args.stage, ..config }, args.force).await;
    }
    let directory = match config.broker {
        Some(_) => config.directory_of(Stage::Capture),
        None => config.sink.directory().to_owned(),
    };
    let _data_dir = assembly::lock(&directory)?;
    let former = former_slot(&config, &directory);
    let also = former.as_ref().map(|former| format!(", and slot \"{}\", from which it was filled before", former.slot));
    let plan = format!(
        "This drops slot \"{}\"{}, and publication \"{}\" if walvec made it, in PostgreSQL{}. The next `walvec run` reads every table again{}.",
        config.source.slot,
        also.unwrap_or_default(),
        config.source.publication,
        if args.purge { format!(" and removes the collections in {}", place(&config)) } else { String::new() },
        if args.purge { " and embeds every text again" } else { "; unchanged texts are not embedded again" },
    );
    if !args.force && !confirmed(&plan)? {
        output::line("Nothing was changed.")?;
        return Ok(ExitCode::from(1));
    }
    let source = Source::connect(source_config(&config)).await.map_err(PipelineError::from)?;
    source.drop_slot().await.map_err(PipelineError::from)?;
    let reindexed = former.as_ref().map_or_else(|| config.clone(), |former| with_slot(&config, &former.slot));
    let former = match former {
        Some(former) => drop_former_slot(&config, &former, &source).await?,
        None => None,
    };
    if let Err(error) = cleanup::clean_up(&reindexed).await {
        let slot = reindex::slot(&reindexed);
        output::note(&format!(
            "slot \"{slot}\" of a reindex stays, and keeps WAL: {error}; drop it: SELECT pg_drop_replication_slot('{slot}');"
        ));
    }
    // Comes before any step that can fail: without its slot, the stored position is useless.
    forget(&directory, args.purge, Some(&config.source.slot))?;
    // The reset fixes the error that the last run stopped with.
    last_run::forget(&directory).map_err(|error| Failure::definite("E_SINK", format!("last-run.json: {error}")))?;
    if args.purge {
        purge(&config).await?;
    }
    // A publication that stays does no harm: `run` checks that it is the right one.
    match drop_publication(&source, former.as_ref()).await {
        Ok(PublicationDrop::Dropped | PublicationDrop::Missing) => {}
        Ok(PublicationDrop::NotOurs) => {
            output::note(&format!("publication \"{}\" stays: walvec did not make it", config.source.publication));
        }
        Ok(PublicationDrop::Needed { slots }) => {
            let (publication, slots) = (&config.source.publication, slots.join(", "));
            output::note(&format!("publication \"{publication}\" stays: others may need it, who read slot {slots}"));
        }
        Err(error) => tracing::warn!("the publication stays: {error}"),
    }
    let stage = if config.broker.is_some() { " --stage capture" } else { "" };
    output::line(&format!("Done. Next: walvec run{stage}"))
}

fn with_slot(config: &Config, slot: &str) -> Config {
    let mut config = config.clone();
    slot.clone_into(&mut config.source.slot);
    config
}

/// Returns the slot that the data directory was filled from, if the configuration names another one now.
fn former_slot(config: &Config, directory: &Path) -> Option<SourceIdentity> {
    let stored = Store::open(directory).and_then(|store| store.checkpoint()).unwrap_or_else(|error| {
        // A purge must also work on a state that cannot be read.
        tracing::warn!("what the data directory was filled from cannot be read: {error}");
        None
    });
    stored.map(|checkpoint| checkpoint.source).filter(|former| former.slot != config.source.slot)
}

/// Drops the publication if walvec created it for its present slot or for the former one.
async fn drop_publication(source: &Source, former: Option<&Source>) -> Result<PublicationDrop, CaptureError> {
    match former {
        Some(former) => match former.drop_publication().await? {
            PublicationDrop::NotOurs => source.drop_publication().await,
            dropped => Ok(dropped),
        },
        None => source.drop_publication().await,
    }
}

/// Drops a slot that is not read any more, for which the server would keep WAL until its disk is full. Returns the source as it was
/// read through that slot, if the slot still exists.
async fn drop_former_slot(
    config: &Config,
    former: &SourceIdentity,
    source: &Source,
) -> Result<Option<Source>, Failure> {
    let server = source.identify().await.map_err(PipelineError::from)?;
    if (former.system_id.as_str(), former.database_oid) != (server.system_id.to_string().as_str(), server.database_oid)
    {
        output::note(&format!(
            "slot \"{0}\" of the former database stays, and keeps WAL there; drop it there: \
             SELECT pg_drop_replication_slot('{0}');",
            former.slot
        ));
        return Ok(None);
    }
    let of_former = SourceConfig { slot: former.slot.clone(), ..source_config(config) };
    let of_former = Source::connect(of_former).await.map_err(PipelineError::from)?;
    of_former.drop_slot().await.map_err(PipelineError::from)?;
    output::note(&format!("slot \"{}\", from which the data directory was filled, was dropped too", former.slot));
    Ok(Some(of_former))
}

/// Removes the collections, on a server or in the data directory. Offsets that tell how far they were filled are removed with them.
async fn purge(config: &Config) -> Result<(), Failure> {
    model_check::forget_all(config);
    if let Some(qdrant) = &config.sink.qdrant {
        for collection in &config.collections {
            let purged = collection::purge(qdrant, &collection.name).await;
            let name = collection.name.clone();
            if !purged.map_err(|source| PipelineError::Sink { collection: name, source })? {
                output::note(&format!("collection \"{}\" stays: walvec did not make it", collection.name));
            }
        }
    }
    if let Some(broker) = &config.broker {
        if config.sink.qdrant.is_none() {
            let _data_dir = assembly::lock(config.sink.directory())?;
            forget(config.sink.directory(), true, None)?;
        }
        let index = Config { stage: Stage::Index, ..config.clone() };
        Broker::connect(&index, &broker.kafka).await?.rewind().await?;
    }
    Ok(())
}

/// Sets a group back to the oldest records.
async fn rewind(config: &Config, force: bool) -> Result<ExitCode, Failure> {
    let Some(broker) = &config.broker else {
        return Err(Failure::new(
            2,
            "E_USAGE",
            "--offsets is about a consumer group, and there is no `broker` in the configuration",
        ));
    };
    let group = broker.kafka.group(config.stage);
    let plan = format!("This lets group \"{group}\" read its topics again from the oldest records there are.");
    if !force && !confirmed(&plan)? {
        output::line("Nothing was changed.")?;
        return Ok(ExitCode::from(1));
    }
    Broker::connect(config, &broker.kafka).await?.rewind().await?;
    output::line(&format!("Done. Next: walvec run --stage {}", config.stage))
}

/// Says where the collections are.
fn place(config: &Config) -> String {
    let names = || config.collections.iter().map(|collection| collection.name.as_str()).collect::<Vec<_>>().join(", ");
    match &config.sink.qdrant {
        Some(qdrant) => format!("{} ({})", qdrant.url, names()),
        None => config.sink.directory().display().to_string(),
    }
}

fn confirmed(plan: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let message = format!("{plan} There is no terminal to ask for confirmation");
        return Err(Failure::new(2, "E_USAGE", message).with_remedy("type the command in a terminal, or add --force"));
    }
    output::line(plan)?;
    let mut stdout = std::io::stdout();
    let mut answer = String::new();
    let asked = write!(stdout, "Go on? [y/N] ").and_then(|()| stdout.flush());
    asked
        .and_then(|()| std::io::stdin().read_line(&mut answer))
        .map_err(|error| Failure::definite("E_OUTPUT", error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Forgets the state but keeps the generation, so that the next snapshot can distinguish its points from earlier ones. `slot`: the one
/// that fills the collections from now on.
fn forget(directory: &Path, purge: bool, slot: Option<&str>) -> Result<(), Failure> {
    let io = |path: &Path, error: std::io::Error| Failure::definite("E_SINK", format!("{}: {error}", path.display()));
    if purge {
        let names = ["collections", "journal", "state.redb", "served.json", "columns.json"];
        for path in names.map(|name| directory.join(name)) {
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&path, error)),
                _ => {}
            }
        }
        return Ok(());
    }
    let store = Store::open(directory).map_err(PipelineError::from)?;
    if let Some(mut checkpoint) = store.checkpoint().map_err(PipelineError::from)? {
        checkpoint.source.slot = slot.map_or(checkpoint.source.slot, str::to_owned);
        checkpoint = Checkpoint { snapshot: SnapshotState::Wanted, resync: None, sweep_waits: false, ..checkpoint };
        store.save_checkpoint(&checkpoint).map_err(PipelineError::from)?;
    }
    Ok(())
}
