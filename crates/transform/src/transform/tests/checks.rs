//! What is refused before any row is rendered.

use super::*;

#[test]
fn a_comparison_with_none_is_refused_because_it_never_holds() {
    let error = Transform::new(spec("{% if author == none %}x{% endif %}")).unwrap_err();
    assert!(error.to_string().contains("is none"), "{error}");
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
    for (layout, name) in [(PayloadLayout::LlamaIndex, "doc_id"), (PayloadLayout::LangChain, "_id")] {
        let error = Transform::new(spec(name, layout)).unwrap().check(&books()).unwrap_err();
        assert_eq!(error.code(), "E_SCHEMA");
        assert!(error.to_string().contains(&format!("\"{name}\", which the layout {layout} needs")), "{error}");
        assert!(Transform::new(spec(name, PayloadLayout::Flat)).unwrap().check(&books()).is_ok());
    }
    let column = TransformSpec { layout: PayloadLayout::LlamaIndex, ..self::spec("") };
    assert!(Transform::new(column).unwrap().check(&table(&["id", "document_id"])).is_err());
    // The other layouts put the fields into an object of their own, so nothing can clash.
    for layout in [PayloadLayout::LangChain, PayloadLayout::FastEmbed] {
        let columns = table(&["id", "page_content", "document", "metadata"]);
        assert!(Transform::new(TransformSpec { layout, ..self::spec("") }).unwrap().check(&columns).is_ok());
    }
}
