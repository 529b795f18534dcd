"""Networks as they predict fastest, over recordings of any length in constant memory.

A trained network is compiled into a list of plain operations: batch normalisation folded into the convolutions,
channels last. Each operation that looks at several frames keeps those that it still needs, so a recording passes
through in blocks that fit the processor's cache, without computing anything twice and without a seam. Compiled densely,
strides in time become dilations: a fully convolutional network with an output at every frame (model_to_fcn.py).
"""

import torch
import torch.nn.functional as F

from birdsong.files import Problem
from birdsong.networks import frontend, layers

# bytes that the largest map of a block may have, for the processor's cache to hold it
BLOCK_BYTES = 1 << 23
# rows of output that the fast algorithm for convolutions of three frames makes from six products
TILE = 4
# positions that a product with a matrix should have at least, to be worth reading the matrix
ENOUGH = 384
ACTIVATIONS = {
    'linear': lambda x: x,
    'lrelu': lambda x: F.leaky_relu_(x, 0.01),
    'relu': F.relu_,
    'elu': F.elu_,
    'reeu': layers.reeu,
}
# those that oneDNN applies while it writes the result of a convolution
FUSED = {'linear': ('none', [], ''), 'lrelu': ('leaky_relu', [0.01], ''), 'relu': ('relu', [], '')}


# == Compiling ==


def fold(weight, bias, norm):
    """Weight and bias of a layer with the batch normalisation (or bias) after it."""
    if isinstance(norm, layers.Bias):
        return weight, norm.bias if bias is None else bias + norm.bias
    if norm is None:
        return weight, torch.zeros(len(weight)) if bias is None else bias
    scale, shift = norm.folded()
    return weight * scale.view((-1,) + (1,) * (weight.ndim - 1)), shift if bias is None else bias * scale + shift


def _convolution(module, norm, activation, dilation, dense, bands=1):
    """The operation of a Convolution or Dense layer, what normalises it, and a nonlinearity."""
    if isinstance(module, layers.Dense):
        weight, bias = fold(module.weight, module.bias, norm)
        return dict(
            kind='conv',
            weight=weight.reshape(len(weight), -1, 1, bands),
            bias=bias,
            groups=1,
            activation=activation,
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
        )
    weight, bias = fold(module.kernels(), module.bias, norm)
    return dict(
        kind='conv',
        weight=weight,
        bias=bias,
        groups=module.groups,
        activation=activation,
        stride=(1 if dense else module.stride[0], module.stride[1]),
        padding=(module.padding[0] * dilation, module.padding[1]),
        dilation=(module.dilation[0] * dilation, module.dilation[1]),
    )


def _activation(module):
    if isinstance(module.norm, layers.Bias):
        return dict(kind='affine', scale=torch.ones_like(module.norm.bias), shift=module.norm.bias, activation='relu')
    scale, shift = module.norm.folded()
    return dict(kind='affine', scale=scale, shift=shift, activation='relu')


def _front(front):
    """The operation of the input stage, and those that it consists of."""
    steps = []
    bank, scale = front.filterbank, front.scale
    if front.centre:
        raise Problem(
            'a network with band_centre=1 needs each excerpt as a whole, so there are no scores at every frame; '
            'train one with band_centre=0 for that'
        )
    if bank is not None:
        steps.append(
            dict(kind='matrix', matrix=bank.filterbank() if isinstance(bank, frontend.LearnableMelBank) else bank.bank)
        )
    if isinstance(scale, frontend.Log):
        steps.append(dict(kind='log1p' if scale.plus_one else 'log'))
    elif isinstance(scale, frontend.LearnableLog):
        steps.append(dict(kind='log1p', scale=scale.scale.exp()))
    elif isinstance(scale, frontend.LearnablePower):
        steps.append(dict(kind='power', exponent=torch.sigmoid(scale.exponent)))
    elif isinstance(scale, frontend.PCEN):
        steps.append(dict(kind='pcen', **dict(scale.named_parameters())))
    scale, shift = front.standardise.folded()
    return dict(kind='front', main=steps + [dict(kind='standardise', scale=scale, shift=shift)], bands=front.bands)


def _residual(unit, dilation, dense):
    main = [_activation(unit.leading)] if unit.leading is not None else []
    main.append(_convolution(unit.conv1, unit.inner.norm, 'relu', dilation, dense))
    main.append(_convolution(unit.conv2, None, 'linear', dilation * (unit.stride[0] if dense else 1), dense))
    short = []
    if unit.shortcut is not None:
        short.append(_convolution(unit.shortcut, None, 'linear', dilation, dense))
    else:
        if unit.stride != (1, 1):
            short.append(
                dict(
                    kind='thin',
                    mean=unit.kind == 'pool',
                    size=unit.stride,
                    step=1 if dense else unit.stride[0],
                    dilation=dilation,
                )
            )
        if unit.widen:
            short.append(dict(kind='widen', channels=unit.widen))
    return dict(kind='residual', main=main, short=short)


@torch.no_grad()
def compile_network(net, dense=False):
    """List of operations (dicts of numbers and tensors) that compute a trained network's maps from spectrograms.

    dense: strides in time become dilations of all that follows. Raises Problem if a layer needs an excerpt as a whole.
    """
    operations, dilation, bands = [_front(net.audio.front)], 1, net.audio.front.bands
    for layer in net.audio.layers:
        known, stride = len(operations), 1
        if isinstance(layer, layers.ConvLayer):
            operations.append(_convolution(layer.linear, layer.norm, layer.nonlin.kind, dilation, dense, bands))
            if isinstance(layer.linear, layers.Convolution):
                stride = layer.linear.stride[0]
        elif isinstance(layer, layers.Pool):
            if layer.size[0] < 1:
                raise Problem(
                    'arch: a layer that pools over all the time of an excerpt cannot process a recording block by block'
                )
            size = layer.size[0], layer.size[1] if layer.size[1] > 0 else bands + 1 + layer.size[1]
            steps = layer.stride or size
            operations.append(
                dict(
                    kind='pool',
                    how=layer.kind,
                    size=size,
                    stride=(1 if dense else steps[0], steps[1]),
                    dilation=dilation,
                    sharpness=layer.sharpness,
                    activation='linear',
                )
            )
            before = operations[-2]
            if layer.kind == 'max' and before['kind'] == 'conv':
                # no nonlinearity falls anywhere, so that of the maximum is the maximum of all, and it is cheaper
                operations[-1]['activation'], before['activation'] = before['activation'], 'linear'
            stride = steps[0]
        elif isinstance(layer, layers.ResidualBlock):
            for unit in layer.units:
                operations.append(_residual(unit, dilation, dense))
                dilation *= unit.stride[0] if dense else 1
            if layer.end is not None:
                operations.append(_activation(layer.end))
        dilation *= stride if dense else 1
        bands = _bands(operations[known:], bands)
    operations.append(_convolution(net.audio.head, None, 'linear', 1, dense))
    if net.audio.prepool != 'none':
        operations.append(dict(kind='prepool', name=net.audio.prepool, classes=net.classes))
    return operations


def _bands(operations, bands):
    """Frequency bands that come out of operations."""
    for op in operations:
        if op['kind'] == 'front':
            bands = op['bands']
        elif op['kind'] == 'residual':
            bands = _bands(op['main'], bands)
        elif op['kind'] == 'conv':
            bands = (bands + 2 * op['padding'][1] - (op['weight'].shape[3] - 1) * op['dilation'][1] - 1) // op[
                'stride'
            ][1] + 1
        elif op['kind'] == 'pool':
            bands = (bands - op['size'][1]) // op['stride'][1] + 1
    return bands


def padding_reach(operations):
    """Frames from the ends of a recording whose outputs depend on what pads it; operations compiled densely."""
    reach = 0
    for op in operations:
        if op['kind'] == 'residual':
            reach += max(padding_reach(op['main']), padding_reach(op['short']))
        elif op['kind'] == 'conv':
            reach += op['padding'][0]
        elif op['kind'] == 'thin' and op['mean']:
            reach += (op['size'][0] - 1) * op['dilation']
    return reach


# == Running ==


class _Pointwise:
    """An operation on each frame alone."""

    def __init__(self, function):
        self.push = function

    def end(self):
        return None


class _Window:
    """An operation on windows of `span` frames every `stride`, with `pad` frames of zeros at both ends.

    It waits until it has `enough(bands)` new windows, and takes a multiple of `unit` at a time, but for the end.
    """

    def __init__(self, function, span, stride, pad=0, enough=lambda bands: 1, unit=1):
        self.function, self.span, self.stride, self.pad, self.enough, self.unit = (
            function,
            span,
            stride,
            pad,
            enough,
            unit,
        )
        self.pending, self.length, self.skip = [], 0, 0

    def _zeros(self, x):
        return x.new_zeros((len(x), self.pad, x.shape[3], x.shape[1])).permute(0, 3, 1, 2)

    def push(self, x, least=None):
        if self.pad and not self.pending:
            self._append(self._zeros(x))
        self._append(x)
        count = (self.length - self.skip - self.span) // self.stride + 1
        if not least:
            count -= count % self.unit
        if count < (least or max(1, self.enough(x.shape[3]))):
            return None
        x = torch.cat(self.pending, 2) if len(self.pending) > 1 else self.pending[0]
        first, used = self.skip, self.skip + count * self.stride
        self.pending, self.length = [x[:, :, used:]], max(0, x.shape[2] - used)
        self.skip = max(0, used - x.shape[2])
        return self.function(x[:, :, first : first + (count - 1) * self.stride + self.span])

    def _append(self, x):
        self.pending.append(x)
        self.length += x.shape[2]

    def end(self):
        if not self.pending:
            return None
        last = self.pending[-1]
        return self.push(self._zeros(last) if self.pad else last[:, :, :0], 1)


class _Thin:
    """Every `step`-th frame, or the mean of `size` frames and bands every `step`; at the end, of as many as there are."""

    def __init__(self, op):
        self.size, self.step, self.dilation, self.mean = op['size'], op['step'], op['dilation'], op['mean']
        self.window = _Window(
            self._average if self.mean else self._pick,
            (self.size[0] - 1) * self.dilation + 1 if self.mean else 1,
            self.step,
        )

    def _pick(self, x):
        return x[:, :, :: self.step, :: self.size[1]]

    def _bands(self, x):
        return F.avg_pool2d(x, (1, self.size[1]), ceil_mode=True)

    def _average(self, x):
        return layers.windows(self._bands(x), (self.size[0], 1), (self.step, 1), (self.dilation, 1)).mean((-2, -1))

    def push(self, x):
        return self.window.push(x)

    def end(self):
        if not self.mean or not self.window.length > self.window.skip:
            return None
        rest = self._bands(torch.cat(self.window.pending, 2)[:, :, self.window.skip :])
        return torch.cat(
            [
                rest[:, :, start :: self.dilation][:, :, : self.size[0]].mean(2, keepdim=True)
                for start in range(0, rest.shape[2], self.step)
            ],
            2,
        )


class _Pcen:
    """PCEN, whose smoother goes on from block to block."""

    def __init__(self, module):
        self.module, self.last = module, None

    def push(self, x):
        smooth = self.module.smooth(x, self.last)
        self.last = smooth[:, -1]
        return self.module.normalise(x, smooth)


class _Front:
    """The input stage: (batch, frames, bins) -> (batch, 1, frames, bands), in float32."""

    def __init__(self, op):
        self.parts = [_Pcen(step['module']).push if step['kind'] == 'pcen' else _pointwise(step) for step in op['main']]

    def push(self, x):
        with torch.autocast(x.device.type, enabled=False):
            for part in self.parts:
                x = part(x)
            return x[:, None]

    def end(self):
        return None


class _Residual:
    """The sum of two chains of operations, of which either may run ahead."""

    def __init__(self, main, short):
        self.chains, self.rests = (main, short), [None, None]

    def _join(self, parts):
        for i, part in enumerate(parts):
            if part is not None:
                self.rests[i] = part if self.rests[i] is None else torch.cat([self.rests[i], part], 2)
        count = min(0 if rest is None else rest.shape[2] for rest in self.rests)
        if not count:
            return None
        main, short = (rest[:, :, :count] for rest in self.rests)
        self.rests = [rest[:, :, count:] if rest.shape[2] > count else None for rest in self.rests]
        return main + short

    def push(self, x):
        return self._join([chain.push(x) for chain in self.chains])

    def end(self):
        return self._join([chain.end() for chain in self.chains])


class Stream:
    """A recording on its way through operations: `push` blocks of it in order, then `end`; both return maps or None."""

    def __init__(self, parts):
        self.parts = parts

    def push(self, x):
        for part in self.parts:
            x = part.push(x)
            if x is None:
                return None
        return x

    def end(self):
        x = None
        for part in self.parts:
            pieces = [y for y in (part.push(x) if x is not None else None, part.end()) if y is not None]
            x = torch.cat(pieces, 2) if pieces else None
        return x


def _fast_weights(weight):
    """The six kernels of one frame for `_convolve_fast`: Lavin & Gray 2015, arXiv:1509.09308, F(4, 3) along time."""
    transform = weight.new_tensor(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    )
    return [
        w.contiguous(memory_format=torch.channels_last)
        for w in torch.einsum('it,fctb->ifcb', transform, weight)[:, :, :, None].unbind()
    ]


def _pack(weight, op):
    """Weights in the order that oneDNN wants them in, if it is there; to be used by `_multiply`."""
    return (
        torch.ops.mkldnn._reorder_convolution_weight(
            weight, [0, op['padding'][1]], op['stride'], op['dilation'], op['groups']
        )
        if op['packed']
        else weight
    )


def _multiply(x, weight, bias, op, activation='linear'):
    """Convolution of maps that are padded along time already, and a nonlinearity."""
    padding = [0, op['padding'][1]]
    if op['packed'] and x.dtype == torch.float32:
        fused = activation if activation in FUSED else 'linear'
        y = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, padding, op['stride'], op['dilation'], op['groups'], *FUSED[fused]
        )
        return y if fused == activation else ACTIVATIONS[activation](y)
    return ACTIVATIONS[activation](F.conv2d(x, weight, bias, op['stride'], padding, op['dilation'], op['groups']))


def _convolve_fast(x, op):
    """Convolution over three frames with half the products; the number of rows of output must be a multiple of TILE * dilation."""
    dilation = op['dilation'][0]
    x = x.permute(0, 2, 3, 1)
    tiles = (x.shape[1] - 2 * dilation) // (TILE * dilation)
    row = x.stride(1)
    size, strides = (tiles, dilation) + x.shape[2:], (TILE * dilation * row, row) + x.stride()[2:]
    x0, x1, x2, x3, x4, x5 = (x.as_strided(size, strides, x.storage_offset() + j * dilation * row) for j in range(6))
    even, odd = torch.sub(x4, x2, alpha=4), torch.sub(x3, x1, alpha=4)
    even2, odd2 = x4 - x2, (x3 - x1).mul_(2)
    parts = [
        torch.sub(x0, x2).mul_(4).add_(even2),
        even + odd,
        even.sub_(odd),
        even2 + odd2,
        even2.sub_(odd2),
        torch.sub(x5, x3).sub_(odd2, alpha=2),
    ]
    shape = (1, tiles * dilation) + x.shape[2:]
    y0, y1, y2, y3, y4, y5 = (
        _multiply(part.view(shape).permute(0, 3, 1, 2), weight, op['bias'] if i == 1 else None, op['single']).permute(
            0, 2, 3, 1
        )
        for i, (part, weight) in enumerate(zip(parts, op['fast']))
    )
    out = y0.new_empty((tiles, TILE, dilation) + y0.shape[2:])
    y0, y1, y2, y3, y4, y5 = (y.view((tiles, dilation) + y.shape[2:]) for y in (y0, y1, y2, y3, y4, y5))
    near, near2 = y1 + y2, y1.sub_(y2)
    far, far2 = y3 + y4, y3.sub_(y4)
    torch.add(y0.add_(near), far, out=out[:, 0])
    torch.add(near2, far2, alpha=2, out=out[:, 1])
    torch.add(near, far, alpha=4, out=out[:, 2])
    torch.add(y5.add_(near2), far2, alpha=8, out=out[:, 3])
    return ACTIVATIONS[op['activation']](out).view((1, -1) + out.shape[3:]).permute(0, 3, 1, 2)


def _convolve(x, op):
    weight = op['weight']
    if op['fast'] and len(x) == 1:
        step = TILE * op['dilation'][0]
        rows = x.shape[2] - 2 * op['dilation'][0]
        whole = rows // step * step
        if whole == rows:
            return _convolve_fast(x, op)
        rest = _convolve(x[:, :, whole:], dict(op, fast=None))
        return (
            torch.cat([_convolve_fast(x[:, :, : rows - rows % step + 2 * op['dilation'][0]], op), rest], 2)
            if whole
            else rest
        )
    if op['matrix'] is not None and len(x) == 1:
        # a single band is left: a matrix product
        x = x[0, :, :, 0].t()
        count = (len(x) - (weight.shape[2] - 1) * op['dilation'][0] - 1) // op['stride'][0] + 1
        x = x.as_strided(
            (count, weight.shape[2], x.shape[1]),
            (op['stride'][0] * x.stride(0), op['dilation'][0] * x.stride(0), x.stride(1)),
        )
        y = F.linear(x.reshape(count, -1), op['matrix'], op['bias'])
        return ACTIVATIONS[op['activation']](y).t()[None, :, :, None]
    return _multiply(x, weight, op['bias'], op, op['activation'])


def _pool(x, op):
    if op['how'] != 'max':
        return ACTIVATIONS[op['activation']](
            layers.pool(x, op['how'], op['size'], op['stride'], (op['dilation'], 1), op['sharpness'])
        )
    # torch's own pooling also notes where each maximum was
    for axis, size, stride, dilation in (
        (2, op['size'][0], op['stride'][0], op['dilation']),
        (3, op['size'][1], op['stride'][1], 1),
    ):
        count = (x.shape[axis] - (size - 1) * dilation - 1) // stride + 1
        best = None
        for i in range(size):
            part = x.narrow(axis, i * dilation, (count - 1) * stride + 1)
            part = part[:, :, ::stride] if axis == 2 else part[..., ::stride]
            best = part if best is None else torch.maximum(best, part)
        x = best
    return ACTIVATIONS[op['activation']](x.clone() if size == 1 else x)


def _affine(x, op):
    scale, shift = (op[k].view(1, -1, 1, 1) for k in ('scale', 'shift'))
    return ACTIVATIONS[op['activation']](torch.addcmul(shift, x, scale).to(x.dtype))


def _prepool(x, op):
    x = layers.full_precision(x)
    return torch.cat([layers.PREPOOL[op['name']](x[:, : op['classes']]), x[:, op['classes'] :]], 1)


POINTWISE = {
    'matrix': lambda x, op: x @ op['matrix'],
    'log': lambda x, op: torch.log(x.clamp_min(1e-7)),
    'log1p': lambda x, op: torch.log1p(x * op['scale'] if 'scale' in op else x),
    'power': lambda x, op: x ** op['exponent'],
    'standardise': lambda x, op: torch.addcmul(op['shift'], x, op['scale']),
    'affine': _affine,
    'widen': lambda x, op: F.pad(x, (0, 0, 0, 0, 0, op['channels'])),
    'prepool': _prepool,
}


def _pointwise(op):
    function = POINTWISE[op['kind']]
    return lambda x: function(x, op)


class CompiledNetwork:
    """Operations made ready for a device: `stream()` starts a recording, a call computes the maps of a whole spectrogram."""

    def __init__(self, operations, device):
        self.device = torch.device(device)
        self.cpu = self.device.type == 'cpu'
        self.bands, self.rate, self.widest = 1, 1.0, 1.0
        self.operations = [self._ready(op) for op in operations]
        # frames of a block: what fits the cache of a processor
        self.block = max(16, int(BLOCK_BYTES / self.widest)) if self.cpu else 4096

    def _ready(self, op):
        """The operation with its tensors on the device, in the best layout."""
        op = {
            k: (v.detach().to(self.device, torch.float32).contiguous() if torch.is_tensor(v) else v)
            for k, v in op.items()
        }
        if op['kind'] == 'conv':
            weight = op['weight']
            op['matrix'] = (
                weight[..., 0].transpose(1, 2).flatten(1).contiguous()
                if self.bands == weight.shape[3] == op['groups'] == 1
                else None
            )
            op['packed'] = (
                self.cpu
                and torch.backends.mkldnn.is_available()
                and hasattr(torch.ops.mkldnn, '_convolution_pointwise')
            )
            op['fast'] = None
            if self.cpu and weight.shape[2] == 3 and op['stride'][0] == 1 and min(weight.shape[:2]) >= 32:
                op['single'] = dict(op, dilation=(1, op['dilation'][1]))
                op['fast'] = [_pack(w, op['single']) for w in _fast_weights(weight)]
            op['weight'] = _pack(weight.contiguous(memory_format=torch.channels_last), op)
            bands = _bands([op], self.bands)
            self.rate /= op['stride'][0]
            self.widest = max(self.widest, 4 * self.rate * len(weight) * bands)
        elif op['kind'] == 'pool':
            self.rate /= op['stride'][0]
        elif op['kind'] == 'pcen':
            op['module'] = frontend.PCEN(len(op['log_s'])).to(self.device).requires_grad_(False)
            op['module'].load_state_dict({k: op[k] for k in op['module'].state_dict()})
        elif op['kind'] == 'residual':
            before = self.bands, self.rate
            op['short'] = [self._ready(o) for o in op['short']]
            self.bands, self.rate = before
        if op['kind'] in ('residual', 'front'):
            op['main'] = [self._ready(o) for o in op['main']]
        if op['kind'] != 'residual':
            self.bands = _bands([op], self.bands)
        return op

    def _part(self, op):
        kind = op['kind']
        if kind == 'conv':
            size = op['weight'].shape[2:]
            # what has few weights need not wait for company
            least = ENOUGH if self.cpu and op['weight'].numel() > 1 << 17 else 1
            return _Window(
                lambda x: _convolve(x, op),
                (size[0] - 1) * op['dilation'][0] + 1,
                op['stride'][0],
                op['padding'][0],
                lambda bands: -(-least // _bands([op], bands)),
                TILE * op['dilation'][0] if op['fast'] else 1,
            )
        if kind == 'pool':
            return _Window(lambda x: _pool(x, op), (op['size'][0] - 1) * op['dilation'] + 1, op['stride'][0])
        if kind == 'residual':
            return _Residual(*(Stream([self._part(o) for o in op[side]]) for side in ('main', 'short')))
        return {'thin': _Thin, 'front': _Front}.get(kind, lambda op: _Pointwise(_pointwise(op)))(op)

    def stream(self):
        """A Stream from spectrograms (batch, frames, bins) to maps (batch, maps, time, frequency)."""
        return Stream([self._part(op) for op in self.operations])

    @torch.no_grad()
    def __call__(self, spect):
        """(batch, frames, bins) -> (batch, maps, time, frequency)."""
        if len(spect) > 1:
            # one by one: parts of several recordings lie apart, and oneDNN's strided convolutions of such with 2 threads can be wrong
            return torch.cat([self(one) for one in spect.split(1)])
        stream = self.stream()
        parts = [stream.push(block) for block in layers.full_precision(spect).split(self.block, 1)] + [stream.end()]
        return torch.cat([layers.full_precision(p) for p in parts if p is not None], 2)


class FastNetwork:
    """A trained network that computes its maps by a CompiledNetwork; used as the Network is, for prediction alone."""

    def __init__(self, net):
        self.net = net.eval()
        self.program = CompiledNetwork(compile_network(net), next(net.parameters()).device)
        self.cfg, self.classes, self.min_frames, self.frame_step = net.cfg, net.classes, net.min_frames, net.frame_step
        self.pool, self.pooling, self.finish = net.pool, net.pooling, net.finish

    def maps(self, spect):
        """As `Network.maps`."""
        if spect.shape[1] < self.min_frames or spect.shape[2] != self.net.audio.front.bins:
            return self.net.maps(spect)  # which says what is wrong
        return self.program(spect)

    def __call__(self, spect=None, meta=None):
        """As `Network.forward`."""
        maps = self.maps(spect)
        outputs = self.finish(self.pool(maps), meta)
        outputs['maps'] = maps
        if self.net.global_pool.attention:
            outputs['attention'] = layers.full_precision(maps[:, self.classes :].flatten(2))
        return outputs


def for_inference(net):
    """The trained network as it predicts fastest, same interface (maps, pool, pooling, finish, call) and same scores."""
    net.eval()
    if net.audio is None:
        return net
    try:
        return FastNetwork(net)
    except Problem:
        return net
