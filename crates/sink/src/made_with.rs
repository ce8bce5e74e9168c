//! The reasons why a stored collection does not fit, in words.

use walvec_model::MadeWith;

/// Describes the parts in which two unequal fingerprints differ; `None` if the parts of either are not known.
pub(crate) fn mismatch(stored: &MadeWith, configured: &MadeWith) -> Option<(String, String)> {
    if stored.is_empty() || configured.is_empty() {
        return None;
    }
    let same_parts = || {
        let model = stored.0.get("model").map(|model| format!(" {model}")).unwrap_or_default();
        (format!("the model{model} with other files"), format!("the model{model} as its files are now"))
    };
    Some(stored.differences(configured).unwrap_or_else(same_parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_with_other_files_is_told_from_another_model() {
        let of = |model: &str| MadeWith::of(&[("model", model.to_owned())]);
        let (stored, _) = mismatch(&of("a"), &of("b")).unwrap();
        assert_eq!(stored, "model \"a\"");
        let (stored, configured) = mismatch(&of("a"), &of("a")).unwrap();
        assert_eq!(
            (stored.as_str(), configured.as_str()),
            ("the model a with other files", "the model a as its files are now")
        );
        assert_eq!(mismatch(&MadeWith::default(), &of("a")), None);
    }
}
