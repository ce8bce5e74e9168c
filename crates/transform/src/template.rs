//! One compiled template.

use std::collections::BTreeSet;

use minijinja::value::Value as Rendered;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use walvec_model::Value;
use walvec_model::operands::{PreparedTemplate, prepare};

use crate::absent::Absences;
use crate::names::{ReachableNames, comparison_with_none};
use crate::values;

/// The work that one template may do for one row, in the engine's units: about one per operation and one per 64 bytes
/// produced. Enough for texts of hundreds of megabytes; an endless loop spends it within about a second.
const FUEL: u64 = 10_000_000;

/// The name of the only template in each environment.
const MAIN: &str = "main";

/// The variable that holds the value of a template that consists of one expression.
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
    /// The source that was compiled, with its filters.
    prepared: PreparedTemplate,
    /// Set if the template is one expression, whose value is in [`VALUE`] after rendering. The number is how far the
    /// offsets in the compiled assignment are ahead of those in `prepared`.
    assignment_shift: Option<usize>,
}

impl Template {
    /// Compiles a template that renders to a text.
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
        // The engine resolves filters, tests and functions only when it reaches them. Rendering a row of NULLs reaches
        // most of them.
        match template.render_text(values::row_of_nulls()) {
            Err(error) => template.mistake(&error).map_or(Ok(template), Err),
            Ok(_) => Ok(template),
        }
    }

    /// Compiles a template that keeps the type of its value if it is exactly one `{{ expression }}`.
    pub(crate) fn value(field: &str, source: &str) -> Result<Self, SyntaxError> {
        let mut template = Self::text(field, source)?;
        if let Some((assignment, shift)) = as_assignment(&template.prepared.source) {
            // `{{ a }}, {{ b }}` looks like one expression from outside, but its assignment does not compile.
            if template.env.add_template_owned(MAIN, assignment).is_ok() {
                template.assignment_shift = Some(shift);
            } else {
                return Self::text(field, source);
            }
        }
        Ok(template)
    }

    /// Renders the text for one row.
    pub(crate) fn render_text(&self, row: Rendered) -> Result<String, Error> {
        self.env.get_template(MAIN)?.render(row)
    }

    /// Evaluates the value for one row.
    pub(crate) fn render_value(&self, row: Rendered) -> Result<Value, Error> {
        if self.assignment_shift.is_none() {
            return self.render_text(row).map(Value::String);
        }
        let rendered = self.env.get_template(MAIN)?.render_captured(row)?;
        rendered.state().lookup(VALUE).as_ref().map_or(Ok(Value::Null), values::to_json)
    }

    /// Returns whether an error of [`render_value`](Self::render_value) may be due to an operand that was NULL.
    pub(crate) fn is_operand_error(&self, error: &Error) -> bool {
        self.assignment_shift.is_some() && error.kind() == ErrorKind::InvalidOperation
    }

    /// Describes why a row could not be rendered: the error, and the absent values found by rendering `context` once more.
    pub(crate) fn reason(&self, error: &Error, context: impl FnOnce(&Absences) -> Rendered) -> String {
        let absences = Absences::default();
        // A template that ran out of fuel would do so again.
        if error.kind() != ErrorKind::OutOfFuel {
            let _ = self.render_value(context(&absences));
        }
        let (reason, hint) = (reason(error), absences.hint());
        if hint.is_empty() {
            return reason;
        }
        // The engine treats NULL as an empty map and says "map". Users look for NULL.
        format!("{}{hint}", reason.replace("types map and", "types NULL and").replace("and map", "and NULL"))
    }

    /// Returns what the template's author has to correct, if the error does not depend on the row: an unknown filter is
    /// unknown for every row.
    pub(crate) fn mistake(&self, error: &Error) -> Option<SyntaxError> {
        let is_mistake = matches!(
            error.kind(),
            ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction | ErrorKind::UnknownMethod
        );
        is_mistake.then(|| engine_error(&self.source, &self.prepared, error, self.assignment_shift.unwrap_or(0)))
    }

    /// Returns the variables that the template reads without setting them: `name`, or `row.name`.
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

/// Returns the first segment of a path, for example `meta` of `meta.color`.
pub(crate) fn first_segment(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

/// Describes what went wrong while rendering, with the line inside the template if it is not the first.
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
    // Makes errors carry their place in the source and the name that was not defined.
    env.set_debug(true);
    // `debug` prints every column, whichever ones the template names.
    env.remove_global("debug");
    values::install(&mut env);
    env
}

/// Rewrites `{{ expression }}` as an assignment to [`VALUE`], with how far its offsets are ahead of those in `source`.
fn as_assignment(source: &str) -> Option<(String, usize)> {
    let inside = source.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    let inside = inside.strip_suffix('-').unwrap_or(inside);
    let prefix = format!("{{% set {VALUE} = (");
    let shift = prefix.len().saturating_sub(source.find(inside)?);
    Some((format!("{prefix}{inside}) %}}"), shift))
}

/// Converts an error of the engine, whose offsets are `shift` ahead of those in the prepared source.
fn engine_error(source: &str, prepared: &PreparedTemplate, error: &Error, shift: usize) -> SyntaxError {
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
