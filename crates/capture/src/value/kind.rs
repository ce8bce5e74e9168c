//! The kinds of types, by the meaning of their text form.

use std::collections::HashMap;

use walvec_model::Type;

/// How the text of a type is read. Every type that JSON cannot hold exactly is [`Text`](Self::Text).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ValueKind {
    /// Kept as PostgreSQL prints it.
    Text,
    /// `bool`.
    Bool,
    /// `int2`, `int4`, `int8`, `oid`.
    Integer,
    /// `float4`, `float8`.
    Float,
    /// `json`, `jsonb`. A number that JSON would round becomes a text.
    Json,
    /// `json`, `jsonb` in a key, which has to be sent back unchanged. A document with a number that JSON would round is
    /// kept as text.
    JsonKey,
    /// An array of elements of one kind.
    Array(Box<ValueKind>),
}

/// A row of `pg_type`, reduced to what determines the kind.
#[derive(Clone, Debug)]
pub(crate) struct TypeFacts {
    /// For a domain the type below it, otherwise 0.
    pub(crate) base: u32,
    /// For a true array (written by `array_out`, separated by commas) its element type, otherwise 0.
    pub(crate) element: u32,
    /// Whether the type is an enum.
    pub(crate) is_enum: bool,
    /// Whether its values are texts: `citext`, for example.
    pub(crate) is_text: bool,
    /// For a domain the modifier of the type below it, otherwise -1.
    pub(crate) modifier: i32,
}

/// Returns the type `oid` with this modifier, below all domains. A type that is not in `facts` is a scalar.
pub(crate) fn model_type(oid: u32, modifier: i32, facts: &HashMap<u32, TypeFacts>) -> Type {
    let (mut oid, mut modifier) = (oid, modifier);
    for _ in 0..DEEPEST_DOMAIN {
        match facts.get(&oid) {
            Some(fact) if fact.base != 0 => (oid, modifier) = (fact.base, modifier.max(fact.modifier)),
            Some(fact) if fact.element != 0 => {
                return match model_type(fact.element, modifier, facts) {
                    // An array of a domain over an array is read as text.
                    Type::Array(_) => Type::Printed,
                    element => Type::Array(Box::new(element)),
                };
            }
            Some(fact) if fact.is_enum => return Type::Enum,
            fact => {
                return match Type::of_oid(oid) {
                    Type::Numeric { .. } => Type::numeric(modifier),
                    Type::Printed if fact.is_some_and(|fact| fact.is_text) => Type::Text,
                    ty => ty,
                };
            }
        }
    }
    Type::Printed
}

/// Chains of domains are finite. This bound only prevents an endless loop on a corrupt catalogue.
const DEEPEST_DOMAIN: usize = 32;

impl ValueKind {
    /// Returns the kind of the same type in a key.
    pub(crate) fn in_key(self) -> Self {
        match self {
            Self::Json => Self::JsonKey,
            Self::Array(element) => Self::Array(Box::new(element.in_key())),
            other => other,
        }
    }

    /// Returns the kind of a built-in scalar type, by its fixed oid (PostgreSQL: `pg_type.dat`).
    fn of_builtin(oid: u32) -> Self {
        match oid {
            16 => Self::Bool,
            20 | 21 | 23 | 26 => Self::Integer,
            700 | 701 => Self::Float,
            114 | 3802 => Self::Json,
            _ => Self::Text,
        }
    }

    /// Returns the kind of the type `oid`: a domain has that of its base type, an array that of its elements. A type
    /// that is not in `facts` is a scalar.
    pub(crate) fn resolve(oid: u32, facts: &HashMap<u32, TypeFacts>) -> Self {
        let mut oid = oid;
        for _ in 0..DEEPEST_DOMAIN {
            match facts.get(&oid) {
                Some(fact) if fact.base != 0 => oid = fact.base,
                Some(fact) if fact.element != 0 => {
                    return match Self::resolve(fact.element, facts) {
                        // The nesting of an array of a domain over an array cannot be seen in its literal.
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

    fn facts(types: &[(u32, u32, u32)]) -> HashMap<u32, TypeFacts> {
        let fact = |base, element| TypeFacts { base, element, is_enum: false, is_text: false, modifier: -1 };
        types.iter().map(|&(oid, base, element)| (oid, fact(base, element))).collect()
    }

    #[test]
    fn a_domain_reads_as_its_base_and_an_array_by_its_elements() {
        let facts = facts(&[(90_001, 23, 0), (90_002, 90_001, 0), (90_003, 0, 90_002), (1007, 0, 23)]);
        assert_eq!(ValueKind::resolve(90_002, &facts), ValueKind::Integer);
        assert_eq!(ValueKind::resolve(90_003, &facts), ValueKind::Array(Box::new(ValueKind::Integer)));
        assert_eq!(ValueKind::resolve(1700, &facts), ValueKind::Text);
        assert_eq!(ValueKind::resolve(12_345_678, &facts), ValueKind::Text);
    }

    #[test]
    fn a_domain_gives_the_type_under_it_a_scale() {
        let mut facts = facts(&[(90_001, 1700, 0), (90_002, 90_001, 0), (90_003, 0, 90_002), (90_004, 0, 0)]);
        facts.get_mut(&90_001).unwrap().modifier = ((10 << 16) | 2) + 4;
        let price = Type::Numeric { scale: Some(2) };
        assert_eq!(model_type(90_002, -1, &facts), price);
        assert_eq!(model_type(90_003, -1, &facts), Type::Array(Box::new(price)));
        assert_eq!(model_type(1700, -1, &facts), Type::Numeric { scale: None });
        facts.get_mut(&90_004).unwrap().is_text = true;
        assert_eq!((model_type(90_004, -1, &facts), model_type(869, -1, &facts)), (Type::Text, Type::Printed));
    }
}
