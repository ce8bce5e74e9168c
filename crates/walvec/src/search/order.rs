//! The order in which points are listed: `order_by=price:desc`, and where the next page begins.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;
use uuid::Uuid;
use walvec_model::{IndexType, Payload, PointId, Type};
use walvec_sink::{Datetime, FieldPath, Order, PathStep, SortPlace, SortValue, SortedBy};
use walvec_transform::PayloadLayout;

use super::cursor::half_digest;
use super::resolve::{self, KnownFields};
use super::serving::Fields;
use crate::api::problem::{ApiProblem, Reason};

/// Parses an order: a field, and after a colon the direction.
pub(crate) fn parse_order(text: &str, fields: &dyn Fields) -> Result<Order, ApiProblem> {
    let known = fields.known();
    let (name, descending) = direction(text, &known)?;
    let by = |(path, _)| sorted_by(name, &path, &known, fields).map(|by| Order { field: path, by, descending });
    resolve::find(name, &known).and_then(by).map_err(|reason| refused(name, &reason))
}

fn refused(name: &str, reason: &str) -> ApiProblem {
    ApiProblem::new(Reason::BadParameter, format!("order_by \"{name}\": {reason}"))
}

/// Returns the field's name, and whether the greatest value comes first.
fn direction<'a>(text: &'a str, known: &KnownFields) -> Result<(&'a str, bool), ApiProblem> {
    match text.rsplit_once(':') {
        Some((name, "asc")) => Ok((name, false)),
        Some((name, "desc")) => Ok((name, true)),
        Some((name, other)) if known.as_ref().is_some_and(|fields| fields.iter().any(|field| field.name == name)) => {
            Err(refused(name, &format!("the direction is \"{other}\"; asc or desc is expected")))
        }
        _ => Ok((text, false)),
    }
}

/// Returns what the index of a field sorts by, or why it cannot be sorted.
fn sorted_by(name: &str, path: &FieldPath, known: &KnownFields, fields: &dyn Fields) -> Result<SortedBy, String> {
    let is_member = !path.steps.is_empty();
    let field = known.iter().flatten().find(|field| field.name == path.name);
    // A member of JSON may have any type.
    let ty = field.map_or(&Type::Unknown, |field| &field.ty);
    let ty = if is_member { &Type::Unknown } else { ty };
    if matches!(ty, Type::Array(_)) || path.steps.contains(&PathStep::Each) {
        return Err("the field holds lists, and a list has no single value to sort by".to_owned());
    }
    let index = fields.index(name);
    if let Some(by) = index.and_then(SortedBy::index) {
        return Ok(by);
    }
    let sorting = ty.sorting();
    let Some(example) = sorting.first() else {
        let member = if *ty == Type::Json { "; a member can be, if it is indexed as a number or a date" } else { "" };
        return Err(format!("the field is {ty}, which cannot be sorted{member}; {}", sortable(known, fields)));
    };
    let found = index.map_or_else(|| "no index".to_owned(), |index| format!("an index of type {index}"));
    let key = if is_member { format!("\"{name}\"") } else { name.to_owned() };
    let types: Vec<String> = sorting.iter().map(IndexType::to_string).collect();
    Err(format!(
        "points are sorted by an index of type {}, and the field has {found}: write index: {{ {key}: {example} }} in the collection's \
         configuration, and start walvec again",
        types.join(" or ")
    ))
}

/// Lists the fields that can be sorted, for messages.
fn sortable(known: &KnownFields, fields: &dyn Fields) -> String {
    let listed = known.iter().flatten().filter_map(|field| {
        let index =
            fields.index(&field.name).filter(|index| index.has_order() && !matches!(field.ty, Type::Array(_)))?;
        Some(format!("{} ({index})", field.name))
    });
    let listed: Vec<String> = listed.collect();
    if listed.is_empty() {
        return "numbers and dates can be, where they are indexed".to_owned();
    }
    format!("these can be: {}", listed.join(", "))
}

/// Refuses a point that has several places in the order. For a computed field, and for a member of JSON, this is not known
/// before the point is read.
pub(crate) fn check_single(
    order: &Order,
    layout: PayloadLayout,
    id: PointId,
    payload: &Payload,
) -> Result<(), ApiProblem> {
    let field = layout.fields(payload).find(|(name, _)| **name == order.field.name).map(|(_, value)| value);
    let value = order.field.steps.iter().try_fold(field.unwrap_or(&Value::Null), |value, step| match step {
        PathStep::Key(key) => value.get(key),
        PathStep::Index(index) => value.get(index),
        PathStep::Each => None,
    });
    match value {
        Some(Value::Array(items)) if !items.is_empty() => Err(refused(
            &order.field.to_string(),
            &format!("point {id} has a list there, and a list has no single value to sort by"),
        )),
        _ => Ok(()),
    }
}

/// The place where a page begins. It goes to the caller as text, and comes back in the next request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OrderCursor {
    place: SortPlace,
    /// Digest of the order: in another order the place would leave points out, or repeat them.
    order: String,
}

/// The message for a cursor that cannot be parsed.
pub(crate) const NOT_A_CURSOR: &str =
    "a cursor is what the page before says in \"next\", with order_by; leave it out for the first page";

/// The message for a cursor of another order.
pub(crate) const OF_ANOTHER_ORDER: &str = "the cursor is of another list: collection and order_by have to be those of the page before; leave \
     the cursor out for the first page";

impl OrderCursor {
    /// Makes the cursor for a place in the order of a collection.
    pub(crate) fn new(collection: &str, order: &Order, place: SortPlace) -> Self {
        Self { place, order: digest(collection, order) }
    }

    /// Returns where the page begins; `None` if the cursor is a place in another order.
    pub(crate) fn place_in(&self, collection: &str, order: &Order) -> Option<SortPlace> {
        (self.order == digest(collection, order)).then_some(self.place)
    }
}

fn digest(collection: &str, order: &Order) -> String {
    half_digest(format_args!("{collection:?} {order:?}"))
}

impl fmt::Display for OrderCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.value {
            Some(SortValue::Whole(whole)) => write!(f, "w{whole}")?,
            // All bits are written: a rounded number would be another place.
            Some(SortValue::Number(number)) => write!(f, "n{:016x}", number.to_bits())?,
            Some(SortValue::Moment(Datetime(micros))) => write!(f, "m{micros}")?,
            None => f.write_str("z")?,
        }
        write!(f, ".{}.{}", self.place.id, self.order)
    }
}

impl FromStr for OrderCursor {
    type Err = ApiProblem;

    fn from_str(text: &str) -> Result<Self, ApiProblem> {
        read_cursor(text).ok_or_else(|| ApiProblem::new(Reason::BadParameter, NOT_A_CURSOR))
    }
}

fn read_cursor(text: &str) -> Option<OrderCursor> {
    let mut parts = text.splitn(3, '.');
    let (value, id, order) = (parts.next()?, parts.next()?, parts.next()?);
    let (kind, digits) = value.split_at_checked(1)?;
    let value = match kind {
        "w" => Some(SortValue::Whole(digits.parse().ok()?)),
        "n" => {
            let number = f64::from_bits(u64::from_str_radix(digits, 16).ok()?);
            Some(SortValue::Number(Some(number).filter(|number| number.is_finite())?))
        }
        "m" => Some(SortValue::Moment(Datetime(digits.parse().ok()?))),
        "z" if digits.is_empty() => None,
        _ => return None,
    };
    let id = id.parse().map(PointId::Num).or_else(|_| id.parse::<Uuid>().map(PointId::Uuid)).ok()?;
    Some(OrderCursor { place: SortPlace { value, id }, order: order.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_transform::{Compared, Field};

    use super::*;

    struct Shop;

    impl Fields for Shop {
        fn known(&self) -> KnownFields {
            let list = |ty| Type::Array(Box::new(ty));
            let fields = [
                ("id", Type::Integer),
                ("price", Type::Numeric { scale: Some(2) }),
                ("ledger", Type::Numeric { scale: None }),
                ("day", Type::Date),
                ("birthday", Type::Date),
                ("title", Type::Text),
                ("flag", Type::Boolean),
                ("mood", Type::Enum),
                ("owner", Type::Uuid),
                ("span", Type::Printed),
                ("meta", Type::Json),
                ("sizes", list(Type::Float)),
                ("score", Type::Unknown),
                ("decade", Type::Unknown),
                ("a:desc", Type::Integer),
            ];
            let field = |(name, ty): (&str, Type)| Field { name: name.to_owned(), compared: compared(&ty), ty };
            Some(fields.map(field).to_vec())
        }

        fn index(&self, name: &str) -> Option<IndexType> {
            match name {
                "price" | "sizes" | "meta.size" | "score" => Some(IndexType::Float),
                "day" => Some(IndexType::Datetime),
                "birthday" | "title" | "mood" => Some(IndexType::Keyword),
                "a:desc" => Some(IndexType::Integer),
                _ => None,
            }
        }
    }

    fn compared(ty: &Type) -> Compared {
        match ty {
            Type::Json => Compared::Json,
            Type::Unknown => Compared::Any,
            _ => Compared::Text,
        }
    }

    #[test]
    fn an_order_is_a_field_with_an_index_of_numbers_or_dates_and_a_direction() {
        for (text, field, by, descending) in [
            ("price", "price", SortedBy::Number, false),
            ("price:asc", "price", SortedBy::Number, false),
            ("price:desc", "price", SortedBy::Number, true),
            ("day:desc", "day", SortedBy::Moment, true),
            ("meta.size", "meta.size", SortedBy::Number, false),
            ("score", "score", SortedBy::Number, false),
            ("a:desc:desc", "a:desc", SortedBy::Whole, true),
        ] {
            let field = FieldPath::parse(field).unwrap();
            assert_eq!(parse_order(text, &Shop), Ok(Order { field, by, descending }), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_sorted_is_refused_with_what_to_write() {
        for (text, part) in [
            ("prise", "order_by \"prise\": there is no such field; did you mean \"price\"?"),
            ("price:down", "order_by \"price\": the direction is \"down\"; asc or desc is expected"),
            (
                "id",
                "sorted by an index of type integer or float, and the field has no index: write index: { id: integer }",
            ),
            ("ledger", "by an index of type float, and the field has no index: write index: { ledger: float }"),
            ("birthday", "the field has an index of type keyword: write index: { birthday: datetime }"),
            (
                "title",
                "the field is text, which cannot be sorted; these can be: price (float), day (datetime), score (float)",
            ),
            ("flag", "the field is boolean, which cannot be sorted"),
            ("mood:desc", "the field is enum, which cannot be sorted"),
            ("owner", "the field is uuid, which cannot be sorted"),
            ("span", "which cannot be sorted"),
            ("meta", "the field is json, which cannot be sorted; a member can be, if it is indexed"),
            ("meta.color", "write index: { \"meta.color\": integer }"),
            ("meta.sizes[].cm", "the field holds lists"),
            ("sizes", "the field holds lists, and a list has no single value to sort by"),
            ("decade", "by an index of type integer or float or datetime, and the field has no index"),
            ("", "there is no such field"),
        ] {
            let problem = parse_order(text, &Shop).unwrap_err();
            assert_eq!(problem.reason(), Reason::BadParameter, "{text}");
            assert!(problem.detail().contains(part), "{text}: {}", problem.detail());
        }
    }

    #[test]
    fn a_list_that_a_template_or_a_document_gave_is_refused_by_its_point() {
        let payload = |value: Value| Payload::from_iter([("score".to_owned(), value)]);
        let check = |field: &str, value| {
            let order = Order { field: FieldPath::parse(field).unwrap(), by: SortedBy::Number, descending: false };
            check_single(&order, PayloadLayout::Flat, PointId::Num(7), &payload(value))
        };
        assert_eq!(check("score", json!(1)), Ok(()));
        assert_eq!(check("score", json!([])), Ok(()));
        assert_eq!(check("score.a", json!({"a": 1})), Ok(()));
        assert_eq!(check("score.b", json!({"a": [1]})), Ok(()));
        assert!(check("score", json!([1])).unwrap_err().detail().contains("point 7 has a list there"));
        assert!(check("score.a", json!({"a": [1]})).is_err());
    }

    #[test]
    fn a_cursor_says_exactly_where_it_is_and_in_which_order() {
        let order = Order { field: "price".into(), by: SortedBy::Number, descending: false };
        let uuid = PointId::Uuid(Uuid::from_u128(7));
        for (value, id) in [
            (Some(SortValue::Whole(-5)), PointId::Num(u64::MAX)),
            (Some(SortValue::Whole(i64::MAX)), uuid),
            (Some(SortValue::Number(0.1 + 0.2)), PointId::Num(1)),
            (Some(SortValue::Number(-1e-300)), uuid),
            (Some(SortValue::Moment(Datetime(-1))), PointId::Num(0)),
            (None, uuid),
        ] {
            let place = SortPlace { value, id };
            let cursor: OrderCursor = OrderCursor::new("books", &order, place).to_string().parse().unwrap();
            assert_eq!(cursor.place_in("books", &order), Some(place));
            assert_eq!(cursor.place_in("films", &order), None);
            assert_eq!(cursor.place_in("books", &Order { descending: true, ..order.clone() }), None);
        }
        for text in [
            "",
            "7",
            "w.7.a",
            "w7.x.a",
            "w7.7",
            "n1.7",
            "n7ff0000000000000.7.a",
            "zz.7.a",
            "é.7.a",
            "x7.7.a",
            "w7.-1.a",
        ] {
            assert!(text.parse::<OrderCursor>().is_err(), "{text}");
        }
    }
}
