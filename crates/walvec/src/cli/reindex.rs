//! `walvec reindex`

use std::process::ExitCode;

use clap::Args;

use super::{ConfigArgs, Failure, output, task};
use crate::api::tasks::ReindexRequest;
use crate::client::Client;
use crate::config::{Config, Overrides};
use crate::daemon::Daemon;
use crate::daemon::direct::Reload;
use crate::reindex::state;

/// Build new collections while the present ones answer searches, then switch to them in one step.
///
/// Change the model, the text or the payload in walvec.yaml, then type this while `walvec run` continues with its former
/// configuration. New collections are filled from a new snapshot and follow the stream until they have caught up with the
/// old ones. Searches are answered throughout, always with the model that made the vectors. The old collections are kept
/// until the next reindex. A reindex may be interrupted at any moment: `walvec run`, or the same command, continues it.
///
/// If no `walvec run` is running, the command does everything itself, and then ends.
#[derive(Args)]
pub(crate) struct ReindexArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Go back to the kept collections, after bringing them up to date. First put the former model, text and payload back into
    /// walvec.yaml.
    #[arg(long)]
    rollback: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: ReindexArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load_to_ask()?;
    let body = ReindexRequest { rollback: args.rollback };
    let find = || Client::find(config.sink.directory(), config.server.token.clone());
    let text = if args.rollback { "The former collections are served again" } else { "The new collections are served" };
    if let Some(running) = find().await {
        let done = task::perform(&running, "/api/v1/reindex", &body).await?;
        return task::report(&done, &format!("{text}: {} rows were read.", done.rows), args.json);
    }
    let mut service = start_as_before(&args.config.load()?, &args.config).await?;
    let running = find().await.ok_or_else(|| Failure::definite("E_SERVER", "its own HTTP API does not answer"))?;
    let performed = tokio::select! {
        performed = task::perform(&running, "/api/v1/reindex", &body) => performed,
        ended = service.ended() => return Err(ended),
    };
    service.shut_down().await?;
    let done = performed?;
    task::report(&done, &format!("{text}: {} rows were read. Next: walvec run", done.rows), args.json)
}

/// Runs the collections that are served at present, which the configuration may not describe any more.
async fn start_as_before(config: &Config, args: &ConfigArgs) -> Result<Daemon, Failure> {
    let served = state::served(config).ok_or_else(|| {
        let directory = config.sink.directory().display();
        let what = format!("{directory} does not say which configuration its collections were made with");
        Failure::definite("E_REINDEX", what)
            .with_remedy("start `walvec run` with the former model and text, change them in walvec.yaml, then reindex")
    })?;
    output::note("nothing runs here: following the stream until the new collections are complete");
    let args = args.clone();
    let reload: Reload = Box::new(move || args.load_with(Overrides::default()));
    Daemon::start(served, Vec::new(), reload).await
}
