//! Texts and tokens per second.

use std::time::Instant;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::Plan;
use crate::report::median;

/// The model that the demo uses.
pub(crate) const MODEL: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// Rates, medians.
pub(crate) struct Embedding {
    pub(crate) texts: usize,
    pub(crate) tokens: usize,
    pub(crate) texts_per_second: f64,
    pub(crate) tokens_per_second: f64,
}

#[derive(Deserialize)]
struct Book {
    name: String,
    author: String,
    description: String,
}

/// `count` texts as the demo embeds them.
pub(crate) fn texts(count: usize) -> anyhow::Result<Vec<String>> {
    Ok(catalogue()?.into_iter().cycle().take(count).collect())
}

/// The books of the demo, as it embeds them.
pub(crate) fn catalogue() -> anyhow::Result<Vec<String>> {
    let catalogue: Vec<Book> = serde_json::from_str(include_str!("../../crates/walvec/src/demo/catalogue.json"))?;
    let text = |book: &Book| format!("{} by {}. {}", book.name, book.author, book.description);
    Ok(catalogue.iter().map(text).collect())
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
pub(crate) async fn measure(plan: &Plan) -> anyhow::Result<Embedding> {
    let models = plan.models()?;
    let embedder = walvec_embed::load(MODEL, &models)?;
    let texts = texts(240)?;
    let tokenizer = Tokenizer::from_file(models.join(MODEL).join("tokenizer.json")).map_err(|error| anyhow!(error))?;
    let mut tokens = 0;
    for text in &texts {
        let encoding = tokenizer.encode(text.as_str(), true).map_err(|error| anyhow!(error))?;
        tokens += encoding.get_attention_mask().iter().filter(|&&bit| bit == 1).count();
    }
    embedder.embed(texts[..16].to_vec()).await?;
    let mut seconds = Vec::new();
    for _ in 0..plan.rounds {
        let began = Instant::now();
        let vectors = embedder.embed(texts.clone()).await?;
        seconds.push(began.elapsed().as_secs_f64());
        vectors.into_iter().collect::<Result<Vec<_>, _>>().context("a text was refused")?;
    }
    let seconds = median(seconds);
    Ok(Embedding {
        texts: texts.len(),
        tokens,
        texts_per_second: texts.len() as f64 / seconds,
        tokens_per_second: tokens as f64 / seconds,
    })
}
