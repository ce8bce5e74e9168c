//! Checks that a table has what a specification names, when the table is first seen or has changed.

use walvec_model::point::RESERVED_KEY;
use walvec_model::{Column, Lookup, Table, Type};

use super::Transform;
use crate::error::TransformError;
use crate::names::{ALWAYS_ROW, ROW, unknown_column};
use crate::shape::ColumnPlan;
use crate::template::{Template, first_segment};

impl Transform {
    pub(super) fn new_shape(&self, table: &Table) -> Result<ColumnPlan, TransformError> {
        let columns = table.columns.clone();
        check_template(table, &self.text, &self.spec.lookups)?;
        for (_, template) in &self.computed {
            check_template(table, template, &[])?;
        }
        for (name, template) in &self.computed {
            self.check_field(table, &template.field, name)?;
        }
        let all: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
        let selected = self.spec.payload.as_ref().unwrap_or(&all);
        let mut payload = Vec::with_capacity(selected.len());
        for name in selected {
            self.check_field(table, "payload", name)?;
            let index = table.column_index(name).ok_or_else(|| unknown_column(table, "payload", name))?;
            if self.stores(name) {
                payload.push((name.clone(), index));
            }
        }
        let reachable = columns.iter().enumerate().filter(|(_, column)| self.reaches(&column.name));
        let reachable = reachable.map(|(index, column)| (column.name.clone(), index, column.ty.clone())).collect();
        let is_needed = |(index, column): (usize, &Column)| table.key.contains(&index) || self.needs(&column.name);
        let needed = columns.iter().enumerate().map(is_needed).collect();
        Ok(ColumnPlan { columns, payload, reachable, needed })
    }

    fn check_field(&self, table: &Table, field: &str, name: &str) -> Result<(), TransformError> {
        let layout = self.spec.layout;
        let purpose = match name {
            RESERVED_KEY => "in which walvec keeps each point's version".to_owned(),
            _ if self.chunk_field() == Some(name) => "which `chunk.field` says is for the text of the chunk".to_owned(),
            _ if layout.reserved().contains(&name) => format!("which the layout {layout} needs for itself"),
            _ => return Ok(()),
        };
        let (table, field, name) = (table.name.clone(), field.to_owned(), name.to_owned());
        Err(TransformError::ReservedField { table, field, name, purpose })
    }
}

fn check_template(table: &Table, template: &Template, lookups: &[Lookup]) -> Result<(), TransformError> {
    let unknown = |name: &str| Err(unknown_column(table, &template.field, name));
    // A column that is called `row` hides the row.
    let hidden_by = table.columns.iter().find(|column| column.name == ROW);
    let row_is_column = hidden_by.is_some();
    if let Some(column) = hidden_by.filter(|column| !matches!(column.ty.scalar(), Type::Json | Type::Unknown)) {
        check_hidden_row(table, template, column)?;
    }
    for path in template.variables() {
        let name = first_segment(&path);
        if lookups.iter().any(|lookup| lookup.name == name) {
            continue;
        }
        let column = match path.split('.').nth(1) {
            Some(column) if name == ALWAYS_ROW || (name == ROW && !row_is_column) => column,
            None if name == ROW || name == ALWAYS_ROW => continue,
            _ => name,
        };
        if table.column_index(column).is_none() {
            return unknown(column);
        }
    }
    // With such a column, a name after `row` may be a member of the column's value.
    let is_member = |name: &str| row_is_column && template.names.subscripts_of_row().any(|member| member == name);
    let missing = template.names.subscripts().find(|name| table.column_index(name).is_none() && !is_member(name));
    missing.map_or(Ok(()), unknown)
}

/// Refuses `row["..."]` if `row` is a column whose values have no members.
fn check_hidden_row(table: &Table, template: &Template, column: &Column) -> Result<(), TransformError> {
    let mut members = template.variables().into_iter().filter(|path| path.starts_with("row."));
    let member = template.names.subscripts_of_row().next().map(str::to_owned);
    let Some(member) = member.or_else(|| Some(members.next()?.split_off("row.".len()))) else { return Ok(()) };
    Err(TransformError::HiddenRow {
        table: table.name.clone(),
        field: template.field.clone(),
        reason: format!("the column \"row\" ({}) hides the row: write walvec_row[\"{member}\"]", column.ty),
    })
}
