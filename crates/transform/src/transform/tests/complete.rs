//! Values that PostgreSQL did not send, and values that nothing uses.

use proptest::prelude::*;
use walvec_model::{Fingerprint, Generation, Lsn, Position, Provenance, StoredPoint};

use super::*;

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

proptest! {
    #[test]
    fn what_complete_restores_renders_as_the_whole_row_does(
        values in prop::collection::vec(prop_oneof![Just(Value::Null), any::<i64>().prop_map(|n| json!(n)), ".*".prop_map(|t| json!(t))], 4),
        unchanged in 1_usize..5,
        layout in prop::sample::select(vec![PayloadLayout::Flat, PayloadLayout::LangChain, PayloadLayout::LlamaIndex, PayloadLayout::FastEmbed]),
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
