//! Models behind an HTTP interface: `openai/<model>`, `ollama/<model>` and `tei/<model>`.
//!
//! - [`ProviderProtocol`] (`protocol`): what is asked and answered, one file for each: `openai`, `ollama`, `tei`
//! - `client`: one request over HTTP; `address`: where none may go
//! - `answer`: the check that an answer holds the vectors that were asked for
//! - `failure`: the kinds of failed requests
//! - `limits`: how many requests and tokens per minute
//! - `documented`: how much some models read, by their documentation
//! - `clock`: time, which tests can simulate
//! - `batches`: from texts to requests: split, sent concurrently, repeated, bisected
//!
//! Numbers of tokens are estimated, because only the provider has the tokenizer: a third of the bytes, rounded up. English has
//! about four bytes per token; text in other scripts, code and numbers fewer. So the estimate is high, and requests are smaller
//! than they could be rather than too large.

mod address;
mod answer;
mod batches;
mod client;
mod clock;
mod documented;
mod failure;
mod limits;
mod ollama;
mod openai;
mod protocol;
mod tei;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use walvec_model::Vector;

use self::{
    batches::{Batches, OfLong},
    client::ProviderClient,
    clock::WallClock,
    documented::Documented,
    failure::RequestFailure,
    limits::{Lane, ProviderLimits},
};
use crate::{BoxFuture, EmbedError, Embedder, EmbedderInfo, Reads};

pub use protocol::ProviderProtocol;

/// A fixed text that every model can embed. Its vector shows the dimension, whether the provider answers, and whether another
/// model answers now.
const PROBE: &str = "walvec";

/// How to reach a provider. Fields that are left out have a default that depends on the protocol. The key is never shown.
#[derive(Clone, Debug, Default)]
pub struct ProviderOptions {
    /// The address without the protocol's own path, e.g. `https://api.openai.com/v1`.
    pub url: Option<String>,
    /// The key, sent as `Authorization: Bearer ...`.
    pub api_key: Option<SecretString>,
    /// The dimension of the vectors. The provider is asked for it if it is not given.
    pub dimensions: Option<usize>,
    /// The most texts in one request.
    pub batch_items: Option<usize>,
    /// The most tokens in one request, as estimated; a longer text goes alone.
    pub batch_tokens: Option<u64>,
    /// The most requests in flight.
    pub concurrency: Option<usize>,
    /// The most requests per minute. Default: no limit.
    pub requests_per_minute: Option<u64>,
    /// The most tokens per minute, as estimated. Default: no limit.
    pub tokens_per_minute: Option<u64>,
    /// How long one request may take.
    pub timeout: Option<Duration>,
}

/// Checks an address for [`ProviderOptions::url`] without asking it.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn check_url(url: &str) -> Result<(), String> {
    client::base_url(url).map(drop)
}

/// A model behind an HTTP interface.
pub struct ProviderEmbedder {
    info: EmbedderInfo,
    batches: Batches,
    at: String,
    protocol: ProviderProtocol,
    documented: Option<Documented>,
    /// The vector of [`PROBE`] that was asked for when the provider was first reached. It is used once: later the vector may
    /// differ.
    sample: Mutex<Option<Vector>>,
}

impl ProviderEmbedder {
    /// Connects to the model called `name`, which [`ProviderProtocol::of`] knows. Asks for one vector if the dimension is not given.
    ///
    /// # Errors
    /// [`EmbedError::ModelName`], [`EmbedError::ProviderRefused`], [`EmbedError::ProviderUnavailable`] or
    /// [`EmbedError::ProviderAnswer`].
    pub async fn open(name: &str, options: ProviderOptions) -> Result<Self, EmbedError> {
        let refused = |reason| EmbedError::ModelName { name: name.to_owned(), reason };
        let (protocol, model) =
            ProviderProtocol::of(name).ok_or_else(|| refused("it must begin with openai/, ollama/ or tei/"))?;
        if model.trim().is_empty() {
            return Err(refused("behind the provider's name there must be that of the model"));
        }
        let limits = ProviderLimits::new(
            Arc::new(WallClock::new()),
            options.concurrency.unwrap_or(ProviderProtocol::CONCURRENCY),
            options.requests_per_minute,
            options.tokens_per_minute,
        );
        let items = options.batch_items.unwrap_or(protocol.batch_items());
        let tokens = options.batch_tokens.unwrap_or(protocol.batch_tokens());
        let client = ProviderClient::new(protocol, model, &options)?;
        let at = client.at().to_owned();
        let batches = Batches::new(Box::new(client), limits, items, tokens);
        let (dimension, sample) = match options.dimensions {
            Some(dimension) => (dimension, None),
            None => {
                let sample = batches.vector(PROBE).await.map_err(|failure| failure.error(&at))?;
                (sample.len(), Some(sample))
            }
        };
        tracing::info!(model = name, at, dimension, batch_items = items, "embedding provider ready");
        let info = EmbedderInfo {
            model: name.to_owned(),
            // No protocol tells the model's revision, and another model may be served under the same name.
            revision: format!("{}/{model}", protocol.name()),
            dimension,
            max_tokens: usize::MAX,
            pooling: "provider".to_owned(),
        };
        batches.expect(dimension);
        let documented = Documented::of(model);
        Ok(Self { info, batches, at, protocol, documented, sample: Mutex::new(sample) })
    }

    /// Finds out why every text was refused: returns an error if the provider refuses any other text as well.
    async fn check_refusals(&self, results: &[Result<Vector, EmbedError>]) -> Result<(), EmbedError> {
        let is_refused = |result: &Result<Vector, EmbedError>| matches!(result, Err(EmbedError::Text { .. }));
        if results.iter().any(Result::is_ok) || !results.iter().any(is_refused) {
            return Ok(());
        }
        match self.batches.vector(PROBE).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.error(&self.at)),
        }
    }

    async fn run(
        &self,
        texts: Vec<String>,
        lane: Lane,
        of_long: OfLong,
    ) -> Result<Vec<Result<Vector, EmbedError>>, EmbedError> {
        let outcomes = self.batches.run(&texts, lane, of_long).await.map_err(|failure| failure.error(&self.at))?;
        let error = |(outcome, text): (Result<Vector, RequestFailure>, &String)| {
            outcome.map_err(|failure| match failure {
                RequestFailure::Request(reason) if of_long == OfLong::Refusal && failure::says_too_long(&reason) => {
                    self.too_long(text)
                }
                failure => failure.error_of_text(&self.at, text),
            })
        };
        let results: Vec<_> = outcomes.into_iter().zip(&texts).map(error).collect();
        self.check_refusals(&results).await?;
        Ok(results)
    }

    /// Embeds whole texts only. Texts that seem too long are refused here if the provider would silently cut them.
    async fn run_whole(
        &self,
        mut texts: Vec<String>,
        lane: Lane,
    ) -> Result<Vec<Result<Vector, EmbedError>>, EmbedError> {
        let of_long = if self.protocol.can_truncate() { OfLong::Refusal } else { OfLong::Beginning };
        if !self.documented.is_some_and(|documented| documented.cuts) {
            return self.run(texts, lane, of_long).await;
        }
        let refused: Vec<Option<EmbedError>> =
            texts.iter().map(|text| self.is_too_long(text).then(|| self.too_long(text))).collect();
        let mut is_refused = refused.iter().map(Option::is_some);
        texts.retain(|_| !is_refused.next().unwrap_or_default());
        let mut answers = self.run(texts, lane, of_long).await?.into_iter();
        let missing = || Err(EmbedError::Failed("no vector came back".to_owned()));
        Ok(refused
            .into_iter()
            .map(|refused| refused.map_or_else(|| answers.next().unwrap_or_else(missing), Err))
            .collect())
    }

    fn too_long(&self, text: &str) -> EmbedError {
        EmbedError::TooLong { bytes: text.len(), reads: self.reads() }
    }
}

impl Embedder for ProviderEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    /// Estimates the tokens of `text`, rather too many than too few: only the provider has the tokenizer.
    fn count_tokens(&self, text: &str) -> usize {
        usize::try_from(batches::estimated_tokens(text)).unwrap_or(usize::MAX)
    }

    fn reads(&self) -> Option<Reads> {
        self.documented.map(|documented| Reads::Estimated(documented.tokens))
    }

    fn is_too_long(&self, text: &str) -> bool {
        self.documented.is_some_and(|documented| self.count_tokens(text) > documented.tokens)
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        Box::pin(self.run(texts, Lane::Documents, OfLong::Beginning))
    }

    fn embed_query(&self, text: String) -> BoxFuture<'_, Result<Vector, EmbedError>> {
        Box::pin(async move { crate::only(self.run(vec![text], Lane::Query, OfLong::Beginning).await?) })
    }

    fn embed_whole(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        Box::pin(self.run_whole(texts, Lane::Documents))
    }

    fn embed_query_whole(&self, text: String) -> BoxFuture<'_, Result<Vector, EmbedError>> {
        Box::pin(async move { crate::only(self.run_whole(vec![text], Lane::Query).await?) })
    }

    fn sample(&self) -> BoxFuture<'_, Result<Option<Vector>, EmbedError>> {
        Box::pin(async move {
            let at_first = self.sample.lock().unwrap_or_else(PoisonError::into_inner).take();
            if at_first.is_some() {
                return Ok(at_first);
            }
            self.batches.vector(PROBE).await.map(Some).map_err(|failure| failure.error(&self.at))
        })
    }

    /// Returns the size of one request, so that no caller waits for other requests.
    fn texts_per_call(&self) -> usize {
        self.batches.items()
    }

    fn calls_at_once(&self) -> usize {
        self.batches.requests_at_once()
    }
}
