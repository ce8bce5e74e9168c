//! From the output of a network to one vector per text.

use rten_tensor::{NdTensorView, Tensor, prelude::*};
use walvec_model::Vector;

use super::tokens::Tokens;

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    /// The mean over the tokens of the text, special tokens included, padding left out.
    Mean,
    /// The vector of the first token.
    Cls,
    /// The network does it: its output has one vector per text already.
    InNetwork,
}

impl Pooling {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::InNetwork => "network",
        }
    }

    /// Returns one vector per text of `texts`, in order, not normalised. `output` is (text, dimension) for
    /// [`Pooling::InNetwork`], (text, token, dimension) for the others, with padding at the end of shorter texts.
    pub(super) fn pool(self, output: &Tensor<f32>, texts: &[&Tokens]) -> Result<Vec<Vector>, String> {
        let expected = if self == Self::InNetwork { 2 } else { 3 };
        if output.ndim() != expected || output.size(0) != texts.len() {
            return Err(format!("the network put out the shape {:?} for {} texts", output.shape(), texts.len()));
        }
        if self == Self::InNetwork {
            let rows: NdTensorView<'_, f32, 2> = output.nd_view();
            return Ok((0..texts.len()).map(|row| rows.slice(row).to_vec()).collect());
        }
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        if output.size(1) < longest {
            return Err(format!("the network put out {} token vectors for {longest} tokens", output.size(1)));
        }
        let states: NdTensorView<'_, f32, 3> = output.nd_view();
        let first_only = self == Self::Cls;
        Ok(texts
            .iter()
            .enumerate()
            .map(|(row, text)| sum(&states.slice(row), if first_only { 1 } else { text.ids.len() }))
            .collect())
    }
}

/// Returns the sum of the first `rows` token vectors. It has the direction of their mean, and its length is not
/// kept anyway.
fn sum(states: &NdTensorView<'_, f32, 2>, rows: usize) -> Vector {
    let mut sum = vec![0.0_f32; states.size(1)];
    for row in 0..rows {
        for (sum, x) in sum.iter_mut().zip(states.slice(row).iter()) {
            *sum += x;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> Tokens {
        Tokens { ids: vec![1; length], type_ids: vec![0; length], is_cut: false }
    }

    #[test]
    fn padding_has_no_part_in_the_mean() {
        let output = Tensor::from_data(&[2, 2, 2], vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0, 100.0]);
        let texts = [text(2), text(1)];
        let texts: Vec<_> = texts.iter().collect();
        assert_eq!(Pooling::Mean.pool(&output, &texts).unwrap(), [[4.0, 6.0], [5.0, 6.0]]);
        assert_eq!(Pooling::Cls.pool(&output, &texts).unwrap(), [[1.0, 2.0], [5.0, 6.0]]);
    }

    #[test]
    fn a_network_that_pools_is_taken_at_its_word() {
        let output = Tensor::from_data(&[1, 2], vec![1.0_f32, 2.0]);
        assert_eq!(Pooling::InNetwork.pool(&output, &[&text(3)]).unwrap(), [[1.0, 2.0]]);
        assert!(Pooling::Mean.pool(&output, &[&text(3)]).is_err());
        assert!(Pooling::InNetwork.pool(&output, &[&text(3), &text(3)]).is_err());
    }

    #[test]
    fn a_network_that_drops_tokens_is_refused() {
        let output = Tensor::from_data(&[1, 1, 2], vec![1.0_f32, 2.0]);
        assert!(Pooling::Mean.pool(&output, &[&text(2)]).is_err());
    }
}
