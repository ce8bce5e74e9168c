//! The table of vectors of a static model, in safetensors form.
//!
//! The names and element types are those that model2vec writes: `embeddings` (in older files `0` or `embedding.weight`), in 32 or 16
//! bits or as signed bytes. A table that was made smaller also has `mapping`, which says which row a token has, and `weights`, one
//! factor per token.

use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// The names that the table may have inside its file, newest first.
const TABLES: [&str; 3] = ["embeddings", "0", "embedding.weight"];

/// One vector per token.
pub(super) struct VectorTable {
    numbers: Numbers,
    dimension: usize,
    /// The row of each token; if absent, a token's id is its row.
    mapping: Option<Vec<usize>>,
    /// The factor of each token's vector.
    weights: Option<Vec<f32>>,
}

/// The numbers of all rows, one row after the other, in the element type of the file.
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    I8(Vec<i8>),
}

impl VectorTable {
    /// Reads the table from the bytes of its file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn read(file: &[u8]) -> Result<Self, String> {
        let tensors =
            SafeTensors::deserialize(file).map_err(|error| format!("it is not in safetensors form: {error}"))?;
        let Some(tensor) = TABLES.into_iter().find_map(|name| tensors.tensor(name).ok()) else {
            return Err(format!("it has no table of vectors (\"{}\")", TABLES[0]));
        };
        let &[rows, dimension] = tensor.shape() else {
            return Err(format!("its table has the shape {:?} instead of rows and columns", tensor.shape()));
        };
        if dimension == 0 {
            return Err("its vectors have no numbers".to_owned());
        }
        let mapping = tensors.tensor("mapping").ok().map(|tensor| mapping(&tensor, rows)).transpose()?;
        let weights = tensors.tensor("weights").ok().map(|tensor| weights(&tensor)).transpose()?;
        let table = Self { numbers: numbers(&tensor)?, dimension, mapping, weights };
        if table.weights.as_ref().is_some_and(|weights| weights.len() < table.tokens()) {
            return Err("it has fewer weights than tokens".to_owned());
        }
        Ok(table)
    }

    /// Returns the dimension of the vectors.
    pub(super) const fn dimension(&self) -> usize {
        self.dimension
    }

    /// Returns how many tokens have a vector.
    pub(super) fn tokens(&self) -> usize {
        let numbers = match &self.numbers {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::F16(numbers) => numbers.len(),
            Numbers::I8(numbers) => numbers.len(),
        };
        self.mapping.as_ref().map_or(numbers / self.dimension, Vec::len)
    }

    /// Adds the vector of `token` to `sum`, which has [`dimension`](Self::dimension) numbers. A token outside the table adds nothing.
    pub(super) fn add_to(&self, sum: &mut [f32], token: u32) {
        let token = token as usize;
        if token >= self.tokens() {
            return;
        }
        let row = self.mapping.as_ref().map_or(token, |mapping| mapping[token]) * self.dimension;
        let weight = self.weights.as_ref().map_or(1.0, |weights| weights[token]);
        let row = row..row + self.dimension;
        match &self.numbers {
            Numbers::F32(numbers) => add(sum, weight, numbers[row].iter().copied()),
            Numbers::F16(numbers) => add(sum, weight, numbers[row].iter().map(|x| x.to_f32())),
            Numbers::I8(numbers) => add(sum, weight, numbers[row].iter().map(|&x| f32::from(x))),
        }
    }
}

fn add(sum: &mut [f32], weight: f32, row: impl Iterator<Item = f32>) {
    for (sum, x) in sum.iter_mut().zip(row) {
        *sum += weight * x;
    }
}

fn numbers(tensor: &TensorView<'_>) -> Result<Numbers, String> {
    Ok(match tensor.dtype() {
        Dtype::F32 => Numbers::F32(elements(tensor, f32::from_le_bytes)),
        Dtype::F16 => Numbers::F16(elements(tensor, f16::from_le_bytes)),
        Dtype::I8 => Numbers::I8(elements(tensor, i8::from_le_bytes)),
        other => return Err(format!("its table holds numbers of type {other:?}, which are not supported")),
    })
}

/// Reads the row of each token from its tensor.
fn mapping(tensor: &TensorView<'_>, rows: usize) -> Result<Vec<usize>, String> {
    let mapping: Vec<i64> = match tensor.dtype() {
        Dtype::I64 => elements(tensor, i64::from_le_bytes),
        Dtype::I32 => elements(tensor, i32::from_le_bytes).into_iter().map(i64::from).collect(),
        other => return Err(format!("its mapping holds numbers of type {other:?}, which are not supported")),
    };
    let row = |row: i64| usize::try_from(row).ok().filter(|&row| row < rows);
    let outside = |found: i64| format!("its mapping names row {found} of {rows}");
    mapping.into_iter().map(|found| row(found).ok_or_else(|| outside(found))).collect()
}

fn weights(tensor: &TensorView<'_>) -> Result<Vec<f32>, String> {
    Ok(match tensor.dtype() {
        #[expect(clippy::cast_possible_truncation, reason = "a factor loses digits that its vector does not have")]
        Dtype::F64 => elements(tensor, f64::from_le_bytes).into_iter().map(|x| x as f32).collect(),
        Dtype::F32 => elements(tensor, f32::from_le_bytes),
        Dtype::F16 => elements(tensor, f16::from_le_bytes).into_iter().map(f16::to_f32).collect(),
        other => return Err(format!("its weights are of type {other:?}, which is not supported")),
    })
}

/// Reads the elements of a tensor, whose bytes are in little-endian order.
fn elements<const BYTES: usize, T>(tensor: &TensorView<'_>, read: fn([u8; BYTES]) -> T) -> Vec<T> {
    tensor.data().as_chunks::<BYTES>().0.iter().map(|&bytes| read(bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a table file of tensors with their names, types, shapes and bytes.
    fn file(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
        safetensors::serialize(views, &None).unwrap()
    }

    fn bytes_of(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn row(table: &VectorTable, token: u32) -> Vec<f32> {
        let mut sum = vec![0.0; table.dimension()];
        table.add_to(&mut sum, token);
        sum
    }

    #[test]
    fn every_element_type_and_every_name_of_the_table_gives_the_same_vectors() {
        let numbers = [1.0_f32, -2.0, 3.0, 4.0];
        let f16s = numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let i8s = vec![1, 254, 3, 4];
        for (name, dtype, data) in [
            ("embeddings", Dtype::F32, bytes_of(&numbers)),
            ("0", Dtype::F16, f16s),
            ("embedding.weight", Dtype::I8, i8s),
        ] {
            let table = VectorTable::read(&file(&[(name, dtype, &[2, 2], data)])).unwrap();
            assert_eq!((table.tokens(), table.dimension()), (2, 2));
            assert_eq!([row(&table, 0), row(&table, 1)], [[1.0, -2.0], [3.0, 4.0]]);
            // A token that only another model's tokenizer knows.
            assert_eq!(row(&table, 2), [0.0, 0.0]);
        }
    }

    #[test]
    fn tokens_share_rows_and_have_weights_where_the_file_says_so() {
        let table = VectorTable::read(&file(&[
            ("embeddings", Dtype::F32, &[2, 1], bytes_of(&[1.0, 2.0])),
            ("mapping", Dtype::I64, &[3], [1_i64, 0, 1].iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("weights", Dtype::F64, &[3], [0.5_f64, 1.0, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect()),
        ]))
        .unwrap();
        assert_eq!(table.tokens(), 3);
        assert_eq!([row(&table, 0), row(&table, 1), row(&table, 2)], [[1.0], [1.0], [4.0]]);
    }

    #[test]
    fn a_file_that_contradicts_itself_is_refused_with_what_is_wrong() {
        let refused = |tensors: &[(&str, Dtype, &[usize], Vec<u8>)]| VectorTable::read(&file(tensors)).err().unwrap();
        let two = || bytes_of(&[1.0, 2.0]);
        assert!(refused(&[("other", Dtype::F32, &[2, 1], two())]).contains("embeddings"));
        assert!(refused(&[("embeddings", Dtype::F32, &[2], two())]).contains("[2]"));
        assert!(refused(&[("embeddings", Dtype::F64, &[1, 1], two())]).contains("F64"));
        let mapping = ("mapping", Dtype::I32, &[1][..], 2_i32.to_le_bytes().to_vec());
        assert!(refused(&[("embeddings", Dtype::F32, &[2, 1], two()), mapping]).contains("row 2 of 2"));
        let weights = ("weights", Dtype::F32, &[1][..], bytes_of(&[1.0]));
        assert!(refused(&[("embeddings", Dtype::F32, &[2, 1], two()), weights]).contains("weights"));
    }
}
