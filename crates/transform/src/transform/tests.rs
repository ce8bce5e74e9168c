//! What users can rely on, tested through the public interface.

use proptest::prelude::*;
use serde_json::json;
use walvec_model::{Column, Fingerprint, Generation, Lsn, Position, Take};

use super::*;
use crate::{ChunkSpec, Unit};

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
        layout: Layout::Flat,
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

fn stored(payload: Payload) -> StoredPoint {
    let provenance = Provenance {
        position: Position::snapshot(Lsn(1)),
        table: "public.books".to_owned(),
        key: vec![json!(7)],
        input_hash: InputHash::of(""),
        fingerprint: Fingerprint::of(&[]),
        generation: Generation(1),
        chunk: 0,
        chunks: 1,
    };
    StoredPoint { id: PointId::Num(7), payload, provenance: Some(provenance) }
}

fn row_with_unchanged(column: usize) -> Row {
    let mut cells: Vec<_> = dune().into_iter().map(Cell::Value).collect();
    cells[column] = Cell::Unchanged;
    Row(cells)
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
fn a_comparison_with_none_is_refused_because_it_never_holds() {
    let error = Transform::new(spec("{% if author == none %}x{% endif %}")).unwrap_err();
    assert!(error.to_string().contains("is none"), "{error}");
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
fn a_syntax_error_names_the_field_the_place_and_shows_it() {
    let error = Transform::new(spec("{{ name }}\n  {% if author %}{{ author | }}")).unwrap_err();
    assert_eq!(error.code(), "E_TEMPLATE");
    let message = error.to_string();
    assert!(message.starts_with("public.books: text, line 2, column "), "{message}");
    assert!(message.contains("\n    {% if author %}{{ author | }}\n"), "{message}");
    assert!(message.ends_with('^'), "{message}");
    let error = Transform::new(with_computed("decade", "{{ year // }}")).unwrap_err().to_string();
    assert!(error.contains("computed.decade, line 1"), "{error}");
}

#[test]
fn an_unknown_filter_is_found_before_any_row() {
    for template in ["{{ name|uper }}", "{{ year is odder }}", "{{ upper(name) }}", "{{ name.upper() }}"] {
        assert_eq!(Transform::new(spec(template)).unwrap_err().code(), "E_TEMPLATE", "{template}");
    }
}

#[test]
fn an_unknown_filter_that_only_some_rows_reach_is_not_blamed_on_the_row() {
    let spec = with_computed("x", "{{ name|uper if year else 1 }}");
    let error = render_in(&books(), spec, &dune()).unwrap_err();
    assert_eq!((error.code(), error.is_row_error()), ("E_TEMPLATE", false));
    assert!(error.to_string().contains("column 9"), "{error}");
}

#[test]
fn a_template_cannot_include_another() {
    assert_eq!(Transform::new(spec("{% include 'main' %}")).unwrap_err().code(), "E_TEMPLATE");
}

#[test]
fn a_misspelt_column_is_found_before_any_row_and_the_right_one_is_offered() {
    let payload = TransformSpec { payload: Some(vec!["auther".to_owned()]), ..spec("{{ name }}") };
    for (spec, field) in [
        (spec("{{ auther }}"), "text"),
        (spec("{{ row.auther }}"), "text"),
        (spec("{{ row['auther'] }}"), "text"),
        (spec("{% if auther is defined %}x{% endif %}"), "text"),
        (with_computed("x", "{{ auther }}"), "computed.x"),
        (payload, "payload"),
    ] {
        let error = Transform::new(spec).unwrap().check(&books()).unwrap_err();
        assert_eq!(error.code(), "E_SCHEMA");
        assert!(!error.is_row_error());
        let message = error.to_string();
        assert!(message.contains(&format!("{field} uses column \"auther\"")), "{message}");
        assert!(message.contains("did you mean \"author\"?"), "{message}");
        assert!(message.contains("id, name, author, year, description"), "{message}");
    }
}

#[test]
fn what_a_template_defines_itself_is_no_column() {
    let template = "{% if year %}{% set when = year %}{% else %}{% set when = '?' %}{% endif %}{{ when }}\
        {% for i in range(2) %}{{ loop.index }}{{ i }}{% endfor %}";
    assert_eq!(render_in(&books(), spec(template), &dune()).unwrap().text, "19651021");
}

#[test]
fn walvecs_own_field_cannot_be_overwritten() {
    let payload = TransformSpec { payload: Some(vec!["_walvec".to_owned()]), ..spec("") };
    for spec in [payload, with_computed("_walvec", "x")] {
        assert_eq!(Transform::new(spec).unwrap().check(&books()).unwrap_err().code(), "E_SCHEMA");
    }
    assert!(Transform::new(spec("")).unwrap().check(&table(&["id", "_walvec"])).is_err());
}

#[test]
fn a_field_whose_name_the_layout_needs_is_refused_and_named() {
    let spec = |name: &str, layout| TransformSpec { layout, ..with_computed(name, "x") };
    for (layout, name) in [(Layout::LlamaIndex, "doc_id"), (Layout::LangChain, "_id")] {
        let error = Transform::new(spec(name, layout)).unwrap().check(&books()).unwrap_err();
        assert_eq!(error.code(), "E_SCHEMA");
        assert!(error.to_string().contains(&format!("\"{name}\", which the layout {layout} needs")), "{error}");
        assert!(Transform::new(spec(name, Layout::Flat)).unwrap().check(&books()).is_ok());
    }
    let column = TransformSpec { layout: Layout::LlamaIndex, ..self::spec("") };
    assert!(Transform::new(column).unwrap().check(&table(&["id", "document_id"])).is_err());
    // The other layouts put the fields into an object of their own, so nothing can clash.
    for layout in [Layout::LangChain, Layout::FastEmbed] {
        let columns = table(&["id", "page_content", "document", "metadata"]);
        assert!(Transform::new(TransformSpec { layout, ..self::spec("") }).unwrap().check(&columns).is_ok());
    }
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
fn a_complete_row_passes_as_it_is() {
    let transform = Transform::new(spec("{{ name }}")).unwrap();
    let row = Row(dune().into_iter().map(Cell::Value).collect());
    assert_eq!(transform.complete(&books(), row, None), Completed::Row(dune()));
}

#[test]
fn an_unchanged_value_comes_from_the_stored_point() {
    let transform = Transform::new(spec("{{ name }}")).unwrap();
    let old = stored(Payload::from_iter([("description".to_owned(), json!("Spice & worms"))]));
    assert_eq!(transform.complete(&books(), row_with_unchanged(4), Some(&old)), Completed::Row(dune()));
    let old_null = stored(Payload::from_iter([("description".to_owned(), Value::Null)]));
    let Completed::Row(values) = transform.complete(&books(), row_with_unchanged(4), Some(&old_null)) else { panic!() };
    assert_eq!(values[4], Value::Null);
}

#[test]
fn an_unchanged_value_that_nobody_stored_is_fetched_and_never_null() {
    let text_only = TransformSpec { payload: Some(vec!["name".to_owned()]), ..spec("{{ description }}") };
    let transform = Transform::new(text_only).unwrap();
    let old = stored(Payload::from_iter([("description".to_owned(), json!("not from this column"))]));
    assert_eq!(transform.complete(&books(), row_with_unchanged(4), Some(&old)), Completed::Refetch);

    let transform = Transform::new(spec("{{ name }}")).unwrap();
    assert_eq!(transform.complete(&books(), row_with_unchanged(4), None), Completed::Refetch);
    assert_eq!(transform.complete(&books(), row_with_unchanged(4), Some(&stored(Payload::new()))), Completed::Refetch);
}

#[test]
fn an_unchanged_value_is_never_taken_from_a_computed_field_or_a_foreign_point() {
    let payload = Payload::from_iter([("description".to_owned(), json!("S"))]);
    let transform = Transform::new(with_computed("description", "{{ description[:1] }}")).unwrap();
    assert_eq!(transform.complete(&books(), row_with_unchanged(4), Some(&stored(payload.clone()))), Completed::Refetch);

    let transform = Transform::new(spec("{{ name }}")).unwrap();
    let foreign = StoredPoint { provenance: None, ..stored(payload.clone()) };
    assert_eq!(transform.complete(&books(), row_with_unchanged(4), Some(&foreign)), Completed::Refetch);
    let mut other_table = stored(payload);
    other_table.provenance.as_mut().unwrap().table = "public.films".to_owned();
    assert_eq!(transform.complete(&books(), row_with_unchanged(4), Some(&other_table)), Completed::Refetch);
}

#[test]
fn an_unchanged_value_that_nothing_uses_is_not_fetched() {
    let unused = TransformSpec { payload: Some(vec!["name".to_owned()]), ..spec("{{ name }}") };
    let transform = Transform::new(unused).unwrap();
    let Completed::Row(values) = transform.complete(&books(), row_with_unchanged(4), None) else { panic!() };
    assert_eq!(values[4], Value::Null);
}

#[test]
fn a_reduced_row_has_what_is_used_and_nothing_else() {
    let unused = TransformSpec { payload: Some(vec!["name".to_owned()]), ..spec("{{ name }}") };
    let transform = Transform::new(unused).unwrap();
    let row = Row(dune().into_iter().map(Cell::Value).collect());
    let reduced = transform.reduced(&books(), &row);
    for (index, column) in books().columns.iter().enumerate() {
        let is_used = books().key.contains(&index) || column.name == "name";
        let expected = if is_used { row.0[index].clone() } else { Cell::Value(Value::Null) };
        assert_eq!(reduced.0[index], expected, "{}", column.name);
    }
    assert_eq!(
        transform.reduced(&books(), &row_with_unchanged(4)).0[4],
        Cell::Value(Value::Null),
        "nor is it read again"
    );
}

#[test]
fn a_computed_field_replaces_the_column_of_its_name() {
    let document = render_in(&books(), with_computed("year", "{{ year + 1 }}"), &dune()).unwrap();
    assert_eq!(document.payload["year"], json!(1966));
}

proptest! {
    #[test]
    fn what_complete_restores_renders_as_the_whole_row_does(
        values in prop::collection::vec(prop_oneof![Just(Value::Null), any::<i64>().prop_map(|n| json!(n)), ".*".prop_map(|t| json!(t))], 4),
        unchanged in 1_usize..5,
        layout in prop::sample::select(vec![Layout::Flat, Layout::LangChain, Layout::LlamaIndex, Layout::FastEmbed]),
    ) {
        let spec = spec("{{ name }}/{{ author }}/{{ year }}/{{ description }}");
        let transform = Transform::new(TransformSpec { layout, ..spec }).unwrap();
        let (table, key) = (books(), RowKey::new(vec![json!(7)]));
        let whole: Vec<_> = std::iter::once(json!(7)).chain(values).collect();
        let document = transform.render(&table, &key, &whole).unwrap().remove(0);
        let mut cells: Vec<_> = whole.iter().cloned().map(Cell::Value).collect();
        cells[unchanged] = Cell::Unchanged;
        let point = stored(document.payload.clone());
        let Completed::Row(values) = transform.complete(&table, Row(cells), Some(&point)) else {
            return Err(TestCaseError::fail("the stored point holds every column"));
        };
        prop_assert_eq!(transform.render(&table, &key, &values).unwrap(), [document]);
    }
}

fn in_chunks(spec: TransformSpec, field: &str) -> Transform {
    let chunks = ChunkSpec { unit: Unit::Tokens, length: 2, overlap: 0, markdown: false, field: field.to_owned() };
    Transform::new(spec).unwrap().in_chunks(Chunker::new(chunks, Arc::new(|text| text.split_whitespace().count())))
}

#[test]
fn each_chunk_is_a_document_with_the_fields_of_its_row_and_its_own_text() {
    let (table, key) = (books(), RowKey::new(vec![json!(7)]));
    let transform = in_chunks(spec("one two three"), "part");
    let documents = transform.render(&table, &key, &dune()).unwrap();
    let shown: Vec<_> =
        documents.iter().map(|document| (document.text.as_str(), document.chunk, document.chunks)).collect();
    assert_eq!(shown, [("one two", 0, 2), ("three", 1, 2)]);
    for document in &documents {
        assert_eq!(document.payload["part"], document.text);
        assert_eq!(document.payload["name"], "Dune");
        assert_eq!(document.input_hash, InputHash::of(&document.text));
    }
    let ids: Vec<_> = documents.iter().map(|document| document.id).collect();
    let further = transform.further_ids(&table.name, &key, 2);
    assert_eq!(ids, std::iter::once(transform.point_id(&table, &key)).chain(further).collect::<Vec<_>>());
    assert!(ids.iter().all(|id| matches!(id, PointId::Uuid(_))), "no chunk has the id of the row");
}

#[test]
fn a_layout_with_a_place_for_the_text_has_that_of_the_chunk_there_and_names_the_row() {
    let (table, key) = (books(), RowKey::new(vec![json!(7)]));
    let documents = |layout| {
        let transform = in_chunks(TransformSpec { layout, ..spec("one two three") }, "part");
        transform.render(&table, &key, &dune()).unwrap()
    };
    assert_eq!(documents(Layout::LangChain)[1].payload["page_content"], "three");
    let nodes = documents(Layout::LlamaIndex);
    assert_eq!(nodes[1].payload["doc_id"], json!(nodes[0].id.to_string()));
    assert!(!nodes[1].payload.contains_key("part"));
}

#[test]
fn a_column_and_the_text_of_a_chunk_cannot_share_a_field() {
    let error = in_chunks(spec("{{ name }}"), "name").check(&books()).unwrap_err();
    assert!(error.to_string().contains("chunk.field"), "{error}");
}
