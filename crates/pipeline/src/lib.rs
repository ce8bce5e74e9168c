//! Wiring of the stages.
pub mod status;
