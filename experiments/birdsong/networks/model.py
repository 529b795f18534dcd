"""Networks built from settings; reading and writing their files, including those of 2018.

A network has an audio branch (frontend, the layers of `arch`, class and attention maps, pooling), a metadata branch
(the layers of `arch_meta`, class logits), or both, whose logits are added.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from birdsong import files
from birdsong.files import Problem
from birdsong.networks import layers
from birdsong.networks.architecture import Chain, make_layers, parse
from birdsong.networks.backbone import Backbone, holds_weights, is_backbone
from birdsong.networks.frontend import Frontend
from birdsong.networks.pooling import PoolingStream, make_global_pooling


class AudioBranch(nn.Module):
    """Spectrogram (batch, frames, bins) -> maps before pooling (batch, classes + attention, time, frequency)."""

    def __init__(self, cfg: dict[str, Any], classes: int, attention: int, rng: np.random.Generator):
        super().__init__()
        self.front = Frontend(cfg)
        if is_backbone(cfg['arch']):
            self.layers = nn.ModuleList([Backbone(cfg['arch'], self.front.bands, rng, cfg['arch.drop_path'])])
            self.chain = self.layers[0].chain
        else:
            self.chain = Chain(1, self.front.bands)
            self.layers = make_layers(parse(cfg), cfg, 'arch', self.chain, rng)
        self.dropout = layers.Dropout(cfg['arch.fulldrop' if cfg['arch.lastdrop'] == '' else 'arch.lastdrop'])
        self.head = layers.Convolution(self.chain.channels, classes + attention, (1, 1), rng, bias=True)
        self.classes, self.prepool = classes, cfg['arch.prepool']
        self.min_frames, self.frame_step = self.chain.min_frames(), self.chain.frame_step()

    @property
    def backbone(self) -> Backbone | None:
        """The network of timm, if `arch` names one."""
        first = next(iter(self.layers), None)
        return first if isinstance(first, Backbone) else None

    def forward(self, spect: Tensor, masks: Tensor | None = None) -> Tensor:
        return self.classify(self.features(spect, masks))

    def features(self, spect: Tensor, masks: Tensor | None = None) -> Tensor:
        """The output of the last layer before the classes: (batch, channels, time, frequency)."""
        if spect.ndim == 3 and spect.shape[1] < self.min_frames:
            raise Problem(
                f'an excerpt of {spect.shape[1]} frames is too short for this network, '
                f'which needs {self.min_frames}; set a greater len_min'
            )
        x = self.front(spect, masks)
        for layer in self.layers:
            x = layer(x)
        return x

    def classify(self, x: Tensor) -> Tensor:
        """Class and attention maps, given the output of the last layer."""
        x = self.head(self.dropout(x))
        if self.prepool == 'none':
            return x
        with torch.autocast(x.device.type, enabled=False):
            x = layers.full_precision(x)
            return torch.cat([layers.PREPOOL[self.prepool](x[:, : self.classes]), x[:, self.classes :]], 1)


class MetadataBranch(nn.Module):
    """Metadata (batch, values) -> logits (batch, classes)."""

    def __init__(self, cfg: dict[str, Any], num_meta: int, classes: int, rng: np.random.Generator):
        super().__init__()
        self.num_meta = num_meta
        chain = Chain(num_meta)
        self.layers = make_layers(parse(cfg, 'arch_meta'), cfg, 'arch_meta', chain, rng)
        self.head = layers.Dense(chain.channels, classes, rng, bias=True)

    def forward(self, meta: Tensor | None) -> Tensor:
        if meta is None or meta.shape[-1] != self.num_meta:
            found = 'none' if meta is None else meta.shape[-1]
            raise Problem(
                f'the network takes {self.num_meta} metadata values, not {found}; set input_meta as for its training'
            )
        for layer in self.layers:
            meta = layer(meta)
        return self.head(meta)


class Network(nn.Module):
    """A network described by settings; `build` creates it."""

    def __init__(self, cfg: dict[str, Any], classes: int, num_meta: int, rng: np.random.Generator):
        super().__init__()
        self.cfg, self.classes, self.num_meta = dict(cfg), classes, num_meta
        self.global_pool = make_global_pooling(str(cfg['arch.pool']))
        self.audio = AudioBranch(cfg, classes, self.global_pool.attention, rng) if cfg['arch'] else None
        self.meta = MetadataBranch(cfg, num_meta, classes, rng) if cfg['arch_meta'] else None

    @property
    def min_frames(self) -> int:
        """Frames of the shortest excerpt that the network can process; 0 for a network on metadata alone."""
        return self.audio.min_frames if self.audio else 0

    @property
    def frame_step(self) -> int:
        """Frames between two positions of the maps; 0 for a network on metadata alone."""
        return self.audio.frame_step if self.audio else 0

    def maps(self, spect: Tensor, masks: Tensor | None = None) -> Tensor:
        """Spectrogram (batch, frames, bins) -> maps (batch, maps, time, frequency): after arch.prepool, unpooled.

        The class maps come first, then the attention maps. masks: hidden parts of the spectrograms, see `Frontend`.
        """
        return self.audio(spect, masks)

    def pool(self, maps: Tensor) -> Tensor:
        """Maps -> (batch, classes), or (batch, classes, time) without pooling."""
        return self.global_pool(maps)

    def pooling(self) -> PoolingStream:
        """Like `pool`, for maps given block by block."""
        return PoolingStream(self.global_pool)

    def finish(self, pooled: Tensor | None, meta: Tensor | None = None) -> dict[str, Tensor]:
        """'logits', 'output' and, with arch.output_bg, 'output_bg'.

        pooled: from `pool` (None for a network on metadata alone); meta: (batch, values).
        """
        logits = pooled
        if self.meta is not None:
            logits = layers.full_precision(self.meta(meta))
            if pooled is not None:
                logits = logits.view(logits.shape + (1,) * (pooled.ndim - 2))
                logits = pooled + float(self.cfg['arch_meta.weight']) * logits
        outputs = {'logits': logits, 'output': layers.OUTPUT[self.cfg['arch.output']](logits)}
        if self.cfg['arch.output_bg']:
            outputs['output_bg'] = torch.sigmoid(logits)
        return outputs

    def forward(
        self, spect: Tensor | None = None, meta: Tensor | None = None, masks: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As `finish`; with an audio branch also 'maps'; with attention also 'attention' (batch, K, time * frequency),
        before the softmax over time. masks: as for `maps`.
        """
        if self.audio is None:
            return self.finish(None, meta)
        maps = self.maps(spect, masks)
        outputs = self.finish(self.pool(maps), meta)
        outputs['maps'] = maps
        if self.global_pool.attention:
            outputs['attention'] = layers.full_precision(maps[:, self.classes :].flatten(2))
        return outputs

    def regularisable(self) -> Iterator[nn.Parameter]:
        """The parameters that l2_decay applies to: weights and gammas."""
        for module in self.modules():
            if isinstance(module, (layers.Convolution, layers.Dense)):
                yield module.weight
            elif isinstance(module, layers.BatchNorm) and module.gamma is not None:
                yield module.gamma
            elif isinstance(module, Backbone):
                yield from module.regularisable()


def build(cfg: dict[str, Any], classes: int, num_meta: int = 0) -> Network:
    """The network described by the settings, with initial weights that depend on cfg['seed'] only.

    classes: number of classes; num_meta: length of the metadata vector.
    Raises Problem, naming setting, layer and shapes, for an impossible architecture.
    """
    if classes < 1:
        raise Problem('a network needs at least one class')
    if not cfg['arch'] and not cfg['arch_meta']:
        raise Problem('arch and arch_meta are both empty: there is no network; set one of them')
    if cfg['arch_meta'] and num_meta < 1:
        raise Problem(f'arch_meta={cfg["arch_meta"]}: there is no metadata; set input_meta or input_embeddings')
    return Network(cfg, int(classes), int(num_meta), np.random.default_rng(cfg['seed']))


def synchronise(net: nn.Module, group: Any = True) -> None:
    """Make batch normalisation use the batches of all processes of `group` (True: the default group) together."""
    for module in net.modules():
        if isinstance(module, layers.BatchNorm):
            module.group = group
        elif isinstance(module, Backbone):
            module.synchronise(group)


# == Files ==


def slots(net: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """(name, module, name within the module, tensor) of all arrays, in the order of the files of 2018."""
    modules = dict(net.named_modules())
    for name, tensor in net.state_dict().items():
        parent, _, own = name.rpartition('.')
        yield name, modules[parent], own, tensor


def _to_original(module: nn.Module, own: str, array: np.ndarray) -> np.ndarray:
    return module.to_original(own, array) if hasattr(module, 'to_original') else array


def original_arrays(net: nn.Module) -> list[np.ndarray]:
    """Copies of the network's arrays, in the order and layout of the files of 2018."""
    return [np.array(_to_original(module, own, t.detach().cpu().numpy())) for _, module, own, t in slots(net)]


def save_original(net: nn.Module, filename: str | os.PathLike) -> None:
    """Write the network's arrays as in 2018: param0, param1, ..."""
    files.save_npz(filename, {f'param{i}': array for i, array in enumerate(original_arrays(net))})


def save(net: nn.Module, filename: str | os.PathLike) -> None:
    """Write the network's arrays by name, atomically."""
    files.save_npz(filename, {name: tensor.detach().cpu().numpy() for name, tensor in net.state_dict().items()})


def note_bins(cfg: dict[str, Any], filename: str, prefix: str = '') -> None:
    """Set cfg['bins'] if filterbank=none and the file contains a network on all frequency bins.

    Older networks (as in 2018) use all bins, also those above mel_max. `filename` is as for `load`; `prefix` is that of
    the names of the arrays.
    """
    if cfg['filterbank'] != 'none' or not cfg['arch']:
        return
    for part in _parts(filename):
        if holds_weights(part):
            continue
        arrays = files.load_npz(part, [f'{prefix}audio.front.standardise.mean', 'param0', 'param1'])
        lengths = [arrays[name].shape[-1] for name in sorted(arrays) if arrays[name].ndim]
        if lengths:
            if lengths[0] == cfg['frame_len'] // 2 + 1:
                cfg['bins'] = lengths[0]
            return


def _parts(filename: str) -> list[str]:
    """The files of `filename`: itself, or A and B for A:B."""
    return [filename] if os.path.exists(filename) else filename.split(':')


def _read(filename: str) -> tuple[dict[str, np.ndarray], list[tuple[str, np.ndarray]]]:
    """The arrays of our files by name, and those of files of 2018 in their order, as (name, array)."""
    named, numbered = {}, []
    for part in _parts(filename):
        arrays = files.load_npz(part)
        if arrays and all(re.fullmatch(r'param\d+', name) for name in arrays):
            names = [f'param{i}' for i in range(len(arrays))]
            if set(arrays) != set(names):
                raise Problem(f'{part}: its arrays are not numbered param0 to {names[-1]}; is it complete?')
            numbered += [(name, arrays[name]) for name in names]
        else:
            twice = sorted(set(named) & set(arrays))
            if twice:
                raise Problem(
                    f'{part}: {twice[0]} is also in another of the files; '
                    'combine one file of an audio branch and one of a metadata branch'
                )
            named.update(arrays)
    return named, numbered


def _assign(net: nn.Module, named: dict[str, np.ndarray], numbered: list, filename: str) -> dict[str, Tensor] | None:
    """The network's state from the arrays that `_read` returns, or None if their number or shapes are different."""
    state, queue = {}, iter(numbered)
    for name, module, own, tensor in slots(net):
        array = named.get(name)
        if array is None:
            array = next(queue, (None, None))[1]
            if array is not None and hasattr(module, 'from_original') and array.ndim:
                try:
                    array = module.from_original(own, array)
                except (IndexError, ValueError):
                    return None
        if array is None or array.shape != tuple(tensor.shape) or array.dtype.kind not in 'fiu':
            return None
        if not np.isfinite(array).all():
            raise Problem(f'{filename}: {name} contains values that are not finite; train the model again')
        dtype = np.float64 if tensor.dtype == torch.float64 else np.float32
        state[name] = torch.from_numpy(np.array(array, dtype=dtype))
    return state if len(state) == len(named) + len(numbered) else None


def _listing(shapes: list[tuple[str, tuple[int, ...]]]) -> str:
    items = ', '.join(f'{name} {"x".join(map(str, shape)) or "scalar"}' for name, shape in shapes)
    return f'{len(shapes)} ({items})'


def load(net: nn.Module, filename: str) -> None:
    """Load one of our files or a file of 2018, or two of them (A:B, audio branch first), into the network.

    Raises Problem, which lists the arrays of both, if their number or shapes are different.
    """
    named, numbered = _read(filename)
    state = _assign(net, named, numbered, filename)
    if state is None:
        found = [(name, array.shape) for name, array in [*named.items(), *numbered]]
        wanted = [(name, module, own, tuple(tensor.shape)) for name, module, own, tensor in slots(net)]
        wanted = [
            (name, _to_original(module, own, np.empty(shape, np.int8)).shape if numbered else shape)
            for name, module, own, shape in wanted
        ]
        raise Problem(
            f'{filename} does not fit the settings of the network. It holds the arrays {_listing(found)}; '
            f'the network has {_listing(wanted)}. Use the .vars file that belongs to it'
        )
    net.load_state_dict(state)


def initialise(net: Network, cfg: dict[str, Any], filename: str) -> None:
    """Load the weights to start training from: those in `filename`, or if it is empty, of the setting arch.pretrained.

    filename: as for `load`, or a file of weights of the backbone; then the rest of the network is not changed.
    Raises Problem if they do not fit, or if arch is not a backbone.
    """
    backbone = net.audio.backbone if net.audio else None
    if filename and not holds_weights(filename):
        load(net, filename)
    elif (filename or cfg['arch.pretrained']) and backbone is None:
        setting = f'init_from={filename}' if filename else f'arch.pretrained={cfg["arch.pretrained"]}'
        raise Problem(f'{setting}: weights of a network of timm; set arch=timm:NAME')
    elif filename:
        backbone.load(filename)
    elif cfg['arch.pretrained']:
        backbone.load_pretrained(cfg['arch.pretrained'])
