//! How a point's payload is laid out, so that the vector-store classes of other libraries find and read it.
//!
//! | Layout | Payload, besides walvec's own field | Vector | Sparse vector, if any | Read by |
//! |---|---|---|---|---|
//! | flat | the fields | unnamed | `bm25` | anything |
//! | langchain | `page_content`: the text; `metadata`: the fields | unnamed | `langchain-sparse` | `langchain_qdrant.QdrantVectorStore` |
//! | llamaindex | the fields; `_node_content`: a `TextNode` as JSON text; `_node_type`; `document_id`, `doc_id`, `ref_doc_id` | `text-dense` | `text-sparse-new` | `llama_index.vector_stores.qdrant.QdrantVectorStore` |
//! | fastembed | `document`: the text; `metadata`: the fields | `fast-<model>` | `bm25` | `mcp-server-qdrant` |
//!
//! The fields are the selected columns and the computed ones; the text is the one that was embedded. The source of
//! these shapes are the libraries' own readers; `make test-clients` checks against them.

use std::fmt;

use serde_json::json;
use walvec_model::{Payload, PointId, Value};

/// How a point's payload is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadLayout {
    /// The fields at the top level.
    #[default]
    Flat,
    /// The layout that LangChain's Qdrant store reads.
    LangChain,
    /// The layout that LlamaIndex's Qdrant store reads.
    LlamaIndex,
    /// The layout that Qdrant's Python client wrote with FastEmbed, and that Qdrant's MCP server reads.
    FastEmbed,
}

/// The field in which LangChain and Qdrant's MCP server look for everything except the text.
const METADATA: &str = "metadata";
/// The field in which LangChain looks for the text.
const PAGE_CONTENT: &str = "page_content";
/// The field in which Qdrant's MCP server looks for the text.
const DOCUMENT: &str = "document";

const NODE_CONTENT: &str = "_node_content";
const NODE_TYPE: &str = "_node_type";
/// The node type of every row. A row cannot be a node of another type.
const TEXT_NODE: &str = "TextNode";
/// The fields for the id of the node's document, under all the names that LlamaIndex has given it over time.
const DOCUMENT_IDS: [&str; 3] = ["document_id", "doc_id", "ref_doc_id"];

impl PayloadLayout {
    /// Returns the payload of a row, or of a chunk of it: its fields and the text that was embedded. `row` is the id of
    /// the row's first chunk.
    pub(crate) fn lay_out(self, id: PointId, row: PointId, text: &str, fields: Payload) -> Payload {
        match self {
            Self::Flat => fields,
            Self::LangChain => beside_metadata(PAGE_CONTENT, text, fields),
            Self::LlamaIndex => with_node(id, row, text, fields),
            Self::FastEmbed => beside_metadata(DOCUMENT, text, fields),
        }
    }

    /// Returns whether the payload holds the text that was embedded.
    pub(crate) const fn holds_text(self) -> bool {
        match self {
            Self::Flat => false,
            Self::LangChain | Self::LlamaIndex | Self::FastEmbed => true,
        }
    }

    /// Returns the fields of a stored payload, in their stored order.
    pub fn fields(self, payload: &Payload) -> impl Iterator<Item = (&String, &Value)> {
        let all = self.holder(payload).into_iter().flatten();
        all.filter(move |(name, _)| !self.reserved().contains(&name.as_str()))
    }

    /// Returns the embedded text from a stored payload; `None` if the layout does not hold it.
    #[must_use]
    pub fn text(self, payload: &Payload) -> Option<String> {
        let text = |name: &str| payload.get(name)?.as_str().map(str::to_owned);
        match self {
            Self::Flat => None,
            Self::LangChain => text(PAGE_CONTENT),
            Self::FastEmbed => text(DOCUMENT),
            Self::LlamaIndex => {
                let node: Value = serde_json::from_str(payload.get(NODE_CONTENT)?.as_str()?).ok()?;
                node.get("text")?.as_str().map(str::to_owned)
            }
        }
    }

    /// Returns one field of a stored payload.
    pub(crate) fn field<'a>(self, payload: &'a Payload, name: &str) -> Option<&'a Value> {
        self.holder(payload)?.get(name)
    }

    /// Returns the payload field that contains the other fields; `None` if they are at the top level.
    #[must_use]
    pub const fn nesting(self) -> Option<&'static str> {
        match self {
            Self::Flat | Self::LlamaIndex => None,
            Self::LangChain | Self::FastEmbed => Some(METADATA),
        }
    }

    /// Returns the name of the vector, given the embedding model's name; `None` if the vector is unnamed.
    #[must_use]
    pub fn vector_name(self, model: &str) -> Option<String> {
        match self {
            Self::Flat | Self::LangChain => None,
            Self::LlamaIndex => Some("text-dense".to_owned()),
            Self::FastEmbed => {
                let name = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model);
                Some(format!("fast-{}", name.to_lowercase()))
            }
        }
    }

    /// Returns the name of the sparse vector, where there is one.
    #[must_use]
    pub const fn keywords_name(self) -> &'static str {
        match self {
            Self::Flat | Self::FastEmbed => "bm25",
            Self::LangChain => "langchain-sparse",
            Self::LlamaIndex => "text-sparse-new",
        }
    }

    /// Returns the names that no field may have, because the layout or its reader uses them for something else.
    #[must_use]
    pub const fn reserved(self) -> &'static [&'static str] {
        match self {
            Self::Flat | Self::FastEmbed => &[],
            // LangChain's reader adds these to the fields.
            Self::LangChain => &["_id", "_collection_name"],
            Self::LlamaIndex => &[NODE_CONTENT, NODE_TYPE, DOCUMENT_IDS[0], DOCUMENT_IDS[1], DOCUMENT_IDS[2]],
        }
    }

    fn holder(self, payload: &Payload) -> Option<&Payload> {
        match self.nesting() {
            None => Some(payload),
            Some(name) => payload.get(name)?.as_object(),
        }
    }
}

/// Formats the layout as it is written in a configuration.
impl fmt::Display for PayloadLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flat => "flat",
            Self::LangChain => "langchain",
            Self::LlamaIndex => "llamaindex",
            Self::FastEmbed => "fastembed",
        })
    }
}

fn beside_metadata(name: &str, text: &str, fields: Payload) -> Payload {
    Payload::from_iter([(name.to_owned(), text.into()), (METADATA.to_owned(), fields.into())])
}

/// Adds the row, or a chunk of it, as a LlamaIndex node: its text, its fields as metadata, and the row as its source.
///
/// LlamaIndex writes nodes in the same way: the whole node as JSON text, next to the metadata that filters use.
fn with_node(id: PointId, row: PointId, text: &str, mut fields: Payload) -> Payload {
    let (id, row) = (id.to_string(), row.to_string());
    let node = json!({
        "id_": id,
        "embedding": null,
        "metadata": fields,
        "excluded_embed_metadata_keys": [],
        "excluded_llm_metadata_keys": [],
        // 1 is SOURCE, and type 4 is DOCUMENT.
        "relationships": { "1": {
            "node_id": row, "node_type": "4", "metadata": {}, "hash": null, "class_name": "RelatedNodeInfo"
        } },
        "text": text,
        "mimetype": "text/plain",
        "start_char_idx": null,
        "end_char_idx": null,
        "metadata_separator": "\n",
        "text_template": "{metadata_str}\n\n{content}",
        "class_name": TEXT_NODE,
    });
    fields.insert(NODE_CONTENT.to_owned(), node.to_string().into());
    fields.insert(NODE_TYPE.to_owned(), TEXT_NODE.into());
    for name in DOCUMENT_IDS {
        fields.insert(name.to_owned(), row.clone().into());
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [PayloadLayout; 4] =
        [PayloadLayout::Flat, PayloadLayout::LangChain, PayloadLayout::LlamaIndex, PayloadLayout::FastEmbed];

    fn fields() -> Payload {
        Payload::from_iter([("name".to_owned(), json!("Dune")), ("metadata".to_owned(), json!({"a": null}))])
    }

    fn laid_out(layout: PayloadLayout) -> Value {
        Value::Object(layout.lay_out(PointId::Num(7), PointId::Num(7), "a text", fields()))
    }

    #[test]
    fn every_layout_gives_the_fields_back() {
        for layout in ALL {
            let payload = layout.lay_out(PointId::Num(7), PointId::Num(7), "a text", fields());
            let read: Payload = layout.fields(&payload).map(|(name, value)| (name.clone(), value.clone())).collect();
            assert_eq!(read, fields(), "{layout}");
            for (name, value) in &fields() {
                assert_eq!(layout.field(&payload, name), Some(value), "{layout}");
            }
            assert_eq!(layout.field(&payload, "document"), None, "{layout}: the text is no field");
            assert_eq!(layout.text(&payload), layout.holds_text().then(|| "a text".to_owned()), "{layout}");
        }
    }

    #[test]
    fn the_text_stands_beside_the_fields_where_a_reader_looks_for_it() {
        assert_eq!(laid_out(PayloadLayout::Flat), Value::Object(fields()));
        assert_eq!(laid_out(PayloadLayout::LangChain), json!({"page_content": "a text", "metadata": fields()}));
        assert_eq!(laid_out(PayloadLayout::FastEmbed), json!({"document": "a text", "metadata": fields()}));
        let node = laid_out(PayloadLayout::LlamaIndex);
        let content: Value = serde_json::from_str(node["_node_content"].as_str().unwrap()).unwrap();
        assert_eq!((&content["text"], &content["metadata"]), (&json!("a text"), &Value::Object(fields())));
        assert_eq!(
            (&content["id_"], &node["doc_id"], &node["_node_type"]),
            (&json!("7"), &json!("7"), &json!("TextNode"))
        );
    }

    #[test]
    fn the_vector_has_the_name_that_the_reader_asks_for() {
        assert_eq!(PayloadLayout::Flat.vector_name("a/B"), None);
        assert_eq!(PayloadLayout::LangChain.vector_name("a/B"), None);
        assert_eq!(PayloadLayout::LlamaIndex.vector_name("a/B").as_deref(), Some("text-dense"));
        for model in ["BAAI/bge-small-EN", "./models/bge-small-en/", "bge-small-en"] {
            assert_eq!(PayloadLayout::FastEmbed.vector_name(model).as_deref(), Some("fast-bge-small-en"), "{model}");
        }
    }
}
