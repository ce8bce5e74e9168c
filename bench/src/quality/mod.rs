//! Measures how good searches are: stores a judged set, searches for each of its queries, and scores the ranks.
//!
//! - [`set`]: documents, queries and judgements, from files in the forms that TREC and BEIR use
//! - [`metrics`]: nDCG@10, recall@10 and MRR

mod metrics;
mod set;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use walvec_embed::Embedder;
use walvec_model::{Fingerprint, Generation, InputHash, MadeWith, Point, PointId, Position, Provenance};
use walvec_sink::embedded::Embedded;
use walvec_sink::keywords::{DEFAULT_LANGUAGE, describe};
use walvec_sink::{CollectionSpec, Filter, Keywords, Query, Search as _, SearchRequest, Sink as _, Write};

use self::metrics::Scores;
use self::set::JudgedSet;
use crate::embedding::MODEL;

/// How many hits are scored; MRR does not see relevant documents after them.
const DEPTH: usize = 100;
/// Documents that are embedded and written together.
const BATCH: usize = 256;

/// Measure how good searches are on a judged set.
#[derive(clap::Args, Clone)]
pub(crate) struct Arguments {
    /// A directory with the documents, the queries and the judgements. Default: questions about the sample catalogue.
    ///
    /// Documents: documents.tsv (id, tab, text), documents.jsonl or corpus.jsonl (_id, title, text), or documents.trec (DOC,
    /// DOCNO, TEXT). Queries: queries.tsv, queries.jsonl (_id, text), or topics.trec (top, num, title). Judgements: qrels.txt
    /// or qrels.tsv (query, iteration, document, grade; or without the iteration, under a header).
    #[arg(long)]
    set: Option<PathBuf>,
    /// The model.
    #[arg(long, default_value = MODEL)]
    model: String,
    /// The language of the texts, for searches by keyword.
    #[arg(long, default_value = DEFAULT_LANGUAGE)]
    language: String,
    /// The directory of the models.
    #[arg(long, env = "WALVEC_MODELS")]
    models: Option<PathBuf>,
}

/// Measures and prints.
pub(crate) async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let set = match &arguments.set {
        Some(directory) => JudgedSet::read(directory)?,
        None => set::catalogue()?,
    };
    let models = crate::models(arguments.models.as_ref())?;
    let embedder = walvec_embed::load(&arguments.model, &models)?;
    eprintln!("==> {}: {} documents, {} queries", set.name, set.documents.len(), set.queries.len());
    let directory = tempfile::tempdir()?;
    let keywords = Keywords::new(&arguments.language).map_err(|_| anyhow::anyhow!("no such language"))?;
    let collection = store(&set, embedder.as_ref(), &keywords, directory.path()).await?;
    let mut runs = [Vec::new(), Vec::new(), Vec::new()];
    for (query, text) in &set.queries {
        let (vector, words) = (embedder.embed_query(text.clone()).await?, keywords.query(text));
        let modes =
            [Query::Dense(vector.clone()), Query::Keyword(words.clone()), Query::Hybrid(vector.clone(), words.clone())];
        for (mode, run) in modes.into_iter().zip(&mut runs) {
            run.push((query.clone(), search(&collection, mode).await?));
        }
    }
    collection.close().await?;
    println!("| {} | nDCG@10 | recall@10 | MRR | queries |\n|---|---|---|---|---|", set.name);
    let names = [format!("dense, {}", arguments.model), describe(&arguments.language), "hybrid of both".to_owned()];
    for (name, run) in names.iter().zip(&runs) {
        let scores = Scores::of(&set.judgements, run).context("no query is judged")?;
        println!("| {name} | {scores} |");
    }
    Ok(())
}

/// Returns the documents that a query finds, best first.
async fn search(collection: &Embedded, query: Query) -> anyhow::Result<Vec<String>> {
    let request = SearchRequest { query, limit: DEPTH, filter: Filter::default(), min_score: None };
    let hits = collection.search(request).await?;
    Ok(hits.iter().filter_map(|hit| Some(hit.payload.get("id")?.as_str()?.to_owned())).collect())
}

/// Embeds and stores every document.
async fn store(
    set: &JudgedSet,
    embedder: &dyn Embedder,
    keywords: &Keywords,
    directory: &Path,
) -> anyhow::Result<Embedded> {
    let fingerprint = Fingerprint::of(&[&embedder.info().revision]);
    let spec = CollectionSpec {
        name: "judged".to_owned(),
        dimension: embedder.info().dimension,
        fingerprint: fingerprint.clone(),
        made_with: MadeWith::default(),
        indexes: Vec::new(),
        vector: None,
        keywords: Some("bm25".to_owned()),
        nesting: None,
    };
    let collection = Embedded::open(directory, spec)?;
    collection.prepare().await?;
    let mut number = 0;
    for batch in set.documents.chunks(BATCH) {
        let texts = batch.iter().map(|(_, text)| text.clone()).collect();
        let vectors = embedder.embed(texts).await?;
        let mut points = Vec::with_capacity(batch.len());
        for ((id, text), vector) in batch.iter().zip(vectors) {
            let vector = vector.with_context(|| format!("document {id}"))?;
            let provenance = Provenance {
                position: Position::default(),
                table: "judged.documents".to_owned(),
                key: vec![id.as_str().into()],
                input_hash: InputHash::of(text),
                fingerprint: fingerprint.clone(),
                generation: Generation(1),
                chunk: 0,
                chunks: 1,
            };
            let payload = [("id".to_owned(), id.as_str().into())].into_iter().collect();
            let keywords = Some(keywords.document(text));
            points.push(Write::Upsert(Point { id: PointId::Num(number), vector, keywords, payload, provenance }));
            number += 1;
        }
        collection.write(&points).await?;
    }
    collection.optimize().await?;
    Ok(collection)
}
