//! The section for BENCHMARKS.md.

use std::fmt::Write as _;

use super::{ManyTables, Period, ROWS};
use crate::report::megabytes;

/// Returns the section for BENCHMARKS.md.
pub(super) fn section(measured: &[(&str, ManyTables)]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let tables = measured.first().map_or(0, |(_, first)| first.tables);
    writeln!(
        text,
        "## {tables} tables in one process\n\nA collection each, `hash/64`, {ROWS} rows at first. Loaded: one row a second in each table, every one a \
         transaction of its\nown. A row counts from before its INSERT until it can be read over HTTP. Statements are those that walvec sends \
         to PostgreSQL,\ncalls those that it sends to the Qdrant server.\n\n\
         | | {} | target |\n|---|{}---|",
        measured.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" | "),
        "---|".repeat(measured.len())
    )?;
    let mut row = |name: &str, cell: &dyn Fn(&ManyTables) -> String, target: &str| {
        let cells: Vec<String> = measured.iter().map(|(_, measured)| cell(measured)).collect();
        writeln!(text, "| {name} | {} | {target} |", cells.join(" | "))
    };
    row("`walvec check`", &|m| format!("{:.1} s", m.check), "")?;
    row(
        "first start, with the snapshot",
        &|m| format!("{:.1} s, {} statements", m.first.seconds, m.first.statements),
        "",
    )?;
    row("start", &|m| format!("{:.1} s, {} statements", m.again.seconds, m.again.statements), "≤ 15 s")?;
    row("idle: statements a second, of them to the catalogue", &|m| statements(&m.idle), "≤ 2 to the catalogue")?;
    row("idle: calls a second", &|m| format!("{:.0}", m.idle.calls), "")?;
    row("idle: processor", &|m| format!("{:.0} %", m.idle.busy * 100.0), "")?;
    row("idle: memory, of it anonymous", &|m| memories(&m.idle), "")?;
    row("loaded: statements a second, of them to the catalogue", &|m| statements(&m.loaded), "≤ 2 to the catalogue")?;
    row("loaded: calls a second", &|m| format!("{:.0}", m.loaded.calls), "")?;
    row("loaded: processor", &|m| format!("{:.0} %", m.loaded.busy * 100.0), "")?;
    row("loaded: memory, of it anonymous", &|m| memories(&m.loaded), "")?;
    row("peak memory", &|m| megabytes(m.peak_rss), "≤ 350 MB")?;
    row("commit → searchable, p50", &|m| format!("{:.1} ms", m.p50), "")?;
    row("commit → searchable, p99", &|m| format!("{:.1} ms", m.p99), "≤ 100")?;
    row("`walvec status` under load", &|m| format!("{:.1} s", m.status), "")?;
    writeln!(text)?;
    Ok(text)
}

fn statements(period: &Period) -> String {
    format!("{:.2}, {:.2}", period.statements, period.catalogue)
}

fn memories(period: &Period) -> String {
    format!("{}, {}", megabytes(period.rss), megabytes(period.anonymous))
}
