//! Texts that are rendered with rows of other tables.

use super::*;

fn joined(text: &str) -> TransformSpec {
    let lookup = |name: &str, ours: &str, take| Lookup {
        name: name.to_owned(),
        table: TableName::new("public", name),
        on: vec![("id".to_owned(), ours.to_owned())],
        take,
    };
    let many = Take::Many { order: vec![], limit: 10 };
    let lookups = vec![lookup("writer", "author", Take::One), lookup("reviews", "id", many)];
    TransformSpec { lookups, ..spec(text) }
}

/// Renders the text of a book with the rows that it looks up.
fn joined_text(text: &str, looked_up: &[Value]) -> String {
    let transform = Transform::new(joined(text)).unwrap();
    transform.check(&books()).unwrap();
    let key = RowKey::new(vec![dune()[0].clone()]);
    let looked_up: Vec<Arc<Value>> = looked_up.iter().cloned().map(Arc::new).collect();
    transform.render_joined(&books(), &key, &dune(), &looked_up).unwrap().remove(0).text
}

#[test]
fn a_text_sees_one_row_as_an_object_and_many_as_a_list() {
    let text = "{{ name }}: {{ writer.name }} {% for r in reviews %}[{{ r.text }}]{% endfor %}";
    let found = [json!({"name": "Somebody"}), json!([{"text": "good"}, {"text": null}])];
    assert_eq!(joined_text(text, &found), "Dune: Somebody [good][]");
    assert_eq!(joined_text(text, &[json!(null), json!([])]), "Dune:  ");
    assert_eq!(joined_text(text, &[]), "Dune:  ");
    assert_eq!(joined_text("{% if writer is none %}nobody{% endif %}{{ reviews|length }}", &[json!(null)]), "nobody0");
    assert!(!joined_text("{{ row }}", &found).contains("Somebody"), "the row is the row alone");
}

#[test]
fn a_text_that_calculates_with_a_lookup_that_found_nothing_says_so() {
    let transform = Transform::new(joined("{{ writer.age + 1 }}")).unwrap();
    let key = RowKey::new(vec![dune()[0].clone()]);
    let error = transform.render_joined(&books(), &key, &dune(), &[Arc::new(json!(null))]).unwrap_err().to_string();
    assert!(error.contains("writer found no row; where that matters write {% if writer is not none %}"), "{error}");
}

#[test]
fn computed_fields_do_not_see_what_is_looked_up() {
    let spec =
        TransformSpec { computed: vec![("c".to_owned(), "{{ writer.name }}".to_owned())], ..joined("{{ name }}") };
    let error = Transform::new(spec).unwrap().check(&books()).unwrap_err();
    assert!(error.to_string().contains("computed.c") && error.to_string().contains("\"writer\""), "{error}");
}

#[test]
fn a_column_that_a_looked_up_table_does_not_have_is_named() {
    let table =
        |name: &str, columns: &[&str]| Arc::new(Table { name: TableName::new("public", name), ..table(columns) });
    let tables = [table("writer", &["id", "name"]), table("reviews", &["id", "text"])];
    let check = |text: &str| Transform::new(joined(text)).unwrap().check_lookups(&tables);
    assert!(check("{{ writer.name }}{% for r in reviews %}{{ r.text }}{{ r }}{% endfor %}{{ name|upper }}").is_ok());
    let mut renamed = joined("{{ name }}");
    renamed.lookups[1].on[0].0 = "book".to_owned();
    let error = Transform::new(renamed).unwrap().check_lookups(&tables).unwrap_err();
    assert!(error.code() == "E_SCHEMA" && error.to_string().contains("lookup.reviews.on"), "{error}");
    for (text, column) in [
        ("{{ writer.nmae }}", "nmae"),
        ("{% for r in reviews %}{{ r.txet }}{% endfor %}", "txet"),
        ("{{ reviews|map(attribute='txet')|join }}", "txet"),
    ] {
        let error = check(text).unwrap_err();
        assert!(error.code() == "E_SCHEMA" && error.to_string().contains(column), "{error}");
    }
}

#[test]
fn a_value_by_which_something_is_looked_up_is_never_taken_for_null() {
    let spec = TransformSpec { payload: Some(vec!["name".to_owned()]), ..joined("{{ name }}") };
    let transform = Transform::new(spec).unwrap();
    let author = books().column_index("author").unwrap();
    let mut row: Vec<Cell> = dune().into_iter().map(Cell::Value).collect();
    row[author] = Cell::Unchanged;
    assert_eq!(transform.complete(&books(), Row(row), None), Completed::Refetch);
}
