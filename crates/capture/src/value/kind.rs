//! What a type's text form means.

use std::collections::HashMap;

/// How the text of a type is read. Everything that JSON has no exact form for is [`Text`](Self::Text).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Kept as PostgreSQL writes it.
    Text,
    /// `bool`.
    Bool,
    /// `int2`, `int4`, `int8`, `oid`.
    Integer,
    /// `float4`, `float8`.
    Float,
    /// `json`, `jsonb`.
    Json,
    /// An array of elements of one kind.
    Array(Box<Kind>),
}

/// A row of `pg_type`, reduced to what decides the kind.
#[derive(Clone, Debug)]
pub(crate) struct TypeFacts {
    /// For a domain the type under it, else 0.
    pub(crate) base: u32,
    /// For a true array (written by `array_out`, separated by commas) its element type, else 0.
    pub(crate) element: u32,
}

impl Kind {
    /// The kind of a built-in scalar type, by its fixed oid (PostgreSQL: `pg_type.dat`).
    fn of_builtin(oid: u32) -> Self {
        match oid {
            16 => Self::Bool,
            20 | 21 | 23 | 26 => Self::Integer,
            700 | 701 => Self::Float,
            114 | 3802 => Self::Json,
            _ => Self::Text,
        }
    }

    /// The kind of the type `oid`: domains as their base type, arrays by their elements. A type that `facts` does not
    /// know is a scalar.
    pub(crate) fn resolve(oid: u32, facts: &HashMap<u32, TypeFacts>) -> Self {
        let mut oid = oid;
        // Domains over domains end; the bound only keeps a corrupt catalogue from hanging us.
        for _ in 0..32 {
            match facts.get(&oid) {
                Some(fact) if fact.base != 0 => oid = fact.base,
                Some(fact) if fact.element != 0 => {
                    return match Self::resolve(fact.element, facts) {
                        // An array of a domain over an array is nested in a way that array literals cannot tell apart.
                        Self::Array(_) => Self::Text,
                        element => Self::Array(Box::new(element)),
                    };
                }
                _ => return Self::of_builtin(oid),
            }
        }
        Self::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_reads_as_its_base_and_an_array_by_its_elements() {
        let facts: HashMap<u32, TypeFacts> = [(90_001, 23, 0), (90_002, 90_001, 0), (90_003, 0, 90_002), (1007, 0, 23)]
            .into_iter()
            .map(|(oid, base, element)| (oid, TypeFacts { base, element }))
            .collect();
        assert_eq!(Kind::resolve(90_002, &facts), Kind::Integer);
        assert_eq!(Kind::resolve(90_003, &facts), Kind::Array(Box::new(Kind::Integer)));
        assert_eq!(Kind::resolve(1700, &facts), Kind::Text);
        assert_eq!(Kind::resolve(12_345_678, &facts), Kind::Text);
    }
}
