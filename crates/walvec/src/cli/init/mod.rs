//! `walvec init`: looks at a live database and writes a commented configuration.
//!
//! - [`propose`]: which columns are text, payload, indexes; pure
//! - [`write`]: the file; pure

mod propose;
mod write;

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use walvec_capture::sample::{self, Sampled};
use walvec_model::TableName;
use walvec_pipeline::PipelineError;

use self::propose::Proposal;
use super::{Failure, output};
use crate::config::{self, Config, Environment};

/// Look at a database and write a commented configuration for it.
///
/// Which columns hold text, what is worth storing and filtering by, and whether texts are long enough to be cut into chunks is
/// guessed from the catalogue and the first 1000 rows of each table. Nothing is changed in the database. Read what it wrote,
/// then `walvec check`.
#[derive(Args)]
pub(crate) struct InitArgs {
    /// The database: postgres://user@host:5432/database [default: DATABASE_URL, or PGHOST, PGUSER, ...]. It is not written
    /// into the file, which says ${DATABASE_URL}.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A table, as schema.table or quoted as in SQL; may be given several times. Default: every table with a primary key and
    /// texts.
    #[arg(long = "table", value_name = "TABLE", value_parser = table)]
    tables: Vec<TableName>,
    /// The file to write, which must not exist; - for standard output.
    #[arg(short, long, value_name = "FILE", default_value = "walvec.yaml")]
    output: PathBuf,
}

fn table(text: &str) -> Result<TableName, String> {
    config::table_name(text)
}

/// More collections than anybody would want from a guess.
const MOST_TABLES: usize = 20;

pub(crate) async fn execute(args: InitArgs) -> Result<ExitCode, Failure> {
    let to_stdout = args.output.as_os_str() == "-";
    if !to_stdout && args.output.exists() {
        return Err(exists(&args.output));
    }
    let url = Config::source_url(args.url.as_deref(), &Environment::of_process()).map_err(Failure::configuration)?;
    let sampled = look(&url, &args.tables).await?;
    let proposals: Vec<Proposal> = sampled.iter().filter_map(Proposal::of).take(MOST_TABLES).collect();
    if proposals.is_empty() {
        let what = "no table that walvec may read has a primary key and a column with text";
        return Err(Failure::new(2, "E_CONFIG", what).with_remedy("grant SELECT, or name a table with --table"));
    }
    let text = write::file(&proposals);
    if to_stdout {
        return output::line(text.trim_end());
    }
    let written = File::create_new(&args.output).and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => output::line(&done(&args.output, &proposals)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(exists(&args.output)),
        Err(error) => Err(Failure::new(3, "E_OUTPUT", format!("{}: {error}", args.output.display()))),
    }
}

fn exists(file: &std::path::Path) -> Failure {
    Failure::new(2, "E_USAGE", format!("{} exists already", file.display()))
        .with_remedy("-o another.yaml, or -o - to see what would be written")
}

fn done(file: &std::path::Path, proposals: &[Proposal]) -> String {
    let collections: Vec<String> =
        proposals.iter().map(|proposal| format!("  {} from {}", proposal.name, proposal.table)).collect();
    format!(
        "wrote {} with\n{}\nRead it, then: walvec model pull {}; walvec check; walvec run",
        file.display(),
        collections.join("\n"),
        write::MODEL
    )
}

/// What the tables hold; one that was named has to be there, and usable.
async fn look(url: &secrecy::SecretString, named: &[TableName]) -> Result<Vec<Sampled>, Failure> {
    let failed = |error| Failure::from(PipelineError::from(error));
    let session = walvec_capture::open_session(url).await.map_err(failed)?;
    let tables = match named {
        [] => sample::tables(&session).await.map_err(failed)?,
        named => named.to_vec(),
    };
    let mut sampled = Vec::with_capacity(tables.len());
    for table in tables {
        let found = sample::sample(&session, &table).await.map_err(failed)?;
        let refused =
            |reason: &str, remedy: String| Failure::new(2, "E_CONFIG", format!("{table} {reason}")).with_remedy(remedy);
        match found {
            None if named.is_empty() => {}
            None => {
                return Err(refused("is no table that this role may read", format!("GRANT SELECT ON {table} TO ...")));
            }
            Some(found) if !named.is_empty() && !found.has_key => {
                let remedy = format!("ALTER TABLE {table} ADD PRIMARY KEY (...)");
                return Err(refused("has no primary key, without which nobody can tell its rows apart", remedy));
            }
            Some(found) if !named.is_empty() && Proposal::of(&found).is_none() => {
                return Err(refused("has no column that looks like text", "write walvec.yaml by hand".to_owned()));
            }
            Some(found) => sampled.push(found),
        }
    }
    Ok(sampled)
}
