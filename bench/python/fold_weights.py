"""Writes a network whose weights are stored in int8 as one with f32 weights: what is cast and scaled at every run is computed once.

usage: fold_weights.py MODEL.onnx FOLDED.onnx
"""

import sys

import onnx
from onnx import helper, numpy_helper


def main() -> None:
    source, target = sys.argv[1:]
    model = onnx.load(source)
    graph = model.graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes, folded = [], {}
    for node in graph.node:
        if node.op_type not in ("Cast", "Mul") or not all(name in known for name in node.input):
            nodes.append(node)
            continue
        values = [known[name] for name in node.input]
        if node.op_type == "Cast":
            value = values[0].astype(helper.tensor_dtype_to_np_dtype(node.attribute[0].i))
        else:
            value = values[0] * values[1]
        known[node.output[0]] = folded[node.output[0]] = value
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    tensors += [numpy_helper.from_array(value, name) for name, value in folded.items() if name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    onnx.checker.check_model(model)
    onnx.save(model, target)


main()
