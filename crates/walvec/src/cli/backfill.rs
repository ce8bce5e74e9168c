//! `walvec backfill`

use std::process::ExitCode;

use clap::Args;

use super::{ConfigArgs, Failure, task};
use crate::api::tasks::BackfillRequest;

/// Read rows of a table again while the stream continues, for example after changes that were not replicated.
///
/// The rows are read as of one moment in the stream: a later change always wins, and a row that is deleted meanwhile stays
/// deleted. Unchanged texts are not embedded again. A backfill does not look for points without rows: `walvec verify
/// --repair` does that. Needs a running `walvec run`.
#[derive(Args)]
pub(crate) struct BackfillArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The table, as in walvec.yaml: schema.table.
    #[arg(long, value_name = "TABLE")]
    table: String,
    /// Only the rows that meet this condition in SQL, e.g. "year >= 1990".
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: BackfillArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load_to_ask()?;
    let table = crate::config::table_name(&args.table)
        .map_err(|reason| Failure::new(2, "E_USAGE", format!("--table {}: {reason}", args.table)))?;
    if !config.collections.iter().any(|collection| collection.table == table) {
        let tables: Vec<String> = config.collections.iter().map(|collection| collection.table.to_string()).collect();
        let what = format!("no collection shows table {table}; there are: {}", tables.join(", "));
        return Err(Failure::new(2, "E_USAGE", what));
    }
    let running = task::running(&config).await?;
    let body = BackfillRequest { table: args.table, filter: args.filter };
    let done = task::perform(&running, "/api/v1/backfill", &body).await?;
    task::report(&done, &format!("{} rows of {table} were read again.", done.rows), args.json)
}
