//! How the values of a type are read.

use std::collections::HashMap;

use crate::CaptureError;
use crate::connect::{Session, statement_error};
use crate::value::{Kind, TypeFacts};

/// Follows domains to their base and arrays to their elements. Only what `array_out` writes is an array literal;
/// `int2vector` and its like have elements too, but look different.
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
           CASE WHEN t.typoutput = 'pg_catalog.array_out'::regproc AND t.typdelim = ',' THEN t.typelem ELSE 0 END
    FROM wanted JOIN pg_type t ON t.oid = wanted.oid";

/// The kinds of the types `oids`. A type that no longer exists is text.
pub(super) async fn kinds(session: &Session, oids: &[u32]) -> Result<HashMap<u32, Kind>, CaptureError> {
    let rows = session.query(QUERY, &[&oids]).await.map_err(|error| statement_error("looking up types", &error))?;
    let facts: HashMap<u32, TypeFacts> =
        rows.iter().map(|row| (row.get(0), TypeFacts { base: row.get(1), element: row.get(2) })).collect();
    Ok(oids.iter().map(|&oid| (oid, Kind::resolve(oid, &facts))).collect())
}
