//! The texts and the computed fields of a row, from the templates of the configuration.

use std::collections::BTreeSet;
use std::sync::Arc;

use minijinja::value::Value as Inner;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::Value;
use walvec_model::TableName;
use walvec_model::operands::prepare;

use crate::null::{self, LookedUpRows, TemplateRow, WithLookups};
use crate::{ComparedCollection, VerifyError};

/// The name of the text's template. That of a computed field is `computed.` and the field's name.
const TEXT: &str = "text";
/// The variable that a template of one expression assigns its value to.
const RESULT: &str = "walvec_verify_result";
/// How much work a template may do for one row, so that an endless one does not hang. The limit is the one of walvec
/// itself.
const FUEL: u64 = 10_000_000;

/// The compiled templates of one collection.
#[derive(Debug)]
pub(crate) struct Renderer {
    environment: Environment<'static>,
    computed: Vec<ComputedField>,
}

#[derive(Debug)]
struct ComputedField {
    field: String,
    template: String,
    /// The names that an expression reads; `None` for a template that makes a text.
    reads: Option<BTreeSet<String>>,
}

impl Renderer {
    pub(crate) fn new(spec: &ComparedCollection) -> Result<Self, VerifyError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.remove_global("debug");
        null::teach(&mut environment);
        add(&mut environment, &spec.table, TEXT, &spec.text)?;
        let mut computed = Vec::with_capacity(spec.computed.len());
        for (field, source) in &spec.computed {
            let template = format!("computed.{field}");
            let reads = add_expression(&mut environment, &template, source);
            if reads.is_none() {
                add(&mut environment, &spec.table, &template, source)?;
            }
            computed.push(ComputedField { field: field.clone(), template, reads });
        }
        Ok(Self { environment, computed })
    }

    /// Returns whether a computed field replaces the column of this name.
    pub(crate) fn computes(&self, field: &str) -> bool {
        self.computed.iter().any(|computed| computed.field == field)
    }

    /// Returns the text of a row, rendered with its lookups, and its computed fields; or why they cannot be rendered.
    pub(crate) fn render(
        &self,
        row: &Arc<TemplateRow>,
        looked_up: Vec<LookedUpRows>,
    ) -> Result<(String, Vec<(String, Value)>), String> {
        let context = Inner::from_dyn_object(Arc::clone(row));
        let joined = Inner::from_object(WithLookups { row: Arc::clone(row), looked_up });
        let reason = |name: &str, error: &Error| format!("{name}: {error}");
        let text = self.environment.get_template(TEXT).and_then(|template| template.render(joined));
        let text = text.map_err(|error| reason(TEXT, &error))?;
        let mut fields = Vec::with_capacity(self.computed.len());
        for computed in &self.computed {
            let value = self.compute(computed, row, context.clone());
            fields.push((computed.field.clone(), value.map_err(|error| reason(&computed.template, &error))?));
        }
        Ok((text, fields))
    }

    fn compute(&self, computed: &ComputedField, row: &TemplateRow, context: Inner) -> Result<Value, Error> {
        let template = self.environment.get_template(&computed.template)?;
        let Some(reads) = &computed.reads else { return template.render(context).map(Value::String) };
        let rendered = template.render_captured(context);
        match rendered {
            // As in SQL, what is computed from NULL is NULL.
            Err(error) if error.kind() == ErrorKind::InvalidOperation && reads_null(row, reads) => Ok(Value::Null),
            Err(error) => Err(error),
            Ok(captured) => captured.state().lookup(RESULT).map_or(Ok(Value::Null), |value| null::outside(&value)),
        }
    }
}

fn reads_null(row: &TemplateRow, reads: &BTreeSet<String>) -> bool {
    let whole = (reads.contains("row") && !row.names.iter().any(|name| name == "row")) || reads.contains("walvec_row");
    let mut columns = row.names.iter().zip(&row.values);
    columns.any(|(name, value)| value.is_null() && (whole || reads.contains(name)))
}

fn add(environment: &mut Environment<'_>, table: &TableName, name: &str, source: &str) -> Result<(), VerifyError> {
    environment.add_template_owned(name.to_owned(), prepare(source).source).map_err(|error| VerifyError::Template {
        table: table.clone(),
        field: name.to_owned(),
        reason: error.to_string(),
    })
}

/// Adds a template that is exactly one `{{ expression }}` in a form that keeps the value's type, and returns the names that
/// it reads; `None` if it is anything else, for example `{{ a }}, {{ b }}`.
fn add_expression(environment: &mut Environment<'_>, name: &str, source: &str) -> Option<BTreeSet<String>> {
    let source = prepare(source).source;
    let inside = source.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let expression = inside.trim_start_matches(['-', '+']).trim_end_matches('-').trim();
    let reads = environment.compile_expression_owned(expression.to_owned()).ok()?.undeclared_variables(false);
    let assignment = format!("{{% set {RESULT} = ({expression}) %}}");
    environment.add_template_owned(name.to_owned(), assignment).ok()?;
    Some(reads.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};
    use walvec_model::Fingerprint;

    use super::*;

    fn spec(text: &str, computed: &str) -> ComparedCollection {
        ComparedCollection {
            collection: "t".to_owned(),
            table: TableName::new("public", "t"),
            text: text.to_owned(),
            payload: None,
            computed: vec![("c".to_owned(), computed.to_owned())],
            fingerprint: Fingerprint::of(&[]),
            numbers: Vec::new(),
            layout: crate::StoredLayout::Flat,
            fractions: crate::Fractions::Exact,
            chunks: None,
            keywords: None,
            lookups: Vec::new(),
        }
    }

    fn render(text: &str, computed: &str, row: Value) -> Result<(String, Value), String> {
        let Value::Object(row) = row else { panic!("a row") };
        let (names, values): (Vec<_>, Vec<_>) = row.into_iter().unzip();
        let numerics = names.iter().map(|name: &String| name.starts_with("price")).collect();
        let row = Arc::new(TemplateRow { names: names.into(), values, numerics });
        let (text, mut fields) = Renderer::new(&spec(text, computed)).unwrap().render(&row, Vec::new())?;
        Ok((text, fields.remove(0).1))
    }

    fn text(template: &str, row: Value) -> String {
        render(template, "x", row).unwrap().0
    }

    fn value(template: &str, row: Value) -> Value {
        render("x", template, row).unwrap().1
    }

    #[test]
    fn a_column_that_a_template_may_look_at_is_read() {
        let named =
            |text: &str| ComparedCollection { payload: Some(vec!["name".to_owned()]), ..spec(text, "{{ year }}") };
        let columns = |spec: ComparedCollection| ["name", "year", "body"].map(|column| spec.cannot_use(column));
        assert_eq!(columns(named("{{ name }}")), [false, false, true]);
        assert_eq!(columns(named("{{ name }}{{ body }}")), [false; 3]);
        assert_eq!(columns(named("{% for c in row %}{{ c }}{% endfor %}")), [false; 3]);
        assert_eq!(columns(spec("{{ name }}", "{{ year }}")), [false; 3], "every column is stored");
    }

    #[test]
    fn null_reads_as_nothing() {
        let row = json!({"a": null, "b": false, "j": {"x": null, "y": {"z": 1}}, "first name": "Emma"});
        for (template, expected) in [
            ("[{{ a }}]", "[]"),
            ("{{ 'x' ~ a ~ 'y' }}", "xy"),
            ("{{ a|default('none') }}, {{ b|default('x') }}, {{ b|default('x', true) }}", "none, false, x"),
            ("{% if a %}yes{% else %}no{% endif %}", "no"),
            ("{{ a is none }} {{ a is defined }} {{ b is none }}", "true false false"),
            ("{{ j.x }}{{ j.missing.deeper }}{{ j.y.z }}", "1"),
            ("{% for x in a %}{{ x }}{% endfor %}", ""),
            (
                "{{ row['first name'] }} {{ j }} {{ [1, none, true] }}",
                "Emma {\"x\":null,\"y\":{\"z\":1}} [1,null,true]",
            ),
            ("{{ a|upper }}{{ a|length }}", "0"),
        ] {
            assert_eq!(text(template, row.clone()), expected, "{template}");
        }
    }

    #[test]
    fn one_expression_keeps_its_type() {
        let row = json!({"year": 1898, "price": "9.50", "none": null, "tags": ["a", null]});
        for (template, expected) in [
            ("{{ year // 10 * 10 }}", json!(1890)),
            ("{{ price|float * 2 }}", json!(19.0)),
            ("{{- year > 1900 -}}", json!(false)),
            ("{{ tags }}", json!(["a", null])),
            ("{{ {'y': year, 'n': row.none} }}", json!({"y": 1898, "n": null})),
            ("{{ row.none + 1 }}", json!(null)),
            ("{{ year }}, {{ price }}", json!("1898, 9.50")),
            ("in {{ year }}", json!("in 1898")),
            ("{{ 2 ** 70 }}", json!("1180591620717411303424")),
            ("{{ price }}", json!("9.50")),
            ("{{ price * 2 }}", json!(19.0)),
            ("{{ -price }}", json!(-9.5)),
            ("{{ price > 10 }}", json!(false)),
            ("{{ row.none > 10 }}", json!(false)),
            ("{{ 10 > row.none }}", json!(false)),
            ("{{ 'x' ~ price }}", json!("x9.50")),
        ] {
            assert_eq!(value(template, row.clone()), expected, "{template}");
        }
    }

    #[test]
    fn a_row_that_cannot_be_rendered_says_why() {
        assert!(render("{{ 1 // n }}", "x", json!({"n": 0})).unwrap_err().contains("text"));
        assert!(render("x", "{{ 1 // n }}", json!({"n": 0})).unwrap_err().contains("computed.c"));
        assert!(render("{{ missing }}", "x", Value::Object(Map::new())).is_err());
    }
}
