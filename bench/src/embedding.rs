//! Tokens per second of the model in this process against ONNX Runtime on the same model, texts and cores.
//!
//! - [`corpus`]: the texts
//! - this file: the two programs that embed them, in turns

mod corpus;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, stream};
use serde::Deserialize;
use walvec_embed::Embedder as _;
use walvec_embed::onnx::{OnnxEmbedder, OnnxOptions};
use walvec_model::Vector;

use crate::Plan;
use crate::stats::median;

pub(crate) use corpus::{catalogue, texts};

/// The model that the demo uses.
pub(crate) const MODEL: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// The lowest cosine similarity that vectors of the same text may have.
const SAME: f32 = 0.999;

/// One model's rates and ratios, medians over rounds.
struct Embedding {
    /// How the weights are stored.
    weights: &'static str,
    texts: usize,
    tokens: u64,
    walvec: Rate,
    walvec_sorted: Rate,
    onnx_runtime: Rate,
    onnx_runtime_sorted: Rate,
    /// The ratio of walvec's rate to that of ONNX Runtime, both with texts in their original order.
    ratio: f64,
    /// The ratio of walvec's rate to that of ONNX Runtime, both with sorted texts.
    ratio_sorted: f64,
}

/// The results of one program with one order of texts.
#[derive(Default)]
struct Rate {
    tokens_per_second: f64,
    /// The share of the computed tokens that only pad shorter texts.
    padding: f64,
}

/// One pass over all texts.
#[derive(Deserialize)]
struct Pass {
    seconds: f64,
    tokens: u64,
    padding: u64,
    /// The vectors of the first texts, for the comparison.
    first: Vec<Vector>,
}

/// The output of the Python program.
#[derive(Deserialize)]
struct ByOnnxRuntime {
    arrival: Pass,
    sorted: Pass,
}

/// Measures the model with its int8 weights, and with the same weights in f32.
pub(crate) async fn measure(plan: &Plan) -> anyhow::Result<String> {
    let python = plan.python()?;
    let int8 = plan.models()?.join(MODEL);
    let directory = tempfile::tempdir()?;
    let float = directory.path().join("f32");
    fold(&int8, &float, python).await?;
    let mut measured = Vec::new();
    for (weights, model) in [("int8", int8), ("f32", float)] {
        eprintln!("    {weights} weights, {} texts", plan.texts);
        measured.push(model_of(plan, python, weights, &model, directory.path()).await?);
    }
    Ok(section(&measured)?)
}

async fn model_of(
    plan: &Plan,
    python: &Path,
    weights: &'static str,
    model: &Path,
    scratch: &Path,
) -> anyhow::Result<Embedding> {
    let embedder = OnnxEmbedder::load(model, OnnxOptions::default())?;
    let texts = corpus::spread(plan.texts, |text| embedder.count_tokens(text))?;
    let mut sorted = texts.clone();
    sorted.sort_by_key(|text| embedder.count_tokens(text));
    let file = scratch.join("texts.json");
    std::fs::write(&file, serde_json::to_vec(&texts)?)?;
    pass(&embedder, &texts[..texts.len().min(64)]).await?;
    let (mut ours, mut ours_sorted, mut theirs, mut theirs_sorted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        ours.push(pass(&embedder, &texts).await?);
        let ByOnnxRuntime { arrival, sorted: by_length } =
            by_onnx_runtime(python, model, &file, embedder.info().max_tokens).await?;
        compare(&ours[ours.len() - 1].first, &arrival.first)?;
        theirs.push(arrival);
        theirs_sorted.push(by_length);
        ours_sorted.push(pass(&embedder, &sorted).await?);
    }
    let ratio = |ours: &[Pass], theirs: &[Pass]| {
        median(ours.iter().zip(theirs).map(|(ours, theirs)| theirs.seconds / ours.seconds).collect())
    };
    Ok(Embedding {
        weights,
        texts: texts.len(),
        tokens: theirs.first().map_or(0, |pass| pass.tokens),
        ratio: ratio(&ours, &theirs),
        ratio_sorted: ratio(&ours_sorted, &theirs_sorted),
        walvec: rate(&ours),
        walvec_sorted: rate(&ours_sorted),
        onnx_runtime: rate(&theirs),
        onnx_runtime_sorted: rate(&theirs_sorted),
    })
}

#[expect(clippy::cast_precision_loss, reason = "rates and shares")]
fn rate(passes: &[Pass]) -> Rate {
    let Some(first) = passes.first() else { return Rate::default() };
    Rate {
        tokens_per_second: first.tokens as f64 / median(passes.iter().map(|pass| pass.seconds).collect()),
        padding: first.padding as f64 / (first.tokens + first.padding) as f64,
    }
}

/// Embeds all texts as the pipeline does, with the same number of texts per call and of calls in flight.
async fn pass(embedder: &OnnxEmbedder, texts: &[String]) -> anyhow::Result<Pass> {
    let before = embedder.computed();
    let mut first = Vec::new();
    let began = Instant::now();
    let calls = texts.chunks(embedder.texts_per_call()).map(|part| embedder.embed(part.to_vec()));
    let mut answers = stream::iter(calls).buffered(embedder.calls_at_once());
    while let Some(vectors) = answers.next().await {
        for vector in vectors? {
            let vector = vector?;
            if first.len() < 8 {
                first.push(vector);
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let after = embedder.computed();
    Ok(Pass { seconds, tokens: after.tokens - before.tokens, padding: after.padding - before.padding, first })
}

async fn by_onnx_runtime(
    python: &Path,
    model: &Path,
    texts: &Path,
    max_tokens: usize,
) -> anyhow::Result<ByOnnxRuntime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (max_tokens, cores) = (max_tokens.to_string(), cores.to_string());
    let arguments = [model.as_os_str(), texts.as_os_str(), max_tokens.as_ref(), cores.as_ref()];
    Ok(serde_json::from_slice(&program(python, "embed_texts.py", &arguments).await?)?)
}

/// Writes `model` to `target` with its weights in f32.
async fn fold(model: &Path, target: &Path, python: &Path) -> anyhow::Result<()> {
    for file in ["tokenizer.json", "config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"]
    {
        let to = target.join(file);
        std::fs::create_dir_all(to.parent().context("a file lies in a directory")?)?;
        std::fs::copy(model.join(file), to)
            .with_context(|| format!("{file} of the model; `make model` installs it"))?;
    }
    let (from, to) = (model.join("model.onnx"), target.join("model.onnx"));
    program(python, "fold_weights.py", &[from.as_os_str(), to.as_os_str()]).await.map(drop)
}

/// Runs one of the programs in `python/`, and returns what it prints.
async fn program(python: &Path, name: &str, arguments: &[&std::ffi::OsStr]) -> anyhow::Result<Vec<u8>> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
    let output = tokio::process::Command::new(python)
        .arg(script)
        .args(arguments)
        .stderr(std::process::Stdio::inherit())
        .output()
        .await?;
    ensure!(output.status.success(), "{name}: {}", output.status);
    Ok(output.stdout)
}

/// Checks that both programs compute the same vectors: otherwise their rates could not be compared.
fn compare(ours: &[Vector], theirs: &[Vector]) -> anyhow::Result<()> {
    for (ours, theirs) in ours.iter().zip(theirs) {
        let cosine: f32 = ours.iter().zip(theirs).map(|(a, b)| a * b).sum();
        ensure!(cosine > SAME, "walvec and ONNX Runtime disagree: cosine {cosine}");
    }
    Ok(())
}

/// Returns the section for BENCHMARKS.md.
fn section(embedding: &[Embedding]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let (texts, tokens) = embedding.first().map_or((0, 0), |first| (first.texts, first.tokens));
    writeln!(
        text,
        "## Embedding\n\nall-MiniLM-L6-v2, {texts} texts of 5 to 300 tokens, of which it reads 256: {tokens} tokens in all. From the text to \
         the vector,\nagainst the ONNX Runtime package for Python with batches of 32 and as many threads as there are cores. Sorted: by length. \
         walvec\nsorts the texts of each call by itself.\n\n\
         | weights | order | | tokens/s | padding | ratio | target |\n|---|---|---|---|---|---|---|"
    )?;
    for Embedding { weights, walvec, walvec_sorted, onnx_runtime, onnx_runtime_sorted, ratio, ratio_sorted, .. } in
        embedding
    {
        for (order, who, rate, compared) in [
            ("as they come", "ONNX Runtime", onnx_runtime, None),
            ("as they come", "walvec", walvec, Some((ratio, "≥ 1.25"))),
            ("sorted", "ONNX Runtime", onnx_runtime_sorted, None),
            ("sorted", "walvec", walvec_sorted, Some((ratio_sorted, "≥ 1.0"))),
        ] {
            let (ratio, target) =
                compared.map_or((String::new(), ""), |(ratio, target)| (format!("{ratio:.2}"), target));
            let (speed, padding) = (rate.tokens_per_second, rate.padding * 100.0);
            writeln!(text, "| {weights} | {order} | {who} | {speed:.0} | {padding:.1} % | {ratio} | {target} |")?;
        }
    }
    writeln!(text)?;
    Ok(text)
}
