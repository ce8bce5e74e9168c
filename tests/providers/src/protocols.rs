//! Requests and answers of the three protocols.

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The protocol to which a path belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    OpenAi,
    Ollama,
    Tei,
}

impl Spoken {
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/embeddings" => Some(Self::OpenAi),
            "/api/embed" => Some(Self::Ollama),
            "/embed" => Some(Self::Tei),
            _ => None,
        }
    }

    /// Returns the texts of a request, which may have one text or a list.
    pub(crate) fn texts(self, body: &Value) -> Result<Vec<String>> {
        let key = if self == Self::Tei { "inputs" } else { "input" };
        match &body[key] {
            Value::String(text) => Ok(vec![text.clone()]),
            Value::Array(texts) => {
                texts.iter().map(|text| Ok(text.as_str().context("a text is no string")?.to_owned())).collect()
            }
            other => bail!("`{key}` is {other}"),
        }
    }

    /// Returns an error in the protocol's form.
    pub(crate) fn error(self, message: &str) -> Value {
        match self {
            Self::OpenAi => json!({ "error": { "message": message, "type": "invalid_request_error" } }),
            Self::Ollama => json!({ "error": message }),
            Self::Tei => json!({ "error": message, "error_type": "Validation" }),
        }
    }

    /// Returns an answer with vectors, each with the place of its text in the request.
    pub(crate) fn answer(self, vectors: &[(usize, Vec<f32>)], as_base64: bool) -> Value {
        let plain: Vec<Value> = vectors.iter().map(|(_, vector)| numbers(vector)).collect();
        match self {
            Self::OpenAi => {
                let item = |(index, vector): &(usize, Vec<f32>)| {
                    let embedding = if as_base64 { base64(vector) } else { numbers(vector) };
                    json!({ "object": "embedding", "index": index, "embedding": embedding })
                };
                json!({ "object": "list", "data": vectors.iter().map(item).collect::<Vec<_>>(), "usage": {} })
            }
            Self::Ollama => json!({ "model": "m", "embeddings": plain, "total_duration": 1 }),
            Self::Tei => Value::Array(plain),
        }
    }
}

/// Returns a vector as JSON. JSON has no NaN, so NaN becomes `null`.
fn numbers(vector: &[f32]) -> Value {
    vector.iter().map(|number| json!(number)).collect()
}

fn base64(vector: &[f32]) -> Value {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    STANDARD.encode(bytes).into()
}
