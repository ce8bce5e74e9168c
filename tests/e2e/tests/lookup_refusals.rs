//! Lookups that cannot work are refused before anything is changed; the message has the cause and the remedy.

use anyhow::Result;
use serde_json::{Value, json};
use walvec_e2e::{Collection, Settings, Test, TestContext, test};

use crate::lookups::{SCHEMA, TEXT, books, books_with, followed, lookups};

pub(crate) fn tests() -> Vec<Test> {
    vec![test!(a_lookup_that_cannot_work_is_refused_by_name), test!(a_worker_without_the_database_is_refused).once()]
}

async fn refused(context: &TestContext, settings: &Settings, code: &str, words: &[&str]) -> Result<()> {
    context.configure(settings)?;
    let output = context.walvec(&["run"]).await?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(errors.lines().last(), Some(code), "{errors}");
    for word in words {
        assert!(errors.contains(word), "\"{word}\" is missing in:\n{errors}");
    }
    Ok(())
}

async fn a_lookup_that_cannot_work_is_refused_by_name(context: TestContext) -> Result<()> {
    context.execute(SCHEMA).await?;
    let author = |on: Value| {
        books_with(json!({ "author": { "table": "public.authors", "on": on }, "reviews": lookups()["reviews"] }))
    };
    refused(&context, &author(json!({ "id": "auther" })), "E_CONFIG", &["auther", "public.books", "author_id"]).await?;
    refused(&context, &author(json!({ "ident": "author_id" })), "E_CONFIG", &["ident", "public.authors", "name"])
        .await?;
    refused(&context, &author(json!({ "id": "description" })), "E_CONFIG", &["author", "integer = text"]).await?;
    refused(&context, &author(json!({})), "E_CONFIG", &["lookup.author.on", "empty"]).await?;
    let missing = books_with(json!({ "author": { "table": "public.auhtors", "on": { "id": "author_id" } } }));
    refused(&context, &missing, "E_TABLE", &["public.auhtors"]).await?;
    let named = books_with(json!({ "description": { "table": "public.authors", "on": { "id": "author_id" } } }));
    refused(&context, &named, "E_CONFIG", &["\"description\"", "public.books"]).await?;
    let itself = books_with(json!({ "sequel": { "table": "public.books", "on": { "id": "author_id" } } }));
    refused(&context, &itself, "E_CONFIG", &["cycle", "public.books"]).await?;
    let mut authors = Collection::new("authors", "public.authors", "{{ name }}");
    authors = authors
        .with("lookup", json!({ "books": { "table": "public.books", "on": { "author_id": "id" }, "many": true } }));
    let ours = Collection::new("books", "public.books", TEXT).with("lookup", lookups());
    refused(&context, &Settings::new([authors, ours]), "E_CONFIG", &["cycle", "public.authors looks up public.books"])
        .await?;
    let typo = Collection::new("books", "public.books", "{% for r in reviews %}{{ r.txet }}{% endfor %}");
    let typo = Settings::new([typo.with("lookup", lookups())]);
    refused(&context, &typo, "E_SCHEMA", &["txet", "public.reviews", "did you mean \"text\""]).await?;
    context.execute("CREATE EXTENSION citext; CREATE TABLE tags (name citext PRIMARY KEY)").await?;
    let tags = json!({ "table": "public.tags", "on": { "name": "name" } });
    let tags = books_with(json!({ "author": lookups()["author"], "reviews": lookups()["reviews"], "tag": tags }));
    refused(&context, &tags, "E_CONFIG", &["\"tag\"", "public.tags", "citext", "extension"]).await?;
    context.execute("ALTER TABLE reviews REPLICA IDENTITY DEFAULT").await?;
    let remedy = "ALTER TABLE \"public\".\"reviews\" REPLICA IDENTITY FULL;";
    refused(&context, &books(), "E_REPLICA_IDENTITY", &["book_id", "public.reviews", remedy]).await?;
    context
        .execute(
            "CREATE TABLE parted (id int PRIMARY KEY, book_id int, text text) PARTITION BY RANGE (id);
             CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (1000);
             ALTER TABLE parted REPLICA IDENTITY FULL",
        )
        .await?;
    let parted = json!({ "table": "public.parted", "on": { "book_id": "id" }, "many": true });
    let parted = books_with(json!({ "author": lookups()["author"], "reviews": parted }));
    let of_partition = "ALTER TABLE \"public\".\"parted_1\" REPLICA IDENTITY FULL;";
    refused(&context, &parted, "E_REPLICA_IDENTITY", &["public.parted_1", of_partition]).await?;
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
    assert_eq!(context.sql.query_one(slots, &[&context.slot()]).await?.get::<_, i64>(0), 0);
    context.execute(remedy).await?;
    followed(&context, &books()).await?.stop().await
}

async fn a_worker_without_the_database_is_refused(context: TestContext) -> Result<()> {
    let broker = json!({ "kafka": { "bootstrap": "localhost:1" } });
    let settings = books().with("broker", broker).with("source", json!({ "url": "" }));
    context.configure(&settings)?;
    for stage in ["index", "embed"] {
        let output = context.walvec(&["run", "--stage", stage]).await?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains("source.url") && errors.contains("collection books looks rows up"), "{errors}");
        assert_eq!(errors.lines().last(), Some("E_CONFIG"), "{errors}");
    }
    Ok(())
}
