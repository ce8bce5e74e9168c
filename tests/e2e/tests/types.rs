//! The promises of the type table (docs/types.md): each type is stored, rendered, filtered, sorted, shown and verified, and a filter
//! that cannot match is refused instead of answered with an empty list.
//!
//! - [`cases`]: a column of each type
//! - this file: what holds for each of them, and for some

mod cases;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use walvec_e2e::{Collection, Kafka, Settings, Test, TestContext, Walvec, test};
use walvec_test_kafka::can_test;
use walvec_test_qdrant::TestServer;

use self::cases::{Case, cases};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(every_type_is_stored_rendered_indexed_filtered_sorted_shown_and_verified),
        test!(every_type_is_the_same_on_a_server).once(),
        test!(every_type_finds_the_same_through_a_broker).once(),
        test!(a_template_compares_and_calculates_with_a_numeric),
        test!(an_index_that_no_field_can_use_stops_check_and_run),
        test!(a_json_document_stays_readable_around_a_number_that_is_no_double),
        test!(a_column_that_hides_the_row_is_named_and_the_row_is_reachable),
        test!(a_search_by_words_of_which_none_counts_says_so).once(),
        test!(a_numeric_that_is_indexed_as_a_number_later_is_stored_as_one),
        test!(a_label_that_is_added_to_an_enum_while_walvec_runs_is_refused_no_more).on_own_server(&[]),
    ]
}

const TYPES: &str = "CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION hstore; CREATE EXTENSION isn;
    SET lc_monetary = 'C'; CREATE TYPE mood AS ENUM ('ok', 'so so'); CREATE DOMAIN state AS mood; CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN price AS numeric(10,2); CREATE DOMAIN cost AS price CHECK (VALUE > 0);";

/// Returns the statements that create the table with the rows 1 to 3.
fn table(cases: &[Case]) -> String {
    let columns: String = cases.iter().map(|case| format!(", {} {}", case.column, case.sql)).collect();
    let row = |row: usize| -> String { cases.iter().map(|case| format!(", {}", case.values[row])).collect() };
    let nulls = ", NULL".repeat(cases.len());
    format!(
        "{TYPES} CREATE TABLE items (id int PRIMARY KEY, title text{columns});
         INSERT INTO items VALUES (1, 'one'{}), (2, 'two'{}), (3, 'three'{nulls})",
        row(0),
        row(1)
    )
}

fn collection(cases: &[Case]) -> Collection {
    let text: String = cases.iter().map(|case| format!(" {}={{{{ {} }}}};", case.column, case.column)).collect();
    let member = ("meta.size".to_owned(), json!("float"));
    let index = cases.iter().filter_map(|case| Some((case.column.to_owned(), case.index?.into())));
    let index: Map<String, Value> = index.chain([member]).collect();
    let computed: Map<String, Value> = cases
        .iter()
        .map(|case| (format!("shown_{}", case.column), format!("is {{{{ {} }}}}", case.column).into()))
        .collect();
    let collection = Collection::new("items", "public.items", &format!("{{{{ title }}}}{text}"));
    collection.with("index", index.into()).with("computed", computed.into())
}

async fn followed(context: &TestContext, settings: &Settings, table: &str) -> Result<Walvec> {
    context.execute(table).await?;
    let mut walvec = context.start(settings).await?;
    let status = walvec.caught_up(context).await?;
    assert_eq!(status.collections[0].dead_letters, 0, "{:?}", status.collections[0].latest_dead_letters);
    Ok(walvec)
}

async fn verified(context: &TestContext) -> Result<()> {
    let output = context.walvec(&["verify", "--json"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// Returns the ids that a search with this filter finds.
async fn found(walvec: &Walvec, filter: &str) -> Result<BTreeSet<u64>> {
    let query = [("q", "one two three"), ("limit", "100"), ("filter", filter)];
    let answer: Value = walvec.get_json("/api/v1/search", &query).await.context(filter.to_owned())?;
    let hits = answer["hits"].as_array().context("no hits")?;
    Ok(hits.iter().filter_map(|hit| hit["id"].as_u64()).collect())
}

/// Returns the ids in this order, read in pages of a single point.
async fn sorted(walvec: &Walvec, order_by: &str) -> Result<Vec<u64>> {
    let (mut ids, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut query = vec![("order_by", order_by), ("limit", "1")];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page: Value = walvec.get_json("/api/v1/points", &query).await.context(order_by.to_owned())?;
        ids.push(page["points"][0]["id"].as_u64().with_context(|| format!("{order_by}: {page:#}"))?);
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(ids),
        }
    }
}

/// Checks that the answer to a request that sorts by a column that cannot be sorted contains `part`.
async fn unsorted(walvec: &Walvec, column: &str, part: &str) -> Result<()> {
    let response = walvec.get("/api/v1/points", &[("order_by", column)]).await?;
    let (status, problem) = (response.status().as_u16(), response.json::<Value>().await?);
    let told = problem["detail"].as_str().unwrap_or_default();
    let begin = format!("order_by \"{column}\": ");
    assert!(status == 400 && told.starts_with(&begin) && told.contains(part), "{column}: {status} {problem}");
    Ok(())
}

/// Checks that the API, the page and the command refuse a filter that cannot match, each with a message that contains
/// `part`.
async fn refused(context: &TestContext, walvec: &Walvec, filter: &str, part: &str) -> Result<()> {
    let query = [("q", "one"), ("filter", filter)];
    for path in ["/api/v1/search", "/"] {
        let response = walvec.get(path, &query).await?;
        let (status, text) = (response.status().as_u16(), response.text().await?);
        let text = text.replace("&quot;", "\"").replace("&lt;", "<");
        assert!(status == 400 && text.contains(&part.replace("\\\"", "\"")), "{path} {filter}: {status} {text}");
    }
    let output = context.walvec(&["search", "one", "--filter", filter]).await?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains(part), "{filter}: {told}");
    Ok(())
}

async fn every_type_keeps_its_promises(context: &TestContext, settings: &Settings, cases: &[Case]) -> Result<()> {
    let mut walvec = followed(context, settings, &table(cases)).await?;
    // Each row is compared once after the copy and once after the stream.
    for how in ["copied", "streamed"] {
        let answer: Value = walvec.get_json("/api/v1/search", &[("q", "one"), ("limit", "10")]).await?;
        let hits = answer["hits"].as_array().context("no hits")?;
        let fields = |hit: &Value| hit["payload"].get("metadata").unwrap_or(&hit["payload"]).clone();
        let payload = |id: u64| hits.iter().find(|hit| hit["id"] == id).map(fields).context("no hit");
        for case in cases {
            for (id, stored) in (1..).zip(&case.stored) {
                assert_eq!(&payload(id)?[case.column], stored, "{how}: {} of row {id}", case.column);
            }
            assert_eq!(payload(3)?[case.column], Value::Null, "{how}: {}", case.column);
            let shown = format!("shown_{}", case.column);
            assert_eq!(payload(1)?[&shown], format!("is {}", case.printed), "{how}: {}", case.column);
            assert_eq!(payload(3)?[&shown], "is ", "{how}: {}", case.column);
            let null =
                [(format!("{} is null", case.column), vec![3]), (format!("{} is not null", case.column), vec![1, 2])];
            let null = null.iter().map(|(filter, ids)| (filter.as_str(), ids.as_slice()));
            for (filter, ids) in case.finds.iter().copied().chain(null) {
                assert_eq!(found(&walvec, filter).await?, ids.iter().copied().collect(), "{how}: {filter}");
            }
            for (order_by, ids) in case.sorts {
                assert_eq!(sorted(&walvec, order_by).await?, *ids, "{how}: {order_by}");
            }
        }
        verified(context).await?;
        context.execute("UPDATE items SET title = title || '!'").await?;
        walvec.caught_up(context).await?;
    }
    for (filter, part) in cases.iter().flat_map(|case| case.refuses) {
        refused(context, &walvec, filter, part).await?;
    }
    refused(context, &walvec, "colour=red", "there is no such field").await?;
    for case in cases.iter().filter(|case| !case.unsorted.is_empty()) {
        unsorted(&walvec, case.column, case.unsorted).await?;
    }
    unsorted(&walvec, "colour", "there is no such field").await?;
    let by_json =
        json!({"query": "one", "filter": {"isbn10": 9_780_141_439_518_u64, "price": {"lt": 50}, "meta.size": 42}});
    let client = reqwest::Client::new();
    let answer: Value =
        client.post(format!("http://{}/api/v1/search", walvec.address())).json(&by_json).send().await?.json().await?;
    assert_eq!(answer["hits"][0]["id"], 1, "{answer:#}");
    walvec.stop().await?;
    // While walvec does not run, the fields are known from the last run.
    let output = context.walvec(&["search", "one", "--json", "--filter", "flag=yes", "--filter", "price<50"]).await?;
    let answer: Value =
        serde_json::from_slice(&output.stdout).context(String::from_utf8_lossy(&output.stderr).into_owned())?;
    assert_eq!(answer["hits"][0]["id"], 1, "{answer:#}");
    let output = context.walvec(&["search", "one", "--filter", "flag=maybe"]).await?;
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn every_type_is_stored_rendered_indexed_filtered_sorted_shown_and_verified(context: TestContext) -> Result<()> {
    let cases = cases();
    every_type_keeps_its_promises(&context, &Settings::new([collection(&cases)]), &cases).await
}

async fn every_type_is_the_same_on_a_server(context: TestContext) -> Result<()> {
    let (server, cases) = (TestServer::start()?, cases());
    let url = std::env::var("WALVEC_TEST_QDRANT_URL").unwrap_or_else(|_| server.url());
    let settings = Settings::new([collection(&cases).with("layout", json!("langchain"))]);
    every_type_keeps_its_promises(&context, &settings.with("sink", json!({ "qdrant": { "url": url } })), &cases).await
}

async fn every_type_finds_the_same_through_a_broker(context: TestContext) -> Result<()> {
    if !can_test("types through a broker") {
        return Ok(());
    }
    let (kafka, cases) = (Kafka::shared(&context).await?, cases());
    let settings = kafka.carries(Settings::new([collection(&cases)]));
    context.execute(&table(&cases)).await?;
    let mut walvec = context.start(&settings).await?;
    walvec.wait_for("all rows were there", |status| status.collections[0].points == Some(3)).await?;
    kafka.read("index", &mut [&mut walvec]).await?;
    let points: Value = walvec.get_json("/api/v1/points", &[("limit", "10")]).await?;
    for case in &cases {
        for (id, stored) in case.stored.iter().enumerate() {
            assert_eq!(&points["points"][id]["payload"][case.column], stored, "{}", case.column);
        }
        for (filter, ids) in case.finds {
            assert_eq!(found(&walvec, filter).await?, ids.iter().copied().collect(), "{filter}");
        }
        for (order_by, ids) in case.sorts {
            assert_eq!(sorted(&walvec, order_by).await?, *ids, "{order_by}");
        }
    }
    verified(&context).await?;
    walvec.stop().await
}

async fn a_template_compares_and_calculates_with_a_numeric(context: TestContext) -> Result<()> {
    let text = "{{ title }}{% if price > 100 %} dear{% endif %}{% if price < 100 %} cheap{% endif %}: {{ price }}";
    let computed = json!({
        "twice": "{{ price * 2 }}", "plus": "{{ price + fee }}", "rounded": "{{ (price * 1.19)|round(2) }}", "same": "{{ price }}",
        "off": "{{ -price|float }}"
    });
    let settings = Settings::new([Collection::new("items", "public.items", text).with("computed", computed)]);
    let mut walvec = followed(
        &context,
        &settings,
        "CREATE TABLE items (id int PRIMARY KEY, title text, price numeric(10,2), fee numeric);
         INSERT INTO items VALUES (1, 'a', 12.50, 1), (2, 'b', 250.00, 0.5), (3, 'c', NULL, 1)",
    )
    .await?;
    context.execute("INSERT INTO items VALUES (4, 'd', 12.50, 1)").await?;
    walvec.caught_up(&context).await?;
    let points: Value = walvec.get_json("/api/v1/points", &[("limit", "10")]).await?;
    let points = points["points"].as_array().context("no points")?;
    for (index, expected) in [
        json!({"twice": 25.0, "plus": 13.5, "rounded": 14.88, "same": "12.50", "off": -12.5}),
        json!({"twice": 500.0, "plus": 250.5, "rounded": 297.5, "same": "250.00", "off": -250.0}),
        json!({"twice": null, "plus": null, "rounded": null, "same": null, "off": null}),
        json!({"twice": 25.0, "plus": 13.5, "rounded": 14.88, "same": "12.50", "off": -12.5}),
    ]
    .iter()
    .enumerate()
    {
        for (field, value) in expected.as_object().into_iter().flatten() {
            assert_eq!(&points[index]["payload"][field], value, "{field} of row {}", index + 1);
        }
    }
    let hash = |text: &str| walvec_model::InputHash::of(text).0;
    for (index, text) in ["a cheap: 12.50", "b dear: 250.00", "c: ", "d cheap: 12.50"].into_iter().enumerate() {
        assert_eq!(points[index]["payload"]["_walvec"]["h"], hash(text), "{text}");
    }
    verified(&context).await?;
    walvec.stop().await
}

async fn an_index_that_no_field_can_use_stops_check_and_run(context: TestContext) -> Result<()> {
    context
        .execute("CREATE TABLE items (id int PRIMARY KEY, title text, price numeric, fee money, meta jsonb, year int)")
        .await?;
    for (index, part) in [
        (
            json!({"nosuch": "keyword"}),
            "index.nosuch names no field of the payload; there are: id, title, price, fee, meta, year",
        ),
        (json!({"titel": "keyword"}), "did you mean \\\"title\\\"?"),
        (json!({"title": "integer"}), "index.title is integer, and the column is text: write keyword or text"),
        (json!({"year": "keyword"}), "index.year is keyword, and the column is integer: write integer or float"),
        (json!({"price": "integer"}), "index.price is integer, and the column is numeric: write float or keyword"),
        (json!({"fee": "float"}), "index.fee is float, and the column is money"),
        (json!({"title.color": "keyword"}), "holds no JSON"),
    ] {
        context.configure(&Settings::new([
            Collection::new("items", "public.items", "{{ title }}").with("index", index)
        ]))?;
        let output = context.walvec(&["check", "--json"]).await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && told.contains(part), "{part} is not in {told}");
        let output = context.walvec(&["run"]).await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(3) && told.contains(&part.replace("\\\"", "\"")), "{told}");
    }
    let index = json!({"meta.color": "keyword", "price": "float", "year": "integer", "meta.sizes[].cm": "float"});
    let settings = Settings::new([Collection::new("items", "public.items", "{{ title }}").with("index", index)]);
    let mut walvec = context.start(&settings).await?;
    context.execute(r#"INSERT INTO items VALUES (1, 'a', 1, 1, '{"color": "red", "sizes": [{"cm": 5}]}', 1)"#).await?;
    walvec.caught_up(&context).await?;
    assert_eq!(found(&walvec, "meta.sizes[].cm>=5").await?, [1].into());
    assert_eq!(found(&walvec, "meta.color=red").await?, [1].into());
    walvec.stop().await
}

async fn a_json_document_stays_readable_around_a_number_that_is_no_double(context: TestContext) -> Result<()> {
    let collection = Collection::new("items", "public.items", "{{ j.a }} and {{ j.b }}");
    let mut walvec = followed(
        &context,
        &Settings::new([collection]),
        r#"CREATE TABLE items (id int PRIMARY KEY, j jsonb);
           INSERT INTO items VALUES (1, '{"a": 0.1000000000000000055511151231257827, "b": "x"}'), (2, '{"a": 1e400, "b": [2.5]}')"#,
    )
    .await?;
    context.execute("INSERT INTO items SELECT id + 2, j FROM items").await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 0, "{:?}", status.collections[0].latest_dead_letters);
    assert_eq!(found(&walvec, "j.b=x").await?, [1, 3].into());
    assert_eq!(found(&walvec, "j.a=\"0.1000000000000000055511151231257827\"").await?, [1, 3].into());
    verified(&context).await?;
    walvec.stop().await
}

async fn a_column_that_hides_the_row_is_named_and_the_row_is_reachable(context: TestContext) -> Result<()> {
    context
        .execute("CREATE TABLE items (id int PRIMARY KEY, row text, \"a.b\" text); INSERT INTO items VALUES (1, 'r', 'value')")
        .await?;
    let settings = |text| Settings::new([Collection::new("items", "public.items", text)]);
    context.configure(&settings("{{ row['a.b'] }}"))?;
    let output = context.walvec(&["check"]).await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("write walvec_row[\"a.b\"]"), "{told}");
    let mut walvec = context.start(&settings("{{ row }}: {{ walvec_row['a.b'] }}")).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 0);
    verified(&context).await?;
    walvec.stop().await?;
    // `check` renders rows, and so finds one that cannot be rendered.
    context.configure(&settings("{{ 1 // (id - 1) }}"))?;
    let output = context.walvec(&["check"]).await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("E_RENDER") && told.contains("row 1"), "{told}");
    Ok(())
}

async fn a_search_by_words_of_which_none_counts_says_so(context: TestContext) -> Result<()> {
    let collection = Collection::new("items", "public.items", "{{ title }}").with("hybrid", json!(true));
    let walvec = followed(
        &context,
        &Settings::new([collection]),
        "CREATE TABLE items (id int PRIMARY KEY, title text); INSERT INTO items VALUES (1, 'The Who')",
    )
    .await?;
    let ask = [("q", "The Who"), ("mode", "keyword")];
    let answer: Value = walvec.get_json("/api/v1/search", &ask).await?;
    let note = answer["note"].as_str().unwrap_or_default().to_owned();
    assert!(note.contains("no word of the query counts"), "{answer:#}");
    let output = context.walvec(&["search", "The Who", "--mode", "keyword"]).await?;
    assert!(String::from_utf8_lossy(&output.stderr).contains("no word of the query counts"));
    let page = walvec.get("/", &ask).await?.text().await?;
    assert!(page.contains("no word of the query counts"), "{page}");
    let answer: Value = walvec.get_json("/api/v1/search", &[("q", "guitars"), ("mode", "keyword")]).await?;
    assert_eq!(answer.get("note"), None, "{answer:#}");
    walvec.stop().await
}

async fn a_numeric_that_is_indexed_as_a_number_later_is_stored_as_one(context: TestContext) -> Result<()> {
    let settings = |index: Value| {
        let collection = Collection::new("items", "public.items", "{{ title }}");
        Settings::new([collection.with("index", index)])
    };
    let walvec = followed(
        &context,
        &settings(json!({})),
        "CREATE TABLE items (id int PRIMARY KEY, title text, price numeric(10,2)); INSERT INTO items VALUES (1, 'a', 12.50)",
    )
    .await?;
    walvec.stop().await?;
    context.configure(&settings(json!({"price": "float"})))?;
    let told = String::from_utf8(context.walvec(&["check"]).await?.stdout)?;
    assert!(told.contains("will read 1 table again, because index of items changed"), "{told}");
    let mut walvec = context.start(&settings(json!({"price": "float"}))).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].embeddings_computed, 0, "the text has not changed");
    assert_eq!(found(&walvec, "price<13").await?, [1].into());
    verified(&context).await?;
    walvec.stop().await
}

async fn a_label_that_is_added_to_an_enum_while_walvec_runs_is_refused_no_more(context: TestContext) -> Result<()> {
    let mut walvec = followed(
        &context,
        &Settings::new([Collection::new("items", "public.items", "{{ title }}")]),
        "CREATE TYPE mood AS ENUM ('ok', 'so so'); CREATE TABLE items (id int PRIMARY KEY, title text, mood mood);
         INSERT INTO items VALUES (1, 'a', 'ok'), (2, 'b', 'so so')",
    )
    .await?;
    assert_eq!(found(&walvec, "mood=ok").await?, [1].into());
    refused(&context, &walvec, "mood=great", "is no label of the enum; there are: ok, so so").await?;
    context.execute("ALTER TYPE mood ADD VALUE 'great' BEFORE 'ok'").await?;
    assert_eq!(found(&walvec, "mood=great").await?, BTreeSet::new(), "no row has it yet");
    refused(&context, &walvec, "mood=grim", "is no label of the enum; there are: great, ok, so so").await?;
    context.execute("INSERT INTO items VALUES (3, 'c', 'great')").await?;
    walvec.caught_up(&context).await?;
    assert_eq!(found(&walvec, "mood=[\"great\",\"ok\"]").await?, [1, 3].into());
    context.execute("ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'").await?;
    assert!(found(&walvec, "mood=fine").await.is_ok());
    refused(&context, &walvec, "mood=ok", "is no label of the enum; there are: great, fine, so so").await?;
    // A label is accepted if PostgreSQL cannot be asked.
    context.cluster().stop_fast().await?;
    assert_eq!(found(&walvec, "mood=glad").await?, BTreeSet::new());
    walvec.stop().await
}
