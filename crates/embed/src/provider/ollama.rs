//! `POST /api/embed`: <https://docs.ollama.com/api/embed>

use serde::Deserialize;
use serde_json::{Value, json};

use super::protocol::{ProviderQuestion, numbers};

pub(super) fn request(question: &ProviderQuestion<'_>) -> Value {
    let mut body = json!({ "model": question.model, "input": question.texts, "truncate": question.truncate });
    if let Some(dimensions) = question.dimensions {
        body["dimensions"] = json!(dimensions);
    }
    body
}

#[derive(Deserialize)]
struct OllamaAnswer {
    embeddings: Vec<Vec<Option<f32>>>,
}

pub(super) fn vectors(body: &[u8]) -> Result<Vec<Vec<f32>>, String> {
    let answer: OllamaAnswer =
        serde_json::from_slice(body).map_err(|error| format!("not what was expected: {error}"))?;
    Ok(answer.embeddings.into_iter().map(numbers).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_and_its_answer_have_the_protocols_form() {
        let texts = ["a".to_owned(), "b".to_owned()];
        let question =
            ProviderQuestion { model: "bge-m3", dimensions: None, texts: &texts, base64: true, truncate: true };
        assert_eq!(request(&question), json!({ "model": "bge-m3", "input": ["a", "b"], "truncate": true }));
        let body = br#"{"model":"bge-m3","embeddings":[[1,2],[3,4]],"total_duration":1}"#;
        assert_eq!(vectors(body), Ok(vec![vec![1.0, 2.0], vec![3.0, 4.0]]));
        assert!(vectors(b"Ollama is running").is_err());
    }
}
