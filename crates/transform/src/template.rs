//! One compiled template.

use std::collections::BTreeSet;

use minijinja::value::Value as Rendered;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use walvec_model::Value;
use walvec_model::operands::{Prepared, prepare};

use crate::absent::Absences;
use crate::names::{ReachableNames, comparison_with_none};
use crate::values;

/// Work that one template may do for one row, in the engine's units: about one per operation and one per 64 bytes that
/// are produced. Enough for texts of hundreds of megabytes, and spent within a second or so by a loop without end.
const FUEL: u64 = 10_000_000;

/// The only template of each environment.
const MAIN: &str = "main";

/// The variable that holds the value of a template that is one expression.
const VALUE: &str = "_walvec_value";

/// Why a template cannot be compiled, and where.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) reason: String,
    pub(crate) snippet: String,
}

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    /// `text`, or `computed.` and the field's name.
    pub(crate) field: String,
    pub(crate) names: ReachableNames,
    env: Environment<'static>,
    source: String,
    /// What was compiled.
    prepared: Prepared,
    /// Set if the template is one expression, whose value lies under [`VALUE`] after rendering: how far the compiled
    /// assignment's offsets are ahead of those in `prepared`.
    assignment_shift: Option<usize>,
}

impl Template {
    /// A template that renders to a text.
    pub(crate) fn text(field: &str, source: &str) -> Result<Self, SyntaxError> {
        if let Some(offset) = comparison_with_none(source) {
            let reason = "a comparison with none never holds; write `is none` or `is not none`";
            return Err(syntax_error(source, offset, reason.to_owned()));
        }
        let mut env = environment();
        let prepared = prepare(source);
        let compiled = env.add_template_owned(MAIN, prepared.source.clone());
        compiled.map_err(|error| engine_error(source, &prepared, &error, 0))?;
        let names = ReachableNames::of(source);
        let (field, source) = (field.to_owned(), source.to_owned());
        let template = Self { field, names, env, source, prepared, assignment_shift: None };
        // The engine resolves filters, tests and functions only when it comes to them. A row of NULLs comes to most.
        match template.render_text(values::row_of_nulls()) {
            Err(error) => template.mistake(&error).map_or(Ok(template), Err),
            Ok(_) => Ok(template),
        }
    }

    /// A template that keeps the type of its value if it is exactly one `{{ expression }}`.
    pub(crate) fn value(field: &str, source: &str) -> Result<Self, SyntaxError> {
        let mut template = Self::text(field, source)?;
        if let Some((assignment, shift)) = as_assignment(&template.prepared.source) {
            // `{{ a }}, {{ b }}` looks like one expression from outside, but makes no assignment that compiles.
            if template.env.add_template_owned(MAIN, assignment).is_ok() {
                template.assignment_shift = Some(shift);
            } else {
                return Self::text(field, source);
            }
        }
        Ok(template)
    }

    /// The text for one row.
    pub(crate) fn render_text(&self, row: Rendered) -> Result<String, Error> {
        self.env.get_template(MAIN)?.render(row)
    }

    /// The value for one row.
    pub(crate) fn render_value(&self, row: Rendered) -> Result<Value, Error> {
        if self.assignment_shift.is_none() {
            return self.render_text(row).map(Value::String);
        }
        let rendered = self.env.get_template(MAIN)?.render_captured(row)?;
        rendered.state().lookup(VALUE).as_ref().map_or(Ok(Value::Null), values::to_json)
    }

    /// Whether an error of [`render_value`](Self::render_value) may be due to an operand that was NULL.
    pub(crate) fn is_operand_error(&self, error: &Error) -> bool {
        self.assignment_shift.is_some() && error.kind() == ErrorKind::InvalidOperation
    }

    /// Why an error of a rendering is this row's: what went wrong, and what was absent when `context` was rendered again.
    pub(crate) fn reason(&self, error: &Error, context: impl FnOnce(&Absences) -> Rendered) -> String {
        let absences = Absences::default();
        // A template without end would be without end again.
        if error.kind() != ErrorKind::OutOfFuel {
            let _ = self.render_value(context(&absences));
        }
        let (reason, hint) = (reason(error), absences.hint());
        if hint.is_empty() {
            return reason;
        }
        // To the engine NULL is an empty map, which is not what people look for.
        format!("{}{hint}", reason.replace("types map and", "types NULL and").replace("and map", "and NULL"))
    }

    /// What the template's author has to correct, if a rendering error is not this row's fault: no row brings a filter
    /// into being.
    pub(crate) fn mistake(&self, error: &Error) -> Option<SyntaxError> {
        let is_mistake = matches!(
            error.kind(),
            ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction | ErrorKind::UnknownMethod
        );
        is_mistake.then(|| engine_error(&self.source, &self.prepared, error, self.assignment_shift.unwrap_or(0)))
    }

    /// Variables that the template reads without setting them: `name`, or `row.name`.
    pub(crate) fn variables(&self) -> BTreeSet<String> {
        let Ok(template) = self.env.get_template(MAIN) else { return BTreeSet::new() };
        let globals: BTreeSet<_> = self.env.globals().map(|(name, _)| name.to_owned()).collect();
        let is_row_data = |path: &String| {
            let name = first_segment(path);
            !globals.contains(name) && !self.names.assigns(name)
        };
        template.undeclared_variables(true).into_iter().filter(is_row_data).collect()
    }
}

/// `meta` of `meta.color`.
pub(crate) fn first_segment(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

/// What went wrong while rendering, with the line inside the template if it has several.
fn reason(error: &Error) -> String {
    let kind = error.kind();
    let line = error.line().filter(|line| *line > 1).map(|line| format!(" (line {line})")).unwrap_or_default();
    match error.detail() {
        Some(detail) => format!("{kind}: {detail}{line}"),
        None => format!("{kind}{line}"),
    }
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_fuel(Some(FUEL));
    // Records where in the source an error is, and which name was not defined.
    env.set_debug(true);
    // It prints every column, whatever the template names.
    env.remove_global("debug");
    values::install(&mut env);
    env
}

/// `{{ expression }}` as an assignment to [`VALUE`], and how far its offsets are ahead of those in `source`.
fn as_assignment(source: &str) -> Option<(String, usize)> {
    let inside = source.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    let inside = inside.strip_suffix('-').unwrap_or(inside);
    let prefix = format!("{{% set {VALUE} = (");
    let shift = prefix.len().saturating_sub(source.find(inside)?);
    Some((format!("{prefix}{inside}) %}}"), shift))
}

/// An error of the engine, whose offsets are `shift` ahead of those in what was prepared of `source`.
fn engine_error(source: &str, prepared: &Prepared, error: &Error, shift: usize) -> SyntaxError {
    let line_start = |line: usize| source.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let range = error.range().map(|range| prepared.original(range.start.saturating_sub(shift)));
    let offset = range.unwrap_or_else(|| line_start(error.line().unwrap_or(1)));
    syntax_error(source, offset, error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
}

fn syntax_error(source: &str, offset: usize, reason: String) -> SyntaxError {
    let offset = source.floor_char_boundary(offset);
    let before = &source[..offset];
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before[line_start..].chars().count();
    let text = source[line_start..].lines().next().unwrap_or_default();
    SyntaxError {
        line: before.matches('\n').count() + 1,
        column: column + 1,
        reason,
        snippet: format!("  {text}\n  {}^", " ".repeat(column)),
    }
}
