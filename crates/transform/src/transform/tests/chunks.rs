//! Texts that are cut into chunks.

use super::*;
use crate::{ChunkSpec, Unit};

fn in_chunks(spec: TransformSpec, field: &str) -> Transform {
    let chunks = ChunkSpec { unit: Unit::Tokens, length: 2, overlap: 0, markdown: false, field: field.to_owned() };
    Transform::new(spec).unwrap().in_chunks(Chunker::new(chunks, Arc::new(|text| text.split_whitespace().count())))
}

#[test]
fn each_chunk_is_a_document_with_the_fields_of_its_row_and_its_own_text() {
    let (table, key) = (books(), RowKey::new(vec![json!(7)]));
    let transform = in_chunks(spec("one two three"), "part");
    let documents = transform.render(&table, &key, &dune()).unwrap();
    let shown: Vec<_> =
        documents.iter().map(|document| (document.text.as_str(), document.chunk, document.chunks)).collect();
    assert_eq!(shown, [("one two", 0, 2), ("three", 1, 2)]);
    for document in &documents {
        assert_eq!(document.payload["part"], document.text);
        assert_eq!(document.payload["name"], "Dune");
        assert_eq!(document.input_hash, InputHash::of(&document.text));
    }
    let ids: Vec<_> = documents.iter().map(|document| document.id).collect();
    let further = transform.further_ids(&table.name, &key, 2);
    assert_eq!(ids, std::iter::once(transform.point_id(&table, &key)).chain(further).collect::<Vec<_>>());
    assert!(ids.iter().all(|id| matches!(id, PointId::Uuid(_))), "no chunk has the id of the row");
}

#[test]
fn a_layout_with_a_place_for_the_text_has_that_of_the_chunk_there_and_names_the_row() {
    let (table, key) = (books(), RowKey::new(vec![json!(7)]));
    let documents = |layout| {
        let transform = in_chunks(TransformSpec { layout, ..spec("one two three") }, "part");
        transform.render(&table, &key, &dune()).unwrap()
    };
    assert_eq!(documents(PayloadLayout::LangChain)[1].payload["page_content"], "three");
    let nodes = documents(PayloadLayout::LlamaIndex);
    assert_eq!(nodes[1].payload["doc_id"], json!(nodes[0].id.to_string()));
    assert!(!nodes[1].payload.contains_key("part"));
}

#[test]
fn a_column_and_the_text_of_a_chunk_cannot_share_a_field() {
    let error = in_chunks(spec("{{ name }}"), "name").check(&books()).unwrap_err();
    assert!(error.to_string().contains("chunk.field"), "{error}");
}
