//! What all models that run in this process have in common.

use std::path::Path;

use walvec_model::Vector;

use crate::normalize;

/// Runs `work` and turns a panic in it into an error. Without this, one text over which a library panics would stop
/// all the others, again at each retry.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // `work` changes nothing that it shares: tokenizers and weights are only read.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let words =
            panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        format!("a library panicked: {}", words.unwrap_or("without a message"))
    })
}

/// Returns `vector` scaled to length 1.
pub(crate) fn unit(mut vector: Vector) -> Result<Vector, String> {
    if normalize(&mut vector) { Ok(vector) } else { Err("its vector is zero or not finite".to_owned()) }
}

/// Returns the last component of the path, which names a model that was not installed under a name.
pub(crate) fn own_name(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    full.file_name().map_or_else(|| full.display().to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_library_is_an_error_of_the_text_that_caused_it() {
        assert_eq!(caught(|| 1), Ok(1));
        let none: [u8; 0] = [];
        let index = none.len();
        let reason = caught(|| none[index]).unwrap_err();
        assert!(reason.contains("out of bounds"), "{reason}");
    }

    #[test]
    fn a_vector_without_direction_is_refused() {
        assert_eq!(unit(vec![3.0, 4.0]), Ok(vec![0.6, 0.8]));
        for bad in [vec![0.0, 0.0], vec![f32::NAN, 1.0], vec![f32::INFINITY, 1.0], vec![]] {
            assert!(unit(bad).is_err());
        }
    }
}
