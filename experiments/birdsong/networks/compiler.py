"""Compiles a trained network into a list of operations (operations.py).

Batch normalisation becomes part of the weights of the convolution before it. Layers without effect in prediction are
left out.
"""

import torch
from torch import Tensor, nn

from birdsong.files import Problem
from birdsong.networks import frontend, layers, operations, residual
from birdsong.networks.backbone import Backbone
from birdsong.networks.model import Network
from birdsong.networks.operations import Operation


def fold(weight: Tensor, bias: Tensor | None, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer together with the layers.BatchNorm or layers.Bias that follows it, if any."""
    if isinstance(norm, layers.Bias):
        return weight, norm.bias if bias is None else bias + norm.bias
    if norm is None:
        return weight, torch.zeros(len(weight)) if bias is None else bias
    scale, shift = norm.folded()
    return weight * scale.view((-1,) + (1,) * (weight.ndim - 1)), shift if bias is None else bias * scale + shift


@torch.no_grad()
def compile_network(net: Network, dense: bool = False, complete: bool = False) -> list[Operation]:
    """Operations that compute the maps of a trained network from spectrograms.

    dense: compute an output for every frame: strides along time become dilations of all following layers.
    complete: the operations will be applied to complete excerpts. Otherwise, a layer that needs them raises Problem, as
    does one that has no operation.
    """
    compiler = _Compiler(net.audio.front, dense, complete)
    if net.audio.backbone is not None and not complete:
        raise Problem(
            f'arch={net.cfg["arch"]}: a network of timm is applied to excerpts, so it cannot compute scores at every '
            'frame; predict.py without --full-resolution predicts overlapping blocks of len_max seconds'
        )
    for layer in net.audio.layers:
        compiler.add(layer)
    compiled = compiler.operations
    compiled.append(_convolution(net.audio.head, None, 'linear', 1, dense))
    if net.audio.prepool != 'none':
        compiled.append(operations.Prepool(net.audio.prepool, net.classes))
    return compiled


def compile_metadata(net: Network) -> list[operations.Linear] | None:
    """Operations that compute the logits of the metadata branch, or None if there is none."""
    if net.meta is None:
        return None
    parts = [(layer.linear, layer.norm, layer.nonlin.kind) for layer in net.meta.layers]
    compiled = []
    for linear, norm, activation in parts + [(net.meta.head, None, 'linear')]:
        weight, bias = fold(linear.weight, linear.bias, norm)
        compiled.append(operations.Linear(weight.detach(), bias.detach(), activation))
    return compiled


class _Compiler:
    """Collects the operations of the layers in order, and the properties that the next layer depends on."""

    def __init__(self, front: frontend.Frontend, dense: bool, complete: bool):
        self.dense, self.complete = dense, complete
        self.operations = [_frontend(front, complete)]
        self.dilation, self.bands = 1, front.bands

    def add(self, layer: nn.Module) -> None:
        known = len(self.operations)
        if isinstance(layer, layers.ConvLayer):
            self._conv_layer(layer)
        elif isinstance(layer, layers.Pool):
            self._pool(layer)
        elif isinstance(layer, residual.ResidualBlock):
            for unit in layer.units:
                self.operations.append(_residual(unit, self.dilation, self.dense))
                self._stride(unit.stride[0])
            if layer.end is not None:
                self.operations.append(_activation(layer.end))
        elif isinstance(layer, Backbone):
            self.operations.append(operations.Backbone(layer, self.bands, layer.chain.min_frames()))
        elif not isinstance(layer, layers.Dropout):  # dropout has no effect in prediction
            raise _unknown(layer)
        self.bands = operations.bands_out(self.operations[known:], self.bands)

    def _stride(self, stride: int) -> None:
        if self.dense:
            self.dilation *= stride

    def _conv_layer(self, layer: layers.ConvLayer) -> None:
        linear, nonlin = layer.linear, layer.nonlin.kind
        self.operations.append(_convolution(linear, layer.norm, nonlin, self.dilation, self.dense, self.bands))
        if isinstance(linear, layers.Convolution):
            self._stride(linear.stride[0])

    def _pool(self, layer: layers.Pool) -> None:
        if layer.size[0] < 1 and not self.complete:
            raise Problem(
                'arch: a layer that pools over all frames of an excerpt cannot process a recording block by block'
            )
        if layer.size[0] < -1:
            raise Problem(f'arch: there is no operation that pools over {layer.size[0]} frames; use -1, all of them')
        if layer.size[0] < 1:
            # the same as pooling over time and frequency at once
            self.operations.append(operations.PoolTime(layer.kind, layer.sharpness))
        size = max(layer.size[0], 1), layer.size[1] if layer.size[1] > 0 else self.bands + 1 + layer.size[1]
        stride = layer.stride or size
        steps = (1 if self.dense else stride[0], stride[1])
        pool = operations.Pool(layer.kind, size, steps, self.dilation, layer.sharpness)
        before = self.operations[-1]
        if layer.kind == 'max' and isinstance(before, operations.Conv):
            # All nonlinearities are monotonic, so they can be applied after the maximum, which is cheaper.
            pool.activation, before.activation = before.activation, 'linear'
        self.operations.append(pool)
        self._stride(stride[0])


def _unknown(module: nn.Module) -> Problem:
    return Problem(f'{type(module).__name__}: there is no operation for such a layer; add one to networks/compiler.py')


def _frontend(front: frontend.Frontend, complete: bool) -> operations.Frontend:
    """The operation of the input stage, with its parts."""
    if front.centre and not complete:
        raise Problem(
            'a network with band_centre=1 needs complete excerpts, so it cannot compute scores at every frame; '
            'train one with band_centre=0'
        )
    steps = []
    bank, scale = front.filterbank, front.scale
    if isinstance(bank, frontend.LearnableMelBank):
        steps.append(operations.Matrix(bank.filterbank()))
    elif isinstance(bank, frontend.MelBank):
        steps.append(operations.Matrix(bank.bank))
    elif bank is not None:
        raise _unknown(bank)
    if isinstance(scale, frontend.Log):
        steps.append(operations.Log1p() if scale.plus_one else operations.Log())
    elif isinstance(scale, frontend.LearnableLog):
        steps.append(operations.Log1p(scale.scale.exp()))
    elif isinstance(scale, frontend.LearnablePower):
        steps.append(operations.Power(torch.sigmoid(scale.exponent)))
    elif isinstance(scale, frontend.PCEN):
        steps.append(operations.Pcen(**dict(scale.named_parameters())))
    elif scale is not None:
        raise _unknown(scale)
    if front.centre:
        steps.append(operations.Centre())
    return operations.Frontend(steps + [operations.Standardise(*front.standardise.folded())], front.bands)


def _convolution(
    module: nn.Module, norm: nn.Module | None, activation: str, dilation: int, dense: bool, bands: int = 1
) -> operations.Conv:
    """The operation of a Convolution or Dense layer, a normalisation and a nonlinearity."""
    if activation not in operations.ACTIVATIONS:
        raise Problem(f'{activation}: no operation for this nonlinearity; add it to networks/operations.py')
    if isinstance(module, layers.Dense):
        weight, bias = fold(module.weight, module.bias, norm)
        return operations.Conv(weight.reshape(len(weight), -1, 1, bands), bias, activation=activation)
    if not isinstance(module, layers.Convolution):
        raise _unknown(module)
    weight, bias = fold(module.kernels(), module.bias, norm)
    return operations.Conv(
        weight,
        bias,
        module.groups,
        activation,
        stride=(1 if dense else module.stride[0], module.stride[1]),
        padding=(module.padding[0] * dilation, module.padding[1]),
        dilation=(module.dilation[0] * dilation, module.dilation[1]),
    )


def _activation(module: residual.Activation) -> operations.Affine:
    if isinstance(module.norm, layers.Bias):
        return operations.Affine(torch.ones_like(module.norm.bias), module.norm.bias, 'relu')
    return operations.Affine(*module.norm.folded(), 'relu')


def _residual(unit: residual.ResidualUnit, dilation: int, dense: bool) -> operations.Residual:
    main = [_activation(unit.leading)] if unit.leading is not None else []
    main.append(_convolution(unit.conv1, unit.inner.norm, 'relu', dilation, dense))
    main.append(_convolution(unit.conv2, None, 'linear', dilation * (unit.stride[0] if dense else 1), dense))
    if unit.shortcut is not None:
        return operations.Residual(main, [_convolution(unit.shortcut, None, 'linear', dilation, dense)])
    short = []
    if unit.stride != (1, 1):
        step = 1 if dense else unit.stride[0]
        short.append(operations.Thin(unit.kind == 'pool', unit.stride, step, dilation))
    if unit.widen:
        short.append(operations.Widen(unit.widen))
    return operations.Residual(main, short)
