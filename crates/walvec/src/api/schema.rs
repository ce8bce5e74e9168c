//! Schemas of values whose types belong to other crates, or are checked by hand.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type,
};
use utoipa::{PartialSchema, ToSchema};

/// The schema of a point's id: a number or a UUID.
pub(crate) struct IdSchema;

impl PartialSchema for IdSchema {
    fn schema() -> RefOr<Schema> {
        let uuid = of(Type::String).format(Some(SchemaFormat::Custom("uuid".to_owned())));
        OneOfBuilder::new().item(of(Type::Integer)).item(uuid).description(Some("The id of a point")).into()
    }
}

impl ToSchema for IdSchema {
    fn name() -> Cow<'static, str> {
        "PointId".into()
    }
}

/// The schema of a filter's condition on a field.
pub(crate) struct ConditionSchema;

impl PartialSchema for ConditionSchema {
    fn schema() -> RefOr<Schema> {
        let values = || ArrayBuilder::new().items(value()).min_items(Some(1));
        let excluded = of(Type::Object)
            .property("not", OneOfBuilder::new().item(value()).item(values()))
            .required("not")
            .additional_properties(Some(AdditionalProperties::FreeForm(false)));
        let moment = of(Type::String).description(Some("A date, or a date and a time as in RFC 3339"));
        OneOfBuilder::new()
            .item(value())
            .item(values())
            .item(range(of(Type::Number).build()))
            .item(range(moment.build()))
            .item(excluded)
            .description(Some("A value, values of which one is enough, a range, or a value that is excluded"))
            .into()
    }
}

impl ToSchema for ConditionSchema {
    fn name() -> Cow<'static, str> {
        "Condition".into()
    }
}

fn of(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(kind)
}

fn value() -> OneOfBuilder {
    let kinds = [Type::String, Type::Number, Type::Boolean, Type::Null];
    kinds.into_iter().fold(OneOfBuilder::new(), |values, kind| values.item(of(kind)))
}

fn range(end: Object) -> ObjectBuilder {
    ["gt", "gte", "lt", "lte"]
        .into_iter()
        .fold(of(Type::Object), |range, name| range.property(name, end.clone()))
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        .min_properties(Some(1))
}
