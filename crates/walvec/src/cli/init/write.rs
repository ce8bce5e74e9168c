//! A commented configuration.

use std::fmt::Write as _;

use serde_json::json;
use walvec_model::TableName;

use super::LeftOut;
use super::propose::Proposal;

/// The model that the file names: the default.
pub(super) const MODEL: &str = "BAAI/bge-small-en-v1.5";

const HEAD: &str = "\
# Written by `walvec init`, which has looked at the tables' columns and their first rows. Everything below is a proposal.
# Read it, then: walvec model pull BAAI/bge-small-en-v1.5; walvec check; walvec run
# `walvec schema` prints what every key means, for editors too, which complete and check by it.

source:
  # postgres://user:password@host:5432/database. Set it in the environment, so that no password is in this file.
  url: ${DATABASE_URL}

collections:
";

const TAIL: &str = "
embedding:
  # English, small and fast. Another model takes `walvec reindex`; `walvec model list` shows what there is.
  model: BAAI/bge-small-en-v1.5

sink:
  # Qdrant's engine inside walvec; a server instead: qdrant: { url: http://localhost:6334 }
  embedded: { path: ./walvec-data }
";

/// Returns the text of the file.
pub(super) fn file(proposals: &[Proposal], left_out: &[LeftOut]) -> String {
    let collections: Vec<String> = proposals.iter().map(collection).collect();
    let tables: String = left_out.iter().map(|LeftOut(what)| format!("  # Left out: {}.\n", one_line(what))).collect();
    let between = if tables.is_empty() { "" } else { "\n" };
    format!("{HEAD}{}{between}{tables}{TAIL}", collections.join("\n"))
}

/// Returns the text on one line, because a line break would end the comment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn collection(proposal: &Proposal) -> String {
    let Proposal { table, rows, name, text, payload, indexes, chunks, references, .. } = proposal;
    let mut out = String::new();
    let about = rows.map_or_else(String::new, |rows| format!("    # About {rows} rows.\n"));
    let _ = write!(out, "  - name: {name}\n{about}    table: {}\n", quoted(&sql(table)));
    out.push_str("    # What is searched: a template with the row's columns. A row is embedded again only if this text changes.\n");
    let _ = writeln!(out, "    text: {}", quoted(&template(text)));
    match chunks {
        Some((length, is_markdown)) => {
            let _ = writeln!(
                out,
                "    # Texts have up to {length:.0} characters, more than a model reads: each is cut into pieces."
            );
            let markdown = if *is_markdown { ", markdown: true" } else { "" };
            let _ = writeln!(out, "    chunk: {{ tokens: 256, overlap: 32{markdown} }}");
        }
        None => out.push_str("    # Long texts could be cut into pieces: chunk: { tokens: 256, overlap: 32 }\n"),
    }
    out.push_str("    # Finds part numbers and rare names too, by their words:\n    # hybrid: true\n");
    for (column, other, theirs) in references {
        let lookup = column.strip_suffix("_id").filter(|name| !name.is_empty()).unwrap_or(&other.name);
        let _ = writeln!(
            out,
            "    # The text may have columns of {other} as well, as {{{{ {lookup}.column }}}}:\n    \
             # lookup: {{ {lookup}: {{ table: {}, on: {{ {theirs}: {column} }} }} }}",
            sql(other)
        );
    }
    out.push_str("    # What is stored with each point, to show and to filter by.\n");
    out.push_str(&left_out(proposal));
    let _ = writeln!(out, "    payload: {}", list(payload));
    out.push_str(&numbers(proposal));
    if !indexes.is_empty() {
        let entries: Vec<String> = indexes.iter().map(|(name, kind)| format!("{}: {kind}", json!(name))).collect();
        let _ = writeln!(out, "    # Fields that filters are fast on.\n    index: {{ {} }}", entries.join(", "));
    }
    out
}

/// Says which columns are left out, and why.
fn left_out(proposal: &Proposal) -> String {
    let mut out = String::new();
    if !proposal.personal.is_empty() {
        let columns = proposal.personal.iter().map(|(column, what)| format!("{} ({what})", one_line(column)));
        let columns = columns.collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            out,
            "    # Left out, because it is about persons: {columns}.\n    \
             # Add it to payload and text if searches may show it, or: walvec init --include-personal"
        );
    }
    for (column, reason) in &proposal.left_out {
        let _ = writeln!(out, "    # Left out: {}, {reason}.", one_line(column));
    }
    out
}

/// Says how exact numbers are stored: a JSON payload cannot hold all of their digits.
fn numbers(proposal: &Proposal) -> String {
    let mut out = String::new();
    if !proposal.floats.is_empty() {
        let names: Vec<String> = proposal.floats.iter().map(|name| one_line(name)).collect();
        let _ = writeln!(
            out,
            "    # numeric is stored as text, exact to the last digit, unless it is indexed as a number, as these are: {}.",
            names.join(", ")
        );
    }
    if !proposal.exact.is_empty() {
        let names: Vec<String> = proposal.exact.iter().map(|name| one_line(name)).collect();
        let _ = writeln!(
            out,
            "    # Stored as text, exact to the last digit, so that filters compare it as text: {}.",
            names.join(", ")
        );
    }
    out
}

/// Writes the template: headlines on one line, each paragraph on its own.
fn template(text: &[(String, bool)]) -> String {
    let mut out = String::new();
    for (index, (column, is_paragraph)) in text.iter().enumerate() {
        if index > 0 {
            out.push_str(if *is_paragraph { "\n\n" } else { ". " });
        }
        let _ = write!(out, "{{{{ {column} }}}}");
    }
    out
}

/// Returns the name in SQL's notation, quoted where it has to be.
fn sql(table: &TableName) -> String {
    let part = |name: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        if begins && name.chars().all(plain) { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
    };
    format!("{}.{}", part(&table.schema), part(&table.name))
}

/// Quotes a YAML value so that it is read as it is: JSON's strings are YAML's, and `${` would begin a
/// reference, except in keys.
fn quoted(text: &str) -> String {
    json!(text.replace("${", "$${")).to_string()
}

fn list(names: &[String]) -> String {
    format!("[{}]", names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use walvec_capture::sample::ColumnKind;

    use super::super::propose::tests::{articles, column, products};
    use super::*;
    use crate::config::{Config, Environment, Overrides};

    fn read(text: &str) -> Config {
        let environment = Environment::of(&[("DATABASE_URL", "postgres://me@db/shop"), ("HOME", "/home/me")]);
        Config::from_text(text, &environment, Overrides::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn what_is_written_is_a_valid_configuration_that_says_what_was_proposed() {
        let config = read(&file(&[Proposal::of(&articles(), false).unwrap()], &[]));
        let collection = &config.collections[0];
        assert_eq!(collection.text, "{{ title }}\n\n{{ body }}");
        assert!(collection.chunk.as_ref().is_some_and(|chunk| chunk.markdown));
        assert_eq!(collection.payload.as_ref().map(Vec::len), Some(7));
        assert_eq!(collection.index.len(), 4);
    }

    #[test]
    fn names_with_anything_in_them_come_through() {
        let mut strange = articles();
        strange.table = TableName::new("My Shop", "a \"b\"");
        strange.columns.push(column("x: ${HOME} \"y\"", ColumnKind::Bool));
        let text = file(&[Proposal::of(&strange, false).unwrap()], &[]);
        let config = read(&text);
        assert_eq!(config.collections[0].table, strange.table);
        assert!(config.collections[0].payload.as_ref().unwrap().contains(&"x: ${HOME} \"y\"".to_owned()), "{text}");
    }

    #[test]
    fn columns_and_tables_that_are_left_out_are_named_with_the_reason() {
        let view = LeftOut("public.best is a view".to_owned());
        let text = file(&[Proposal::of(&products(), false).unwrap()], &[view]);
        let config = read(&text);
        assert!(text.contains("  # Left out: public.best is a view.\n"), "{text}");
        assert!(text.contains("about persons: contact_email (an e-mail address).\n"), "{text}");
        assert!(text.contains("walvec init --include-personal") && text.contains("as text: ledger."), "{text}");
        let collection = &config.collections[0];
        assert_eq!(collection.text, "{{ row[\"Title Text\"] }}. {{ description }}");
        assert!(collection.computed.is_empty() && text.contains("\"price\": float"), "{text}");
        assert!(!collection.payload.as_ref().unwrap().contains(&"contact_email".to_owned()));
    }

    #[test]
    fn what_is_commented_out_is_valid_too() {
        let text = file(&[Proposal::of(&articles(), false).unwrap()], &[]).replace("    # hybrid:", "    hybrid:");
        assert!(read(&text.replace("    # lookup:", "    lookup:")).collections[0].hybrid.is_some());
    }
}
