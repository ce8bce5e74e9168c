//! What users can rely on, tested through the public interface.

use serde_json::json;
use walvec_model::{Cell, Column, Row, Take, Type};

use super::*;

mod checks;
mod chunks;
mod complete;
mod lookups;
mod numbers;

fn table(columns: &[&str]) -> Table {
    let column = |name: &&str| Column::new(*name, "text", if *name == "id" { 23 } else { 25 });
    Table { name: TableName::new("public", "books"), columns: columns.iter().map(column).collect(), key: vec![0] }
}

fn books() -> Table {
    table(&["id", "name", "author", "year", "description"])
}

fn dune() -> Vec<Value> {
    vec![json!(7), json!("Dune"), json!("Frank Herbert"), json!(1965), json!("Spice & worms")]
}

fn spec(text: &str) -> TransformSpec {
    TransformSpec {
        table: books().name,
        shared: false,
        text: text.to_owned(),
        payload: None,
        computed: vec![],
        layout: PayloadLayout::Flat,
        lookups: vec![],
        indexes: vec![],
    }
}

fn with_computed(name: &str, template: &str) -> TransformSpec {
    TransformSpec { computed: vec![(name.to_owned(), template.to_owned())], ..spec("{{ name }}") }
}

fn render_in(table: &Table, spec: TransformSpec, values: &[Value]) -> Result<Document, TransformError> {
    let key = RowKey::new(vec![values[0].clone()]);
    Transform::new(spec)?.render(table, &key, values).map(|mut documents| documents.remove(0))
}

/// Returns the text for one row of (id, v).
fn text_of(template: &str, v: Value) -> String {
    render_in(&table(&["id", "v"]), spec(template), &[json!(1), v]).unwrap().text
}

/// Returns a computed field for one row of (id, v).
fn computed_of(template: &str, v: Value) -> Result<Value, TransformError> {
    let spec = TransformSpec { text: String::new(), ..with_computed("c", template) };
    render_in(&table(&["id", "v"]), spec, &[json!(1), v]).map(|document| document.payload["c"].clone())
}

#[test]
fn a_row_becomes_a_document() {
    let spec = TransformSpec {
        payload: Some(vec!["name".to_owned(), "year".to_owned()]),
        computed: vec![("decade".to_owned(), "{{ year // 10 * 10 }}".to_owned())],
        ..spec("{{ name }} by {{ author }}. {{ description }}")
    };
    let document = render_in(&books(), spec, &dune()).unwrap();
    assert_eq!(document.id, PointId::Num(7));
    assert_eq!(document.text, "Dune by Frank Herbert. Spice & worms");
    assert_eq!(document.input_hash, InputHash::of(&document.text));
    assert_eq!(Value::Object(document.payload), json!({"name": "Dune", "year": 1965, "decade": 1960}));
}

#[test]
fn without_a_selection_every_column_is_payload_in_table_order() {
    let document = render_in(&books(), spec("{{ name }}"), &dune()).unwrap();
    let fields: Vec<_> = document.payload.keys().collect();
    assert_eq!(fields, ["id", "name", "author", "year", "description"]);
}

#[test]
fn null_leaves_no_trace_in_a_text() {
    for template in ["a{{ v }}b", "{{ 'a' ~ v ~ 'b' }}", "a{{ v|upper }}b", "a{{ v|trim|lower }}b", "a{{ v.x.y }}b"] {
        assert_eq!(text_of(template, Value::Null), "ab", "{template}");
    }
}

#[test]
fn null_can_be_asked_for_and_replaced() {
    assert_eq!(text_of("{{ v|default('?') }}{{ v or '!' }}", Value::Null), "?!");
    assert_eq!(
        text_of("{% if v is none %}yes{% endif %}{% if v is not defined %}yes{% endif %}", Value::Null),
        "yesyes"
    );
    assert_eq!(text_of("{% if v %}yes{% else %}no{% endif %}{% for x in v %}x{% endfor %}", Value::Null), "no");
    assert_eq!(text_of("{{ v|default('?') }}{% if v is defined %}yes{% endif %}", json!("")), "yes");
}

#[test]
fn values_print_as_in_json_and_are_not_escaped() {
    assert_eq!(text_of("{{ v }}", json!(true)), "true");
    assert_eq!(text_of("{{ v }}", json!(["a", null, 1])), r#"["a",null,1]"#);
    assert_eq!(text_of("{{ v }}", json!({"b": 1, "a": {"c": false}})), r#"{"b":1,"a":{"c":false}}"#);
    assert_eq!(text_of("{{ v }}", json!("<b> & \"c\"")), "<b> & \"c\"");
    assert_eq!(text_of("{{ v }}", json!(i64::MIN)), i64::MIN.to_string());
    assert_eq!(text_of("{{ v|join(', ') }}", json!(["a", "b"])), "a, b");
}

#[test]
fn json_is_reached_into_and_an_absent_key_is_null() {
    let meta = json!({"color": "red", "sizes": [1, 2]});
    assert_eq!(text_of("{{ v.color }}/{{ v.sizes[1] }}/{{ v.shape }}/{{ v.shape.edges }}", meta), "red/2//");
}

#[test]
fn numeric_columns_are_text_that_filters_turn_into_numbers() {
    assert_eq!(text_of("{{ v }}", json!("12.50")), "12.50");
    assert_eq!(computed_of("{{ v|float * 2 }}", json!("12.50")).unwrap(), json!(25.0));
    assert_eq!(computed_of("{{ v|int }}", json!("12.50")).unwrap(), json!(12));
}

#[test]
fn an_expression_keeps_its_type_and_a_template_is_text() {
    assert_eq!(computed_of("{{ v // 10 * 10 }}", json!(1899)).unwrap(), json!(1890));
    assert_eq!(computed_of("{{- v > 1900 -}}", json!(1899)).unwrap(), json!(false));
    assert_eq!(computed_of("{{ v[:2] }}", json!(["a", "b", "c"])).unwrap(), json!(["a", "b"]));
    assert_eq!(computed_of("{{ v.a }}", json!({"a": {"b": null}})).unwrap(), json!({"b": null}));
    assert_eq!(computed_of("{{ 'x' if v }}", json!(false)).unwrap(), Value::Null);
    assert_eq!(computed_of("{{ {'k': v} }}", json!(1)).unwrap(), json!({"k": 1}));
    assert_eq!(computed_of("{{ v }}s", json!(1890)).unwrap(), json!("1890s"));
    assert_eq!(computed_of("{{ v }}{{ v }}", json!(1)).unwrap(), json!("11"));
    assert_eq!(computed_of("book", json!(1)).unwrap(), json!("book"));
}

#[test]
fn large_whole_numbers_pass_exactly() {
    for value in [json!(i64::MIN), json!(i64::MAX), json!(u64::MAX), json!((1_i64 << 53) + 1)] {
        assert_eq!(computed_of("{{ v }}", value.clone()).unwrap(), value);
    }
    assert_eq!(computed_of("{{ v + 1 }}", json!(u64::MAX)).unwrap(), json!("18446744073709551616"));
}

#[test]
fn an_expression_over_null_is_null() {
    assert_eq!(computed_of("{{ v // 10 * 10 }}", Value::Null).unwrap(), Value::Null);
    assert_eq!(computed_of("{{ v }}", Value::Null).unwrap(), Value::Null);
    assert_eq!(computed_of("{{ v|default(3) }}", Value::Null).unwrap(), json!(3));
}

#[test]
fn a_failing_row_is_named_and_concerns_only_itself() {
    let error = computed_of("{{ 10 // v }}", json!(0)).unwrap_err();
    assert!(error.is_row_error());
    assert_eq!(error.code(), "E_RENDER");
    let message = error.to_string();
    assert!(message.starts_with("public.books, row 1: computed.c cannot be rendered"), "{message}");
}

#[test]
fn a_text_that_calculates_with_null_says_which_column_is_null() {
    let mut values = dune();
    values[3] = Value::Null;
    let error = render_in(&books(), spec("from {{ year - 1 }}"), &values).unwrap_err().to_string();
    assert!(error.contains("year is NULL in this row; where that matters write {% if year is not none %}"), "{error}");
    assert!(error.contains("types NULL and number") && !error.contains("author"), "{error}");
}

#[test]
fn a_text_that_calculates_with_a_missing_json_key_says_which_key_is_missing() {
    let reason = |v: Value| {
        let spec = spec("{{ v.box.weight * 2 }}");
        render_in(&table(&["id", "v"]), spec, &[json!(1), v]).unwrap_err().to_string()
    };
    let error = reason(json!({"box": {"height": 1}}));
    assert!(error.contains("v.box has no key \"weight\" in this row"), "{error}");
    assert!(error.contains("types NULL and number") && error.contains("{% if v.box.weight is not none %}"), "{error}");
    let error = reason(json!({}));
    assert!(error.contains("v has no key \"box\" in this row; where"), "{error}");
    let error = reason(json!({"box": {"weight": null}}));
    assert!(error.contains("v.box.weight is NULL in this row"), "{error}");
    let error = reason(json!({"box": {"weight": {}}}));
    assert!(error.contains("types map and number"), "nothing is absent: {error}");
}

#[test]
fn a_column_that_is_no_word_is_shown_as_the_template_writes_it() {
    let spec = spec("{{ row['a b'] * 2 }}");
    let error = render_in(&table(&["id", "a b"]), spec, &[json!(1), Value::Null]).unwrap_err().to_string();
    assert!(error.contains("{% if row[\"a b\"] is not none %}"), "{error}");
}

#[test]
fn a_template_without_an_end_is_stopped() {
    let endless = "{% for a in range(9000) %}{% for b in range(9000) %}{{ a }}{% endfor %}{% endfor %}";
    let error = render_in(&books(), spec(endless), &dune()).unwrap_err();
    assert!(error.is_row_error() && error.to_string().contains("fuel"), "{error}");
}

#[test]
fn a_value_that_contains_itself_is_an_error_and_not_a_crash() {
    let template = "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}";
    assert!(render_in(&books(), spec(template), &dune()).unwrap_err().is_row_error());
}

#[test]
fn a_column_with_any_name_is_reached_through_the_row() {
    let table = table(&["id", "first name", "größe"]);
    let values = [json!(1), json!("Ada"), json!("M")];
    let text = "{{ row[\"first name\"] }} {{ row['größe'] }} {{ row.id }}";
    assert_eq!(render_in(&table, spec(text), &values).unwrap().text, "Ada M 1");
    let text = "{% for name in row %}{{ name }}={{ row[name] }};{% endfor %}";
    assert_eq!(render_in(&table, spec(text), &values).unwrap().text, "id=1;first name=Ada;größe=M;");
}

#[test]
fn a_changed_table_is_seen_with_its_next_row() {
    let transform = Transform::new(spec("{{ name }}")).unwrap();
    let key = RowKey::new(vec![json!(7)]);
    assert!(transform.render(&books(), &key, &dune()).is_ok());
    let swapped = transform.render(&table(&["id", "author", "name"]), &key, &[json!(7), json!("a"), json!("n")]);
    assert_eq!(swapped.unwrap()[0].text, "n");
    let dropped = transform.render(&table(&["id", "author"]), &key, &[json!(7), json!("a")]).unwrap_err();
    assert_eq!((dropped.code(), dropped.is_row_error()), ("E_SCHEMA", false));
}

#[test]
fn a_computed_field_replaces_the_column_of_its_name() {
    let document = render_in(&books(), with_computed("year", "{{ year + 1 }}"), &dune()).unwrap();
    assert_eq!(document.payload["year"], json!(1966));
}
