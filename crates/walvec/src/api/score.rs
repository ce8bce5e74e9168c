//! Scores, rounded in one place, so that the command line and the page show the same number.

/// Formats the score for people, with three decimals.
pub(crate) fn shown(score: f64) -> String {
    let text = format!("{score:.3}");
    match text.strip_prefix('-') {
        Some("0.000") => "0.000".to_owned(),
        _ => text,
    }
}

/// Converts the score for JSON: to the shortest decimal that means this `f32`, without the digits that widening to
/// `f64` adds.
pub(crate) fn exact(score: f32) -> f64 {
    score.to_string().parse().unwrap_or_else(|_| score.into())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_score_is_shown_with_three_decimals() {
        let scores = [0.51234, 1.0, -0.25, -0.0001, 12.3456];
        assert_eq!(scores.map(shown), ["0.512", "1.000", "-0.250", "0.000", "12.346"]);
    }

    #[test]
    fn a_score_that_has_been_json_is_the_same_score() {
        // 0.4565_f32 is a little less than 0.4565: widened, it would round to 0.456.
        for score in [0.4565_f32, 0.1, 1.0 / 3.0, 0.712_345_6] {
            let answered = serde_json::to_string(&score).unwrap();
            let read: Value = serde_json::from_str(&answered).unwrap();
            assert_eq!(read.as_f64(), Some(exact(score)), "{score}");
            assert_eq!(shown(exact(score)), shown(read.as_f64().unwrap()), "{score}");
        }
        assert_eq!(shown(exact(0.4565)), "0.457");
    }
}
