//! Checks that the libraries for which the layouts are made find and read the points that walvec writes.
//!
//! `make test-clients` runs it: it needs a Python with those libraries, whose path is in `WALVEC_TEST_PYTHON`, and the
//! model of the demo. The server is the one inside this process, over gRPC, or the one that `WALVEC_TEST_QDRANT_URL` (gRPC)
//! and `WALVEC_TEST_QDRANT_REST_URL` name. In the second case the libraries use HTTP, which is their default.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::process::Command;
use walvec_e2e::{Collection, Settings, TestContext, Walvec, test, wait};
use walvec_test_qdrant::TestServer;

const MODEL: &str = "sentence-transformers/all-MiniLM-L6-v2";

const BOOKS: &str = "
    CREATE TABLE books (id int PRIMARY KEY, name text, author text, year int, tags text[], extra jsonb, body text);
    ALTER TABLE books ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO books VALUES
        (1, 'The War of the Worlds', 'H. G. Wells', 1898, '{mars,war}', '{\"pages\": 287}', repeat('x', 3000)),
        (2, 'Moby Dick', 'Herman Melville', 1851, '{sea}', NULL, repeat('y', 3000)),
        (3, 'Pride and Prejudice', 'Jane Austen', 1813, NULL, '{}', NULL),
        (4, 'The Time Machine', 'H. G. Wells', 1895, '{}', '{\"pages\": 118}', 'z')";

fn main() -> ExitCode {
    walvec_e2e::suite::main(&[
        test!(langchain_finds_and_reads_the_rows),
        test!(llamaindex_finds_and_reads_the_rows),
        test!(qdrants_mcp_server_finds_and_reads_the_rows),
        test!(qdrants_python_client_finds_the_rows_by_a_text),
    ])
}

async fn langchain_finds_and_reads_the_rows(context: TestContext) -> Result<()> {
    check(context, "langchain", "langchain_store.py").await
}

async fn llamaindex_finds_and_reads_the_rows(context: TestContext) -> Result<()> {
    check(context, "llamaindex", "llamaindex_store.py").await
}

async fn qdrants_mcp_server_finds_and_reads_the_rows(context: TestContext) -> Result<()> {
    check(context, "fastembed", "mcp_server.py").await
}

async fn qdrants_python_client_finds_the_rows_by_a_text(context: TestContext) -> Result<()> {
    check(context, "fastembed", "fastembed_document.py").await
}

/// Fills a collection in `layout`, changes it, and lets `program` read it each time.
async fn check(context: TestContext, layout: &str, program: &str) -> Result<()> {
    let server = Server::start()?;
    context.execute(BOOKS).await?;
    let name = format!("walvec_{}_{}", program.trim_end_matches(".py"), context.server.version().major);
    let collection = Collection::new(&name, "public.books", "{{ name }} by {{ author }}").with("layout", json!(layout));
    let settings = Settings::new([collection.with("index", json!({ "year": "integer" }))])
        .with("embedding", json!({ "model": model()? }))
        .with("sink", json!({ "qdrant": { "url": server.grpc() } }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    let library = Library { server: &server, program, collection: &name };
    looks_right(&context, &library).await?;
    context
        .execute(
            "UPDATE books SET name = 'The Island of Doctor Moreau', year = 1896 WHERE id = 1;
             UPDATE books SET year = 1850 WHERE id = 2;
             DELETE FROM books WHERE id = 4;
             INSERT INTO books VALUES (5, 'Dracula', 'Bram Stoker', 1897, '{vampire}', NULL, NULL)",
        )
        .await?;
    walvec.caught_up(&context).await?;
    looks_right(&context, &library).await?;
    purged(&context, walvec).await
}

/// Checks that each row is the best hit for its own name and the only one with its year, and that the class returns its
/// columns and its text.
async fn looks_right(context: &TestContext, library: &Library<'_>) -> Result<()> {
    let rows = context.sql.query("SELECT to_jsonb(books)::text FROM books ORDER BY id", &[]).await?;
    let rows: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect();
    let by_name = rows.iter().map(|row| json!({ "query": row["name"], "year": null }));
    let by_year = rows.iter().map(|row| json!({ "query": "a book", "year": row["year"] }));
    let answers = library.find(&by_name.chain(by_year).collect::<Vec<_>>()).await?;
    let (by_name, by_year) = answers.split_at(rows.len());
    assert!(by_name.iter().all(|hits| hits.len() == 3) && by_year.iter().all(|hits| hits.len() == 1), "{answers:?}");
    for (row, hits) in rows.iter().zip(by_name).chain(rows.iter().zip(by_year)) {
        let (hit, text) = (&hits[0], |column: &str| row[column].as_str().unwrap());
        // LlamaIndex returns every id as a text.
        assert_eq!(hit["id"].to_string().trim_matches('"'), row["id"].to_string(), "{hit}");
        assert_eq!(hit["text"], format!("{} by {}", text("name"), text("author")));
        for (column, value) in row.as_object().unwrap() {
            assert_eq!(&hit["metadata"][column], value, "{column} of {hit}");
        }
        assert!(hit["metadata"].get("_walvec").is_none(), "{hit}");
    }
    Ok(())
}

/// Stops walvec and removes its collections, because a real server would keep them.
async fn purged(context: &TestContext, walvec: Walvec) -> Result<()> {
    walvec.stop().await?;
    let output = context.walvec(&["reset", "--force", "--purge"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Returns the directory of the model with which both sides embed.
fn model() -> Result<PathBuf> {
    let root = walvec_embed::model_dir::root_from(
        env::var_os("WALVEC_MODELS"),
        env::var_os("XDG_CACHE_HOME"),
        env::var_os("HOME"),
    );
    Ok(root.context("neither WALVEC_MODELS nor HOME is set")?.join(MODEL))
}

/// The server that stores the points.
enum Server {
    InThisProcess(TestServer),
    Real { grpc: String, rest: String },
}

impl Server {
    fn start() -> Result<Self> {
        let Ok(grpc) = env::var("WALVEC_TEST_QDRANT_URL") else {
            return TestServer::start().map(Self::InThisProcess);
        };
        let rest = env::var("WALVEC_TEST_QDRANT_REST_URL").unwrap_or_else(|_| "http://localhost:6333".to_owned());
        Ok(Self::Real { grpc, rest })
    }

    fn grpc(&self) -> String {
        match self {
            Self::InThisProcess(server) => server.url(),
            Self::Real { grpc, .. } => grpc.clone(),
        }
    }

    /// Returns the arguments with which the libraries reach the server.
    fn arguments(&self) -> [String; 2] {
        match self {
            Self::InThisProcess(server) => ["--grpc".to_owned(), server.url()],
            Self::Real { rest, .. } => ["--rest".to_owned(), rest.clone()],
        }
    }
}

/// A library's own class, in a program of `tests/clients`.
struct Library<'a> {
    server: &'a Server,
    program: &'a str,
    collection: &'a str,
}

impl Library<'_> {
    /// Returns the hits of the class for each question, best first.
    async fn find(&self, questions: &[Value]) -> Result<Vec<Vec<Value>>> {
        let python =
            env::var("WALVEC_TEST_PYTHON").context("WALVEC_TEST_PYTHON is not set; `make test-clients` sets it")?;
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients").join(self.program);
        let mut command = Command::new(python);
        command.arg("-B").arg(program).args(self.server.arguments());
        command.args(["--collection", self.collection, "--model"]).arg(model()?).arg(json!(questions).to_string());
        let output = tokio::time::timeout(wait::LIMIT, command.kill_on_drop(true).output()).await??;
        if !output.status.success() {
            bail!("{} ended with {}: {}", self.program, output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
