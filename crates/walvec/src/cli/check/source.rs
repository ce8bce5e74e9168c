//! The checks of PostgreSQL: server, rights, slot, publication, tables.

use std::sync::Arc;

use serde_json::{Value, json};
use walvec_capture::Source;
use walvec_embed::Embedder;
use walvec_model::RowKey;
use walvec_pipeline::{PipelineError, check_columns};

use super::lengths;
use super::next::{next, while_running};
use super::report::CheckReport;
use crate::assembly::source::source_config;
use crate::assembly::transform;
use crate::config::{CollectionConfig, Config};
use crate::failure::Failure;

const SUBJECT: &str = "PostgreSQL";

pub(super) async fn check(
    config: &Config,
    is_running: bool,
    missing: Option<&str>,
    embedder: Option<&Arc<dyn Embedder>>,
    report: &mut CheckReport,
) {
    let errors = report.errors();
    if let Err(failure) = inspect(config, is_running, missing, embedder, report).await {
        report.error(SUBJECT, &failure);
    }
    if is_running && report.errors() == errors {
        report.next(while_running(config));
    }
}

async fn inspect(
    config: &Config,
    is_running: bool,
    missing: Option<&str>,
    embedder: Option<&Arc<dyn Embedder>>,
    report: &mut CheckReport,
) -> Result<(), Failure> {
    let source = Source::connect(source_config(config)).await.map_err(PipelineError::from)?;
    let server = source.server();
    report.ok(SUBJECT, format!("version {}, database {}", server.version_num / 10_000, server.database));
    let errors = report.errors();
    // A running walvec reads from the slot, perhaps through the only replication connection that is allowed. That is
    // not a finding.
    let findings = if is_running { source.preflight_again().await } else { source.preflight().await };
    let mut findings = findings.map_err(PipelineError::from)?;
    findings.retain(|finding| !(is_running && finding.code == "E_SLOT_BUSY"));
    for finding in &findings {
        report.finding(SUBJECT, finding);
    }
    report.statements(source.script(&findings));
    if !is_running {
        match next(config, &source, missing).await {
            Ok(next) => {
                report.ok("slot", "fits the data directory");
                report.next(next);
            }
            Err(failure) => report.error("slot", &failure),
        }
    }
    if report.errors() == errors {
        tables(config, &source, report).await?;
    }
    if let Some(embedder) = embedder.filter(|_| report.errors() == errors) {
        lengths::check(config, &source, embedder, report).await?;
    }
    Ok(())
}

/// Checks the templates against the columns of the tables.
async fn tables(config: &Config, source: &Source, report: &mut CheckReport) -> Result<(), Failure> {
    let tables = source.followed_tables().await.map_err(PipelineError::from)?;
    for collection in &config.collections {
        let Some(table) = tables.iter().find(|table| table.name == collection.table) else { continue };
        let checked = match transform::compile(collection, Arc::new(str::len)) {
            Ok(transform) => {
                let checked = check_columns(source, &collection.name, &transform, table, &tables).await;
                checked.map_err(Failure::from).map(|()| format!("{} columns", table.columns.len()))
            }
            Err(failure) => Err(failure),
        };
        let is_fine = checked.is_ok();
        report.result(format!("table {}", table.name), checked);
        // The rows that are looked up are not read here, so a row with lookups cannot be rendered.
        if is_fine && collection.lookup.is_empty() {
            sample(collection, source, report).await;
        }
    }
    Ok(())
}

/// Renders one row, as `run` would. A failure is only a warning, because other rows may be fine.
async fn sample(collection: &CollectionConfig, source: &Source, report: &mut CheckReport) {
    // Chunking cannot fail on a row that renders, and would need a model.
    let whole = CollectionConfig { chunk: None, ..collection.clone() };
    let (Ok(transform), Ok(Some((table, row)))) =
        (transform::compile(&whole, Arc::new(str::len)), source.first_row(&collection.table).await)
    else {
        return;
    };
    let values: Vec<Value> = row.0.iter().map(|cell| cell.value().cloned().unwrap_or_default()).collect();
    let key = RowKey::new(table.key.iter().filter_map(|index| values.get(*index).cloned()).collect());
    match transform.render(&table, &key, &values) {
        Ok(_) => report.ok(format!("row {key} of {}", table.name), "can be rendered"),
        Err(error) => {
            let remedy = "correct the template, or let it test for what may be missing: such rows are parked";
            let detail = json!({"code": error.code(), "message": error.to_string(), "remedy": remedy});
            report.warning(format!("row {key} of {}", table.name), detail);
        }
    }
}
