//! Hits for programs: a header, then a line for each hit, in the text format of PostgreSQL's `COPY`.

use serde_json::Value;

use super::{columns, score, stored};
use crate::config::CollectionConfig;

/// The text of NULL in `COPY`.
const NULL: &str = "\\N";

/// Returns the header and the hits, without the last line break.
pub(super) fn table(hits: &[Value], collection: &CollectionConfig) -> String {
    let columns = columns(hits, collection);
    let header = ["score", "point"].into_iter().map(str::to_owned).chain(columns.iter().map(|name| escaped(name)));
    let mut lines = vec![header.collect::<Vec<_>>().join("\t")];
    for hit in hits {
        let fields = stored(hit, collection);
        let value_of = |name: &String| fields.iter().find(|(field, _)| field == name).map(|(_, value)| *value);
        let values = columns.iter().map(|name| cell(value_of(name)));
        lines.push([score(hit), cell(hit.get("id"))].into_iter().chain(values).collect::<Vec<_>>().join("\t"));
    }
    lines.join("\n")
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => NULL.to_owned(),
        Some(Value::String(text)) => escaped(text),
        Some(other) => escaped(&other.to_string()),
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testkit::{books, collection, hit};
    use super::*;

    #[test]
    fn every_hit_is_one_line_and_nothing_is_cut() {
        let long = "x".repeat(1000);
        let hits = [
            hit(7, 0.51234, json!({"name": "a\tb\nc\\d\r", "year": 1898, "tags": ["a"], "sold": null})),
            hit(8, 0.4, json!({"name": long})),
        ];
        let expected = format!(
            "score\tpoint\tname\tsold\ttags\tyear\n\
             0.512\t7\ta\\tb\\nc\\\\d\\r\t\\N\t[\"a\"]\t1898\n\
             0.400\t8\t{long}\t\\N\t\\N\t\\N"
        );
        assert_eq!(table(&hits, &books()), expected);
    }

    #[test]
    fn the_order_of_the_columns_does_not_depend_on_the_hits() {
        let keys = "text: '{{ name }}', payload: [year, name], computed: { decade: '{{ year }}' }";
        let books = collection(keys);
        let one = hit(1, 1.0, json!({"name": "Emma", "extra": 1, "year": 1815, "decade": 1810}));
        let header = |hits: &[Value]| table(hits, &books).lines().next().unwrap().to_owned();
        assert_eq!(header(&[]), "score\tpoint\tyear\tname\tdecade");
        assert_eq!(header(&[one]), "score\tpoint\tyear\tname\tdecade\textra");
    }

    #[test]
    fn fields_are_columns_in_the_layouts_of_other_libraries_too() {
        let books = collection("text: '{{ name }}', layout: langchain");
        let hits = [hit(1, 0.5, json!({"page_content": "the text", "metadata": {"name": "Dune"}}))];
        assert_eq!(table(&hits, &books), "score\tpoint\tname\n0.500\t1\tDune");
    }
}
