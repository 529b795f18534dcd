"""The operations of a compiled network (networks/operations.py) as nodes of an ONNX graph.

Maps are (batch, channels, time, frequency).
"""

import io
import warnings
from collections.abc import Sequence

import onnx
import torch
from onnx import helper

from birdsong.export.graph import OPSET, Graph
from birdsong.export.waveform import END
from birdsong.files import Problem
from birdsong.networks import operations as ops

FLOAT = onnx.TensorProto.FLOAT


def translate(graph: Graph, operations: Sequence[ops.Operation], x: str) -> str:
    """Add nodes that apply the operations to x. The first one may be a Frontend, for x from `waveform.magnitudes`."""
    for op in operations:
        x = NODES[type(op)](graph, op, x)
    return x


def part(graph: Graph, x: str, axis: int, start: int = 0, stop: int = END, step: int = 1) -> str:
    """x[start:stop:step] along an axis."""
    return graph.add('Slice', x, [start], [stop], [axis], [step])


def log_mean_exp(graph: Graph, x: str, sharpness: float, axis: int, keep: bool) -> str:
    """log(mean(exp(A x))) / A along an axis."""
    count = graph.add('Cast', graph.add('Shape', x, start=axis, end=axis + 1), to=FLOAT)
    total = graph.add('ReduceLogSumExp', graph.add('Mul', x, float(sharpness)), axes=[axis], keepdims=int(keep))
    return graph.add('Div', graph.add('Sub', total, graph.add('Log', count)), float(sharpness))


# == The input stage ==


def _frontend(graph, op, x):
    main = list(op.main)
    if isinstance(main[0], ops.Matrix):
        x = graph.add('MatMul', main.pop(0).matrix.T, x)
    x = translate(graph, main, graph.add('Transpose', x, perm=[0, 2, 1]))
    return graph.add('Unsqueeze', x, [1])


def _log(graph, op, x):
    return graph.add('Log', graph.add('Max', x, 1e-7))


def _log1p(graph, op, x):
    scaled = x if op.scale is None else graph.add('Mul', x, op.scale)
    return graph.add('Log', graph.add('Add', scaled, 1.0))


def _power(graph, op, x):
    return graph.add('Pow', x, op.exponent)


def _pcen(graph, op, x):
    rate, alpha, delta, r = (v.exp() for v in (op.log_s, op.log_alpha, op.log_delta, op.log_r))
    smooth = _smoothed(graph, x, rate)
    gain = graph.add('Pow', graph.add('Add', smooth, 1e-6), -alpha)
    powers = graph.add('Pow', graph.add('Add', graph.add('Mul', x, gain), delta), r)
    return graph.add('Sub', powers, delta**r)


def _smoothed(graph, x, rate):
    """x smoothed along time, from the first frame on: y[t] = rate x[t] + (1 - rate) y[t - 1]."""
    new, old = graph.constant(rate), graph.constant(1 - rate)
    frames = [
        helper.make_tensor_value_info(name, FLOAT, ['batch', len(rate)]) for name in ('before', 'now', 'y', 'out')
    ]
    body = helper.make_graph(
        [
            helper.make_node('Mul', ['now', new], ['fresh']),
            helper.make_node('Mul', ['before', old], ['stale']),
            helper.make_node('Add', ['fresh', 'stale'], ['y']),
            helper.make_node('Identity', ['y'], ['out']),
        ],
        'smoothing',
        frames[:2],
        frames[2:],
    )
    first = graph.add('Squeeze', part(graph, x, 1, 0, 1), [1])
    return graph.add(
        'Scan', first, x, outputs=2, body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1]
    )


def _centre(graph, op, x):
    return graph.add('Sub', x, graph.add('ReduceMean', x, axes=[1]))


def _standardise(graph, op, x):
    return graph.add('Add', graph.add('Mul', x, op.scale), op.shift)


# == Maps ==


def _activated(graph, name, x):
    if name == 'reeu':
        return graph.add('Sub', graph.add('Exp', graph.add('Relu', x)), 1.0)
    if name == 'lrelu':
        return graph.add('LeakyRelu', x, alpha=0.01)
    return x if name == 'linear' else graph.add({'relu': 'Relu', 'elu': 'Elu'}[name], x)


def _conv(graph, op, x):
    x = graph.add(
        'Conv',
        x,
        graph.weight(op.weight),
        *([] if op.bias is None else [op.bias]),
        group=op.groups,
        strides=list(op.stride),
        pads=2 * list(op.padding),
        dilations=list(op.dilation),
    )
    return _activated(graph, op.activation, x)


def _pool(graph, op, x):
    if op.how == 'logmeanexp':
        x = _pool_log_mean_exp(graph, op, x)
    else:
        kind = {'max': 'MaxPool', 'mean': 'AveragePool'}[op.how]
        x = graph.add(kind, x, kernel_shape=list(op.size), strides=list(op.stride))
    return _activated(graph, op.activation, x)


def _pool_log_mean_exp(graph, op, x):
    values = []
    for i in range(op.size[0]):
        for k in range(op.size[1]):
            row = part(graph, x, 2, i, i + 1 - op.size[0] or END, op.stride[0])
            value = part(graph, row, 3, k, k + 1 - op.size[1] or END, op.stride[1])
            values.append(graph.add('Unsqueeze', value, [4]))
    return log_mean_exp(graph, graph.add('Concat', *values, axis=4), op.sharpness, 4, keep=False)


def _pool_time(graph, op, x):
    if op.how == 'logmeanexp':
        return log_mean_exp(graph, x, op.sharpness, 2, keep=True)
    return graph.add({'max': 'ReduceMax', 'mean': 'ReduceMean'}[op.how], x, axes=[2])


def _affine(graph, op, x):
    scale, shift = (v.view(1, -1, 1, 1) for v in (op.scale, op.shift))
    return _activated(graph, op.activation, graph.add('Add', graph.add('Mul', x, scale), shift))


def _thin(graph, op, x):
    if op.mean:
        return graph.add('AveragePool', x, kernel_shape=list(op.size), strides=list(op.size), ceil_mode=1)
    return part(graph, part(graph, x, 2, step=op.size[0]), 3, step=op.size[1])


def _widen(graph, op, x):
    return graph.add('Pad', x, [0, 0, 0, 0, 0, op.channels, 0, 0])


def _residual(graph, op, x):
    return graph.add('Add', translate(graph, op.main, x), translate(graph, op.short, x))


def _prepool(graph, op, x):
    classes, attention = part(graph, x, 1, 0, op.classes), part(graph, x, 1, op.classes)
    classes = nonlinearity(graph, op.name, classes)
    return graph.add('Concat', classes, attention, axis=1)


def nonlinearity(graph: Graph, name: str, x: str, axis: int = 1) -> str:
    """The nonlinearity over the classes of this name: sigmoid, softmax, logsoftmax, exp, linear."""
    if name in ('softmax', 'logsoftmax'):
        return graph.add({'softmax': 'Softmax', 'logsoftmax': 'LogSoftmax'}[name], x, axis=axis)
    return x if name == 'linear' else graph.add({'sigmoid': 'Sigmoid', 'exp': 'Exp'}[name], x)


def _linear(graph, op, x):
    return _activated(graph, op.activation, graph.add('Gemm', x, graph.weight(op.weight), op.bias, transB=1))


def _backbone(graph, op, x):
    """A network of timm, exported by torch, because its layers are known to torch only."""
    example = torch.zeros(2, 1, 2 * op.least, op.bands)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporter is deprecated; the new one takes minutes
        try:
            torch.onnx.export(
                op.module,
                (example,),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=['maps'],
                dynamic_axes={'maps': {0: 'batch', 2: 'time'}},
            )
        except Exception as e:  # of torch, of the network
            reason = (str(e).splitlines() or [''])[0]
            raise Problem(f'{op.module}: torch cannot export it ({reason}); choose another network') from None
    return graph.insert(onnx.load_from_string(file.getvalue()), x)


NODES = {
    ops.Frontend: _frontend,
    ops.Log: _log,
    ops.Log1p: _log1p,
    ops.Power: _power,
    ops.Pcen: _pcen,
    ops.Centre: _centre,
    ops.Standardise: _standardise,
    ops.Conv: _conv,
    ops.Pool: _pool,
    ops.PoolTime: _pool_time,
    ops.Affine: _affine,
    ops.Thin: _thin,
    ops.Widen: _widen,
    ops.Residual: _residual,
    ops.Prepool: _prepool,
    ops.Linear: _linear,
    ops.Backbone: _backbone,
}
