"""A graph of ONNX operators (https://onnx.ai/onnx/operators/), collected node by node."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from birdsong.files import Problem

# Versions of the operators and of the file format: old enough for ONNX Runtime 1.13 (2022) and later.
OPSET = 17
IR_VERSION = 8

# A value of the graph is known by its name. As inputs of nodes, numbers, arrays and tensors are constants.
Value = str | float | list | np.ndarray | torch.Tensor


class Graph:
    """Nodes and constants of an ONNX graph. Equal nodes and constants are stored once.

    half: store weights in float16. They are converted to float32 when the file is loaded, so that the range of float16
    limits no intermediate result.
    """

    def __init__(self, half: bool = False):
        self.half = half
        self._nodes, self._constants, self._known = [], [], {}

    def constant(self, value: Value) -> str:
        """Name of a constant: float32, or int64 for integers."""
        array = value.detach().cpu().numpy() if torch.is_tensor(value) else np.asarray(value)
        if array.dtype != np.float16:
            array = array.astype(np.float32 if array.dtype.kind == 'f' else np.int64)
        key = str(array.dtype), array.shape, array.tobytes()
        if key not in self._known:
            self._known[key] = f'constant{len(self._constants)}'
            self._constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def weight(self, value: Value) -> str:
        """Name of the weights of a layer, in float16 if `half`. Raises Problem if they are too large for that."""
        if not self.half:
            return self.constant(value)
        array = np.asarray(value.detach().cpu() if torch.is_tensor(value) else value)
        with np.errstate(over='ignore'):
            stored = array.astype(np.float16)
        if not np.isfinite(stored).all():
            raise Problem(f'float16: a weight of {np.abs(array).max():.3g} is too large; export the network as float32')
        return self.add('Cast', self.constant(stored), to=onnx.TensorProto.FLOAT)

    def add(self, kind: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> str:
        """Add a node, an operator `kind` with its inputs and attributes. Returns the name of its last output.

        An optional input that is left out is ''.
        """
        names = tuple(value if isinstance(value, str) else self.constant(value) for value in inputs)
        attributes = {name: value for name, value in attributes.items() if value is not None}
        key = kind, names, outputs, str(sorted(attributes.items()))
        if key not in self._known:
            results = [f'{kind}{len(self._nodes)}' + f'_{i}' * (outputs > 1) for i in range(outputs)]
            self._nodes.append(helper.make_node(kind, names, results, results[0], **attributes))
            self._known[key] = results[-1]
        return self._known[key]

    def insert(self, model: onnx.ModelProto, value: Value) -> str:
        """Add the nodes of a model with one input, `value`, and one output, whose name is returned.

        Raises Problem if a node of it contains a graph.
        """
        names = {'': '', model.graph.input[0].name: value}
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            names[tensor.name] = self.weight(array) if array.ndim > 1 and array.dtype.kind == 'f' else array
        for node in model.graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == 'Constant':
                names[node.output[0]] = numpy_helper.to_array(attributes['value'])
                continue
            if len(node.output) > 1 or any(isinstance(a, onnx.GraphProto) for a in attributes.values()):
                raise Problem(f'a node {node.op_type} of the network cannot be exported; choose another network')
            names[node.output[0]] = self.add(node.op_type, *(names[name] for name in node.input), **attributes)
        return names[model.graph.output[0].name]

    def model(
        self, inputs: Mapping[str, list], outputs: Mapping[str, tuple[str, list]], about: Mapping[str, str]
    ) -> onnx.ModelProto:
        """The complete model.

        inputs: shape of each input, in which text stands for a variable length; outputs: value and shape of each
        output; all are float32. about: the metadata of the file.
        """

        def described(name, shape):
            return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

        ends = [helper.make_node('Identity', [value], [name], name) for name, (value, _) in outputs.items()]
        graph = helper.make_graph(
            self._nodes + ends,
            'birdsong',
            [described(name, shape) for name, shape in inputs.items()],
            [described(name, shape) for name, (_, shape) in outputs.items()],
            self._constants,
        )
        model = helper.make_model(
            graph,
            producer_name='birdclef2018',
            producer_version=about.get('version', ''),
            opset_imports=[helper.make_opsetid('', OPSET)],
            ir_version=IR_VERSION,
        )
        helper.set_model_props(model, dict(about))
        onnx.checker.check_model(model)
        return model
