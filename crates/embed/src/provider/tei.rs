//! `POST /embed`: <https://huggingface.github.io/text-embeddings-inference/>

use serde_json::{Value, json};

use super::protocol::{ProviderQuestion, numbers};

/// Builds the body. It has no model and no dimension: a server has one model.
pub(super) fn request(question: &ProviderQuestion<'_>) -> Value {
    json!({ "inputs": question.texts, "truncate": question.truncate, "normalize": true })
}

pub(super) fn vectors(body: &[u8]) -> Result<Vec<Vec<f32>>, String> {
    let answer: Vec<Vec<Option<f32>>> =
        serde_json::from_slice(body).map_err(|error| format!("not what was expected: {error}"))?;
    Ok(answer.into_iter().map(numbers).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_and_its_answer_have_the_protocols_form() {
        let texts = ["a".to_owned()];
        let question =
            ProviderQuestion { model: "m", dimensions: Some(2), texts: &texts, base64: true, truncate: true };
        assert_eq!(request(&question), json!({ "inputs": ["a"], "truncate": true, "normalize": true }));
        assert_eq!(vectors(b"[[1,2]]"), Ok(vec![vec![1.0, 2.0]]));
        assert!(vectors(br#"{"error":"x"}"#).is_err());
    }
}
