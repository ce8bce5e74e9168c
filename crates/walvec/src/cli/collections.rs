//! `walvec collections`

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use walvec_capture::Source;
use walvec_pipeline::PipelineError;

use super::{ConfigArgs, Failure, output};
use crate::api::collections::{CollectionInfo, Collections, FieldInfo, FieldOrigin};
use crate::assembly::fields::TableFields;
use crate::assembly::source::source_config;
use crate::assembly::transform;
use crate::client::Client;
use crate::config::{Config, Stage};
use crate::search::description::CollectionDescription;
use crate::search::serving::Fields as _;

/// List the collections and their fields: types, indexes, and the filters that can match.
///
/// Asks the running walvec. If none runs, the types come from PostgreSQL.
#[derive(Args)]
pub(crate) struct CollectionsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: CollectionsArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load_to_ask()?;
    let found = match Client::first(&config, &[Stage::Index, Stage::Sink]).await {
        Some(running) => running.get("/api/v1/collections", &[]).await?,
        None => of_source(&args.config.load_to_compare()?).await?,
    };
    if args.json {
        let json = serde_json::to_value(&found).map_err(|error| Failure::definite("E_OUTPUT", error))?;
        return output::json(&json);
    }
    output::line(&found.collections.iter().map(to_text).collect::<Vec<_>>().join("\n\n"))
}

/// Reads the present columns of the tables from PostgreSQL.
async fn of_source(config: &Config) -> Result<Collections, Failure> {
    let source = Source::connect(source_config(config)).await.map_err(PipelineError::from)?;
    let tables = source.followed_tables().await.map_err(PipelineError::from)?;
    let describe = |collection| {
        let transform = Arc::new(transform::compile(collection, Arc::new(str::len))?);
        if let Some(table) = tables.iter().find(|table| table.name == collection.table) {
            let mistake = |error: walvec_transform::TransformError| {
                Failure::new(2, error.code(), format!("collections.{}: {error}", collection.name))
            };
            transform.check(table).map_err(mistake)?;
        }
        let fields = TableFields { transform: Arc::clone(&transform), stored_columns: None, labels: None };
        Ok(CollectionDescription::new(collection, transform).describe(&collection.name, None, &fields.known()))
    };
    let collections = config.collections.iter().map(describe).collect::<Result<_, Failure>>()?;
    Ok(Collections { collections })
}

fn to_text(collection: &CollectionInfo) -> String {
    let CollectionInfo { name, table, layout, points, modes, chunked, fields } = collection;
    let points = points.map_or_else(String::new, |points| format!(", {points} points"));
    let chunks = if *chunked { ", rows in chunks" } else { "" };
    let mut listed = output::table(&["field", "type", "index", "filters"]);
    for FieldInfo { name, r#type, from, index, filters, .. } in fields {
        let unknown = match from {
            FieldOrigin::Computed => "computed",
            FieldOrigin::Column | FieldOrigin::Chunk => "not known yet",
        };
        let index = index.map_or_else(|| "-".to_owned(), |index| index.to_string());
        let filters = if filters.is_empty() { "-".to_owned() } else { filters.join(" ") };
        listed.add_row([name.as_str(), r#type.as_deref().unwrap_or(unknown), &index, &filters]);
    }
    format!("{name}: {table}{points}, layout {layout}, searched by {}{chunks}\n{listed}", modes.join(", "))
}
