//! BERT-style models in ONNX form, run in this process.
//!
//! - `settings`: what the model's configuration files decide
//! - `tokens`: text to token ids
//! - `network`: token ids to the numbers that the network puts out
//! - `pooling`: those numbers to one vector per text
//! - `batch`: which texts run together
//!
//! Texts of similar length run together, because that is faster than one by one (the matrices are larger) and faster
//! than all at once (nothing is computed for padding). Which texts share a run changes a vector by rounding only. In a
//! network with dynamically quantised activations it would change more than that (MiniLM so quantised, 20 texts
//! together: cosine 0.96 to 0.997 with the same texts alone), so its texts run alone.

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
        atomic::{AtomicU64, Ordering},
    },
};

use rten::ThreadPool;
use rten_tensor::prelude::*;
use walvec_model::Vector;

use self::{
    network::{Network, Threads},
    pooling::Pooling,
    settings::Settings,
    tokens::{TextTokenizer, Tokens},
};
use crate::{
    BoxFuture, EmbedError, Embedder, EmbedderInfo,
    local::{caught, own_name, unit},
    model_dir,
};

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct OnnxOptions {
    /// The name people know the model by; by default the directory's own.
    pub name: Option<String>,
}

/// An ONNX model with its tokenizer. Cheap to share, one instance serves all callers.
pub struct OnnxEmbedder {
    info: EmbedderInfo,
    engine: Arc<Engine>,
}

/// What networks have been run on: how well texts were put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Computed {
    /// Tokens of texts, special tokens included.
    pub tokens: u64,
    /// Tokens that only filled up shorter texts.
    pub padding: u64,
}

/// What runs on the blocking threads.
struct Engine {
    network: Network,
    tokenizer: TextTokenizer,
    pooling: Pooling,
    padding: u32,
    /// One thread for each core. Runs beside each other, each on one thread, get a sixth more done than one run after the
    /// other on all of them.
    cores: Vec<Threads>,
    tokens: AtomicU64,
    padding_tokens: AtomicU64,
}

impl OnnxEmbedder {
    /// Loads the model in `dir` (see [`model_dir`]) and embeds a word to see that it works. Takes a fraction of a second
    /// and blocks; keeps the weights twice in memory, once arranged for speed.
    ///
    /// # Errors
    /// [`EmbedError::Model`] for a directory that is incomplete or a model that cannot be run here, [`EmbedError::Io`].
    pub fn load(dir: &Path, options: OnnxOptions) -> Result<Self, EmbedError> {
        let bad = |reason: String| EmbedError::Model { path: dir.to_owned(), reason };
        let settings = Settings::read(dir)?;
        let tokenizer_file = dir.join(model_dir::TOKENIZER_FILE);
        let tokenizer = TextTokenizer::load(&tokenizer_file, settings.max_tokens, settings.lowercase)?;
        let padding = tokenizer.padding_id();
        let mut digest = blake3::Hasher::new();
        let network = Network::load(&model_dir::onnx_file(dir)?, &mut digest)?;

        let word = tokenizer.tokens("walvec")?;
        let output = network.run(&[&word], padding, None).map_err(bad)?;
        let pooling = if output.ndim() == 2 { Pooling::InNetwork } else { settings.pooling.map_err(bad)? };
        let vector = pooling.pool(&output, &[&word]).map_err(bad)?.into_iter().next().ok_or("it puts out nothing");
        let dimension = unit(vector.map_err(|reason| bad(reason.to_owned()))?).map_err(bad)?.len();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cores = (0..cores).map(|_| Arc::new(ThreadPool::with_num_threads(1))).collect();
        let (tokens, padding_tokens) = (AtomicU64::new(0), AtomicU64::new(0));
        let engine = Engine { network, tokenizer, pooling, padding, cores, tokens, padding_tokens };

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

    /// What has been computed since the model was loaded.
    #[must_use]
    pub fn computed(&self) -> Computed {
        Computed {
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

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        let engine = Arc::clone(&self.engine);
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || engine.embed(&texts));
            work.await.map_err(|error| EmbedError::Failed(format!("the model's thread ended: {error}")))
        })
    }
}

impl Engine {
    /// One result per text, in order.
    fn embed(&self, texts: &[String]) -> Vec<Result<Vector, EmbedError>> {
        let mut results = Vec::with_capacity(texts.len());
        let mut ready = Vec::with_capacity(texts.len());
        for (at, tokens) in self.tokenize(texts).into_iter().enumerate() {
            // The empty vector holds the place until the text has run.
            results.push(tokens.map(|tokens| {
                ready.push((at, tokens));
                Vector::new()
            }));
        }
        ready.sort_by_key(|(_, tokens)| tokens.ids.len());
        let lengths: Vec<_> = ready.iter().map(|(_, tokens)| tokens.ids.len()).collect();
        let runs = batch::runs(&lengths, self.network.couples_texts());
        for (run, vectors) in self.run_all(runs, &ready) {
            for ((at, _), vector) in ready[run].iter().zip(vectors) {
                results[*at] = vector.map_err(|reason| EmbedError::Text { bytes: texts[*at].len(), reason });
            }
        }
        results
    }

    /// The tokens of all texts, in order; the cores share them.
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
                // Panics are caught text by text; should a thread end all the same, its texts are tokenized once more.
                all.extend(other.join().unwrap_or_else(|_| share.iter().map(tokens).collect()));
            }
            all
        })
    }

    /// The vectors of all runs: of a single one on all cores, of several beside each other.
    fn run_all(&self, runs: Vec<Range<usize>>, texts: &[(usize, Tokens)]) -> Vec<(Range<usize>, Vectors)> {
        let vectors = |run: &Range<usize>, threads| {
            let tokens: Vec<_> = texts[run.clone()].iter().map(|(_, tokens)| tokens).collect();
            self.vectors(&tokens, threads)
        };
        if let [only] = runs.as_slice() {
            return vec![(only.clone(), vectors(only, None))];
        }
        let done = Mutex::new(Vec::with_capacity(runs.len()));
        // They come sorted by length. The long ones first, so that all cores end at about the same time.
        let rest = Mutex::new(runs);
        let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).pop();
        std::thread::scope(|scope| {
            for core in &self.cores {
                scope.spawn(|| {
                    while let Some(run) = next() {
                        let vectors = vectors(&run, Some(core));
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((run, vectors));
                    }
                });
            }
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// One vector per text of a run. When the run fails, each text is tried alone: one of them may be to blame.
    fn vectors(&self, texts: &[&Tokens], threads: Option<&Threads>) -> Vectors {
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
type Vectors = Vec<Result<Vector, String>>;
