//! The form of a payload in each layout, written independently of walvec from what the libraries' readers expect.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walvec_model::{Payload, PointId};
use walvec_transform::Layout;

/// Returns the expected payload of a row. LlamaIndex's node is JSON here, and holds what its reader shows, as in
/// [`seen`].
pub(crate) fn laid_out(layout: Layout, id: PointId, text: &str, fields: Payload) -> Payload {
    let payload = match layout {
        Layout::Flat => return fields,
        Layout::LangChain => json!({ "page_content": text, "metadata": fields }),
        Layout::FastEmbed => json!({ "document": text, "metadata": fields }),
        Layout::LlamaIndex => {
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
pub(crate) fn seen(layout: Layout, mut payload: Payload) -> Result<Payload> {
    if layout == Layout::LlamaIndex {
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
pub(crate) fn vector_name(layout: Layout) -> Option<String> {
    match layout {
        Layout::Flat | Layout::LangChain => None,
        Layout::LlamaIndex => Some("text-dense".to_owned()),
        Layout::FastEmbed => Some("fast-64".to_owned()),
    }
}

/// The name of the sparse vectors, where there are any.
pub(crate) fn keywords_name(layout: Layout) -> String {
    let name = match layout {
        Layout::Flat | Layout::FastEmbed => "bm25",
        Layout::LangChain => "langchain-sparse",
        Layout::LlamaIndex => "text-sparse-new",
    };
    name.to_owned()
}

/// Returns the name of the object that holds the fields; `None` if they are at the top level.
pub(crate) fn nesting(layout: Layout) -> Option<String> {
    matches!(layout, Layout::LangChain | Layout::FastEmbed).then(|| "metadata".to_owned())
}
