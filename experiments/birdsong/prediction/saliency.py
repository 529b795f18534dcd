"""Saliency: how much each bin of a spectrogram changes the score of a class."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from birdsong.files import Problem
from birdsong.networks.layers import Nonlinearity
from birdsong.networks.model import Network
from birdsong.prediction.predictor import Predictor, windows

# Kinds of saliency and the explanations below their plots.
KINDS = {
    'gradient-times-magnitude': 'gradient of the score with respect to each bin, times its magnitude. '
    'Dark: the score would change most if the sound in the bin were a little louder or softer.',
    'gradient': 'gradient of the score with respect to the magnitude of each bin. '
    'Dark: the score would change most if a little were added to the bin; with a logarithm, that is in silence.',
    'guided': 'guided backpropagation: the gradient of the score, propagated only where it is positive. '
    'Dark: the score would rise most if a little were added to the bin; with a logarithm, that is in silence.',
}
DEFAULT = 'gradient-times-magnitude'


class _Guided(torch.autograd.Function):
    """A nonlinearity that passes the gradient only where it and the input are positive.

    Guided backpropagation: Springenberg et al. 2014, arXiv:1412.6806.
    """

    @staticmethod
    def forward(ctx, x, nonlin):
        ctx.save_for_backward(x)
        ctx.kind = nonlin.kind
        return Nonlinearity.forward(nonlin, x.clone())

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        gradient = gradient.clamp_min(0) * (x > 0)
        return gradient * x.exp() if ctx.kind == 'reeu' else gradient, None


@contextlib.contextmanager
def _guided(net: Network) -> Iterator[None]:
    """Within the block, the nonlinearities of the network use guided backpropagation."""
    modules = [m for m in net.modules() if isinstance(m, Nonlinearity) and m.kind != 'linear']
    for module in modules:
        module.forward = lambda x, module=module: _Guided.apply(x, module)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def saliency(
    net: Network, spect: torch.Tensor, class_index: int, meta: torch.Tensor | None = None, guided: bool = True
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Outputs of the network, and the gradient of the logits of a class with respect to the spectrogram.

    spect: (batch, frames, bins); the gradient has the same shape. meta: (batch, values) for networks that use metadata.
    guided: use guided backpropagation instead of the plain gradient.
    Raises Problem if there is no such class, or if the network takes no spectrogram.
    """
    if net.audio is None:
        raise Problem('a network on metadata alone has no saliency; choose a network that processes spectrograms')
    if not 0 <= class_index < net.classes:
        raise Problem(f'class {class_index}: expected 0 to {net.classes - 1}')
    if guided and net.audio.backbone is not None:
        raise Problem('guided saliency: not possible for a network of timm; choose another --saliency-kind')
    net.eval()
    spect = spect.detach().clone().requires_grad_()
    with torch.enable_grad(), _guided(net) if guided else contextlib.nullcontext():
        outputs = net(spect, meta)
        (gradient,) = torch.autograd.grad(outputs['logits'][:, class_index].sum(), spect)
    return {k: v.detach() for k, v in outputs.items()}, gradient


def of_recording(predictor: Predictor, item: dict, class_index: int, kind: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first frame, saliency (frames, bins)) of consecutive parts of an item of a TestFeed; kinds: KINDS."""
    samples, net = item['samples'], predictor.plain
    context = net.audio.chain.context
    for start, stop, first, last in windows(predictor.frames(samples), predictor.longest, context):
        spect = torch.from_numpy(predictor.spectrogram(samples, start, stop))[None].to(predictor.device)
        _, gradient = saliency(net, spect, class_index, predictor.meta(item), guided=kind == 'guided')
        if kind == 'gradient-times-magnitude':
            gradient = gradient * spect
        yield first, gradient[0, first - start : last - start].cpu().numpy()
