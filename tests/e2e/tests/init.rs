//! `walvec init` writes a configuration for an existing database.

use anyhow::Result;
use serde_json::Value;
use walvec_e2e::settings::MODEL;
use walvec_e2e::{Test, TestContext, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_table_gets_a_configuration_that_works),
        test!(a_shop_gets_filters_that_find_and_no_personal_data),
        test!(what_cannot_be_configured_is_said).once(),
    ]
}

const TABLES: &str = "
    CREATE TABLE authors (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE \"The Articles\" (
        id bigint PRIMARY KEY, title text NOT NULL, body text, author_id int REFERENCES authors,
        status text, slug text, password_hint text, published boolean, picture bytea);
    CREATE TABLE keyless (name text);
    CREATE TABLE numbers (id int PRIMARY KEY, n int);
    INSERT INTO authors VALUES (1, 'Jane Austen'), (2, 'Herman Melville');
    INSERT INTO \"The Articles\"
        SELECT g, 'Title number ' || g, E'# Heading\\n\\n' || repeat('some words that are read ', 120), 1 + g % 2,
               (ARRAY['draft', 'done'])[1 + g % 2], 'slug-' || g, 'my first pet', g % 2 = 0, '\\x00'
        FROM generate_series(1, 200) g;
    ANALYZE \"The Articles\"";

async fn a_table_gets_a_configuration_that_works(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    let url = context.url();
    let output = context.walvec(&["init", "--url", &url, "-o", "proposed.yaml"]).await?;
    let told = String::from_utf8(output.stdout)?;
    assert!(output.status.success() && told.contains("The_Articles"), "{}", String::from_utf8_lossy(&output.stderr));
    let file = context.directory().join("proposed.yaml");
    let written = std::fs::read_to_string(&file)?;
    for part in [
        "    table: \"public.\\\"The Articles\\\"\"\n",
        "    text: \"{{ title }}\\n\\n{{ body }}\"\n",
        "    chunk: { tokens: 256, overlap: 32, markdown: true }\n",
        "    payload: [\"id\", \"title\", \"author_id\", \"status\", \"slug\", \"published\"]\n",
        "    index: { \"author_id\": integer, \"status\": keyword, \"published\": bool }\n",
        "    # lookup: { author: { table: public.authors, on: { id: author_id } } }\n",
        "  - name: authors\n",
        "# About 200 rows.",
    ] {
        assert!(written.contains(part), "{part}\n{written}");
    }
    for left_out in ["public.keyless has no primary key", "public.numbers has no column that looks like text"] {
        assert!(written.contains(&format!("  # Left out: {left_out}")) && told.contains(left_out), "{written}\n{told}");
    }
    assert!(!written.contains(&url), "the file holds the connection, and perhaps its password");

    // The file is used as it is, except for the model, which tests do not have, and the names, which are this test's
    // own.
    let own = format!("url: '{url}'\n  slot: {0}\n  publication: {0}", context.slot());
    std::fs::write(&file, written.replace("url: ${DATABASE_URL}", &own).replace("BAAI/bge-small-en-v1.5", MODEL))?;
    let output = context.walvec(&["check", "-c", "proposed.yaml", "--json"]).await?;
    let checked: Value = serde_json::from_slice(&output.stdout)?;
    assert!(output.status.success(), "{checked:#}");

    let output = context.walvec(&["init", "--url", &url, "-o", "proposed.yaml"]).await?;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("exists already"));
    Ok(())
}

const SHOP: &str = "
    CREATE TABLE products (
        id int PRIMARY KEY, \"Title Text\" text, description text, category text, price numeric(10, 2), tags text[],
        contact_email text);
    INSERT INTO products SELECT g, 'Chair number ' || g, 'A chair that is made by hand, and lasts for years.',
        (ARRAY['Home & Garden', 'Office'])[1 + g % 2], CASE WHEN g > 1 THEN g * 10 END, ARRAY['red', 'oak'], 'a@example.org'
        FROM generate_series(1, 20) g;
    CREATE TABLE customers (id int PRIMARY KEY, name text, phone text);
    INSERT INTO customers VALUES (1, 'Jane Doe', '+49 30 1234');
    CREATE VIEW cheap AS SELECT * FROM products;
    CREATE TABLE events (id int PRIMARY KEY, note text) PARTITION BY LIST (id);
    CREATE TABLE events_1 PARTITION OF events DEFAULT";

async fn a_shop_gets_filters_that_find_and_no_personal_data(context: TestContext) -> Result<()> {
    context.execute(SHOP).await?;
    let url = context.url();
    let output = context.walvec(&["init", "--url", &url, "-o", "proposed.yaml"]).await?;
    let told = String::from_utf8(output.stdout)?;
    for part in [
        "without personal data (products.contact_email)",
        "public.cheap is a view",
        "a partition of public.events",
        "public.customers has only personal data",
    ] {
        assert!(told.contains(part), "{part}\n{told}");
    }
    let written = std::fs::read_to_string(context.directory().join("proposed.yaml"))?;
    let own = format!("url: '{url}'\n  slot: {0}\n  publication: {0}", context.slot());
    let written = written.replace("url: ${DATABASE_URL}", &own).replace("BAAI/bge-small-en-v1.5", MODEL);
    let written = written.replace("./walvec-data", "data") + "server: { listen: '127.0.0.1:0' }\n";
    let mut walvec = context.start_with(&written).await?;
    walvec.caught_up(&context).await?;
    for (filter, hits) in [("price<50", 3), ("category=Office", 10), ("tags=oak", 20), ("tags=elm", 0)] {
        let query = [("q", "chair"), ("collection", "products"), ("limit", "50"), ("filter", filter)];
        let found: Value = walvec.get_json("/api/v1/search", &query).await?;
        assert_eq!(found["hits"].as_array().map(Vec::len), Some(hits), "{filter}: {found:#}");
        assert!(!found.to_string().contains("example.org"), "{found:#}");
    }
    let output = context.walvec(&["verify", "--json"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    walvec.stop().await?;

    let personal = context.walvec(&["init", "--url", &url, "--include-personal", "-o", "-"]).await?;
    let written = String::from_utf8(personal.stdout)?;
    assert!(written.contains("contact_email\"]") && written.contains("text: \"{{ name }}. {{ phone }}\""), "{written}");
    Ok(())
}

async fn what_cannot_be_configured_is_said(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    context.execute("CREATE VIEW titles AS SELECT title FROM \"The Articles\"").await?;
    let url = context.url();
    for (table, part) in [
        ("public.keyless", "no primary key"),
        ("public.numbers", "no column that looks like text"),
        ("public.nowhere", "there is no table public.nowhere"),
        ("public.titles", "is a view"),
    ] {
        let output = context.walvec(&["init", "--url", &url, "--table", table, "-o", "-"]).await?;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && told.contains(part) && output.stdout.is_empty(), "{told}");
    }
    let output = context.walvec(&["init", "--url", &url, "--table", "public.authors", "-o", "-"]).await?;
    let written = String::from_utf8(output.stdout)?;
    assert!(written.contains("text: \"{{ name }}\"") && !written.contains("Articles"), "{written}");
    Ok(())
}
