//! Filters that compare an enum with a label that does not exist: they can never match.

use serde_json::Value;
use walvec_model::Type;
use walvec_transform::{Field, nearest};

use super::filter::{FieldCondition, Literal, Requirement};
use super::resolve::{KnownFields, text_of};
use super::serving::Fields;
use crate::api::problem::{ApiProblem, Reason};

/// The most labels that a message lists.
const MAX_LISTED: usize = 30;

/// Refuses labels that do not exist. Where the labels are not known, nothing is refused.
pub(crate) async fn check(
    wanted: &[FieldCondition],
    known: &KnownFields,
    fields: &dyn Fields,
) -> Result<(), ApiProblem> {
    for FieldCondition { field, test } in wanted {
        let (Requirement::OneOf(values) | Requirement::NoneOf(values)) = test else { continue };
        let is_enum = |it: &&Field| it.name == *field && *it.ty.scalar() == Type::Enum;
        let Some(column) = known.iter().flatten().find(is_enum) else { continue };
        for value in values.iter().filter(|value| **value != Literal::Json(Value::Null)) {
            let text = text_of(value);
            // A list with bounds of its own is stored as its text.
            let is_text_of_list = matches!(column.ty, Type::Array(_)) && text.contains("]={");
            if is_text_of_list {
                continue;
            }
            let labels = fields.labels(field, &text).await.filter(|labels| !labels.contains(&text));
            if let Some(labels) = labels {
                return Err(refused(field, &text, &labels));
            }
        }
    }
    Ok(())
}

fn refused(field: &str, text: &str, labels: &[String]) -> ApiProblem {
    let suggestion = nearest(text, labels.iter().map(String::as_str));
    let suggestion = suggestion.map(|label| format!("; did you mean \"{label}\"?")).unwrap_or_default();
    let mut listed = labels.iter().take(MAX_LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if labels.len() > MAX_LISTED {
        listed.push_str(&format!(", and {} more", labels.len() - MAX_LISTED));
    }
    let detail = format!("filter \"{field}\": \"{text}\" is no label of the enum{suggestion}; there are: {listed}");
    ApiProblem::new(Reason::BadFilter, detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::IndexType;
    use walvec_sink::BoxFuture;
    use walvec_transform::Compared;

    use super::*;
    use crate::search::filter::condition_from_text;

    /// A table with an enum, a list of enums, and a text. `None`: the labels are not known.
    struct Moods(Option<Vec<&'static str>>);

    impl Fields for Moods {
        fn known(&self) -> KnownFields {
            let list = Type::Array(Box::new(Type::Enum));
            let fields = [("mood", Type::Enum), ("moods", list), ("title", Type::Text)];
            let field = |(name, ty): (&str, Type)| Field { name: name.to_owned(), compared: Compared::Text, ty };
            Some(fields.map(field).to_vec())
        }

        fn index(&self, _name: &str) -> Option<IndexType> {
            None
        }

        fn labels<'a>(&'a self, column: &'a str, _wanted: &'a str) -> BoxFuture<'a, Option<Vec<String>>> {
            assert_ne!(column, "title", "no enum");
            let labels = self.0.as_ref().map(|labels| labels.iter().map(|label| (*label).to_owned()).collect());
            Box::pin(std::future::ready(labels))
        }
    }

    async fn checked(text: &str, moods: &Moods) -> Result<(), String> {
        let checked = check(&[condition_from_text(text).unwrap()], &moods.known(), moods).await;
        checked.map_err(|problem| problem.detail().to_owned())
    }

    #[tokio::test]
    async fn a_label_that_an_enum_does_not_have_is_refused_with_those_that_it_has() {
        let moods = Moods(Some(vec!["ok", "so so"]));
        for text in [
            "mood=ok",
            "mood!=so so",
            "mood=[\"ok\",\"so so\"]",
            "mood is null",
            "mood is not null",
            "moods=ok",
            "moods=[2:3]={ok,ok}",
            "title=great",
        ] {
            assert_eq!(checked(text, &moods).await, Ok(()), "{text}");
        }
        let listed = "\"great\" is no label of the enum; there are: ok, so so";
        for text in ["mood=great", "mood!=great", "mood=[\"ok\",\"great\"]", "moods=great"] {
            let told = checked(text, &moods).await.unwrap_err();
            assert!(told.starts_with("filter \"mood") && told.ends_with(listed), "{text}: {told}");
        }
        assert!(checked("mood=OK", &moods).await.unwrap_err().contains("did you mean \"ok\"?"));
        let number =
            [FieldCondition { field: "mood".to_owned(), test: Requirement::OneOf(vec![Literal::Json(json!(7))]) }];
        assert!(check(&number, &moods.known(), &moods).await.is_err());
    }

    #[tokio::test]
    async fn nothing_is_refused_while_the_labels_are_unknown() {
        assert_eq!(checked("mood=great", &Moods(None)).await, Ok(()));
        assert_eq!(check(&[condition_from_text("mood=great").unwrap()], &None, &Moods(Some(vec!["ok"]))).await, Ok(()));
    }

    #[tokio::test]
    async fn many_labels_are_not_all_listed() {
        let told = checked("mood=x", &Moods(Some(vec!["label"; MAX_LISTED + 2]))).await.unwrap_err();
        assert!(told.ends_with("label, and 2 more"), "{told}");
    }
}
