//! Lookups: rows of other tables.

use walvec_model::{Lookup, OrderBy, TableName, Take};

use super::*;

fn books(lookup: &str) -> String {
    format!("collections:\n  - {{ name: books, table: public.books, text: '{{{{ name }}}}', lookup: {lookup} }}\n")
}

#[test]
fn a_lookup_is_one_row_or_a_sorted_list() {
    let config = load(&books(
        "{ author: { table: public.authors, on: { id: author_id } }, \
         reviews: { table: public.reviews, on: { book_id: id }, many: true, order: created_at desc } }",
    ));
    let on = |theirs: &str, ours: &str| vec![(theirs.to_owned(), ours.to_owned())];
    let lookup = |name: &str, table, on, take| Lookup {
        name: name.to_owned(),
        table: TableName::new("public", table),
        on,
        take,
    };
    let order = vec![OrderBy { column: "created_at".to_owned(), descending: true }];
    assert_eq!(
        config.collections[0].lookups(),
        [
            lookup("author", "authors", on("id", "author_id"), Take::One),
            lookup("reviews", "reviews", on("book_id", "id"), Take::Many { order, limit: 100 }),
        ]
    );
}

#[test]
fn a_lookup_without_a_meaning_is_refused_where_it_is() {
    for (lookup, key, words) in [
        ("{ a: { table: public.t, on: {} } }", "collections[0].lookup.a.on", "empty"),
        ("{ a: { table: public.t } }", "collections[0].lookup.a.on", "missing"),
        ("{ a: { table: public.t, on: { x: y }, limit: 3 } }", "collections[0].lookup.a", "many: true"),
        (
            "{ a: { table: public.t, on: { x: y }, many: true, limit: 0 } }",
            "collections[0].lookup.a.limit",
            "1 to 10000",
        ),
        (
            "{ a: { table: public.t, on: { x: y }, many: true, order: x up } }",
            "collections[0].lookup.a.order",
            "\"up\"",
        ),
        ("{ a b: { table: public.t, on: { x: y } } }", "collections[0].lookup.a b", "no name for a variable"),
        ("{ row: { table: public.t, on: { x: y } } }", "collections[0].lookup.row", "no name for a variable"),
        (
            "{ a: { table: public.books, on: { x: y } } }",
            "collections[0].lookup.a",
            "public.books looks up public.books",
        ),
    ] {
        let message = refusal(&books(lookup));
        assert!(message.contains(key) && message.contains(words), "{lookup}: {message}");
    }
}

#[test]
fn a_cycle_is_found_however_long_it_is() {
    let collection = |table: &str, other: &str| {
        format!(
            "  - {{ name: {table}, table: public.{table}, text: x, lookup: {{ l: {{ table: public.{other}, on: {{ x: y }} }} }} }}\n"
        )
    };
    let chain =
        ["a", "b", "c"].map(|table| collection(table, char::from(table.as_bytes()[0] + 1).to_string().as_str()));
    let chain = format!("collections:\n{}", chain.concat());
    assert_eq!(load(&chain).collections.len(), 3);
    let message = refusal(&format!("{chain}{}", collection("d", "b")));
    assert!(message.contains("public.b looks up public.c looks up public.d looks up public.b"), "{message}");
}

#[test]
fn rows_that_are_hidden_cannot_be_looked_up() {
    let text =
        "collections:\n  - { name: a, table: public.a, text: x, lookup: { b: { table: public.b, on: { x: y } } } }\n";
    let hiding = "  - { name: b, table: public.b, text: x, where: n > 1 }\n";
    let message = refusal(&format!("{text}{hiding}"));
    assert!(message.contains("collections[0].lookup.b.table") && message.contains("collection b hides"), "{message}");
}

#[test]
fn topics_that_others_write_and_lookups_exclude_each_other() {
    let text = "broker: { kafka: { bootstrap: 'localhost:9092' } }\ncollections:\n  - { name: a, table: public.a, text: x, topic: other, lookup: { b: { table: public.b, on: { x: y } } } }\n";
    let message = refusal(text);
    assert!(message.contains("collections[0].topic") && message.contains("lookup"), "{message}");
}
