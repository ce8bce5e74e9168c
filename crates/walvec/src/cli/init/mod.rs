//! `walvec init`: inspects a live database and writes a commented configuration.
//!
//! - [`propose`](mod@propose): which columns are text, payload, indexes; pure
//! - [`sensitive`]: which columns hold secrets or personal data; pure
//! - [`template`]: how templates write the names of columns; pure
//! - [`write`](mod@write): the file; pure

mod propose;
mod sensitive;
mod template;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use walvec_capture::relations::{Obstacle, Relation, relations};
use walvec_capture::{Session, sample};
use walvec_model::TableName;
use walvec_pipeline::PipelineError;

use self::propose::Proposal;
use super::{Failure, output};
use crate::config::{self, Config, Environment};

/// Inspect a database and write a commented configuration for it.
///
/// From the catalogue and the first 1000 rows of each table, walvec guesses which columns hold text, which are worth storing and
/// filtering by, and whether texts have to be cut into chunks. It leaves out columns that look like secrets or personal data. It
/// changes nothing in the database. Review the file, then type `walvec check`.
#[derive(Args)]
pub(crate) struct InitArgs {
    /// The database: postgres://user@host:5432/database [default: DATABASE_URL, or PGHOST, PGUSER, ...]. The file
    /// does not contain it, but refers to ${DATABASE_URL}.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A table, as schema.table or quoted as in SQL; may be given several times. Default: every table with a primary key and
    /// a text column.
    #[arg(long = "table", value_name = "TABLE", value_parser = table)]
    tables: Vec<TableName>,
    /// Include columns that look like personal data: names of persons, addresses, phone numbers, ...
    #[arg(long)]
    include_personal: bool,
    /// The file to write. It must not exist yet; - means standard output.
    #[arg(short, long, value_name = "FILE", default_value = "walvec.yaml")]
    output: PathBuf,
}

fn table(text: &str) -> Result<TableName, String> {
    config::table_name(text)
}

/// The most tables to propose collections for: more would not be useful as a guess.
const MOST_TABLES: usize = 20;

/// A table for which no collection is proposed, with the reason.
#[derive(Debug)]
struct LeftOut(String);

pub(crate) async fn execute(args: InitArgs) -> Result<ExitCode, Failure> {
    let to_stdout = args.output.as_os_str() == "-";
    if !to_stdout && args.output.exists() {
        return Err(exists(&args.output));
    }
    let environment = Environment::of_process();
    let url = Config::source_url(args.url.as_deref(), &environment).map_err(Failure::configuration)?;
    let session = walvec_capture::open_session(&url).await.map_err(PipelineError::from)?;
    let (proposals, left_out) = propose(&session, &args).await?;
    if proposals.is_empty() {
        return Err(nothing_to_propose(&left_out));
    }
    let text = write::file(&proposals, &left_out);
    if to_stdout {
        return output::line(text.trim_end());
    }
    let needs_url = args.url.is_some() && environment.non_empty("DATABASE_URL").is_none();
    let written = File::create_new(&args.output).and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => output::line(&done(&args.output, &proposals, &left_out, needs_url)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(exists(&args.output)),
        Err(error) => Err(Failure::new(3, "E_OUTPUT", format!("{}: {error}", args.output.display()))),
    }
}

/// Proposes collections for the tables, and says which tables are left out. A table that the user named must be usable.
async fn propose(session: &Session, args: &InitArgs) -> Result<(Vec<Proposal>, Vec<LeftOut>), Failure> {
    let all = relations(session).await.map_err(PipelineError::from)?;
    let relations = if args.tables.is_empty() { all } else { named(&args.tables, all)? };
    let (mut proposals, mut left_out) = (Vec::new(), Vec::new());
    let mut partitions: BTreeMap<TableName, usize> = BTreeMap::new();
    for Relation { name, obstacle } in relations {
        let reason = match obstacle {
            Some(Obstacle::Partition(root)) if args.tables.is_empty() => {
                *partitions.entry(root).or_default() += 1;
                continue;
            }
            Some(obstacle) => obstacle.to_string(),
            None if proposals.len() == MOST_TABLES => {
                format!("is more than {MOST_TABLES} tables: name it with --table")
            }
            None => {
                let sampled = sample::sample(session, &name).await.map_err(PipelineError::from)?;
                match Proposal::of(&sampled, args.include_personal) {
                    Ok(proposal) => {
                        proposals.push(proposal);
                        continue;
                    }
                    Err(reason) => reason.to_owned(),
                }
            }
        };
        left_out.push(LeftOut(format!("{name} {reason}")));
    }
    if let (false, Some(LeftOut(what))) = (args.tables.is_empty(), left_out.first()) {
        return Err(Failure::new(2, "E_CONFIG", what).with_remedy("name another with --table"));
    }
    let partitions = partitions.into_iter().map(|(root, count)| match count {
        1 => format!("a partition of {root}, which is read as a whole"),
        count => format!("{count} partitions of {root}, which is read as a whole"),
    });
    left_out.extend(partitions.map(LeftOut));
    Ok((proposals, left_out))
}

/// Returns the relations that the user named.
fn named(names: &[TableName], all: Vec<Relation>) -> Result<Vec<Relation>, Failure> {
    let find = |name: &TableName| {
        all.iter().find(|relation| relation.name == *name).cloned().ok_or_else(|| {
            let what = format!("there is no table {name} in this database");
            Failure::new(2, "E_CONFIG", what).with_remedy("leave --table out to have all of them looked at")
        })
    };
    names.iter().map(find).collect()
}

fn nothing_to_propose(left_out: &[LeftOut]) -> Failure {
    let reasons: String = left_out.iter().map(|LeftOut(what)| format!("\n  {what}")).collect();
    let what = match reasons.is_empty() {
        true => "there is no table in this database that the role may see".to_owned(),
        false => format!("no table can be made a collection of:{reasons}"),
    };
    Failure::new(2, "E_CONFIG", what)
        .with_remedy("GRANT SELECT ON the tables to the role, or connect to another database")
}

fn exists(file: &Path) -> Failure {
    Failure::new(2, "E_USAGE", format!("{} exists already", file.display()))
        .with_remedy("-o another.yaml, or -o - to see what would be written")
}

/// How many tables the terminal names; the file has all of them.
const SHOWN: usize = 20;

fn done(file: &Path, proposals: &[Proposal], left_out: &[LeftOut], needs_url: bool) -> String {
    let mut lines = vec![format!("wrote {} with", file.display())];
    lines.extend(proposals.iter().map(|proposal| format!("  {} from {}", proposal.name, proposal.table)));
    let personal: Vec<String> = proposals
        .iter()
        .flat_map(|proposal| proposal.personal.iter().map(|(column, _)| format!("{}.{column}", proposal.table.name)))
        .collect();
    if !personal.is_empty() {
        lines.push(format!("without personal data ({}); --include-personal puts it in", personal.join(", ")));
    }
    if !left_out.is_empty() {
        lines.push("and without".to_owned());
        lines.extend(left_out.iter().take(SHOWN).map(|LeftOut(what)| format!("  {what}")));
    }
    if left_out.len() > SHOWN {
        lines.push(format!("  and {} more, which the file names", left_out.len() - SHOWN));
    }
    let url = if needs_url { "export DATABASE_URL=...  (what --url said); " } else { "" };
    lines.push(format!("Read it, then: {url}walvec model pull {}; walvec check; walvec run", write::MODEL));
    lines.join("\n")
}
