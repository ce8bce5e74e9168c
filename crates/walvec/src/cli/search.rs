//! `walvec search`

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::Value;
use walvec_model::Lsn;
use walvec_pipeline::state::records::SnapshotState;
use walvec_pipeline::{PipelineError, Store};

use super::{ConfigArgs, Failure, hits, output};
use crate::api::problem::ApiProblem;
use crate::api::search::{AnswerHit, Freshness, SearchAnswer};
use crate::assembly::collection::OpenCollection;
use crate::assembly::fields::TableFields;
use crate::assembly::{self, columns, transform};
use crate::client::Client;
use crate::config::{CollectionConfig, Config, Stage};
use crate::search::cursor::Cursor;
use crate::search::filter::{self, FieldCondition, condition_from_text};
use crate::search::mode::{Mode, SearchRefusal};
use crate::search::ranking::{QueryVector, Ranking};
use crate::search::request::MAX_QUERY_BYTES;
use crate::search::resolve;
use crate::search::serving::Fields as _;

/// Search a collection by meaning.
///
/// On a terminal each hit is shown as a record: the title (the first column in the collection's text), the score, the part of the
/// text that fits the query, and the other fields. In a pipe or a file each hit is a line of tab-separated values in the format of
/// PostgreSQL's COPY (\t, \n, \r and \\ in texts, \N for NULL), after a header line: score, point, the fields that the configuration
/// names, then all other fields in alphabetical order. There values are never cut.
#[derive(Args)]
pub(crate) struct SearchArgs {
    /// The text to search for, with or without quotes.
    #[arg(required = true, value_name = "TEXT")]
    words: Vec<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// The collection. Required if there are several.
    #[arg(long)]
    collection: Option<String>,
    /// The maximum number of hits.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    limit: u64,
    /// Only points that match: FIELD=VALUE, FIELD!=VALUE, FIELD>=END with >, >=, < or <=, or FIELD is null; may be given several
    /// times.
    ///
    /// The value is read as the field's type. FIELD=["ONE","OTHER"] matches either. END is a number, a date (2024-01-31), or a
    /// date and a time (2024-01-31T18:00:00Z). Times without a zone are UTC, and a date means the beginning of its day.
    /// meta.color is a member of the JSON field meta. A condition that can never match is refused; the message lists the fields.
    #[arg(long = "filter", value_name = "CONDITION", value_parser = condition)]
    filters: Vec<TypedCondition>,
    /// What to compare: the meaning (dense), the words (keyword), or both (hybrid). Default: hybrid if the collection has it, else
    /// dense.
    #[arg(long, value_enum, hide_possible_values = true)]
    mode: Option<Mode>,
    /// Only hits with at least this score: in the mode dense a cosine similarity, -1 to 1; in the mode keyword a BM25 score. Not
    /// with hybrid.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    min_score: Option<f32>,
    /// Show each row once, by its best chunk.
    #[arg(long)]
    group_by_row: bool,
    /// Show the page after the one whose JSON has this cursor in `next`. Repeat the rest of the command unchanged.
    #[arg(long)]
    cursor: Option<Cursor>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl SearchArgs {
    /// Returns the text to look for.
    fn text(&self) -> Result<String, Failure> {
        let text = self.words.join(" ");
        if text.trim().is_empty() {
            let refused = Failure::new(2, "E_USAGE", "the query is empty: there is nothing to look for");
            return Err(refused.with_remedy("walvec search battle in space"));
        }
        if text.len() > MAX_QUERY_BYTES {
            let what = format!("the query has {} bytes; at most {MAX_QUERY_BYTES} are read", text.len());
            return Err(Failure::new(2, "E_USAGE", what));
        }
        Ok(text)
    }
}

/// A condition as it was typed and as it was parsed: the API takes the same form.
#[derive(Clone, Debug, PartialEq)]
struct TypedCondition {
    text: String,
    condition: FieldCondition,
}

fn condition(text: &str) -> Result<TypedCondition, String> {
    let condition = condition_from_text(text).map_err(|problem| problem.to_string())?;
    Ok(TypedCondition { text: text.to_owned(), condition })
}

pub(crate) async fn execute(args: SearchArgs) -> Result<ExitCode, Failure> {
    let text = args.text()?;
    let config = args.config.load_to_ask()?;
    let collection = choose(&config, args.collection.as_deref())?;
    let answer = match Client::first(&config, &[Stage::Index, Stage::Sink]).await {
        Some(running) => {
            let limit = args.limit.to_string();
            let mut query = vec![("q", text.as_str()), ("collection", &collection.name), ("limit", &limit)];
            let min_score = args.min_score.map(|score| score.to_string());
            query.extend(min_score.as_deref().map(|score| ("min_score", score)));
            let mode = args.mode.map(|mode| mode.to_string());
            query.extend(mode.as_deref().map(|mode| ("mode", mode)));
            let cursor = args.cursor.as_ref().map(Cursor::to_string);
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            query.extend(args.group_by_row.then_some(("group", "row")));
            query.extend(args.filters.iter().map(|given| ("filter", given.text.as_str())));
            running.get("/api/v1/search", &query).await?
        }
        None => {
            let config = args.config.load_to_search()?;
            search_here(&config, choose(&config, args.collection.as_deref())?, &args, &text).await?
        }
    };
    if args.json {
        return output::json(&answer);
    }
    if let Some(note) = answer.get("note").and_then(Value::as_str) {
        output::note(note);
    }
    if answer.get("query_cut").and_then(Value::as_bool).unwrap_or_default() {
        output::note("the query is longer than the model reads: only its beginning counted");
    }
    let found = answer.get("hits").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    hits::print(found, collection, &text)
}

fn choose<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a CollectionConfig, Failure> {
    let names = || config.collections.iter().map(|collection| collection.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, config.collections.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => {
            Err(Failure::new(2, "E_USAGE", "which collection?")
                .with_remedy(format!("--collection, one of: {}", names())))
        }
        (Some(name), all) => all.iter().find(|collection| collection.name == name).ok_or_else(|| {
            Failure::new(2, "E_USAGE", format!("there is no collection \"{name}\""))
                .with_remedy(format!("one of: {}", names()))
        }),
    }
}

/// Opens the data directory and searches, because no walvec runs on it.
async fn search_here(
    config: &Config,
    collection: &CollectionConfig,
    args: &SearchArgs,
    text: &str,
) -> Result<Value, Failure> {
    let directory = config.sink.directory();
    if !directory.exists() {
        return Err(Failure::definite(
            "E_SINK",
            format!("{} does not exist: nothing was synced yet", directory.display()),
        )
        .with_remedy("walvec run"));
    }
    let keywords = transform::keywords(collection);
    let refused =
        |SearchRefusal(reason)| Failure::new(2, "E_USAGE", format!("collection \"{}\": {reason}", collection.name));
    let mode = Mode::of(args.mode, keywords.as_deref()).map_err(refused)?;
    mode.check_score(args.min_score).map_err(refused)?;
    let conditions = args.filters.iter().map(|given| given.condition.clone()).collect();
    let transform = Arc::new(transform::compile(collection, Arc::new(str::len))?);
    let stored_columns = columns::load(config).remove(&collection.name);
    let known = TableFields { transform, stored_columns, labels: None }.known();
    let refused = |problem: ApiProblem| Failure::new(2, "E_USAGE", problem.detail());
    let filter =
        filter::checked(conditions).and_then(|conditions| resolve::filter(&conditions, &known)).map_err(refused)?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let ranking = Ranking {
        collection: &collection.name,
        text,
        mode: mode.mode(),
        filter: &filter,
        min_score: args.min_score,
        by_row: args.group_by_row,
        limit,
    };
    let place = ranking.place(args.cursor.as_ref());
    let place = place.map_err(|SearchRefusal(reason)| Failure::new(2, "E_USAGE", reason))?;
    let _data_dir = assembly::lock(directory)?;
    let embedder = assembly::load_embedder(config).await?;
    let fingerprint = transform::fingerprint(embedder.as_ref(), collection);
    let found = OpenCollection::find(config, collection, embedder.info().dimension, &fingerprint).await?;
    let opened = found.ok_or_else(|| {
        let what = format!("collection \"{}\" does not exist yet", collection.name);
        Failure::definite("E_SINK", what).with_remedy("walvec run")
    })?;
    let vector = async { QueryVector::of(embedder.as_ref(), text.to_owned()).await.map_err(PipelineError::Embed) };
    let (query, is_cut) = mode.query(text, vector).await?;
    let page = ranking.page(&*opened.search(), query, place).await;
    let page = page.map_err(|error| Failure::definite("E_SINK", error))?;
    opened.close().await.map_err(|error| Failure::definite("E_SINK", error))?;
    let answer = SearchAnswer {
        query: text,
        collection: &collection.name,
        hits: page.hits.iter().map(AnswerHit::from).collect(),
        next: page.next.map(|next| next.to_string()),
        note: page.note,
        query_cut: is_cut,
        freshness: Freshness { lag_ms: None, applied_lsn: applied(directory)? },
    };
    serde_json::to_value(answer).map_err(|error| Failure::definite("E_OUTPUT", error))
}

/// Returns the applied position of the data directory; `None` if the tables are to be read again.
fn applied(directory: &Path) -> Result<Option<Lsn>, Failure> {
    if !directory.join("state.redb").exists() {
        return Ok(None);
    }
    let checkpoint = Store::open(directory).and_then(|store| store.checkpoint()).map_err(PipelineError::from)?;
    let done = checkpoint.filter(|checkpoint| checkpoint.snapshot == SnapshotState::Done);
    Ok(done.map(|checkpoint| checkpoint.applied))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: SearchArgs,
    }

    fn parsed(line: &[&str]) -> SearchArgs {
        Line::try_parse_from([&["walvec"], line].concat())
            .map(|line| line.args)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_query_needs_no_quotes() {
        let args = parsed(&["battle", "in", "space", "--limit", "3"]);
        assert_eq!((args.text().unwrap().as_str(), args.limit), ("battle in space", 3));
        assert_eq!(parsed(&["--limit", "3", "battle in space"]).text().unwrap(), "battle in space");
        assert_eq!(parsed(&["--", "--limit"]).text().unwrap(), "--limit");
    }

    #[test]
    fn a_query_without_a_word_is_refused() {
        for line in [&[""][..], &["", "  "], &["\t"]] {
            let refused = parsed(line).text().unwrap_err();
            assert_eq!((refused.exit, refused.code()), (2, "E_USAGE"));
        }
        assert!(Line::try_parse_from(["walvec"]).is_err());
        assert!(parsed(&["x".repeat(MAX_QUERY_BYTES + 1).as_str()]).text().is_err());
    }

    #[test]
    fn a_filter_is_understood_as_the_api_understands_it() {
        let of = |text: &str| condition(text).map(|given| given.condition);
        for text in ["year=1898", "author=H.G. Wells", "sold_at<2024-02-01", "author is null"] {
            assert_eq!(of(text), condition_from_text(text).map_err(|problem| problem.to_string()));
        }
        assert!(of("year").is_err());
    }
}
