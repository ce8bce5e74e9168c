//! The form of a payload in each layout, derived from what the libraries' readers expect and not from the code that lays payloads out.

use std::borrow::Cow;

use serde_json::{Value, json};
use walvec_model::{Payload, PointId};

/// How payloads are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoredLayout {
    /// The fields at the top level.
    #[default]
    Flat,
    /// For LangChain.
    LangChain,
    /// For LlamaIndex.
    LlamaIndex,
    /// For Qdrant's MCP server.
    FastEmbed,
}

/// The field where LlamaIndex keeps a whole node, as JSON text.
const NODE: &str = "_node_content";

impl StoredLayout {
    /// Returns the payload that a row, or a chunk of it, should have, without walvec's own field. `row`: the id of the first chunk. JSON inside a
    /// text is parsed, as [`read`](Self::read) does it.
    pub(crate) fn expected(self, id: PointId, row: PointId, text: &str, fields: Payload) -> Payload {
        let beside = |name: &str, fields: Payload| {
            Payload::from_iter([(name.to_owned(), json!(text)), ("metadata".to_owned(), Value::Object(fields))])
        };
        match self {
            Self::Flat => fields,
            Self::LangChain => beside("page_content", fields),
            Self::FastEmbed => beside("document", fields),
            Self::LlamaIndex => {
                let node = node(&id.to_string(), &row.to_string(), text, &fields);
                let document =
                    ["doc_id", "document_id", "ref_doc_id"].map(|name| (name.to_owned(), json!(row.to_string())));
                let own = [(NODE.to_owned(), node), ("_node_type".to_owned(), json!("TextNode"))];
                fields.into_iter().chain(own).chain(document).collect()
            }
        }
    }

    /// Returns a stored payload in the form of [`expected`](Self::expected): JSON inside a text is parsed.
    pub(crate) fn read(self, payload: &Payload) -> Cow<'_, Payload> {
        let node = match payload.get(NODE) {
            Some(Value::String(text)) if self == Self::LlamaIndex => serde_json::from_str::<Value>(text).ok(),
            _ => None,
        };
        let Some(node) = node else { return Cow::Borrowed(payload) };
        let mut payload = payload.clone();
        payload.insert(NODE.to_owned(), node);
        Cow::Owned(payload)
    }
}

/// Builds LlamaIndex's `TextNode`, with the row as its source document.
fn node(id: &str, row: &str, text: &str, fields: &Payload) -> Value {
    let source = json!({
        "class_name": "RelatedNodeInfo", "node_id": row, "node_type": "4", "metadata": {}, "hash": null
    });
    json!({
        "class_name": "TextNode", "id_": id, "text": text, "metadata": fields, "relationships": { "1": source },
        "mimetype": "text/plain", "metadata_separator": "\n", "text_template": "{metadata_str}\n\n{content}",
        "embedding": null, "start_char_idx": null, "end_char_idx": null,
        "excluded_embed_metadata_keys": [], "excluded_llm_metadata_keys": [],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_inside_a_text_is_compared_as_json() {
        let fields = Payload::from_iter([("year".to_owned(), json!(1965))]);
        let expected = StoredLayout::LlamaIndex.expected(PointId::Num(7), PointId::Num(7), "a text", fields);
        let mut stored = expected.clone();
        stored.insert(NODE.to_owned(), Value::String(expected[NODE].to_string()));
        assert_eq!(*StoredLayout::LlamaIndex.read(&stored), expected);
        assert_eq!(*StoredLayout::Flat.read(&stored), stored, "elsewhere it is a text like any other");
    }
}
