//! `walvec model`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use walvec_embed::hub::{DownloadProgress, Hub};

use super::{Failure, output};
use crate::config::Environment;
use crate::terminal;

#[derive(Subcommand)]
pub(crate) enum ModelCommand {
    /// List the models on this machine.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Fetch a model from the model hub, e.g. BAAI/bge-small-en-v1.5
    Pull {
        /// The repository, e.g. sentence-transformers/all-MiniLM-L6-v2
        name: String,
    },
}

pub(crate) async fn execute(command: ModelCommand) -> Result<ExitCode, Failure> {
    let environment = Environment::of_process();
    match command {
        ModelCommand::List { json } => list(&environment.models_roots(), json),
        ModelCommand::Pull { name } => pull(&name, &environment.models_root().map_err(Failure::configuration)?).await,
    }
}

fn list(roots: &[PathBuf], as_json: bool) -> Result<ExitCode, Failure> {
    let mut models = Vec::new();
    for root in roots {
        models.extend(walvec_embed::model_dir::list(root).map_err(walvec_pipeline::PipelineError::from)?);
    }
    if as_json {
        let models: Vec<_> =
            models.iter().map(|model| serde_json::json!({ "name": model.name, "path": model.path })).collect();
        return output::json(&models.into());
    }
    if models.is_empty() {
        let places: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
        return output::line(&format!(
            "No models in {}. Fetch one: walvec model pull BAAI/bge-small-en-v1.5",
            places.join(" and ")
        ));
    }
    let lines: Vec<String> = models.iter().map(|model| format!("{}  {}", model.name, model.path.display())).collect();
    output::line(&lines.join("\n"))
}

async fn pull(name: &str, root: &Path) -> Result<ExitCode, Failure> {
    let bar = terminal::bars().add(ProgressBar::new(0));
    if let Ok(style) = ProgressStyle::with_template("  {msg} {bar:32} {bytes}/{total_bytes}  {bytes_per_sec}") {
        bar.set_style(style);
    }
    let shown = bar.clone();
    let on_progress = Arc::new(move |progress: &DownloadProgress| {
        shown.set_message(progress.file.clone());
        shown.set_length(progress.total_bytes);
        shown.set_position(progress.bytes);
    });
    // The hub's endpoint and token come from HF_ENDPOINT and HF_TOKEN, as for the hub's own tools.
    let pulled = walvec_embed::hub::pull(name, root, &Hub::default(), on_progress).await;
    bar.finish_and_clear();
    let path = pulled.map_err(walvec_pipeline::PipelineError::from)?;
    output::line(&format!("{name} is in {}", path.display()))
}
