//! Which source of a value takes precedence, and what a command needs of them.

use super::*;

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
