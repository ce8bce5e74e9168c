//! A temporary PostgreSQL with a catalogue of books.
//!
//! - `catalogue`: the books, and their table

mod catalogue;

pub(crate) use catalogue::{books, fill};

/// The demo's first search.
pub(crate) const QUERY: &str = "battle in space";

/// Queries that the page suggests.
pub(crate) const EXAMPLES: [&str; 5] =
    [QUERY, "a murder on a train", "black holes and the big bang", "flying over Africa", "books are burned"];

/// Makes the configuration of the demo, with the addresses and paths of this run.
pub(crate) fn configuration(
    database_url: &str,
    data_directory: &std::path::Path,
    listen: std::net::SocketAddr,
) -> String {
    let data_directory = data_directory.display();
    format!(
        r#"source:
  url: "{database_url}"
collections:
  - name: books
    table: public.books
    text: "{{{{ name }}}} by {{{{ author }}}}. {{{{ description }}}}"
    payload: [name, author, year, description]
    index: {{ year: integer, author: keyword }}
embedding:
  model: sentence-transformers/all-MiniLM-L6-v2
sink:
  embedded: {{ path: "{data_directory}" }}
server:
  listen: {listen}
"#
    )
}
