//! Guarantees to a user who configures something, rightly or wrongly.

use secrecy::ExposeSecret as _;
use serde_json::Value;
use walvec_model::TableName;

use super::settings::IndexKind;
use super::*;

mod broker;
mod embedding;
mod features;
mod lookups;

const EXAMPLE: &str = include_str!("../../../../walvec.example.yaml");

/// The least content of a file, apart from `source.url`.
const COLLECTION: &str = "collections:\n  - { name: books, table: public.books, text: '{{ name }}' }\n";

const URL: &str = "postgres://u:p@h:5432/d?sslmode=require";

/// Parses the configuration in `text`, for a program with all features.
fn parse(text: &str, environment: &Environment, overrides: Overrides) -> Result<Config, ConfigError> {
    load::from_named_text("walvec.yaml", text, environment, overrides, Features::ALL)
}

fn environment() -> Environment {
    Environment::of(&[("HOME", "/home/me"), ("DATABASE_URL", URL)])
}

fn with(variables: &[(&str, &str)]) -> Environment {
    let mut all = vec![("HOME", "/home/me")];
    all.extend(variables);
    Environment::of(&all)
}

fn load(text: &str) -> Config {
    parse(text, &environment(), Overrides::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the message for a wrong file.
fn refusal(text: &str) -> String {
    refusal_in(text, &environment())
}

fn refusal_in(text: &str, environment: &Environment) -> String {
    parse(text, environment, Overrides::default()).expect_err(text).to_string()
}

fn url(config: &Config) -> &str {
    config.source.url.expose_secret()
}

#[test]
fn the_example_is_valid_and_holds_the_defaults() {
    let example = load(EXAMPLE);
    let minimal = load(COLLECTION);
    assert_eq!(url(&example), URL);
    assert_eq!(format!("{:?}", example.pipeline), format!("{:?}", minimal.pipeline));
    assert_eq!(format!("{:?}", example.server), format!("{:?}", minimal.server));
    assert_eq!(example.sink.directory(), minimal.sink.directory());
    assert_eq!(format!("{:?}", example.embedding), format!("{:?}", minimal.embedding));
    assert_eq!(format!("{:?}", example.source), format!("{:?}", minimal.source));
    let books = &example.collections[0];
    assert_eq!(books.table, TableName::new("public", "books"));
    assert_eq!(books.computed["decade"], "{{ year // 10 * 10 }}");
    assert_eq!(books.index["year"], IndexKind::Integer);
}

#[test]
fn what_the_example_has_commented_out_is_valid_too() {
    let is_key = |line: &str| {
        let key = line.trim_start().strip_prefix("# ").and_then(|rest| rest.split_once(": "));
        key.is_some_and(|(key, _)| matches!(key, "where" | "token"))
    };
    let line = |line: &str| if is_key(line) { line.replacen("# ", "", 1) } else { line.to_owned() };
    let uncommented: Vec<String> = EXAMPLE.lines().map(line).collect();
    let environment = with(&[("DATABASE_URL", URL), ("WALVEC_TOKEN", "t")]);
    let config = parse(&uncommented.join("\n"), &environment, Overrides::default()).unwrap();
    assert_eq!(config.collections[0].filter.as_deref(), Some("year >= 1800"));
    assert!(config.server.token.is_some());
}

/// Returns the names of all keys of a schema, with those of the parts that it refers to.
fn keys(schema: &Value) -> Vec<String> {
    let objects = std::iter::once(schema).chain(schema["$defs"].as_object().into_iter().flat_map(|defs| defs.values()));
    let properties = objects.filter_map(|object| object["properties"].as_object());
    properties.flat_map(|properties| properties.keys().cloned()).collect()
}

#[test]
fn every_key_of_the_schema_is_explained_in_the_example() {
    let schema: Value = serde_json::from_str(&schema()).unwrap();
    let keys = keys(&schema);
    assert!(keys.len() >= 20, "{keys:?}");
    let mut previous_is_comment = false;
    let mut explained = Vec::new();
    for line in EXAMPLE.lines().map(str::trim) {
        let code = line.trim_start_matches("# ").trim_start_matches("- ").trim_start_matches("embedded: { ");
        if previous_is_comment {
            explained.extend(code.split_once(':').map(|(key, _)| key.to_owned()));
            explained.extend(line.split_once(": {").map(|(key, _)| key.to_owned()));
        }
        previous_is_comment = line.starts_with('#');
    }
    let sections = ["source", "collections", "embedding", "sink", "server", "pipeline"];
    for key in keys {
        let is_there = if sections.contains(&key.as_str()) {
            EXAMPLE.lines().any(|line| line == format!("{key}:"))
        } else {
            explained.contains(&key)
        };
        assert!(is_there, "{key} is not in walvec.example.yaml, or without a comment");
    }
}

#[test]
fn the_schema_refuses_unknown_keys_and_describes_every_key() {
    let schema: Value = serde_json::from_str(&schema()).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    for (name, part) in schema["$defs"].as_object().unwrap() {
        for (key, property) in part["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{name}.{key}");
        }
    }
    assert_eq!(schema["required"], serde_json::json!(["collections"]));
}

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

#[test]
fn the_database_comes_from_the_file_and_variables_fill_in_the_rest() {
    let environment = with(&[("DATABASE_URL", URL), ("PGPASSWORD", "from-env"), ("PGHOST", "elsewhere")]);
    let text = format!("{COLLECTION}source: {{ url: postgres://me@db/app }}\n");
    let config = parse(&text, &environment, Overrides::default()).unwrap();
    assert_eq!(url(&config), "postgres://me@db/app?password=from%2Denv");

    let config = parse(COLLECTION, &with(&[("PGHOST", "h"), ("PGDATABASE", "d")]), Overrides::default());
    assert_eq!(url(&config.unwrap()), "postgres://?host=h&dbname=d");
}

#[test]
fn without_any_database_the_message_says_what_to_set() {
    let message = refusal_in(COLLECTION, &with(&[]));
    assert!(message.contains("source.url: missing") && message.contains("DATABASE_URL"), "{message}");
    let message = refusal_in(COLLECTION, &with(&[("DATABASE_URL", "s3cret")]));
    assert!(message.starts_with("DATABASE_URL: not a PostgreSQL connection string"), "{message}");
}

#[test]
fn a_flag_beats_the_environment_and_that_beats_the_file() {
    let text = format!("{COLLECTION}server: {{ listen: '127.0.0.1:1', token: from-file }}\n");
    let environment = with(&[("DATABASE_URL", URL), ("WALVEC_LISTEN", "127.0.0.1:2"), ("WALVEC_TOKEN", "from-env")]);
    assert_eq!(load(&text).server.listen.port(), 1);
    let config = parse(&text, &environment, Overrides::default()).unwrap();
    assert_eq!(config.server.listen.port(), 2);
    assert_eq!(config.server.token.unwrap().expose_secret(), "from-env");
    let flag = Overrides { listen: Some(([127, 0, 0, 1], 3).into()), ..Overrides::default() };
    assert_eq!(parse(&text, &environment, flag).unwrap().server.listen.port(), 3);
}

/// A token that cannot be guessed.
const TOKEN: &str = "5f2a9c0d7b1e4836";

#[test]
fn names_that_others_use_are_answered_and_such_a_server_needs_a_token_that_nobody_guesses() {
    let server = |rest: &str| format!("{COLLECTION}server: {{ allowed_hosts: [search.example.com]{rest} }}\n");
    assert_eq!(
        load(&server("")).server.allowed_hosts,
        ["search.example.com"],
        "the proxy may ask for a password itself"
    );
    assert!(load(&server(&format!(", token: {TOKEN}"))).server.token.is_some());
    assert!(refusal(&server(", token: s3cret")).contains("server.token: the token has 6 characters"));
    let wrong = server("").replace("search.example.com", "'https://search.example.com'");
    assert!(refusal(&wrong).contains("server.allowed_hosts[0]: \"https://search.example.com\" is not a host name"));
}

#[test]
fn an_address_that_others_can_reach_needs_a_token_wherever_it_comes_from() {
    let text = format!("{COLLECTION}server: {{ listen: '0.0.0.0:80' }}\n");
    let message = refusal(&text);
    assert!(message.contains("server.listen") && message.contains("WALVEC_TOKEN"), "{message}");
    assert!(parse(&text, &with(&[("DATABASE_URL", URL), ("WALVEC_TOKEN", TOKEN)]), Overrides::default()).is_ok());
    let message = refusal_in(&text, &with(&[("DATABASE_URL", URL), ("WALVEC_TOKEN", "s3cret")]));
    assert!(message.contains("server.token") && message.contains("openssl rand -hex 32"), "{message}");
    assert!(!message.contains("s3cret"), "{message}");
    let exposed = with(&[("DATABASE_URL", URL), ("WALVEC_LISTEN", "[::]:80")]);
    assert!(refusal_in(COLLECTION, &exposed).contains("can be reached from other machines"));
    let flag = Overrides { listen: Some(([192, 168, 0, 1], 80).into()), ..Overrides::default() };
    assert!(parse(COLLECTION, &environment(), flag).is_err());
    assert!(load(&format!("{COLLECTION}server: {{ listen: '[::1]:80' }}\n")).server.token.is_none());
}

#[test]
fn a_command_that_asks_a_running_walvec_needs_none_of_its_secrets() {
    let text = format!(
        "{COLLECTION}server: {{ listen: '0.0.0.0:80', token: \"${{WALVEC_TOKEN}}\" }}\nsource: {{ url: \"${{DB}}\" }}\n"
    );
    let environment = Environment::of(&[("HOME", "/home/me")]);
    let load = |overrides, environment: &Environment| {
        Config::from_text(&text, environment, overrides).map_err(|error| error.to_string())
    };
    let config = load(Overrides::to_ask(), &environment).unwrap();
    assert!(config.server.token.is_none() && config.source.url.expose_secret().is_empty());
    assert_eq!(config.server.listen.port(), 80);
    assert!(load(Overrides::to_compare(), &environment).unwrap_err().contains("DB is not set"));
    assert!(
        load(Overrides::default(), &Environment::of(&[("HOME", "/home/me"), ("DB", URL)]))
            .unwrap_err()
            .contains("WALVEC_TOKEN")
    );
    for secret in [
        "embedding: { model: openai/m, api_key: \"${KEY}\" }",
        "sink: { qdrant: { url: 'https://q.example', api_key: \"${KEY}\" } }",
        "sink: { qdrant: { url: 'http://localhost' } }\nbroker: { kafka: { bootstrap: 'localhost:9092', tls: {}, sasl: { mechanism: plain, username: me, password: \"${KEY}\" } } }",
    ] {
        let text = format!("{COLLECTION}{secret}\n");
        let load = |overrides| Config::from_text(&text, &with(&[("DATABASE_URL", URL)]), overrides);
        assert!(load(Overrides::to_ask()).is_ok(), "{secret}");
        assert!(load(Overrides::default()).unwrap_err().to_string().contains("KEY is not set"), "{secret}");
    }
    // Variables that are set are used.
    let set = Environment::of(&[("HOME", "/home/me"), ("DB", URL), ("WALVEC_TOKEN", "t")]);
    let config = load(Overrides::to_ask(), &set).unwrap();
    assert!(config.server.token.is_some() && !config.source.url.expose_secret().is_empty());
}

#[test]
fn models_are_kept_where_the_environment_says() {
    let with_models = with(&[("DATABASE_URL", URL), ("WALVEC_MODELS", "/models")]);
    let config = parse(COLLECTION, &with_models, Overrides::default()).unwrap();
    assert_eq!(config.models, std::path::Path::new("/models"));
    assert_eq!(load(COLLECTION).models, std::path::Path::new("/home/me/.cache/walvec/models"));
}

#[test]
fn a_named_file_that_does_not_exist_is_named() {
    let path = std::path::Path::new("/nowhere/walvec.yaml");
    let error = Config::load(Some(path), &environment(), Overrides::default()).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/walvec.yaml: "), "{error}");
}

#[test]
fn without_a_file_and_a_table_the_message_says_what_to_do() {
    let error = Config::load(None, &environment(), Overrides::default()).unwrap_err();
    assert!(error.to_string().contains("./walvec.yaml does not exist"), "{error}");
    let remedy = error.remedy().unwrap();
    for part in ["walvec init --url", "-o walvec.yaml", "--config FILE", "WALVEC_CONFIG", "walvec demo"] {
        assert!(remedy.contains(part), "{part}: {remedy}");
    }
    assert!(!remedy.contains("example"), "a program alone comes without the file: {remedy}");
}

#[test]
fn the_tutorial_stacks_variables_work_without_a_file() {
    let reference = [
        ("PG_HOST", "postgres_db"),
        ("PG_PORT", "5432"),
        ("PG_USER", "root"),
        ("PG_PASSWORD", "it's"),
        ("PG_DATABASE", "test_db"),
        ("PG_SCHEMA", "public"),
        ("PG_TABLE", "Books"),
    ];
    let config = Config::load(None, &with(&reference), Overrides::default()).unwrap();
    assert_eq!(url(&config), r"host='postgres_db' port='5432' user='root' password='it\'s' dbname='test_db'");
    assert_eq!(config.collections[0].table, TableName::new("public", "Books"));
    assert_eq!(config.collections[0].name, "Books");

    let mut named = reference.to_vec();
    named.push(("qd_collection", "my-books"));
    assert_eq!(Config::load(None, &with(&named), Overrides::default()).unwrap().collections[0].name, "my-books");

    let with_more = |more: &[(&'static str, &'static str)]| {
        let variables = [reference.as_slice(), more].concat();
        Config::load(None, &with(&variables), Overrides::default())
    };
    let qdrant = |config: Config| config.sink.qdrant.unwrap().url;
    assert_eq!(qdrant(with_more(&[("qd_host", "qdrant")]).unwrap()), "http://qdrant:6334");
    assert_eq!(qdrant(with_more(&[("qd_host", "qdrant"), ("qd_port", "6333")]).unwrap()), "http://qdrant:6334");
    for (variable, more) in [
        ("qd_port", vec![("qd_port", "6333")]),
        ("qd_port", vec![("qd_host", "qdrant"), ("qd_port", "16333")]),
        ("qd_host", vec![("qd_host", "http://qdrant")]),
        ("Quix__Broker__Address", vec![("Quix__Broker__Address", "x")]),
        ("input", vec![("Quix__Broker__Address", "x:9092"), ("WALVEC_STAGE", "index"), ("input", "a b")]),
    ] {
        let message = with_more(&more).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{variable}: ")), "{message}");
    }
}
