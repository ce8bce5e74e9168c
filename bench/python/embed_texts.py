"""Embeds texts with ONNX Runtime, in batches of 32, and prints how long that took: in the order they come in, and sorted by length.

usage: embed_texts.py MODEL_DIRECTORY TEXTS.json MAX_TOKENS THREADS

Everything from the text to the vector of length 1 counts: tokenizer, padding, network, mean, as in `bench/src/embedding.rs`.
"""

import json
import sys
import time

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

BATCH = 32


class Model:
    def __init__(self, directory: str, max_tokens: int, threads: int) -> None:
        self.tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
        self.tokenizer.enable_truncation(max_tokens)
        self.tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(f"{directory}/model.onnx", options, providers=["CPUExecutionProvider"])
        self.inputs = [given.name for given in self.session.get_inputs()]

    def embed(self, texts: list[str], is_sorted: bool) -> dict:
        began = time.perf_counter()
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(texts)), key=lambda at: len(tokens[at])) if is_sorted else range(len(texts))
        vectors, padded = [None] * len(texts), 0
        for first in range(0, len(texts), BATCH):
            batch = order[first : first + BATCH]
            width = max(len(tokens[at]) for at in batch)
            ids = np.zeros((len(batch), width), dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, at in enumerate(batch):
                ids[row, : len(tokens[at])] = tokens[at]
                mask[row, : len(tokens[at])] = 1
            padded += ids.size
            given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            states = self.session.run(["last_hidden_state"], {name: given[name] for name in self.inputs})[0]
            sums = (states * mask[..., None]).sum(1)
            sums /= np.linalg.norm(sums, axis=1, keepdims=True)
            for at, vector in zip(batch, sums):
                vectors[at] = vector
        seconds = time.perf_counter() - began
        real = sum(len(ids) for ids in tokens)
        return {"seconds": seconds, "tokens": real, "padding": padded - real, "first": [v.tolist() for v in vectors[:8]]}


def main() -> None:
    directory, file, max_tokens, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with open(file, encoding="utf-8") as opened:
        texts = json.load(opened)
    model = Model(directory, max_tokens, threads)
    model.embed(texts[:BATCH], False)
    print(json.dumps({"arrival": model.embed(texts, False), "sorted": model.embed(texts, True)}))


main()
