//! The network: from token ids to numbers.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use memchr::memmem;
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::{NdTensor, Tensor};

use super::tokens::Tokens;
use crate::{EmbedError, model_dir};

/// The names that exporters give to the output that is the text's vector, and to the one that holds its tokens'
/// vectors.
const POOLED_OUTPUT: &str = "sentence_embedding";
const TOKENS_OUTPUT: &str = "last_hidden_state";

/// The common prefix of the names of all ONNX operators that choose a scale from their input. An ONNX file holds the
/// names of its operators as text, so a search of its bytes finds them.
const DYNAMIC_QUANTISATION: &[u8] = b"DynamicQuantize";

/// The content of an input of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Ids,
    Mask,
    TypeIds,
}

/// The threads that a run may use.
pub(super) type Threads = Arc<ThreadPool>;

/// A loaded ONNX network. Several threads may call it at once.
pub(super) struct Network {
    model: Model,
    inputs: Vec<(NodeId, Input)>,
    output: NodeId,
    couples_texts: bool,
}

impl Network {
    /// Loads the ONNX file `path` and adds its content, and that of its weight files, to `digest`.
    pub(super) fn load(path: &Path, digest: &mut blake3::Hasher) -> Result<Self, EmbedError> {
        let bad = |reason: String| EmbedError::Model { path: path.to_owned(), reason };
        let couples_texts = read_files(path, digest)?;
        // Prepacked weights cost their size again in memory, and take a quarter off the time of a single short text.
        let options = ModelOptions::with_all_ops().prepack_weights(true).load_file(path);
        let model = options.map_err(|error| bad(error.to_string()))?;
        let inputs = model.input_ids().iter().map(|&id| input(&model, id).map(|input| (id, input)));
        let inputs = inputs.collect::<Result<Vec<_>, _>>().map_err(bad)?;
        if !inputs.iter().any(|(_, input)| *input == Input::Ids) {
            return Err(bad("it has no input \"input_ids\": this is not a text model".to_owned()));
        }
        let output = output(&model).ok_or_else(|| bad("it has no output".to_owned()))?;
        Ok(Self { model, inputs, output, couples_texts })
    }

    /// Returns whether texts must run one by one. In a network with dynamic quantisation one scale is computed for
    /// all of a run, so a text's vector would depend on the texts that share its run.
    pub(super) const fn couples_texts(&self) -> bool {
        self.couples_texts
    }

    /// Runs `texts` together. The shorter ones are filled up with `padding`, which attention ignores.
    pub(super) fn run(&self, texts: &[&Tokens], padding: u32, threads: &Threads) -> Result<Tensor<f32>, String> {
        let inputs = self.inputs.iter().map(|&(id, input)| Ok((id, fill(input, texts, padding)?)));
        let inputs = inputs.collect::<Result<Vec<_>, String>>()?;
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(threads)));
        let mut outputs = self.model.run(inputs, &[self.output], Some(options)).map_err(|error| error.to_string())?;
        match outputs.pop() {
            Some(Value::FloatTensor(tensor)) => Ok(tensor),
            _ => Err("the network's output is not made of floating point numbers".to_owned()),
        }
    }
}

/// Builds the tensor for one input: a row per text, as wide as the longest.
fn fill(input: Input, texts: &[&Tokens], padding: u32) -> Result<ValueOrView<'static>, String> {
    let width = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
    let mut data = Vec::with_capacity(texts.len() * width);
    for text in texts {
        let start = data.len();
        match input {
            Input::Ids => extend(&mut data, &text.ids)?,
            Input::TypeIds => extend(&mut data, &text.type_ids)?,
            Input::Mask => data.resize(start + text.ids.len(), 1),
        }
        let rest = if input == Input::Ids { padding } else { 0 };
        data.resize(start + width, i32::try_from(rest).map_err(|error| error.to_string())?);
    }
    Ok(NdTensor::from_data([texts.len(), width], data).into())
}

/// Appends numbers as 32-bit integers: the runtime has none of 64 bits, and no vocabulary needs them.
fn extend(data: &mut Vec<i32>, numbers: &[u32]) -> Result<(), String> {
    for &number in numbers {
        data.push(i32::try_from(number).map_err(|_| format!("the token id {number} is out of range"))?);
    }
    Ok(())
}

fn input(model: &Model, id: NodeId) -> Result<Input, String> {
    let info = model.node_info(id);
    match info.as_ref().and_then(|info| info.name()).unwrap_or_default() {
        "input_ids" => Ok(Input::Ids),
        "attention_mask" => Ok(Input::Mask),
        "token_type_ids" => Ok(Input::TypeIds),
        other => Err(format!("it wants an input \"{other}\", which is not one of a BERT-style text model")),
    }
}

/// Chooses the output to use: the text's own vector, else its tokens' vectors, else the first output.
fn output(model: &Model) -> Option<NodeId> {
    let outputs = model.output_ids();
    let named = |wanted: &str| {
        let is_wanted = |id: NodeId| model.node_info(id).is_some_and(|info| info.name() == Some(wanted));
        outputs.iter().copied().find(|&id| is_wanted(id))
    };
    named(POOLED_OUTPUT).or_else(|| named(TOKENS_OUTPUT)).or_else(|| outputs.first().copied())
}

/// Adds the network's file and its weight files to `digest`, and returns whether the network quantises dynamically.
fn read_files(path: &Path, digest: &mut blake3::Hasher) -> Result<bool, EmbedError> {
    let mut dynamic = false;
    for file in with_weights(path)? {
        dynamic |= read_file(&file, digest).map_err(EmbedError::io(file.clone()))?;
    }
    Ok(dynamic)
}

/// Adds one file to `digest`, and returns whether [`DYNAMIC_QUANTISATION`] occurs in it.
fn read_file(path: &Path, digest: &mut blake3::Hasher) -> std::io::Result<bool> {
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    // Keep the end of each piece in front of the next one, to find a name that lies across both.
    let mut kept = 0;
    let mut found = false;
    loop {
        let read = file.read(&mut buffer[kept..])?;
        if read == 0 {
            return Ok(found);
        }
        let filled = kept + read;
        digest.update(&buffer[kept..filled]);
        found |= memmem::find(&buffer[..filled], DYNAMIC_QUANTISATION).is_some();
        let overlap = filled.saturating_sub(DYNAMIC_QUANTISATION.len() - 1);
        buffer.copy_within(overlap..filled, 0);
        kept = filled - overlap;
    }
}

/// Returns the file, and the files in its directory that hold its weights.
fn with_weights(path: &Path) -> Result<Vec<PathBuf>, EmbedError> {
    let failed = |error| EmbedError::io(path)(error);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut weights = Vec::new();
    for entry in std::fs::read_dir(path.parent().unwrap_or(Path::new("."))).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if model_dir::is_weights_of(&entry.file_name().to_string_lossy(), &name) {
            weights.push(entry.path());
        }
    }
    weights.sort();
    weights.insert(0, path.to_owned());
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantised_operator_is_found_wherever_it_lies_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        for at in [0, 5, (1 << 20) - 7, (1 << 20) + 3, 3 << 20] {
            let mut bytes = vec![0; at];
            bytes.extend_from_slice(b"DynamicQuantizeLinear");
            std::fs::write(&path, &bytes).unwrap();
            let mut digest = blake3::Hasher::new();
            assert!(read_file(&path, &mut digest).unwrap(), "{at}");
            assert_eq!(digest.finalize(), blake3::hash(&bytes));
        }
        std::fs::write(&path, b"QuantizeLinear DynamicQuant").unwrap();
        assert!(!read_file(&path, &mut blake3::Hasher::new()).unwrap());
    }

    #[test]
    fn weights_beside_the_network_are_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["model.onnx", "model.onnx_data", "model.onnx.data", "tokenizer.json", "other.onnx_data"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let files = with_weights(&dir.path().join("model.onnx")).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["model.onnx", "model.onnx.data", "model.onnx_data"]);
    }
}
