//! Codes of models and providers.

use super::{Code, CodeSubject};

/// The risk of a provider that can embed no text.
const KEPT_NO_ROW: &str = "Nothing is lost, and no row is parked. walvec stops, and the points stay as they were. \
                           PostgreSQL keeps the log for the slot, up to `max_slot_wal_keep_size`.";

pub(super) static SUBJECT: CodeSubject = CodeSubject {
    title: "Embedding",
    intro: None,
    codes: &[
        Code {
            name: "E_MODEL_MISSING",
            meaning: "The model is not on this machine.",
            risk: "Nothing is lost. walvec does not start.",
            remedy: "`walvec model pull NAME`. The message names the model; `WALVEC_MODELS` says where models are.",
            see: Some("install.md#models"),
        },
        Code {
            name: "E_MODEL_NAME",
            meaning: "The name is not a model's name.",
            risk: "Nothing is lost. walvec does not start, or the command does nothing.",
            remedy: "Write a name such as `BAAI/bge-small-en-v1.5`, a directory that holds a model, or `hash/64` in \
                     `embedding.model`.",
            see: Some("embedding.md"),
        },
        Code {
            name: "E_MODEL",
            meaning: "The files of a model are incomplete, broken, or of a kind that walvec cannot run.",
            risk: "Nothing is lost. walvec does not start.",
            remedy: "Put a complete BERT-style ONNX model or model2vec model there, or delete the directory and \
                     fetch the model again: `walvec model pull NAME`.",
            see: Some("embedding.md"),
        },
        Code {
            name: "E_HUB",
            meaning: "The model hub has no such model, or none that can be run here, or it did not answer.",
            risk: "Nothing. Nothing of a download that broke off is used.",
            remedy: "Check the name on the hub, choose a model with an ONNX export or a static one (model2vec), and \
                     set `HF_TOKEN` if access to it is restricted. If the hub does not answer: check the network, \
                     set `HF_ENDPOINT` to a mirror, or copy the model's files into a directory and name that \
                     directory in `embedding.model`.",
            see: Some("install.md#models"),
        },
        Code {
            name: "E_IO",
            meaning: "A file of a model cannot be read or written.",
            risk: "Nothing is lost. The model is not loaded, or not fetched.",
            remedy: "Check free space and permissions of the path in the message.",
            see: Some("install.md#models"),
        },
        Code {
            name: "E_MODEL_CHANGED",
            meaning: "The provider has another model under the same name. For a fixed text it returns another vector \
                      than before.",
            risk: "Points that were written since the time in the message may have vectors of the other model, and \
                   searches compare vectors of two models. walvec stops, so that no more are written.",
            remedy: "Bring the former model back, start walvec, and let `walvec verify --sample all --repair` \
                     replace what was written meanwhile; behind a broker it only finds such points. Or embed \
                     everything again: `walvec reset --purge`, then `walvec run`.",
            see: Some("embedding.md#when-something-goes-wrong"),
        },
        Code {
            name: "E_EMBED",
            meaning: "The embedder itself failed. walvec tries again.",
            risk: "Nothing is lost. Rows whose text has changed wait.",
            remedy: "Nothing. If the error persists, check memory and the log.",
            see: None,
        },
        Code {
            name: "E_EMBED_UNAVAILABLE",
            meaning: "The provider does not answer, or takes no more requests at the moment. walvec asks again until \
                      it does.",
            risk: "Nothing is lost. Rows whose text has changed wait.",
            remedy: "Check that `embedding.url` can be reached from this machine. If walvec asks too often, set \
                     `embedding.requests_per_minute` or `embedding.tokens_per_minute` to what the provider allows.",
            see: Some("embedding.md#when-something-goes-wrong"),
        },
        Code {
            name: "E_EMBED_ANSWER",
            meaning: "The provider's answer does not have the vectors of the texts. walvec asks again.",
            risk: "Nothing is lost, and nothing of the answer is used. Rows whose text has changed wait.",
            remedy: "Check that `embedding.url` is the address of an embedding endpoint. The part of \
                     `embedding.model` before the first `/` says which protocol it speaks.",
            see: Some("embedding.md#when-something-goes-wrong"),
        },
        Code {
            name: "E_EMBED_REFUSED",
            meaning: "The provider refuses every request. The key is wrong, it does not know the model, or the \
                      address is not that of an embedding endpoint.",
            risk: KEPT_NO_ROW,
            remedy: "Do what the message says: check `embedding.url`, `embedding.api_key`, `embedding.model` and \
                     `embedding.dimensions`.",
            see: Some("embedding.md#when-something-goes-wrong"),
        },
        Code {
            name: "E_EMBED_DIMENSION",
            meaning: "The provider returns vectors of another dimension. They cannot be compared with those that are \
                      stored.",
            risk: KEPT_NO_ROW,
            remedy: "If you want another model, name it in `embedding.model`. Otherwise set `embedding.dimensions` \
                     to the dimension that was found, or remove it.",
            see: Some("embedding.md#when-something-goes-wrong"),
        },
        Code {
            name: "E_EMBED_TEXT",
            meaning: "The model, or the provider, cannot embed the text of a row, and the row is parked.",
            risk: "The row's point is missing, or shows its former version. The other rows go on.",
            remedy: "Look at the row's text. If it is too long for the model, let `chunk` cut it, for example \
                     `chunk: { tokens: 256, overlap: 32 }`; that takes `walvec reindex`. The row is tried again when \
                     it changes, or by `walvec dead-letters retry`.",
            see: Some("embedding.md#when-something-goes-wrong"),
        },
        Code {
            name: "E_EMBED_LONG",
            meaning: "The text of a row is longer than the model reads. The row is parked, because `on_long` is \
                      `park`. As a warning of `walvec check`: the message says how many of the rows that it read are \
                      longer.",
            risk: "The point of a parked row is missing, or shows its former version. With `on_long: cut`, the ends \
                   of such texts are not found.",
            remedy: "Let `chunk` cut the texts of the collection, for example `chunk: { tokens: 256, overlap: 32 }`, \
                     or into fewer tokens than now; that takes `walvec reindex`. Or let `on_long: cut` take the \
                     beginning: restart walvec, then `walvec dead-letters retry`.",
            see: Some("chunks.md#texts-that-are-too-long"),
        },
    ],
};
