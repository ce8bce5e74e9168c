//! BERT-style models in ONNX form, run in this process.
//!
//! - `settings`: what the model's configuration files decide
//! - `tokens`: text to token ids
//! - `network`: token ids to the numbers that the network puts out
//! - `pooling`: those numbers to one vector per text
//! - `batch`: which texts run together
//!
//! Texts of similar length run together. That is faster than running them one by one (the matrices are larger) and faster than running all
//! at once (nothing is computed for padding). Which texts share a run changes a vector by rounding only. In a network with dynamically
//! quantised activations it would change more than that (MiniLM quantised in this way, 20 texts together: cosine 0.96 to 0.997 with the
//! same texts alone), so the texts of such a network run alone.

mod batch;
mod network;
mod pooling;
mod settings;
mod tokens;

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use rten::ThreadPool;
use rten_tensor::prelude::*;
use walvec_model::Vector;

use self::{
    network::{Network, Threads},
    pooling::Pooling,
    settings::ModelSettings,
    tokens::{TextTokenizer, Tokens},
};
use crate::{
    BoxFuture, EmbedError, Embedder, EmbedderInfo, Reads,
    local::{caught, own_name, unit},
    model_dir,
};

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct OnnxOptions {
    /// The name that users know the model by; by default the directory's own.
    pub name: Option<String>,
}

/// An ONNX model with its tokenizer. It is cheap to share: one instance serves all callers.
pub struct OnnxEmbedder {
    info: EmbedderInfo,
    engine: Arc<OnnxEngine>,
}

/// Counts of what the network has computed: they show how well texts were grouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    /// Tokens of texts, special tokens included.
    pub tokens: u64,
    /// Padding tokens, which only fill up shorter texts.
    pub padding: u64,
}

/// The part that runs on the blocking threads.
struct OnnxEngine {
    network: Network,
    tokenizer: TextTokenizer,
    pooling: Pooling,
    padding: u32,
    /// One thread for each core. Concurrent runs, each on one thread, get a sixth more done than one run after the other on all threads.
    cores: Vec<Threads>,
    /// A pool with as many threads as there are usable cores, for a call that runs alone. The runtime's default is one thread per physical
    /// core: too few where two usable cores share a physical one, too many where a container may use only some.
    all_cores: Threads,
    /// How many calls are being computed.
    calls: AtomicUsize,
    tokens: AtomicU64,
    padding_tokens: AtomicU64,
}

impl OnnxEmbedder {
    /// Loads the model in `dir` (see [`model_dir`]) and embeds a word to see that it works. Blocks for a fraction of a second. Keeps the
    /// weights twice in memory: one copy is arranged for speed.
    ///
    /// # Errors
    /// [`EmbedError::Model`] for a directory that is incomplete or a model that cannot be run here, [`EmbedError::Io`].
    pub fn load(dir: &Path, options: OnnxOptions) -> Result<Self, EmbedError> {
        let bad = |reason: String| EmbedError::Model { path: dir.to_owned(), reason };
        let settings = ModelSettings::read(dir)?;
        let tokenizer_file = dir.join(model_dir::TOKENIZER_FILE);
        let tokenizer = TextTokenizer::load(&tokenizer_file, settings.max_tokens, settings.lowercase)?;
        let padding = tokenizer.padding_id();
        let mut digest = blake3::Hasher::new();
        let network = Network::load(&model_dir::onnx_file(dir)?, &mut digest)?;

        let word = tokenizer.tokens("walvec")?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let all_cores = Arc::new(ThreadPool::with_num_threads(cores));
        let output = network.run(&[&word], padding, &all_cores).map_err(bad)?;
        let pooling = if output.ndim() == 2 { Pooling::InNetwork } else { settings.pooling.map_err(bad)? };
        let vector = pooling.pool(&output, &[&word]).map_err(bad)?.into_iter().next().ok_or("it puts out nothing");
        let dimension = unit(vector.map_err(|reason| bad(reason.to_owned()))?).map_err(bad)?.len();
        let cores = (0..cores).map(|_| Arc::new(ThreadPool::with_num_threads(1))).collect();
        let (calls, tokens, padding_tokens) = Default::default();
        let engine =
            OnnxEngine { network, tokenizer, pooling, padding, cores, all_cores, calls, tokens, padding_tokens };

        let source = std::fs::read(&tokenizer_file);
        digest.update(&source.map_err(EmbedError::io(tokenizer_file))?);
        digest.update(format!("{} {} {}", pooling.name(), settings.max_tokens, settings.lowercase).as_bytes());
        let info = EmbedderInfo {
            model: options.name.unwrap_or_else(|| own_name(dir)),
            revision: digest.finalize().to_hex()[..32].to_owned(),
            dimension,
            max_tokens: settings.max_tokens,
            pooling: pooling.name().to_owned(),
        };
        tracing::info!(
            model = info.model,
            dimension,
            max_tokens = info.max_tokens,
            pooling = info.pooling,
            one_by_one = engine.network.couples_texts(),
            "model loaded"
        );
        Ok(Self { info, engine: Arc::new(engine) })
    }

    /// Returns the counts since the model was loaded.
    #[must_use]
    pub fn computed(&self) -> NetworkCounts {
        NetworkCounts {
            tokens: self.engine.tokens.load(Ordering::Relaxed),
            padding: self.engine.padding_tokens.load(Ordering::Relaxed),
        }
    }
}

impl Embedder for OnnxEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.engine.tokenizer.count(text)
    }

    fn reads(&self) -> Option<Reads> {
        Some(Reads::Tokens(self.info.max_tokens))
    }

    fn is_too_long(&self, text: &str) -> bool {
        // A text that cannot be tokenized is not too long; it is parked for that reason.
        self.engine.tokenizer.tokens(text).is_ok_and(|tokens| tokens.is_cut)
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        Box::pin(self.run(texts, Caller::Rows, None))
    }

    fn embed_query(&self, text: String) -> BoxFuture<'_, Result<Vector, EmbedError>> {
        Box::pin(async move { crate::only(self.run(vec![text], Caller::Person, None).await?) })
    }

    fn embed_whole(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        Box::pin(self.run(texts, Caller::Rows, self.reads()))
    }

    fn embed_query_whole(&self, text: String) -> BoxFuture<'_, Result<Vector, EmbedError>> {
        Box::pin(async move { crate::only(self.run(vec![text], Caller::Person, self.reads()).await?) })
    }

    fn is_local(&self) -> bool {
        true
    }
}

impl OnnxEmbedder {
    /// Embeds `texts`. `whole` is how much the model reads, if a text of which it reads less than all shall be refused.
    async fn run(
        &self,
        texts: Vec<String>,
        caller: Caller,
        whole: Option<Reads>,
    ) -> Result<Vec<Result<Vector, EmbedError>>, EmbedError> {
        let engine = Arc::clone(&self.engine);
        let work = tokio::task::spawn_blocking(move || engine.embed(&texts, caller, whole));
        work.await.map_err(|error| EmbedError::Failed(format!("the model's thread ended: {error}")))
    }
}

/// Who waits for the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// Rows: more of them may come at any time.
    Rows,
    /// A person who searches.
    Person,
}

/// A call that is being computed.
struct Call<'e> {
    calls: &'e AtomicUsize,
    /// How many other calls there were when it began.
    others: usize,
}

impl<'e> Call<'e> {
    fn begin(calls: &'e AtomicUsize) -> Self {
        Self { calls, others: calls.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl OnnxEngine {
    /// Returns one result per text, in order.
    fn embed(&self, texts: &[String], caller: Caller, whole: Option<Reads>) -> Vec<Result<Vector, EmbedError>> {
        let mut results = Vec::with_capacity(texts.len());
        let mut ready = Vec::with_capacity(texts.len());
        for (at, tokens) in self.tokenize(texts).into_iter().enumerate() {
            let tokens = match tokens {
                Ok(tokens) if tokens.is_cut && whole.is_some() => {
                    Err(EmbedError::TooLong { bytes: texts[at].len(), reads: whole })
                }
                tokens => tokens,
            };
            // An empty vector is the placeholder until the text has run.
            results.push(tokens.map(|tokens| {
                ready.push((at, tokens));
                Vector::new()
            }));
        }
        ready.sort_by_key(|(_, tokens)| tokens.ids.len());
        let lengths: Vec<_> = ready.iter().map(|(_, tokens)| tokens.ids.len()).collect();
        let runs = batch::runs(&lengths, self.network.couples_texts());
        for (run, vectors) in self.run_all(runs, &ready, caller) {
            for ((at, _), vector) in ready[run].iter().zip(vectors) {
                results[*at] = vector.map_err(|reason| EmbedError::Text { bytes: texts[*at].len(), reason });
            }
        }
        results
    }

    /// Tokenizes all texts, in order, on all cores.
    fn tokenize(&self, texts: &[String]) -> Vec<Result<Tokens, EmbedError>> {
        let tokens = |text: &String| {
            let tokens = caught(|| self.tokenizer.tokens(text));
            tokens.unwrap_or_else(|reason| Err(EmbedError::Text { bytes: text.len(), reason }))
        };
        let share = texts.len().div_ceil(self.cores.len()).max(1);
        let mut shares = texts.chunks(share);
        let first = shares.next().unwrap_or_default();
        std::thread::scope(|scope| {
            let others: Vec<_> = shares
                .map(|share| (share, scope.spawn(move || share.iter().map(tokens).collect::<Vec<_>>())))
                .collect();
            let mut all: Vec<_> = first.iter().map(tokens).collect();
            for (share, other) in others {
                // Panics are caught for each text. If a thread ends nevertheless, its texts are tokenized once more here.
                all.extend(other.join().unwrap_or_else(|_| share.iter().map(tokens).collect()));
            }
            all
        })
    }

    /// Computes the vectors of all runs. Where many texts wait, each run has one core, because that gets the most done. Queries, and a few
    /// runs with no other call in flight, use all cores for one run after the other, because that takes the least time.
    fn run_all(
        &self,
        runs: Vec<Range<usize>>,
        texts: &[(usize, Tokens)],
        caller: Caller,
    ) -> Vec<(Range<usize>, RunVectors)> {
        let call = Call::begin(&self.calls);
        let vectors = |run: &Range<usize>, threads| {
            let tokens: Vec<_> = texts[run.clone()].iter().map(|(_, tokens)| tokens).collect();
            self.vectors(&tokens, threads)
        };
        let is_urgent = caller == Caller::Person || call.others == 0;
        // Each further core speeds a run up by less.
        if runs.len() <= 1 || (is_urgent && runs.len() * 2 <= self.cores.len()) {
            let core = self.cores.get(call.others % self.cores.len()).filter(|_| !is_urgent);
            let threads = core.unwrap_or(&self.all_cores);
            return runs.into_iter().map(|run| (run.clone(), vectors(&run, threads))).collect();
        }
        let done = Mutex::new(Vec::with_capacity(runs.len()));
        let cores = self.cores.iter().take(runs.len());
        // The runs come sorted by length. Taking the long ones first lets all cores end at about the same time.
        let rest = Mutex::new(runs);
        let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).pop();
        std::thread::scope(|scope| {
            for core in cores {
                scope.spawn(|| {
                    while let Some(run) = next() {
                        let vectors = vectors(&run, core);
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((run, vectors));
                    }
                });
            }
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns one vector per text of a run. When the run fails, each text is tried alone, because one of them may be to blame.
    fn vectors(&self, texts: &[&Tokens], threads: &Threads) -> RunVectors {
        let run = || self.pooling.pool(&self.network.run(texts, self.padding, threads)?, texts);
        match caught(run).flatten() {
            Ok(vectors) => {
                self.count(texts);
                vectors.into_iter().map(unit).collect()
            }
            Err(reason) if texts.len() == 1 => vec![Err(reason)],
            Err(_) => texts.iter().flat_map(|text| self.vectors(&[text], threads)).collect(),
        }
    }

    /// Counts a run of `texts`.
    fn count(&self, texts: &[&Tokens]) {
        let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        self.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        self.padding_tokens.fetch_add((texts.len() * longest - tokens) as u64, Ordering::Relaxed);
    }
}

/// A vector for each text of a run, or what is wrong with it.
type RunVectors = Vec<Result<Vector, String>>;
