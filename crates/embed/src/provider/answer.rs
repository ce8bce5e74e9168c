//! The check that an answer holds the vectors that were asked for.

use walvec_model::Vector;

use super::failure::RequestFailure;

/// Returns one vector of length 1 per text, or what is wrong with that text's vector. Any other fault concerns the
/// whole answer.
pub(super) fn check(
    vectors: Vec<Vec<f32>>,
    count: usize,
    dimension: Option<usize>,
) -> Result<Vec<Result<Vector, String>>, RequestFailure> {
    if vectors.len() != count {
        return Err(RequestFailure::Answer(format!("{count} texts were given, {} vectors came back", vectors.len())));
    }
    let expected = dimension.or(vectors.first().map(Vec::len)).unwrap_or(0);
    if let Some(found) = vectors.iter().map(Vec::len).find(|found| *found != expected) {
        return Err(RequestFailure::Dimension { expected, found });
    }
    if count > 0 && expected == 0 {
        return Err(RequestFailure::Answer("vectors without numbers came back".to_owned()));
    }
    let checked = |mut vector: Vector| {
        if crate::normalize(&mut vector) { Ok(vector) } else { Err("its vector is zero or not finite".to_owned()) }
    };
    Ok(vectors.into_iter().map(checked).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_and_a_bad_one_leaves_the_others_alone() {
        let checked = check(vec![vec![3.0, 4.0], vec![0.0, 0.0], vec![f32::NAN, 1.0]], 3, Some(2)).unwrap();
        assert_eq!(checked[0], Ok(vec![0.6, 0.8]));
        assert!(checked[1].is_err() && checked[2].is_err());
    }

    #[test]
    fn another_number_or_size_of_vectors_is_refused() {
        assert!(matches!(check(vec![vec![1.0]], 2, None), Err(RequestFailure::Answer(_))));
        assert!(matches!(check(vec![vec![]], 1, None), Err(RequestFailure::Answer(_))));
        let wrong = Err(RequestFailure::Dimension { expected: 2, found: 1 });
        assert_eq!(check(vec![vec![1.0]], 1, Some(2)), wrong);
        assert_eq!(check(vec![vec![1.0, 0.0], vec![1.0]], 2, None), wrong);
    }
}
