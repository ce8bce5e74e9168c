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
use super::failure::{self, Failure};
use super::protocol::{Protocol, Question};
use super::{ProviderOptions, answer};
use crate::{BoxFuture, EmbedError};

/// A server that does not even accept the connection in this time is not reachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most that a Qdrant collection accepts.
const MAX_DIMENSION: usize = 65_536;

/// Bytes of a number in an answer at most, with the blanks of a server that writes for people.
const NUMBER_BYTES: usize = 64;

/// Bytes of an answer without its vectors at most, and of one that tells an error.
const OTHER_BYTES: usize = 64 * 1024;

/// Characters of an error that are shown.
const SHOWN: usize = 300;

/// A provider's model at its address.
pub(super) struct Client {
    http: Http,
    protocol: Protocol,
    model: String,
    endpoint: Url,
    /// How it is called in errors.
    at: String,
    api_key: Option<SecretString>,
    /// What is asked for; what comes back is checked against it elsewhere.
    dimensions: Option<usize>,
    base64: bool,
}

impl Client {
    pub(super) fn new(protocol: Protocol, model: &str, options: &ProviderOptions) -> Result<Self, EmbedError> {
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
            // Whoever answers with another address would choose who sees the texts and the key.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(options.timeout.unwrap_or(protocol.timeout()))
            .dns_resolver(Guarded);
        if is_near(&endpoint) {
            // A proxy is the way out; one's own servers are not reached through it.
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
            // Servers that are merely compatible may know numbers only.
            base64: options.url.is_none(),
        })
    }

    /// How the provider is called in errors.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    async fn post(&self, texts: &[String], dimension: Option<usize>, of_long: OfLong) -> Result<Vec<u8>, Failure> {
        let truncate = of_long == OfLong::Beginning;
        let question =
            Question { model: &self.model, dimensions: self.dimensions, texts, base64: self.base64, truncate };
        let body = self.protocol.request(&question).to_string();
        let request = self.http.post(self.endpoint.clone()).header(CONTENT_TYPE, "application/json").body(body);
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        if !response.status().is_success() {
            return Err(match self.refusal(response, texts).await {
                // It was told to refuse such texts, and some servers do not call that a fault of the request.
                Failure::Failing(reason) if !truncate && failure::says_too_long(&reason) => Failure::Request(reason),
                failure => failure,
            });
        }
        let most = OTHER_BYTES + texts.len() * dimension.unwrap_or(MAX_DIMENSION) * NUMBER_BYTES;
        self.read(response, most).await?.ok_or_else(|| {
            Failure::Answer(format!("the answer is longer than {most} bytes, which no vectors of these texts are"))
        })
    }

    /// The body, unless it is longer than `most`.
    async fn read(&self, mut response: Response, most: usize) -> Result<Option<Vec<u8>>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            if body.len() + chunk.len() > most {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }

    /// What it means that no answer came.
    fn unreachable(&self, error: reqwest::Error) -> Failure {
        let error = error.without_url();
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(this) = cause {
            if let Some(forbidden) = this.downcast_ref::<Forbidden>() {
                let remedy = "name the server itself in embedding.url".to_owned();
                return Failure::Definite { reason: forbidden.to_string(), remedy };
            }
            cause = this.source();
        }
        let reason = match () {
            () if error.is_timeout() => format!("no answer in time: {}", with_causes(&error)),
            () if error.is_connect() => format!("no connection: {}", with_causes(&error)),
            () => format!("the answer broke off: {}", with_causes(&error)),
        };
        if error.is_connect() { Failure::Later { reason, after: None } } else { Failure::Failing(reason) }
    }

    /// What it means that something else than vectors came.
    async fn refusal(&self, response: Response, texts: &[String]) -> Failure {
        let status = response.status();
        let after = pause(response.headers(), SystemTime::now());
        let body = self.read(response, OTHER_BYTES).await.ok().flatten().unwrap_or_default();
        let said = self.shown(&body, texts).map(|said| format!(": {said}")).unwrap_or_default();
        let reason = format!("{status}{said}");
        let definite = |remedy: &str| Failure::Definite { reason: reason.clone(), remedy: remedy.to_owned() };
        match status {
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Failure::Request(reason)
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY => {
                Failure::Later { reason, after }
            }
            _ if status.is_server_error() && after.is_some() => Failure::Later { reason, after },
            _ if status.is_server_error() => Failure::Failing(reason),
            // What is said here may repeat a part of the key.
            StatusCode::UNAUTHORIZED => Failure::Definite {
                reason: status.to_string(),
                remedy:
                    "put the right key into embedding.api_key, best as a variable: api_key: ${NAME_OF_THE_VARIABLE}"
                        .to_owned(),
            },
            StatusCode::FORBIDDEN => definite("see that the key in embedding.api_key may use this model"),
            StatusCode::NOT_FOUND if self.protocol == Protocol::Ollama => definite(&format!(
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

    /// What the provider says, if it says it in a form that is known: other forms repeat the texts, which are confidential.
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

impl Ask for Client {
    fn ask<'a>(
        &'a self,
        texts: &'a [String],
        dimension: Option<usize>,
        of_long: OfLong,
    ) -> BoxFuture<'a, Result<Answers, Failure>> {
        Box::pin(async move {
            let body = self.post(texts, dimension, of_long).await?;
            let vectors = self.protocol.vectors(&body).map_err(Failure::Answer)?;
            answer::check(vectors, texts.len(), dimension.or(self.dimensions))
        })
    }
}

/// An address as it may be configured.
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

/// The address, if the host is none by name.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// Whether a server is on this machine or in its network, as far as its address tells.
fn is_near(url: &Url) -> bool {
    match literal(url) {
        Some(IpAddr::V4(v4)) => v4.is_loopback() || v4.is_private(),
        Some(IpAddr::V6(v6)) => v6.is_loopback() || v6.is_unique_local(),
        None => url.host_str().is_some_and(|host| host == "localhost" || !host.contains('.')),
    }
}

/// Nobody waits for longer than that without having another look: a limit may be raised meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// When the provider wants to be asked again, in an hour at most: `Retry-After` in seconds or as a date, or in milliseconds as OpenAI says it.
fn pause(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok();
    let pause = match text("retry-after-ms").and_then(number) {
        Some(millis) => Duration::try_from_secs_f64(millis / 1000.0).ok(),
        None => match text(RETRY_AFTER.as_str())? {
            seconds if number(seconds).is_some() => Duration::try_from_secs_f64(number(seconds)?).ok(),
            // What is past is now.
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

    /// Finds an address that must not be asked, whatever the name.
    struct Rebound;

    impl reqwest::dns::Resolve for Rebound {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(async { Err(Forbidden([169, 254, 169, 254].into()).into()) })
        }
    }

    #[tokio::test]
    async fn a_name_that_turns_out_to_be_a_metadata_service_ends_the_call_before_a_connection() {
        let options = ProviderOptions { url: Some("http://name".to_owned()), ..ProviderOptions::default() };
        let mut client = Client::new(Protocol::Tei, "m", &options).unwrap();
        client.http = crate::http::client().no_proxy().dns_resolver(Rebound).build().unwrap();
        let failure = client.ask(&["a".to_owned()], None, OfLong::Beginning).await.unwrap_err();
        assert!(matches!(&failure, Failure::Definite { reason, .. } if reason.contains("metadata")), "{failure:?}");
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
