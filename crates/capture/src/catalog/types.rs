//! How the values of a type are read, and which operator compares them.

use std::collections::HashMap;

use walvec_model::Column;

use crate::CaptureError;
use crate::connect::{Session, statement_error};
use crate::value::{TypeFacts, ValueKind, model_type};

/// The first oid of user-defined objects: `FirstNormalObjectId` in PostgreSQL's `access/transam.h`. Types with lower oids come with the
/// server and never change.
pub(crate) const FIRST_USER_DEFINED: u32 = 16_384;

/// Follows domains to their base types and arrays to their elements. Only the output of `array_out` is an array
/// literal; `int2vector` and similar types have elements too, but print differently.
const QUERY: &str = "
    WITH RECURSIVE wanted (oid) AS (
        SELECT unnest($1::oid[])
        UNION
        SELECT part.oid
        FROM wanted JOIN pg_type t ON t.oid = wanted.oid,
             LATERAL (VALUES (t.typbasetype), (t.typelem)) AS part (oid)
        WHERE part.oid <> 0
    )
    SELECT t.oid, t.typbasetype,
           CASE WHEN t.typoutput = 'pg_catalog.array_out'::regproc AND t.typdelim = ',' THEN t.typelem ELSE 0 END,
           t.typtype = 'e', t.typcategory = 'S', t.typtypmod
    FROM wanted JOIN pg_type t ON t.oid = wanted.oid";

/// Returns the catalogue's facts about the types `oids`, and about all types that they are made of.
pub(super) async fn facts(session: &Session, oids: &[u32]) -> Result<HashMap<u32, TypeFacts>, CaptureError> {
    let rows = session.query(QUERY, &[&oids]).await.map_err(|error| statement_error("looking up types", &error))?;
    let fact = |row: &tokio_postgres::Row| TypeFacts {
        base: row.get(1),
        element: row.get(2),
        is_enum: row.get(3),
        is_text: row.get(4),
        modifier: row.get(5),
    };
    Ok(rows.iter().map(|row| (row.get(0), fact(row))).collect())
}

/// Returns the kinds of the types `oids`. A type that no longer exists counts as text.
pub(super) async fn kinds(session: &Session, oids: &[u32]) -> Result<HashMap<u32, ValueKind>, CaptureError> {
    let facts = facts(session, oids).await?;
    Ok(oids.iter().map(|&oid| (oid, ValueKind::resolve(oid, &facts))).collect())
}

/// Sets the type of each column, given its type modifier.
pub(crate) async fn resolve(session: &Session, columns: Vec<(&mut Column, i32)>) -> Result<(), CaptureError> {
    let oids: Vec<u32> = columns.iter().map(|(column, _)| column.type_oid).collect();
    let facts = facts(session, &oids).await?;
    for (column, modifier) in columns {
        column.ty = model_type(column.type_oid, modifier, &facts);
    }
    Ok(())
}

/// Finds the equality operator of a type's default order, which unique indexes use. A domain has the operator of its base type.
const EQUALITIES: &str = "
    WITH RECURSIVE under (oid, base) AS (
        SELECT oid, oid FROM unnest($1::oid[]) AS oid
        UNION
        SELECT under.oid, t.typbasetype FROM under JOIN pg_type t ON t.oid = under.base WHERE t.typbasetype <> 0)
    SELECT under.oid, format('OPERATOR(%I.%s)', n.nspname, o.oprname)
    FROM under
    JOIN pg_opclass c ON c.opcintype = under.base AND c.opcdefault
    JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
    JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amopstrategy = 3
         AND a.amoplefttype = under.base AND a.amoprighttype = under.base
    JOIN pg_operator o ON o.oid = a.amopopr
    JOIN pg_namespace n ON n.oid = o.oprnamespace
    WHERE n.nspname <> 'pg_catalog'";

/// Returns the equality operators of the types `oids`, where it is not PostgreSQL's own `=`. An extension's operator
/// cannot be found by its name alone.
pub(crate) async fn equalities(session: &Session, oids: &[u32]) -> Result<HashMap<u32, String>, CaptureError> {
    let rows = session.query(EQUALITIES, &[&oids]).await;
    let rows = rows.map_err(|error| statement_error("looking up the operators of types", &error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
