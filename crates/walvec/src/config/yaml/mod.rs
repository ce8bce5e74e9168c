//! From the text of walvec.yaml to the settings. Every error names the line and the dotted key.
//!
//! - [`document`]: a YAML text as a tree with positions, and excerpts of it that hide secrets
//! - [`reader`]: from that tree to the settings
//! - [`interpolate`]: `${VAR}` in values

pub(super) mod document;
pub(super) mod interpolate;
pub(super) mod reader;
