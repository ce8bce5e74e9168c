//! One request over HTTP, and what its answer means.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client as Http, Response, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use walvec_model::with_causes;

use super::address::{self, Forbidden, Guarded};
use super::batches::{Answers, Ask, OfLong};
use super::failure::{self, RequestFailure};
use super::protocol::{ProviderProtocol, ProviderQuestion};
use super::{ProviderOptions, answer};
use crate::{BoxFuture, EmbedError};

/// How long connecting may take before a server counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest dimension that a Qdrant collection accepts.
const MAX_DIMENSION: usize = 65_536;

/// The most bytes of a number in an answer, including the white space of a server that indents its JSON.
const NUMBER_BYTES: usize = 64;

/// The most bytes of an answer apart from its vectors, and of an error.
const OTHER_BYTES: usize = 64 * 1024;

/// The most characters of an error that are shown.
const SHOWN: usize = 300;

/// A provider's model at its address.
pub(super) struct ProviderClient {
    http: Http,
    protocol: ProviderProtocol,
    model: String,
    endpoint: Url,
    /// The provider's name in errors.
    at: String,
    api_key: Option<SecretString>,
    /// The dimension to ask for. The vectors are checked against it elsewhere.
    dimensions: Option<usize>,
    base64: bool,
}

impl ProviderClient {
    pub(super) fn new(protocol: ProviderProtocol, model: &str, options: &ProviderOptions) -> Result<Self, EmbedError> {
        let url = options.url.as_deref().or(protocol.default_url()).unwrap_or_default();
        let at = format!("{} at {url}", protocol.name());
        let refused = |reason: String| EmbedError::ProviderRefused {
            at: protocol.name().to_owned(),
            reason,
            remedy: "look at embedding.url and embedding.api_key".to_owned(),
        };
        let base = base_url(url).map_err(refused)?;
        let endpoint = format!("{}/{}", base.as_str().trim_end_matches('/'), protocol.path());
        let endpoint = Url::parse(&endpoint).map_err(|error| refused(error.to_string()))?;
        let mut headers = HeaderMap::new();
        if let Some(key) = &options.api_key {
            let value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()));
            let mut value =
                value.map_err(|_| refused("the API key has characters that no header can hold".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut http = crate::http::client()
            .default_headers(headers)
            // A server that could redirect would choose who sees the texts and the key.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(options.timeout.unwrap_or(protocol.timeout()))
            .dns_resolver(Guarded);
        if is_near(&endpoint) {
            // A proxy leads out of the local network; servers inside it are reached directly.
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| refused(with_causes(&error)))?;
        Ok(Self {
            http,
            protocol,
            model: model.to_owned(),
            endpoint,
            at,
            api_key: options.api_key.clone(),
            dimensions: options.dimensions,
            // Servers that are merely compatible may not know base64, only numbers.
            base64: options.url.is_none(),
        })
    }

    /// Returns the provider's name in errors.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    async fn post(
        &self,
        texts: &[String],
        dimension: Option<usize>,
        of_long: OfLong,
    ) -> Result<Vec<u8>, RequestFailure> {
        let truncate = of_long == OfLong::Beginning;
        let question =
            ProviderQuestion { model: &self.model, dimensions: self.dimensions, texts, base64: self.base64, truncate };
        let body = self.protocol.request(&question).to_string();
        let request = self.http.post(self.endpoint.clone()).header(CONTENT_TYPE, "application/json").body(body);
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        if !response.status().is_success() {
            return Err(match self.refusal(response, texts).await {
                // The request asked for a refusal of such texts, and some servers do not report it as the client's fault.
                RequestFailure::Failing(reason) if !truncate && failure::says_too_long(&reason) => {
                    RequestFailure::Request(reason)
                }
                failure => failure,
            });
        }
        let most = OTHER_BYTES + texts.len() * dimension.unwrap_or(MAX_DIMENSION) * NUMBER_BYTES;
        self.read(response, most).await?.ok_or_else(|| {
            RequestFailure::Answer(format!(
                "the answer is longer than {most} bytes, which no vectors of these texts are"
            ))
        })
    }

    /// Reads the body; `None` if it is longer than `most`.
    async fn read(&self, mut response: Response, most: usize) -> Result<Option<Vec<u8>>, RequestFailure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            if body.len() + chunk.len() > most {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }

    /// Classifies an error of the transport.
    fn unreachable(&self, error: reqwest::Error) -> RequestFailure {
        let error = error.without_url();
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(this) = cause {
            if let Some(forbidden) = this.downcast_ref::<Forbidden>() {
                let remedy = "name the server itself in embedding.url".to_owned();
                return RequestFailure::Definite { reason: forbidden.to_string(), remedy };
            }
            cause = this.source();
        }
        let reason = match () {
            () if error.is_timeout() => format!("no answer in time: {}", with_causes(&error)),
            () if error.is_connect() => format!("no connection: {}", with_causes(&error)),
            () => format!("the answer broke off: {}", with_causes(&error)),
        };
        if error.is_connect() { RequestFailure::Later { reason, after: None } } else { RequestFailure::Failing(reason) }
    }

    /// Classifies a response with an error status.
    async fn refusal(&self, response: Response, texts: &[String]) -> RequestFailure {
        let status = response.status();
        let after = pause(response.headers(), SystemTime::now());
        let body = self.read(response, OTHER_BYTES).await.ok().flatten().unwrap_or_default();
        let said = self.shown(&body, texts).map(|said| format!(": {said}")).unwrap_or_default();
        let reason = format!("{status}{said}");
        let definite = |remedy: &str| RequestFailure::Definite { reason: reason.clone(), remedy: remedy.to_owned() };
        match status {
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                RequestFailure::Request(reason)
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY => {
                RequestFailure::Later { reason, after }
            }
            _ if status.is_server_error() && after.is_some() => RequestFailure::Later { reason, after },
            _ if status.is_server_error() => RequestFailure::Failing(reason),
            // The provider's message may repeat a part of the key.
            StatusCode::UNAUTHORIZED => RequestFailure::Definite {
                reason: status.to_string(),
                remedy:
                    "put the right key into embedding.api_key, best as a variable: api_key: ${NAME_OF_THE_VARIABLE}"
                        .to_owned(),
            },
            StatusCode::FORBIDDEN => definite("check that the key in embedding.api_key may use this model"),
            StatusCode::NOT_FOUND if self.protocol == ProviderProtocol::Ollama => definite(&format!(
                "type `ollama pull {}` where Ollama runs, or look at embedding.model and embedding.url",
                self.model
            )),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                definite(&format!("look at embedding.model and embedding.url; {} was asked", self.endpoint))
            }
            _ if status.is_redirection() => {
                definite("redirects are not followed; write where it leads into embedding.url")
            }
            _ => definite("look at embedding.url and at what the provider says"),
        }
    }

    /// Returns the provider's message if it has a known form. Other forms may repeat the texts, which are confidential.
    fn shown(&self, body: &[u8], texts: &[String]) -> Option<String> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let places = ["/error/message", "/error", "/message"];
        let mut said = places.iter().find_map(|place| body.pointer(place)?.as_str())?.to_owned();
        if let Some(key) = self.api_key.as_ref().map(|key| key.expose_secret()).filter(|key| !key.is_empty()) {
            said = said.replace(key, "***");
        }
        for text in texts.iter().filter(|text| text.len() >= 8) {
            said = said.replace(text, "(the text)");
        }
        let clean = said.chars().map(|c| if c.is_control() { ' ' } else { c });
        Some(clean.take(SHOWN).collect())
    }
}

impl Ask for ProviderClient {
    fn ask<'a>(
        &'a self,
        texts: &'a [String],
        dimension: Option<usize>,
        of_long: OfLong,
    ) -> BoxFuture<'a, Result<Answers, RequestFailure>> {
        Box::pin(async move {
            let body = self.post(texts, dimension, of_long).await?;
            let vectors = self.protocol.vectors(&body).map_err(RequestFailure::Answer)?;
            answer::check(vectors, texts.len(), dimension.or(self.dimensions))
        })
    }
}

/// Parses an address from the configuration.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let url =
        Url::parse(text).map_err(|error| format!("not an address ({error}); write for example https://host/v1"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("not an address; it has to begin with https:// or http://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "it holds a name or a password, which errors would show; a key belongs into embedding.api_key".to_owned()
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it may end with a path, but not with ?... or #...".to_owned());
    }
    literal(&url).map_or(Ok(()), address::check).map_err(|forbidden| forbidden.to_string())?;
    Ok(url)
}

/// Returns the host's IP address, if the URL has an address instead of a name.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// Returns whether a server is on this machine or in its network, as far as its address tells.
fn is_near(url: &Url) -> bool {
    match literal(url) {
        Some(IpAddr::V4(v4)) => v4.is_loopback() || v4.is_private(),
        Some(IpAddr::V6(v6)) => v6.is_loopback() || v6.is_unique_local(),
        None => url.host_str().is_some_and(|host| host == "localhost" || !host.contains('.')),
    }
}

/// The longest pause that is honoured: a limit may be raised meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Returns the pause that the provider asks for, at most an hour: `Retry-After` in seconds or as a date, or in milliseconds as OpenAI says it.
fn pause(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok();
    let pause = match text("retry-after-ms").and_then(number) {
        Some(millis) => Duration::try_from_secs_f64(millis / 1000.0).ok(),
        None => match text(RETRY_AFTER.as_str())? {
            seconds if number(seconds).is_some() => Duration::try_from_secs_f64(number(seconds)?).ok(),
            // A date in the past means no pause.
            date => httpdate::parse_http_date(date).ok().map(|then| then.duration_since(now).unwrap_or_default()),
        },
    };
    pause.map(|pause| pause.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_must_not_be_asked_or_shows_a_secret_is_refused() {
        for (url, part) in [
            ("", "not an address"),
            ("host:80", "https://"),
            ("ftp://host", "https://"),
            ("https://me@host", "api_key"),
            ("https://me:pw@host", "api_key"),
            ("https://host/v1?key=1", "?..."),
            ("http://169.254.169.254/v1", "metadata"),
            ("http://2852039166/v1", "metadata"),
            ("http://0xa9fea9fe", "metadata"),
            ("http://[::ffff:169.254.169.254]", "metadata"),
            ("http://[fe80::1]:80", "link-local"),
        ] {
            let error = base_url(url).unwrap_err();
            assert!(error.contains(part) && !error.contains("pw"), "{url}: {error}");
        }
        for url in ["https://api.openai.com/v1", "http://localhost:11434", "http://[::1]:80", "http://10.0.0.1:8080/"] {
            assert!(base_url(url).is_ok(), "{url}");
        }
    }

    /// A resolver that finds a forbidden address for every name.
    struct Rebound;

    impl reqwest::dns::Resolve for Rebound {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(async { Err(Forbidden([169, 254, 169, 254].into()).into()) })
        }
    }

    #[tokio::test]
    async fn a_name_that_turns_out_to_be_a_metadata_service_ends_the_call_before_a_connection() {
        let options = ProviderOptions { url: Some("http://name".to_owned()), ..ProviderOptions::default() };
        let mut client = ProviderClient::new(ProviderProtocol::Tei, "m", &options).unwrap();
        client.http = crate::http::client().no_proxy().dns_resolver(Rebound).build().unwrap();
        let failure = client.ask(&["a".to_owned()], None, OfLong::Beginning).await.unwrap_err();
        assert!(
            matches!(&failure, RequestFailure::Definite { reason, .. } if reason.contains("metadata")),
            "{failure:?}"
        );
    }

    #[test]
    fn the_pause_is_what_the_provider_says_in_any_of_its_forms() {
        let at = |name: &'static str, value: &str, now: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            pause(&headers, httpdate::parse_http_date(now).unwrap())
        };
        let now = "Wed, 21 Oct 2026 07:28:00 GMT";
        assert_eq!(at("retry-after", "7", now), Some(Duration::from_secs(7)));
        assert_eq!(at("retry-after", "0.5", now), Some(Duration::from_millis(500)));
        assert_eq!(at("retry-after", "Wed, 21 Oct 2026 07:28:09 GMT", now), Some(Duration::from_secs(9)));
        assert_eq!(at("retry-after", "Wed, 21 Oct 2026 07:27:09 GMT", now), Some(Duration::ZERO));
        assert_eq!(at("retry-after-ms", "250", now), Some(Duration::from_millis(250)));
        assert_eq!(at("retry-after", "86400", now), Some(LONGEST_PAUSE));
        for nonsense in ["soon", "-1", "NaN", "1e300"] {
            assert_eq!(at("retry-after", nonsense, now), None, "{nonsense}");
        }
    }
}
