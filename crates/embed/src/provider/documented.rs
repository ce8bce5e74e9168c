//! How much some models read, by their providers' documentation.
//!
//! - OpenAI: <https://platform.openai.com/docs/guides/embeddings>; longer texts are refused
//! - Gemini: <https://ai.google.dev/gemini-api/docs/embeddings>; longer texts are cut
//! - Voyage: <https://docs.voyageai.com/docs/embeddings>; longer texts are cut unless the request says otherwise
//! - Mistral: <https://docs.mistral.ai/capabilities/embeddings>; longer texts are refused
//! - BGE: <https://huggingface.co/BAAI>, behind any server; the request tells the server what to do with longer
//!   texts

/// What the documentation says about a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Documented {
    /// How many tokens the model reads.
    pub(super) tokens: usize,
    /// Whether its provider silently cuts longer texts.
    pub(super) cuts: bool,
}

/// Prefixes of model names, without the part before the last `/`; tokens read; whether longer texts are cut
/// silently.
const MODELS: [(&str, usize, bool); 8] = [
    ("text-embedding-3-", 8192, false),
    ("text-embedding-ada-002", 8192, false),
    ("gemini-embedding-001", 2048, true),
    ("voyage-3", 32_000, true),
    ("mistral-embed", 8192, false),
    ("bge-m3", 8192, false),
    ("bge-small-en-v1.5", 512, false),
    ("bge-base-en-v1.5", 512, false),
];

impl Documented {
    /// Returns what is documented about `model`, named without the protocol.
    pub(super) fn of(model: &str) -> Option<Self> {
        let name = model.rsplit('/').next().unwrap_or(model).to_lowercase();
        let found = MODELS.iter().find(|(beginning, ..)| name.starts_with(beginning));
        found.map(|&(_, tokens, cuts)| Self { tokens, cuts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_known_by_the_last_part_of_its_name() {
        assert_eq!(Documented::of("text-embedding-3-small"), Some(Documented { tokens: 8192, cuts: false }));
        assert_eq!(Documented::of("models/gemini-embedding-001"), Some(Documented { tokens: 2048, cuts: true }));
        assert_eq!(Documented::of("BAAI/bge-m3"), Some(Documented { tokens: 8192, cuts: false }));
        assert_eq!(Documented::of("m"), None);
    }
}
