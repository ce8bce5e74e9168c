//! `walvec search`

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};
use walvec_sink::{Condition, Filter, Search as _, SearchRequest};

use super::running::Running;
use super::{ConfigArgs, Failure, output};
use crate::app;
use crate::config::{CollectionConfig, Config};

#[derive(Args)]
pub(crate) struct SearchArgs {
    /// What to look for.
    text: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// The collection; not needed when there is only one.
    #[arg(long)]
    collection: Option<String>,
    /// How many hits at most.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    limit: u64,
    /// Only points whose payload field has this value; may be given several times.
    #[arg(long = "filter", value_name = "FIELD=VALUE", value_parser = condition)]
    filters: Vec<(String, Value)>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// `field=value`; a value that reads as a whole number or a boolean is one.
fn condition(text: &str) -> Result<(String, Value), String> {
    let (field, value) = text.split_once('=').ok_or("expected FIELD=VALUE, for example author=\"H.G. Wells\"")?;
    let value = match serde_json::from_str::<Value>(value) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => Value::String(value.to_owned()),
    };
    Ok((field.to_owned(), value))
}

pub(crate) async fn execute(args: SearchArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load()?;
    let collection = choose(&config, args.collection.as_deref())?;
    let directory = &config.sink.embedded.path;
    let answer = match Running::find(directory, config.server.token.clone()).await {
        Some(running) => {
            let filter: Map<String, Value> = args.filters.iter().cloned().collect();
            let body =
                json!({"query": args.text, "collection": collection.name, "limit": args.limit, "filter": filter});
            running.post("/api/v1/search", &body).await?
        }
        None => search_here(&config, collection, &args).await?,
    };
    if args.json {
        return output::json(&answer);
    }
    output::line(&output::hits(answer.get("hits").and_then(Value::as_array).map_or(&[], Vec::as_slice)))
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

/// Nothing runs on the data directory: opens it and searches.
async fn search_here(config: &Config, collection: &CollectionConfig, args: &SearchArgs) -> Result<Value, Failure> {
    let directory = &config.sink.embedded.path;
    if !directory.exists() {
        return Err(Failure::definite(
            "E_SINK",
            format!("{} does not exist: nothing was synced yet", directory.display()),
        )
        .with_remedy("walvec run"));
    }
    let _data_dir = app::lock(directory)?;
    let embedder = app::load_embedder(config).await?;
    let fingerprint = app::fingerprint(embedder.as_ref(), &app::transform(collection)?);
    let shard = app::open_shard(directory, collection, embedder.as_ref(), &fingerprint)?;
    let embedded = |error| Failure::from(walvec_pipeline::PipelineError::Embed(error));
    let mut vectors = embedder.embed(vec![args.text.clone()]).await.map_err(embedded)?;
    let Some(vector) = vectors.pop() else {
        return Err(Failure::definite("E_EMBED", "the model gave no vector for the query"));
    };
    let conditions =
        args.filters.iter().map(|(field, value)| Condition::Equals { field: field.clone(), value: value.clone() });
    let request = SearchRequest {
        vector: vector.map_err(embedded)?,
        limit: usize::try_from(args.limit).unwrap_or(usize::MAX),
        filter: Filter(conditions.collect()),
    };
    let hits = shard.search(request).await.map_err(|error| Failure::definite("E_SINK", error))?;
    shard.close().await.map_err(|error| Failure::definite("E_SINK", error))?;
    let hits: Vec<Value> =
        hits.into_iter().map(|hit| json!({"id": hit.id, "score": hit.score, "payload": hit.payload})).collect();
    Ok(json!({"query": args.text, "collection": collection.name, "hits": hits, "freshness": null}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_value_that_reads_as_a_number_or_a_boolean_is_one() {
        assert_eq!(condition("year=1898"), Ok(("year".to_owned(), json!(1898))));
        assert_eq!(condition("sold=true"), Ok(("sold".to_owned(), json!(true))));
        assert_eq!(condition("author=H.G. Wells"), Ok(("author".to_owned(), json!("H.G. Wells"))));
        assert_eq!(condition("formula=a=b"), Ok(("formula".to_owned(), json!("a=b"))));
        assert!(condition("year").is_err());
    }
}
