//! Conditions on payload fields, in the few forms that the search surface offers.

use walvec_model::Value;

/// All conditions must hold. Empty: everything matches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter(pub Vec<Condition>);

/// A condition on one payload field.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// The field equals the value, or is an array that contains it.
    Equals {
        /// The user's name of the field, whatever holds it.
        field: String,
        /// A string, a whole number or a boolean.
        value: Value,
    },
    /// The field is a number inside the bounds.
    Range {
        /// The user's name of the field, whatever holds it.
        field: String,
        /// Lowest value, inclusive.
        from: Option<f64>,
        /// Highest value, inclusive.
        to: Option<f64>,
    },
    /// At least one of them holds; there is at least one.
    AnyOf(Vec<Condition>),
    /// The condition does not hold.
    Not(Box<Condition>),
}
