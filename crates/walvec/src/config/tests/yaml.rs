//! What a file may look like, and that no message shows a secret.

use super::*;

#[test]
fn references_work_in_every_kind_of_scalar_and_for_every_type() {
    let environment = with(&[("DATABASE_URL", URL), ("ROWS", "7"), ("NAME", "films"), ("YAML", "a: [b]")]);
    let text = "source: { url: '${DATABASE_URL}', slot: \"${SLOT:-other}\" }\n\
        collections:\n  - name: ${NAME}\n    table: public.${NAME}\n    text: |\n      ${YAML} ${{ price }} $${NAME}\n\
        pipeline:\n  batch_rows: ${ROWS}\n";
    let config = parse(text, &environment, Overrides::default()).unwrap();
    assert_eq!(config.source.slot, "other");
    assert_eq!(config.collections[0].table, TableName::new("public", "films"));
    assert_eq!(config.collections[0].text, "a: [b] ${{ price }} ${NAME}\n");
    assert_eq!(config.pipeline.batch_rows, 7);
}

#[test]
fn a_reference_that_cannot_be_resolved_shows_where_it_is() {
    let message = refusal(&format!("{COLLECTION}source:\n  slot: ${{SLOT:?name the slot}}\n"));
    assert!(message.starts_with("walvec.yaml:4:9: source.slot: the environment variable SLOT is not set"), "{message}");
    assert!(message.contains("name the slot") && message.contains("slot: ${SLOT"), "{message}");
}

#[test]
fn numbers_that_are_names_keep_their_spelling() {
    let config = load("collections:\n  - { name: 007, table: public.books, text: 1.50, payload: [yes, 0x1F] }\n");
    assert_eq!(config.collections[0].name, "007");
    assert_eq!(config.collections[0].text, "1.50");
    assert_eq!(config.collections[0].payload.as_deref(), Some(["yes".to_owned(), "0x1F".to_owned()].as_slice()));
}

#[test]
fn a_file_from_another_editor_is_read_alike() {
    let text = format!("\u{feff}# Größe\r\n{}pipeline:\r\n  batch_rows: 12\r\n", COLLECTION.replace('\n', "\r\n"));
    assert_eq!(load(&text).pipeline.batch_rows, 12);
    let message = refusal(&format!("{text}source:\r\n  slot: Größe\r\n"));
    assert!(message.starts_with("walvec.yaml:7:9: source.slot") && message.contains("  slot: Größe\n"), "{message}");
}

#[test]
fn no_error_shows_a_secret() {
    let secret = "s3cret";
    for text in [
        // Rules and types, next to a secret or on its line.
        "source: { url: 'postgres://u:s3cret@h/d', slot: Wrong }",
        "source: { slot: Wrong, url: 'postgres://u:s3cret@h/d' }",
        "source:\n  url: s3cret",
        "source:\n  url: [s3cret]",
        "source:\n  url: { s3cret: s3cret }",
        "source:\n  url: |\n    s3cret\n    s3cret\n  slot: Wrong",
        "server: { token: \"s3cret with blanks\" }",
        "server: { token: s3cret, tokken: s3cret }",
        "server:\n  token: &a s3cret\n  listen: *a",
        "server:\n  listen: ${HOLDS_SECRET}",
        "source:\n  slot: ${HOLDS_SECRET}-Slot",
        "source:\n  url: ${UNSET:-s3cret}",
        "source:\n  url: s3cret${UNSET}",
        "sink: { qdrant: { url: 'http://localhost', api_key: s3cret } }",
        "embedding: { model: openai/m, api_key: s3cret, timeout_ms: 1 }",
        "embedding: { model: openai/m, url: 'https://u:s3cret@h' }",
        "embedding: { api_key: s3cret }",
        "embedding:\n  model: openai/m\n  api_key: 's3cret with blanks'",
        "broker: { kafka: { sasl: { password: s3cret, mechanism: x, username: u } } }",
        "broker: { kafka: { sasl: { password: [s3cret] } } }",
        "broker: { kafka: { properties: { ssl.key.password: s3cret, acks: 1 } } }",
        "broker: { kafka: { properties: { 'sasl.password': s3cret } } }",
        // Texts that are not YAML.
        "source:\n  url: 'postgres://u:s3cret@h/d",
        "source:\n  url: \"s3cret\n    s3cret\n  slot: x",
        "server:\n  token: *s3cret",
        "server:\n  token: @s3cret",
        "server:\n  token: {s3cret",
        "broker: { kafka: { properties: { 'ssl.key.password': {s3cret",
        "broker: { kafka: { sasl: { \"password\" : {s3cret",
        "server:\n  token: s3cret: s3cret",
        "server:\n  token: \"\\s3cret\"",
        "server: {token: s3cret]",
        "server:\n  token: s3cret\n  token: s3cret",
    ] {
        let environment = with(&[("HOLDS_SECRET", secret)]);
        let file = format!("{COLLECTION}{text}\n");
        let error = parse(&file, &environment, Overrides::default()).expect_err(text);
        for message in [error.to_string(), format!("{error:?}")] {
            assert!(!message.contains(secret), "{text}: {message}");
        }
    }
}

#[test]
fn secrets_are_not_in_the_debug_output() {
    let config =
        load(&format!("{COLLECTION}server: {{ token: s3cret }}\nsource: {{ url: 'postgres://u:s3cret@h/d' }}\n"));
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn text_that_is_no_yaml_is_shown_with_its_line() {
    let message = refusal("collections:\n  - name: a\n   table: b\n");
    assert!(message.starts_with("walvec.yaml:") && message.contains("YAML"), "{message}");
    assert!(message.contains(" | "), "{message}");
    let message = refusal("pipeline: { batch_rows: ${ROWS} }\n");
    assert!(message.contains("put quotes around a reference"), "{message}");
}
