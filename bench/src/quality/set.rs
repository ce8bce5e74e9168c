//! A judged set: documents, queries, and which documents are relevant to which query.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::metrics::{Grade, Judgements};

/// A judged set: documents, queries and judgements.
#[derive(Debug, PartialEq)]
pub(super) struct JudgedSet {
    pub(super) name: String,
    /// Ids and texts.
    pub(super) documents: Vec<(String, String)>,
    /// Ids and texts.
    pub(super) queries: Vec<(String, String)>,
    pub(super) judgements: Judgements,
}

/// Questions about the books of the demo, written and judged for this project. Documents are numbered as in the catalogue,
/// from 1.
pub(super) fn catalogue() -> anyhow::Result<JudgedSet> {
    let texts = crate::embedding::catalogue()?;
    Ok(JudgedSet {
        name: "the sample catalogue".to_owned(),
        documents: (1..).zip(texts).map(|(number, text): (u32, String)| (number.to_string(), text)).collect(),
        queries: pairs(include_str!("../../quality/books/queries.tsv"))?,
        judgements: judgements(include_str!("../../quality/books/qrels.txt"))?,
    })
}

impl JudgedSet {
    /// Reads the files of a directory.
    pub(super) fn read(directory: &Path) -> anyhow::Result<Self> {
        let documents = ["documents.tsv", "documents.jsonl", "corpus.jsonl", "documents.trec"];
        let queries = ["queries.tsv", "queries.jsonl", "topics.trec"];
        let (_, qrels) = first(directory, &["qrels.txt", "qrels.tsv"])?;
        let set = Self {
            name: directory.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            documents: texts(directory, &documents, ["DOC", "DOCNO", "TEXT"])?,
            queries: texts(directory, &queries, ["top", "num", "title"])?,
            judgements: judgements(&qrels)?,
        };
        let is_known = |query: &&(String, String)| set.judgements.contains_key(&query.0);
        ensure!(
            set.queries.iter().any(|query| is_known(&query)),
            "{}: no query has a judgement; the ids of queries and qrels differ",
            directory.display()
        );
        Ok(set)
    }
}

/// Returns the name and the content of the first of these files that exists.
fn first(directory: &Path, names: &[&str]) -> anyhow::Result<(String, String)> {
    for name in names {
        let path = directory.join(name);
        if path.is_file() {
            return Ok(((*name).to_owned(), fs::read_to_string(&path).with_context(|| path.display().to_string())?));
        }
    }
    bail!("{}: it has none of {}", directory.display(), names.join(", "))
}

/// Reads ids and texts from the first of these files that exists. `tags`: the tags of an element, its id and its text
/// in TREC's form.
fn texts(directory: &Path, names: &[&str], tags: [&str; 3]) -> anyhow::Result<Vec<(String, String)>> {
    let (name, content) = first(directory, names)?;
    let read = match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("jsonl") => json_lines(&content),
        Some("trec") => elements(&content, tags),
        _ => pairs(&content),
    };
    let read = read.with_context(|| directory.join(&name).display().to_string())?;
    ensure!(!read.is_empty(), "{}: it is empty", directory.join(&name).display());
    Ok(read)
}

/// Reads lines of an id, a tab and a text.
fn pairs(content: &str) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |(number, line): (usize, &str)| {
        let (id, text) = line.split_once('\t').with_context(|| format!("line {number} has no tab"))?;
        Ok((id.to_owned(), text.replace('\t', " ")))
    };
    (1..).zip(content.lines()).filter(|(_, line)| !line.trim().is_empty()).map(pair).collect()
}

/// A line of BEIR's files.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

fn json_lines(content: &str) -> anyhow::Result<Vec<(String, String)>> {
    let read = |(number, line): (usize, &str)| {
        let Line { id, title, text } = serde_json::from_str(line).with_context(|| format!("line {number}"))?;
        Ok((id, if title.is_empty() { text } else { format!("{title}. {text}") }))
    };
    (1..).zip(content.lines()).filter(|(_, line)| !line.trim().is_empty()).map(read).collect()
}

/// Reads elements of TREC's files, which look like SGML and often do not close their fields.
fn elements(content: &str, [element, id, text]: [&str; 3]) -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for part in content.split(&format!("<{element}>")).skip(1) {
        let part = part.split(&format!("</{element}>")).next().unwrap_or(part);
        let id = field(part, id).with_context(|| format!("element {} has no <{id}>", found.len() + 1))?;
        let id = id.trim_start_matches("Number:").trim().to_owned();
        let text = field(part, text).with_context(|| format!("{id} has no <{text}>"))?;
        found.push((id, text));
    }
    Ok(found)
}

/// Returns the text between a tag and the next one.
fn field(part: &str, tag: &str) -> Option<String> {
    let (_, after) = part.split_once(&format!("<{tag}>"))?;
    let text = after.split('<').next().unwrap_or(after);
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Reads lines of `query iteration document grade` or, below a header, of `query document grade`.
fn judgements(content: &str) -> anyhow::Result<Judgements> {
    let mut judgements = Judgements::new();
    for (number, line) in (1..).zip(content.lines()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (query, document, grade) = match fields.as_slice() {
            [] => continue,
            [query, _, document, grade] => (query, document, grade),
            [query, document, grade] => (query, document, grade),
            _ => bail!("qrels, line {number}: 4 fields are expected: query, iteration, document, grade"),
        };
        let Ok(grade) = grade.parse::<i64>() else {
            ensure!(number == 1, "qrels, line {number}: the grade {grade} is no whole number");
            continue;
        };
        // TREC writes a negative grade for documents that are worse than irrelevant.
        let grade = Grade::try_from(grade.max(0)).unwrap_or(Grade::MAX);
        judgements.entry((*query).to_owned()).or_default().insert((*document).to_owned(), grade);
    }
    Ok(judgements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> anyhow::Result<JudgedSet> {
        let directory = tempfile::tempdir()?;
        for (name, content) in files {
            fs::write(directory.path().join(name), content)?;
        }
        JudgedSet::read(directory.path())
    }

    #[test]
    fn a_set_reads_the_same_in_every_form() {
        let qrels = ("qrels.txt", "q1 0 d1 2\nq1 0 d2 -1\n");
        let lines =
            read(&[("documents.tsv", "d1\ta text\nd2\tother\n"), ("queries.tsv", "q1\twhat\n"), qrels]).unwrap();
        let beir = read(&[
            (
                "corpus.jsonl",
                "{\"_id\": \"d1\", \"text\": \"a text\"}\n{\"_id\": \"d2\", \"title\": \"\", \"text\": \"other\"}\n",
            ),
            ("queries.jsonl", "{\"_id\": \"q1\", \"text\": \"what\", \"metadata\": {}}\n"),
            ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n"),
        ])
        .unwrap();
        let trec = read(&[
            ("documents.trec", "<DOC>\n<DOCNO> d1 </DOCNO>\n<TEXT>\na\ntext\n</TEXT>\n</DOC>\n<DOC><DOCNO>d2</DOCNO><TEXT>other</TEXT></DOC>"),
            ("topics.trec", "<top>\n<num> Number: q1\n<title> what\n<desc> Description:\nmore\n</top>"),
            qrels,
        ])
        .unwrap();
        assert_eq!(lines.documents, [("d1".to_owned(), "a text".to_owned()), ("d2".to_owned(), "other".to_owned())]);
        for other in [beir, trec] {
            assert_eq!(JudgedSet { name: lines.name.clone(), ..other }, lines);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (files, part) in [
            (vec![], "qrels.txt"),
            (vec![("qrels.txt", "1 0 d 1")], "documents.tsv"),
            (vec![("qrels.txt", "0 0 d 1\n1 0 d much"), ("documents.tsv", "d\tt"), ("queries.tsv", "1\tq")], "much"),
            (vec![("qrels.txt", "1 0"), ("documents.tsv", "d\tt"), ("queries.tsv", "1\tq")], "line 1"),
            (vec![("qrels.txt", "1 0 d 1"), ("documents.tsv", "text"), ("queries.tsv", "1\tq")], "no tab"),
            (vec![("qrels.txt", "9 0 d 1"), ("documents.tsv", "d\tt"), ("queries.tsv", "1\tq")], "ids"),
        ] {
            let error = format!("{:#}", read(&files).unwrap_err());
            assert!(error.contains(part), "{files:?}: {error}");
        }
    }

    #[test]
    fn the_questions_about_the_catalogue_are_all_judged() {
        let set = catalogue().unwrap();
        assert!(set.queries.len() >= 60, "{}", set.queries.len());
        let ids: Vec<&String> = set.documents.iter().map(|(id, _)| id).collect();
        for (query, text) in &set.queries {
            let grades = &set.judgements[query];
            assert!(grades.values().any(|grade| *grade == 2), "{text}");
            assert!(grades.keys().all(|document| ids.contains(&document)), "{text}");
        }
        assert_eq!(set.judgements.len(), set.queries.len());
    }
}
