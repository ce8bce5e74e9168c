//! `POST /v1/embeddings`: <https://platform.openai.com/docs/api-reference/embeddings/create>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::protocol::{ProviderQuestion, numbers};

pub(super) fn request(question: &ProviderQuestion<'_>) -> Value {
    let encoding = if question.base64 { "base64" } else { "float" };
    let mut body = json!({ "model": question.model, "input": question.texts, "encoding_format": encoding });
    if let Some(dimensions) = question.dimensions {
        body["dimensions"] = json!(dimensions);
    }
    body
}

#[derive(Deserialize)]
struct OpenAiAnswer {
    data: Vec<OpenAiVector>,
}

#[derive(Deserialize)]
struct OpenAiVector {
    index: usize,
    embedding: Embedding,
}

/// The forms of a vector in an answer. Some servers always answer in one form, whatever the request
/// says.
#[derive(Deserialize)]
#[serde(untagged)]
enum Embedding {
    Numbers(Vec<Option<f32>>),
    /// Little-endian 32-bit numbers.
    Base64(String),
}

pub(super) fn vectors(body: &[u8]) -> Result<Vec<Vec<f32>>, String> {
    let answer: OpenAiAnswer =
        serde_json::from_slice(body).map_err(|error| format!("not what was expected: {error}"))?;
    let count = answer.data.len();
    let mut ordered: Vec<Option<Vec<f32>>> = vec![None; count];
    for OpenAiVector { index, embedding } in answer.data {
        let place = ordered.get_mut(index).ok_or_else(|| format!("index {index} among {count} vectors"))?;
        let vector = match embedding {
            Embedding::Numbers(written) => numbers(written),
            Embedding::Base64(text) => decoded(&text)?,
        };
        if place.replace(vector).is_some() {
            return Err(format!("two vectors with the index {index}"));
        }
    }
    ordered.into_iter().enumerate().map(|(index, vector)| vector.ok_or(format!("no vector {index}"))).collect()
}

fn decoded(text: &str) -> Result<Vec<f32>, String> {
    let bytes = STANDARD.decode(text).map_err(|error| format!("a vector is no base64: {error}"))?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(format!("a vector of {} bytes is no list of 32-bit numbers", bytes.len()));
    }
    Ok(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_dimension_only_if_one_is_wanted() {
        let texts = ["a".to_owned()];
        let mut question =
            ProviderQuestion { model: "m", dimensions: None, texts: &texts, base64: false, truncate: true };
        assert_eq!(request(&question), json!({ "model": "m", "input": ["a"], "encoding_format": "float" }));
        question.dimensions = Some(256);
        question.base64 = true;
        let expected = json!({ "model": "m", "input": ["a"], "encoding_format": "base64", "dimensions": 256 });
        assert_eq!(request(&question), expected);
    }

    #[test]
    fn vectors_come_in_the_order_of_their_indexes_as_numbers_or_base64() {
        let base64 = STANDARD.encode([1.5_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat());
        let body = json!({ "data": [{ "index": 1, "embedding": [0.5, 1] }, { "index": 0, "embedding": base64 }] });
        assert_eq!(vectors(body.to_string().as_bytes()), Ok(vec![vec![1.5, -2.0], vec![0.5, 1.0]]));
    }

    #[test]
    fn an_answer_without_clear_places_is_refused() {
        for (indexes, reason) in [([0, 0], "two vectors"), ([0, 2], "index 2 among 2")] {
            let data = indexes.map(|index| json!({ "index": index, "embedding": [1.0] }));
            let error = vectors(json!({ "data": data }).to_string().as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        for body in ["", "<html>", "{}", r#"{"data":[{"index":0,"embedding":"?"}]}"#] {
            assert!(vectors(body.as_bytes()).is_err(), "{body}");
        }
        assert!(vectors(br#"{"data":[{"index":0,"embedding":"AAA="}]}"#).unwrap_err().contains("2 bytes"));
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let parsed = vectors(br#"{"data":[{"index":0,"embedding":[1,null]}]}"#).unwrap();
        assert!(parsed[0][1].is_nan());
    }
}
