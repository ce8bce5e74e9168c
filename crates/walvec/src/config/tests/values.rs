//! Messages to a user who wrote a value that makes no sense.

use super::*;

#[test]
fn a_section_whose_keys_are_all_commented_out_has_its_defaults() {
    let config = load(&format!("server:\n  # listen: 0.0.0.0:1\n{COLLECTION}"));
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8082");
}

#[test]
fn a_wrong_value_is_shown_with_its_line_and_its_dotted_key() {
    let message = refusal(&format!("{COLLECTION}pipeline:\n  batch_rows: 0\n"));
    assert_eq!(
        message,
        "walvec.yaml:4:15: pipeline.batch_rows: 0 is out of range; 1 to 10000 are allowed\n    \
         4 |   batch_rows: 0\n      |               ^"
    );
}

#[test]
fn wrong_types_and_values_name_the_key_and_what_is_expected() {
    for (text, expected) in [
        ("pipeline: { batch_rows: many }", "pipeline.batch_rows: \"many\" is not a whole number"),
        ("pipeline: { batch_rows: -1 }", "pipeline.batch_rows: \"-1\" is not a whole number"),
        ("pipeline: { batch_wait_ms: 10001 }", "pipeline.batch_wait_ms: 10001 is out of range; 0 to 10000"),
        ("pipeline: 5", "pipeline: expected keys and values"),
        ("source: { copy_workers: 65 }", "source.copy_workers: 65 is out of range; 1 to 64"),
        ("source: { slot: My-Slot }", "source.slot: \"My-Slot\" is no name"),
        ("source: { slot: [a] }", "source.slot: found a list, expected a text"),
        ("source: { slot: }", "source.slot: nothing is given, expected a text"),
        ("source: { publication: '' }", "source.publication: must have"),
        ("server: { listen: 8082 }", "server.listen: \"8082\" is not an address with a port"),
        ("server: { token: '' }", "server.token: must not be empty"),
        ("sink: { embedded: { path: '' } }", "sink.embedded.path: empty"),
        ("sink: { embedded: {}, qdrant: { url: 'http://a:6334' } }", "sink: embedded and qdrant exclude each other"),
        ("sink: { qdrant: { url: 'localhost:6334' } }", "sink.qdrant.url: not an address"),
        ("sink: { qdrant: { url: 'http://a:6334', state: '' } }", "sink.qdrant.state: empty"),
        ("sink: { qdrant: { url: 'http://a:6334', replication_factor: 0 } }", "sink.qdrant.replication_factor"),
        ("sink: { qdrant: { url: 'http://a:6334', shard_key: '' } }", "sink.qdrant.shard_key: empty"),
        (
            "sink: { qdrant: { url: 'http://a:6334', on_disk: yes } }",
            "sink.qdrant.on_disk: \"yes\" is neither true nor",
        ),
    ] {
        let message = refusal(&format!("{COLLECTION}{text}\n"));
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn wrong_collections_name_the_key_and_what_is_expected() {
    for (fields, expected) in [
        ("name: .a, table: a.b, text: t", "collections[0].name: \".a\""),
        ("name: a/b, table: a.b, text: t", "collections[0].name: \"a/b\""),
        ("name: a, table: books, text: t", "collections[0].table: \"books\" has no schema; write public.books"),
        ("name: a, table: a.b", "collections[0].text: missing"),
        ("name: a, table: a.b, text: ' '", "collections[0].text: empty"),
        ("name: a, table: a.b, text: t, where: ''", "collections[0].where: empty"),
        ("name: a, table: a.b, text: t, payload: [x, x]", "collections[0].payload[1]: \"x\" is listed twice"),
        ("name: a, table: a.b, text: t, payload: [_walvec]", "collections[0].payload[0]: \"_walvec\""),
        ("name: a, table: a.b, text: t, computed: {_walvec: x}", "collections[0].computed._walvec: \"_walvec\""),
        (
            "name: a, table: a.b, text: t, index: {x: string}",
            "collections[0].index.x: \"string\" is none of keyword, integer",
        ),
        ("name: a, table: a.b, text: t, payload: [y], index: {x: text}", "collections[0].index.x: not a payload field"),
        (
            "name: a, table: a.b, text: t, layout: nested",
            "collections[0].layout: \"nested\" is none of flat, langchain",
        ),
        (
            "name: a, table: a.b, text: t, layout: llamaindex, payload: [doc_id]",
            "collections[0].payload[0]: the layout llamaindex needs the name \"doc_id\"",
        ),
        (
            "name: a, table: a.b, text: t, layout: langchain, computed: {_id: x}",
            "collections[0].computed._id: the layout langchain needs the name \"_id\"",
        ),
    ] {
        let message = refusal(&format!("collections: [{{ {fields} }}]\n"));
        assert!(message.contains(expected), "{fields}: {message}");
    }
    let unsharded = "collections: [{name: a, table: a.b, text: t, payload: [x]}]\n\
        sink: { qdrant: { url: 'http://a:6334', shard_key: tenant } }";
    assert!(refusal(unsharded).contains("sink.qdrant.shard_key: collection a has no payload field \"tenant\""));
    let filtered = "collections: [{name: a, table: a.b, text: t, where: x > 1}, {name: b, table: a.b, text: t}]";
    assert!(refusal(filtered).contains("collections[1].where: collection a shows a.b by another `where`"));
    let twice = "collections: [{name: a, table: a.b, text: t}, {name: A, table: a.c, text: t}]";
    assert!(refusal(twice).contains("collections[1].name: \"A\" is used twice"));
    assert!(refusal("collections: []").contains("collections: there is none"));
    assert!(refusal("# nothing\n").contains("collections: missing"));
}

#[test]
fn a_misspelt_key_is_refused_and_the_right_one_is_offered() {
    let message = refusal(&format!("{COLLECTION}source:\n  slott: x\n"));
    assert!(message.starts_with("walvec.yaml:4:3: source.slott: unknown key; did you mean slot?"), "{message}");
    assert!(message.contains("keys here: url, slot, publication, columns, on_gap, copy_workers"), "{message}");
    assert!(refusal("collection: []\n").contains("did you mean collections?"));
}

#[test]
fn keywords_are_in_a_language() {
    let hybrid = |value: &str| format!("collections: [{{ name: a, table: a.b, text: t, hybrid: {value} }}]");
    for (value, language) in [("true", Some("english")), ("false", None), ("german", Some("german"))] {
        assert_eq!(load(&hybrid(value)).collections[0].hybrid.as_deref(), language);
    }
    assert!(refusal(&hybrid("klingon")).contains("\"klingon\" is no language"));
}

#[test]
fn chunks_that_make_no_sense_are_refused_where_they_stand() {
    let with = |chunk: &str| format!("collections: [{{ name: a, table: a.b, text: t, payload: [b], chunk: {chunk} }}]");
    for (chunk, expected) in [
        ("{}", "collections[0].chunk: says no length"),
        ("{ tokens: 256, sentences: 3 }", "exclude each other"),
        ("{ tokens: 2 }", "chunk.tokens: 2 is out of range; 8 to"),
        ("{ sentences: 0 }", "chunk.sentences: 0 is out of range"),
        ("{ tokens: 256, overlap: 129 }", "chunk.overlap: 129 is more than half a chunk of 256"),
        ("{ tokens: 256, field: '' }", "chunk.field: empty"),
        ("{ tokens: 256, field: b }", "chunk.field keeps the text of the chunk in \"b\""),
        ("{ words: 3 }", "words"),
    ] {
        let message = refusal(&with(chunk));
        assert!(message.contains(expected), "{chunk}: {message}");
    }
    let chunk = load(&with("{ sentences: 5, overlap: 1, markdown: true }")).collections.remove(0).chunk.unwrap();
    assert_eq!(chunk.spec().describe(), "5 sentences, overlap 1, markdown true");
}

#[test]
fn a_switch_is_true_or_false() {
    let on_disk = |text: &str| {
        let config = load(&format!("{COLLECTION}sink: {{ qdrant: {{ url: 'http://a:6334', on_disk: {text} }} }}\n"));
        config.sink.qdrant.unwrap().on_disk
    };
    assert_eq!((on_disk("true"), on_disk("'false'"), on_disk("")), (Some(true), Some(false), None));
}

#[test]
fn a_key_that_travels_unencrypted_is_noticed() {
    let shows = |url: &str| {
        let config = load(&format!("{COLLECTION}sink: {{ qdrant: {{ url: '{url}', api_key: k }} }}\n"));
        config.sink.qdrant.unwrap().shows_its_key()
    };
    assert!(shows("http://qdrant.example:6334"));
    for fine in ["https://qdrant.example:6334", "http://localhost:6334", "http://127.0.0.1:6334", "http://[::1]:6334"] {
        assert!(!shows(fine), "{fine}");
    }
}
