//! `walvec search`

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use walvec_embed::Embedder;
use walvec_model::Lsn;
use walvec_pipeline::store::SnapshotState;
use walvec_pipeline::{PipelineError, Store};
use walvec_sink::{HitPlace, Query, SearchRequest, page_of_hits};

use super::running::Running;
use super::{ConfigArgs, Failure, hits, output};
use crate::collection::Opened;
use crate::config::{CollectionConfig, Config, Stage};
use crate::cursor::{Cursor, OF_ANOTHER_SEARCH, Ranking};
use crate::http::Fields as _;
use crate::http::filter::{self, Wanted, condition_from_text};
use crate::http::hits::AnswerHit;
use crate::http::problem::Problem;
use crate::http::read;
use crate::http::request::MAX_QUERY_BYTES;
use crate::http::search::Embedded;
use crate::mode::{By, Mode, NO_WORD_COUNTS, Refused};
use crate::{app, remembered};

/// Search a collection by meaning.
///
/// On a terminal each hit is a record: title (the first column that the collection's text prints), score, the part of the text
/// that answers the query, the other fields. Elsewhere it is a line of tab-separated values in the format of PostgreSQL's COPY
/// (\t, \n, \r and \\ in texts, \N for NULL), after a header: score, point, then the fields, first those that the configuration
/// names, then the others by name. There no value is cut.
#[derive(Args)]
pub(crate) struct SearchArgs {
    /// What to look for: all words, with or without quotes.
    #[arg(required = true, value_name = "TEXT")]
    words: Vec<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// The collection; not needed when there is only one.
    #[arg(long)]
    collection: Option<String>,
    /// How many hits at most.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    limit: u64,
    /// Only points that match: FIELD=VALUE, FIELD!=VALUE, FIELD>=END with >, >=, < or <=, or FIELD is null; may be given several
    /// times.
    ///
    /// The value is read as what the field holds. FIELD=["ONE","OTHER"] matches either. END is a number, a date (2024-01-31), or a
    /// date and a time (2024-01-31T18:00:00Z); without a time zone it is UTC, and a date alone is the beginning of its day.
    /// meta.color is a member of the JSON field meta. What can never match is refused with the fields that there are.
    #[arg(long = "filter", value_name = "CONDITION", value_parser = condition)]
    filters: Vec<Given>,
    /// What to compare: the meaning (dense), the words (keyword), or both (hybrid). Default: hybrid, if the collection has it.
    #[arg(long, value_enum, hide_possible_values = true)]
    mode: Option<Mode>,
    /// Only hits with at least this score: the cosine similarity, -1 to 1, or BM25's score in the mode keyword.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    min_score: Option<f32>,
    /// Show each row once, as the nearest of its chunks.
    #[arg(long)]
    group_by_row: bool,
    /// Continue where the previous page ended: the `next` of its JSON. The rest of the command has to be the same.
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
struct Given {
    text: String,
    condition: Wanted,
}

fn condition(text: &str) -> Result<Given, String> {
    let condition = condition_from_text(text).map_err(|problem| problem.to_string())?;
    Ok(Given { text: text.to_owned(), condition })
}

pub(crate) async fn execute(args: SearchArgs) -> Result<ExitCode, Failure> {
    let text = args.text()?;
    let config = args.config.load_to_ask()?;
    let collection = choose(&config, args.collection.as_deref())?;
    let answer = match Running::first(&config, &[Stage::Index, Stage::Sink]).await {
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
    let keywords = app::keywords(collection);
    let refused = |Refused(reason)| Failure::new(2, "E_USAGE", format!("collection \"{}\": {reason}", collection.name));
    let by = Mode::of(args.mode, keywords.as_deref()).map_err(refused)?;
    by.check_score(args.min_score).map_err(refused)?;
    let conditions = args.filters.iter().map(|given| given.condition.clone()).collect();
    let transform = Arc::new(app::transform(collection, Arc::new(str::len))?);
    let remembered = remembered::columns(config).remove(&collection.name);
    let known = app::TableFields { transform, remembered, labels: None }.known();
    let refused = |problem: Problem| Failure::new(2, "E_USAGE", problem.detail());
    let filter =
        filter::checked(conditions).and_then(|conditions| read::filter(&conditions, &known)).map_err(refused)?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let ranking = Ranking {
        collection: &collection.name,
        text,
        mode: by.mode(),
        filter: &filter,
        min_score: args.min_score,
        by_row: args.group_by_row,
        limit,
    };
    let place = match &args.cursor {
        Some(cursor) => cursor.place_in(&ranking).ok_or_else(|| Failure::new(2, "E_USAGE", OF_ANOTHER_SEARCH))?,
        None => HitPlace::default(),
    };
    let _data_dir = app::lock(directory)?;
    let embedder = app::load_embedder(config).await?;
    let fingerprint = app::fingerprint(embedder.as_ref(), collection);
    let found = Opened::find(config, collection, embedder.info().dimension, &fingerprint).await?;
    let opened = found.ok_or_else(|| {
        let what = format!("collection \"{}\" does not exist yet", collection.name);
        Failure::definite("E_SINK", what).with_remedy("walvec run")
    })?;
    let (query, is_cut) = query(embedder.as_ref(), by, text).await?;
    let request = SearchRequest { query, limit, filter: filter.clone(), min_score: args.min_score };
    let note = matches!(&request.query, Query::Keyword(tokens) if tokens.is_empty()).then_some(NO_WORD_COUNTS);
    let page = page_of_hits(&*opened.search(), request, place, args.group_by_row).await;
    let page = page.map_err(|error| Failure::definite("E_SINK", error))?;
    opened.close().await.map_err(|error| Failure::definite("E_SINK", error))?;
    let next = page.next.map(|next| Cursor::new(&ranking, next).to_string());
    let hits: Vec<AnswerHit> = page.hits.iter().map(AnswerHit::from).collect();
    let freshness = json!({"lag_ms": null, "applied_lsn": applied(directory)?});
    let mut answer = json!({
        "query": text, "collection": collection.name, "hits": hits, "next": next, "query_cut": is_cut, "freshness": freshness,
    });
    if let (Some(note), Some(members)) = (note, answer.as_object_mut()) {
        members.insert("note".to_owned(), note.into());
    }
    Ok(answer)
}

/// Embeds the query; also returns whether the model has read only the beginning of it.
async fn query(embedder: &dyn Embedder, by: By<'_>, text: &str) -> Result<(Query, bool), Failure> {
    let dense = async || {
        let embedded = Embedded::of(embedder, text.to_owned()).await;
        embedded.map_err(|error| Failure::from(PipelineError::Embed(error)))
    };
    Ok(match by {
        By::Dense => {
            let Embedded { vector, is_cut } = dense().await?;
            (Query::Dense(vector), is_cut)
        }
        By::Keyword(keywords) => (Query::Keyword(keywords.query(text)), false),
        By::Hybrid(keywords) => {
            let Embedded { vector, is_cut } = dense().await?;
            (Query::Hybrid(vector, keywords.query(text)), is_cut)
        }
    })
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
