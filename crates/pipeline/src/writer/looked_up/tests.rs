use serde_json::json;
use walvec_model::TableName;

use super::*;
use crate::testing::rows::table;

/// Returns a lookup of authors by the title and the body of a book.
fn lookup(take: Take) -> Lookup {
    let on = [("name", "title"), ("born", "body")].map(|(theirs, ours)| (theirs.to_owned(), ours.to_owned()));
    Lookup { name: "author".to_owned(), table: TableName::new("public", "authors"), on: on.to_vec(), take }
}

fn many() -> Take {
    Take::Many { order: Vec::new(), limit: 10 }
}

/// Returns what rows with these titles and bodies look up.
fn wanted(lookup: &Lookup, rows: &[(Value, Value)]) -> Wanted {
    let (table, rows): (_, Vec<Vec<Value>>) =
        (table(), rows.iter().map(|(title, body)| vec![json!(1), title.clone(), body.clone()]).collect());
    Wanted::by(lookup, rows.iter().map(|row| (table.as_ref(), row.as_slice())))
}

fn values(answered: Vec<Arc<Value>>) -> Vec<Value> {
    answered.into_iter().map(|value| Value::clone(&value)).collect()
}

#[test]
fn each_row_gets_the_answer_to_its_own_key_whatever_the_order_of_the_answers() {
    let lookup = lookup(Take::One);
    let rows = [(json!("a"), json!("1")), (json!("b"), json!("2")), (json!("a"), json!("1")), (json!("c"), json!("3"))];
    let wanted = wanted(&lookup, &rows);
    let keys = [("a", "1"), ("b", "2"), ("c", "3")].map(|(name, born)| RowKey::new(vec![json!(name), json!(born)]));
    assert_eq!(wanted.keys(), keys);
    let answered = wanted.answered(&lookup, vec![(1, json!("B")), (0, json!("A"))]);
    assert_eq!(values(answered), [json!("A"), json!("B"), json!("A"), Value::Null]);
}

#[test]
fn null_is_equal_to_nothing_and_is_not_asked_for() {
    let lookup = lookup(many());
    let wanted = wanted(&lookup, &[(Value::Null, json!("1")), (json!("a"), Value::Null)]);
    assert!(wanted.keys().is_empty());
    assert_eq!(values(wanted.answered(&lookup, Vec::new())), [json!([]), json!([])]);
}

#[test]
fn a_lookup_by_a_column_that_the_table_has_lost_finds_nothing() {
    let mut lookup = lookup(Take::One);
    lookup.on[1].1 = "dropped".to_owned();
    let wanted = wanted(&lookup, &[(json!("a"), json!("1"))]);
    assert!(wanted.keys().is_empty());
    assert_eq!(values(wanted.answered(&lookup, Vec::new())), [Value::Null]);
}

#[test]
fn a_lookup_of_many_rows_keeps_their_order_and_one_of_one_row_takes_the_first() {
    let found = || vec![(0, json!("first")), (0, json!("second"))];
    for (take, expected) in [(Take::One, json!("first")), (many(), json!(["first", "second"]))] {
        let lookup = lookup(take);
        let wanted = wanted(&lookup, &[(json!("a"), json!("1"))]);
        assert_eq!(values(wanted.answered(&lookup, found())), [expected]);
    }
}

#[test]
fn keys_whose_values_join_to_equal_texts_are_different() {
    let lookup = lookup(Take::One);
    let wanted = wanted(&lookup, &[(json!("12"), json!("3")), (json!("1"), json!("23"))]);
    assert_eq!(wanted.keys().len(), 2);
}
