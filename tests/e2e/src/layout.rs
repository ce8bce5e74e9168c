//! The form of a payload in each layout, written independently of walvec from what the libraries' readers expect.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walvec_model::{Payload, PointId};
use walvec_transform::PayloadLayout;

/// Returns the expected payload of a row. LlamaIndex's node is JSON here, and holds what its reader shows, as in
/// [`seen`].
pub(crate) fn laid_out(layout: PayloadLayout, id: PointId, text: &str, fields: Payload) -> Payload {
    let payload = match layout {
        PayloadLayout::Flat => return fields,
        PayloadLayout::LangChain => json!({ "page_content": text, "metadata": fields }),
        PayloadLayout::FastEmbed => json!({ "document": text, "metadata": fields }),
        PayloadLayout::LlamaIndex => {
            let id = id.to_string();
            let node = json!({ "id_": id, "text": text, "metadata": fields, "source": id });
            let mut payload = json!(fields);
            payload["_node_content"] = node;
            payload["_node_type"] = json!("TextNode");
            for name in ["doc_id", "document_id", "ref_doc_id"] {
                payload[name] = json!(id);
            }
            payload
        }
    };
    match payload {
        Value::Object(payload) => payload,
        _ => Payload::new(),
    }
}

/// Returns a stored payload in the form that [`laid_out`] returns, so that the two can be compared.
pub(crate) fn seen(layout: PayloadLayout, mut payload: Payload) -> Result<Payload> {
    if layout == PayloadLayout::LlamaIndex {
        let node = payload.get("_node_content").and_then(Value::as_str).context("there is no node")?;
        let node: Value = serde_json::from_str(node)?;
        let shown = json!({
            "id_": node["id_"], "text": node["text"], "metadata": node["metadata"],
            "source": node["relationships"]["1"]["node_id"],
        });
        payload.insert("_node_content".to_owned(), shown);
    }
    Ok(payload)
}

/// The name of the vectors that [`MODEL`](crate::settings::MODEL) makes.
pub(crate) fn vector_name(layout: PayloadLayout) -> Option<String> {
    match layout {
        PayloadLayout::Flat | PayloadLayout::LangChain => None,
        PayloadLayout::LlamaIndex => Some("text-dense".to_owned()),
        PayloadLayout::FastEmbed => Some("fast-64".to_owned()),
    }
}

/// The name of the sparse vectors, where there are any.
pub(crate) fn keywords_name(layout: PayloadLayout) -> String {
    let name = match layout {
        PayloadLayout::Flat | PayloadLayout::FastEmbed => "bm25",
        PayloadLayout::LangChain => "langchain-sparse",
        PayloadLayout::LlamaIndex => "text-sparse-new",
    };
    name.to_owned()
}

/// Returns the name of the object that holds the fields; `None` if they are at the top level.
pub(crate) fn nesting(layout: PayloadLayout) -> Option<String> {
    matches!(layout, PayloadLayout::LangChain | PayloadLayout::FastEmbed).then(|| "metadata".to_owned())
}
