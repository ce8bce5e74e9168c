//! What a check has found: how bad it is, what it is about, and what to do.

use super::remedy::Remedy;
use crate::CaptureError;
use crate::limits::Resource;

/// A finding of the preflight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it stops the pipeline.
    pub severity: Severity,
    /// The code that the pipeline's error would have.
    pub code: &'static str,
    /// What was found, and what is at risk.
    pub message: String,
    /// What to do about the finding.
    pub remedy: Remedy,
    /// What the finding is about, for pipelines that decide by themselves what it means.
    pub subject: Subject,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The state of the slot.
    Slot,
    /// The server has exhausted this resource.
    Limit(Resource),
    /// A table that is published as configured, but was changed.
    Published,
    /// Any other subject.
    Other,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The pipeline can run, at a risk that the message describes.
    Warning,
    /// The pipeline cannot run.
    Error,
}

impl Finding {
    pub(crate) fn error(code: &'static str, message: impl Into<String>, remedy: impl Into<Remedy>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            remedy: remedy.into(),
            subject: Subject::Other,
        }
    }

    pub(crate) fn warning(code: &'static str, message: impl Into<String>, remedy: impl Into<Remedy>) -> Self {
        Self {
            severity: Severity::Warning,
            code,
            message: message.into(),
            remedy: remedy.into(),
            subject: Subject::Other,
        }
    }

    pub(crate) fn about(self, subject: Subject) -> Self {
        Self { subject, ..self }
    }

    pub(crate) fn of(error: &CaptureError) -> Self {
        Self::error(error.code(), error.to_string(), error.remedy().unwrap_or_default())
    }
}
