//! Numerics, NULL in comparisons, and fields that are indexed as numbers.

use walvec_model::types::IndexType;

use super::*;

/// Returns a table of (id, price, fee), whose prices are numerics with two digits after the decimal point.
fn prices() -> Table {
    let column =
        |name: &str, type_name: &str, oid| Column { ty: Type::of_name(type_name), ..Column::new(name, type_name, oid) };
    let columns = vec![
        column("id", "integer", 23),
        column("price", "numeric(10,2)", 1700),
        column("fee", "numeric[]", 1231),
        column("row", "text", 25),
    ];
    Table { name: TableName::new("public", "books"), columns, key: vec![0] }
}

fn shown(template: &str, price: Value) -> Value {
    let spec = TransformSpec { text: String::new(), payload: Some(vec![]), ..with_computed("c", template) };
    let row = [json!(1), price, json!(["1.50", "2"]), json!("r")];
    render_in(&prices(), spec, &row).unwrap().payload["c"].clone()
}

#[test]
fn a_numeric_prints_all_its_digits_and_is_compared_and_calculated_with_as_a_number() {
    for (template, expected) in [
        ("is {{ price }}", json!("is 12.50")),
        ("{{ price }}", json!("12.50")),
        ("{{ 'EUR ' ~ price }}", json!("EUR 12.50")),
        ("{{ price|replace('.', ',') }}", json!("12,50")),
        ("{{ price * 2 }}", json!(25.0)),
        ("{{ price + price }}", json!(25.0)),
        ("{{ -price }}", json!(-12.5)),
        ("{{ (price / 3)|round(2) }}", json!(4.17)),
        ("{{ price|int }}", json!(12)),
        ("{{ price|float }}", json!(12.5)),
        ("{{ price > 100 }}", json!(false)),
        ("{{ price == 12.5 }}", json!(true)),
        ("{{ price != 12.5 }}", json!(false)),
        ("{{ price in [1, 12.5] }}", json!(true)),
        ("{{ 3 < price <= 12.5 }}", json!(true)),
        ("{{ fee|sum }}", json!(3.5)),
        ("{{ fee|max }}", json!(2.0)),
        ("{{ fee[0] * 2 }}", json!(3.0)),
        ("{{ fee }}", json!(["1.50", "2"])),
        ("{{ fee|join(' ') }}", json!("1.50 2")),
        ("{% for f in fee if f > 1.6 %}{{ f }}{% endfor %}", json!("2")),
        ("{{ walvec_row['price'] * 2 }}", json!(25.0)),
    ] {
        assert_eq!(shown(template, json!("12.50")), expected, "{template}");
    }
    assert_eq!(shown("{{ 'yes' if price else 'no' }}", json!("0.00")), json!("no"));
    assert_eq!(shown("{{ price > 1e300 }}", json!("NaN")), json!(true), "as in PostgreSQL");
}

#[test]
fn a_comparison_by_size_does_not_hold_for_null() {
    for template in
        ["{{ price > 1 }}", "{{ price < 1 }}", "{{ 1 >= price }}", "{{ price <= price }}", "{{ row < price }}"]
    {
        assert_eq!(shown(template, Value::Null), json!(false), "{template}");
    }
    assert_eq!(shown("{{ price * 2 }}", Value::Null), Value::Null);
    assert_eq!(shown("{{ price|default(3) * 2 }}", Value::Null), json!(6));
    assert_eq!(shown("{{ price == 1 }}", Value::Null), json!(false));
}

#[test]
fn what_is_indexed_as_a_number_is_stored_as_one() {
    let stored = |index, price: Value| {
        let spec = TransformSpec { text: String::new(), indexes: vec![("price".to_owned(), index)], ..spec("") };
        render_in(&prices(), spec, &[json!(1), price, Value::Null, Value::Null]).unwrap().payload["price"].clone()
    };
    assert_eq!(stored(IndexType::Float, json!("12.50")), json!(12.5));
    assert_eq!(stored(IndexType::Integer, json!("9007199254740993")), json!(9_007_199_254_740_993_i64));
    assert_eq!(stored(IndexType::Float, json!("NaN")), json!("NaN"));
    assert_eq!(stored(IndexType::Float, json!(null)), json!(null));
    assert_eq!(stored(IndexType::Keyword, json!("12.50")), json!("12.50"));
}

#[test]
fn a_number_in_the_payload_is_no_source_for_the_digits_of_a_numeric() {
    let indexes = vec![("price".to_owned(), IndexType::Float)];
    let transform = Transform::new(TransformSpec { text: "{{ price }}".to_owned(), indexes, ..spec("") }).unwrap();
    let row = Row(vec![Cell::Value(json!(1)), Cell::Unchanged, Cell::Value(json!(null)), Cell::Value(json!(null))]);
    assert!(!transform.may_be_stored(&prices(), &row));
}

#[test]
fn an_index_has_a_field_of_a_type_that_it_can_serve() {
    let check = |field: &str, index| {
        let spec = TransformSpec {
            indexes: vec![(field.to_owned(), index)],
            text: String::new(),
            ..with_computed("c", "{{ price }}")
        };
        Transform::new(spec).unwrap().check_among(&prices(), &[]).map_err(|error| error.to_string())
    };
    for (field, index) in
        [("price", IndexType::Float), ("fee", IndexType::Float), ("c", IndexType::Integer), ("row", IndexType::Text)]
    {
        assert_eq!(check(field, index), Ok(()), "{field}");
    }
    assert!(check("price", IndexType::Integer).unwrap_err().contains("write float or keyword"));
    assert!(check("prise", IndexType::Float).unwrap_err().contains("did you mean \"price\"?"));
    assert!(check("row", IndexType::Float).unwrap_err().contains("{{ row|float }}"));
    assert!(check("price.x", IndexType::Float).unwrap_err().contains("holds no JSON"));
}

#[test]
fn a_column_called_row_is_named_where_the_row_was_meant() {
    let check = |text: &str| Transform::new(spec(text)).unwrap().check(&prices()).map_err(|error| error.to_string());
    for text in ["{{ row['price'] }}", "{{ row.price }}"] {
        assert!(check(text).unwrap_err().contains("write walvec_row[\"price\"]"), "{text}");
    }
    for text in ["{{ row }}", "{{ walvec_row['price'] }} {{ walvec_row.fee }}"] {
        assert_eq!(check(text), Ok(()), "{text}");
    }
    assert!(check("{{ walvec_row['prize'] }}").unwrap_err().contains("did you mean \"price\"?"));
}

#[test]
fn a_mistake_is_shown_where_it_is_in_the_template_as_it_was_written() {
    let template = "{% if id == 1 and fee < 2 %}{% endif %}{{ price|nosuch * 2 }}";
    let error = Transform::new(spec(template)).unwrap_err();
    let TransformError::Template { column, reason, .. } = error else { panic!("{error}") };
    let there = template.find("{{ price").unwrap()..template.len();
    assert!(there.contains(&column) && reason.contains("nosuch") && !reason.contains("_number"), "{column}: {reason}");
}
