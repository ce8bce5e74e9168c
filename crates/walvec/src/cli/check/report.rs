//! The results of the checks, and how they are printed.

use std::process::ExitCode;

use serde_json::{Value, json};
use walvec_capture::{Finding, Remedy, Script, Severity};

use super::next::Next;
use crate::assembly::collection::E_FINGERPRINT;
use crate::cli::{Failure, output};

/// The results of the checks.
#[derive(Default)]
pub(super) struct CheckReport {
    outcomes: Vec<CheckResult>,
    /// Statements that fix some of the problems.
    script: Option<Script>,
    /// What `run` will do, if that was determined.
    next: Option<Next>,
}

/// One thing that was checked.
struct CheckResult {
    subject: String,
    /// `ok`, `warning` or `error`.
    result: &'static str,
    detail: Value,
    /// Whether its remedy is shown in the script, together with others.
    is_in_script: bool,
}

impl CheckReport {
    pub(super) fn ok(&mut self, subject: impl Into<String>, detail: impl Into<Value>) {
        self.add(subject.into(), "ok", detail.into());
    }

    pub(super) fn warning(&mut self, subject: impl Into<String>, detail: Value) {
        self.add(subject.into(), "warning", detail);
    }

    pub(super) fn error(&mut self, subject: impl Into<String>, failure: &Failure) {
        self.add(subject.into(), "error", failure.to_json());
    }

    /// Adds the outcome of a check that either succeeds or fails.
    pub(super) fn result(&mut self, subject: impl Into<String>, outcome: Result<impl Into<Value>, Failure>) {
        match outcome {
            Ok(detail) => self.ok(subject, detail),
            Err(failure) => self.error(subject, &failure),
        }
    }

    pub(super) fn finding(&mut self, subject: &str, finding: &Finding) {
        let remedy = finding.remedy.to_string();
        let detail = json!({"code": finding.code, "message": finding.message, "remedy": remedy});
        let result = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let is_in_script = result == "error" && matches!(finding.remedy, Remedy::Statements(_));
        self.outcomes.push(CheckResult { subject: subject.to_owned(), result, detail, is_in_script });
    }

    pub(super) fn statements(&mut self, script: Option<Script>) {
        self.script = script;
    }

    pub(super) fn next(&mut self, next: Next) {
        self.next = Some(next);
    }

    /// Returns the number of errors so far.
    pub(super) fn errors(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.result == "error").count()
    }

    fn add(&mut self, subject: String, result: &'static str, detail: Value) {
        self.outcomes.push(CheckResult { subject, result, detail, is_in_script: false });
    }

    /// Prints the report. The exit code is 1 if `run` would stop.
    pub(super) fn print(&self, as_json: bool) -> Result<ExitCode, Failure> {
        if as_json {
            output::json(&self.to_json())?;
        } else {
            output::line(&self.to_text())?;
        }
        Ok(if self.errors() > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }

    fn to_json(&self) -> Value {
        let checks = self
            .outcomes
            .iter()
            .map(|outcome| json!({"subject": outcome.subject, "result": outcome.result, "detail": outcome.detail}));
        let parts = self.script.iter().flat_map(|script| &script.parts);
        let statements = parts.flat_map(|part| {
            part.statements.iter().map(move |sql| json!({"role": part.role, "who": part.who, "sql": sql}))
        });
        json!({
            "ok": self.errors() == 0,
            "checks": checks.collect::<Vec<_>>(),
            "statements": statements.collect::<Vec<_>>(),
            "next": self.next.as_ref().filter(|_| self.errors() == 0).map(Next::to_json),
        })
    }

    fn to_text(&self) -> String {
        let mut text: String = self.outcomes.iter().map(|outcome| outcome.to_text() + "\n").collect();
        if let Some(script) = &self.script {
            text.push_str(&format!("\nTo put it right, paste this:\n\n{script}\n"));
        }
        text + "\n" + &self.conclusion()
    }

    /// Says what `run` would do.
    fn conclusion(&self) -> String {
        let code = |outcome: &&CheckResult| outcome.detail.get("code").and_then(Value::as_str) == Some(E_FINGERPRINT);
        let stale: Vec<&str> = self.outcomes.iter().filter(code).map(|outcome| outcome.subject.as_str()).collect();
        match (self.errors(), &self.next) {
            (0, Some(next)) => next.to_string(),
            // PostgreSQL was not asked.
            (0, None) => "Nothing here stands in the way of `walvec run`; PostgreSQL was not looked at.".to_owned(),
            (errors, _) if errors == stale.len() => {
                format!("`walvec run` would stop. Needs `walvec reindex`, because of the {}.", stale.join(" and the "))
            }
            _ => "`walvec run` would stop.".to_owned(),
        }
    }
}

impl CheckResult {
    fn to_text(&self) -> String {
        let Self { subject, result, detail, is_in_script } = self;
        let text = |field| detail.get(field).and_then(Value::as_str);
        let message = detail.as_str().or_else(|| text("message")).unwrap_or_default();
        let code = text("code").map(|code| format!(" [{code}]")).unwrap_or_default();
        let remedy = text("remedy").filter(|remedy| !remedy.is_empty() && !is_in_script);
        let remedy = remedy.map(|remedy| format!("\n           help: {remedy}")).unwrap_or_default();
        format!("{result:>7}  {subject}: {message}{code}{remedy}")
    }
}

#[cfg(test)]
mod tests {
    use walvec_capture::{Actor, ScriptPart, Statement, Subject};

    use super::*;

    fn script() -> Script {
        let part = ScriptPart { role: None, who: "a superuser".to_owned(), statements: vec!["GRANT x;".to_owned()] };
        Script { database: "shop".to_owned(), parts: vec![part] }
    }

    fn missing_right() -> Finding {
        let statement = Statement { by: Actor::Administrator, sql: "GRANT x;".to_owned() };
        let remedy = Remedy::Statements(vec![statement]);
        let (message, subject) = ("x is missing".to_owned(), Subject::Other);
        Finding { severity: Severity::Error, code: "E_RIGHTS", message, remedy, subject }
    }

    #[test]
    fn statements_are_shown_once_and_together() {
        let mut report = CheckReport::default();
        report.finding("PostgreSQL", &missing_right());
        report.statements(Some(script()));
        let text = report.to_text();
        assert_eq!(text.matches("GRANT x;").count(), 1, "{text}");
        assert!(
            text.contains("\n-- as a superuser\nGRANT x;\n") && text.ends_with("`walvec run` would stop."),
            "{text}"
        );
        let json = report.to_json();
        assert_eq!(json["statements"][0]["sql"], "GRANT x;");
        assert_eq!((&json["ok"], &json["next"]), (&json!(false), &Value::Null));
    }

    #[test]
    fn a_stale_collection_leads_to_reindex() {
        let mut report = CheckReport::default();
        report.next(Next::Resume { at: walvec_model::Lsn(1) });
        assert!(report.conclusion().contains("continues where it stopped"));
        report.error("collection books", &Failure::definite(E_FINGERPRINT, "other text"));
        assert!(report.conclusion().contains("`walvec reindex`, because of the collection books"));
        report.error("model", &Failure::definite("E_MODEL_MISSING", "none"));
        assert_eq!(report.conclusion(), "`walvec run` would stop.");
    }
}
