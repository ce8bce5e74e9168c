//! `walvec reset`: forget the slot, the publication and the stored position.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Args;
use walvec_capture::Source;
use walvec_pipeline::store::SnapshotState;
use walvec_pipeline::{PipelineError, Store};

use super::{ConfigArgs, Failure, output};
use crate::config::Config;
use crate::{app, collection, reindex};

#[derive(Args)]
pub(crate) struct ResetArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Do not ask.
    #[arg(long)]
    force: bool,
    /// Also remove the stored collections; every text will be embedded again.
    #[arg(long)]
    purge: bool,
}

pub(crate) async fn execute(args: ResetArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load()?;
    let directory = config.sink.directory();
    let _data_dir = app::lock(directory)?;
    let plan = format!(
        "This drops slot \"{}\" and publication \"{}\" in PostgreSQL{}. The next `walvec run` reads every table again{}.",
        config.source.slot,
        config.source.publication,
        if args.purge { format!(" and removes the collections in {}", place(&config)) } else { String::new() },
        if args.purge { " and embeds every text again" } else { "; unchanged texts are not embedded again" },
    );
    if !args.force && !confirmed(&plan)? {
        output::line("Nothing was changed.")?;
        return Ok(ExitCode::from(1));
    }
    let source = Source::connect(app::source_config(&config)).await.map_err(PipelineError::from)?;
    source.drop_slot().await.map_err(PipelineError::from)?;
    reindex::forget(&config).await;
    // Before anything else can fail: without its slot, the stored position is worth nothing.
    forget(directory, args.purge)?;
    if let (true, Some(qdrant)) = (args.purge, &config.sink.qdrant) {
        for collection in &config.collections {
            let purged = collection::purge(qdrant, &collection.name).await;
            purged.map_err(|source| PipelineError::Sink { collection: collection.name.clone(), source })?;
        }
    }
    if let Err(error) = source.drop_publication().await {
        // One that somebody else owns can stay: `run` checks that it is the right one.
        tracing::warn!("the publication stays: {error}");
    }
    output::line("Done. Next: walvec run")
}

/// Where the collections are.
fn place(config: &Config) -> String {
    let names = || config.collections.iter().map(|collection| collection.name.as_str()).collect::<Vec<_>>().join(", ");
    match &config.sink.qdrant {
        Some(qdrant) => format!("{} ({})", qdrant.url, names()),
        None => config.sink.directory().display().to_string(),
    }
}

fn confirmed(plan: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(2, "E_USAGE", format!("{plan} Nobody is here to confirm that")).with_remedy("--force"));
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

/// Keeps the generation, so that the next snapshot can tell its points from those of before.
fn forget(directory: &std::path::Path, purge: bool) -> Result<(), Failure> {
    let io = |path: &std::path::Path, error: std::io::Error| {
        Failure::definite("E_SINK", format!("{}: {error}", path.display()))
    };
    if purge {
        for path in ["collections", "state.redb", "served.json"].map(|name| directory.join(name)) {
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
        checkpoint.snapshot = SnapshotState::Wanted;
        store.save_checkpoint(&checkpoint).map_err(PipelineError::from)?;
    }
    Ok(())
}
