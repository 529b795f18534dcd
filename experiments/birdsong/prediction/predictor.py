"""Applying a network to recordings: cutting them into blocks and computing scores."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from birdsong import devices
from birdsong.config import INDIFFERENT
from birdsong.data import audio, stft
from birdsong.data.feeds import TestFeed
from birdsong.data.prefetch import run_ahead
from birdsong.files import Problem
from birdsong.networks import compiled, model
from birdsong.networks.fcn import spectrograms
from birdsong.networks.frontend import Magnitudes
from birdsong.networks.model import Network

# Recordings with more blocks than this are not cut ahead in the background, to limit the memory.
MOST_BLOCKS_AHEAD = 4


def load_model(filename: str, cfg: dict, num_meta: int) -> Network:
    """The network in a file, built with the settings `cfg`, for `num_meta` metadata values."""
    net = model.build(cfg, cfg['classes'], num_meta)
    model.load(net, filename)
    return net


def rows_key(net: Network, dataset_name: str, cfg: dict, options: dict) -> str:
    """A text that identifies model, dataset, settings and options of predictions."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode() + b' ' + value.numpy().tobytes())
    relevant = {k: v for k, v in cfg.items() if k not in INDIFFERENT}
    return json.dumps([digest.hexdigest(), dataset_name, relevant, options], sort_keys=True)


def cut(frames: int, longest: int, overlap: int, score_rest: bool = False) -> list[tuple[int, int]]:
    """Blocks (start, stop) of a recording; all numbers are spectrogram frames.

    The remainder at the end is a separate block if it has at least `overlap` frames (`longest` if overlap is 0), or
    if `score_rest`. Raises Problem if the overlap is not shorter than a block.
    """
    if frames <= longest or not longest:
        return [(0, frames)]
    if overlap >= longest:
        raise Problem('len_min must be less than len_max, to cut long recordings into blocks')
    shortest = 1 if score_rest else overlap or longest
    blocks = ((start, min(start + longest, frames)) for start in range(0, frames, longest - overlap))
    return [
        (start, stop)
        for start, stop in blocks
        if stop - start >= shortest and (start == 0 or stop - start > (overlap if score_rest else 0))
    ]


def windows(frames: int, longest: int, context: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields (start, stop, first, last): windows of `longest` frames, and the part of the result to take from each.

    The parts are consecutive. In its window, a part has `context` frames before and after it, except at the ends of the
    recording.
    """
    if frames <= longest:
        yield 0, frames, 0, frames
        return
    context, first = min(context, longest // 3), 0
    while first < frames:
        start = min(max(0, first - context), frames - longest)
        last = frames if start + longest == frames else start + longest - context
        yield start, start + longest, first, last
        first = last


class Predictor:
    """Applies a network to recordings.

    split_pool: pool once over a whole recording instead of over each block. score_rest: see `cut`. amp: use mixed
    precision. with_attention: return attention, too, if the network has no pooling (arch.pool=attention_nopool).

    `.plain` is the network as it was trained, `.net` its fastest form for prediction.
    """

    def __init__(
        self,
        net: Network,
        cfg: dict,
        device: torch.device,
        split_pool: bool = False,
        score_rest: bool = False,
        amp: bool = False,
        with_attention: bool = False,
    ):
        self.cfg, self.device, self.split_pool, self.score_rest, self.amp = cfg, device, split_pool, score_rest, amp
        self.with_attention = with_attention and net.global_pool.kind == 'attention_nopool'
        self.plain = net.to(device).eval()
        self.net = compiled.for_inference(self.plain)
        self.hop, self.frame_len = stft.hop(cfg), cfg['frame_len']
        self.longest, self.overlap = round(cfg['len_max'] * cfg['fps']), round(cfg['len_min'] * cfg['fps'])
        self.on_device = devices.computes_spectrograms(cfg, device)
        self.magnitudes = Magnitudes(cfg).to(device) if self.on_device and cfg['arch'] else None

    def frames(self, samples: np.ndarray) -> int:
        """Number of spectrogram frames of a recording; 1 if it is shorter than a frame."""
        return max(1, stft.num_frames(len(samples), self.frame_len, self.hop))

    def blocks(self, samples: np.ndarray) -> list[tuple[int, int]]:
        """Blocks (start, stop) of a recording, in frames."""
        return cut(self.frames(samples), self.longest, self.overlap, self.score_rest)

    def block(self, samples: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Samples (if spectrograms are computed on the device) or spectrogram of the frames `start` to `stop`.

        If the network needs more frames, the samples are repeated.
        """
        if not self.on_device:
            return self.spectrogram(samples, start, stop)
        # A copy, because torch warns about memory that cannot be written to, such as that of a mapped file.
        return np.array(self._part(samples, start, stop))

    def spectrogram(self, samples: np.ndarray, start: int, stop: int) -> np.ndarray:
        """As `block`, always the spectrogram (frames, bins)."""
        part = self._part(samples, start, stop)
        return stft.spectrogram(
            part, self.cfg['sample_rate'], self.frame_len, self.cfg['fps'], bins=stft.num_bins(self.cfg)
        )

    def _part(self, samples, start, stop):
        part = samples[start * self.hop : (stop - 1) * self.hop + self.frame_len]
        needed = (self.net.min_frames - 1) * self.hop + self.frame_len
        if len(part) < needed:
            part = np.resize(part if len(part) else np.zeros(1, np.int16), needed)
        return part

    def maps(self, block: np.ndarray) -> torch.Tensor:
        """Maps before pooling, (1, maps, time, frequency), for a block from `block`."""
        with torch.autocast(self.device.type, devices.amp_type(self.device), enabled=self.amp):
            return self.net.maps(self._spectrogram_of(block)).float()

    def _spectrogram_of(self, block):
        tensor = torch.from_numpy(block)[None].to(self.device)
        return self.magnitudes(tensor) if self.on_device else tensor

    @torch.no_grad()
    def all_maps(self, samples: np.ndarray) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields (first frame, maps (1, maps, time, frequency)) of consecutive parts of a recording."""
        if self.plain.audio.backbone is not None:
            yield from self._maps_of_windows(samples)
            return
        if not isinstance(self.net, compiled.InferenceNetwork):
            yield from self._maps_of_blocks(samples)
            return
        network = self.net.compiled
        stream, first = network.stream(), 0
        for spect in itertools.chain(spectrograms(samples, self.cfg, self.net.min_frames), [None]):
            blocks = [None] if spect is None else torch.from_numpy(spect)[None].to(self.device).split(network.block, 1)
            for block in blocks:
                maps = stream.end() if block is None else stream.push(block)
                if maps is not None:
                    yield first, maps.float()
                    first += maps.shape[2] * self.net.frame_step

    def _maps_of_blocks(self, samples):
        """As `all_maps`, for networks that need complete excerpts: blocks overlap, so that no position is missing."""
        frames, start = self.frames(samples), 0
        needed, step = self.net.min_frames, self.net.frame_step
        while start == 0 or frames - start >= needed:
            stop = min(start + max(self.longest, needed), frames)
            maps = self.net.maps(torch.from_numpy(self.spectrogram(samples, start, stop))[None].to(self.device)).float()
            covered, inner = maps.shape[2] * step, max(0, stop - start - needed)
            # a network that pools over time has one position per block
            yield start if covered > inner else start + inner // 2, maps
            if stop == frames:
                return
            start += max(covered, inner + 1)

    def _maps_of_windows(self, samples):
        """As `all_maps`, for backbones: windows overlap, and positions close to their ends, where padding has more
        influence, are left out.
        """
        step, chain = self.net.frame_step, self.plain.audio.chain
        longest = max(self.longest // step * step, self.net.min_frames)
        context = min(chain.context, longest // 3) // step * step
        for start, stop, first, last in windows(self.frames(samples), longest, context):
            maps = self.net.maps(torch.from_numpy(self.spectrogram(samples, start, stop))[None].to(self.device)).float()
            first, last = (-((start - frame) // step) for frame in (first, last))  # rounded up
            yield start + first * step, maps[:, :, first:last]

    def meta(self, item: dict) -> torch.Tensor | None:
        """Metadata (rows, values) of an item of a TestFeed, or None. There are several rows only without audio."""
        return torch.from_numpy(item['meta']).to(self.device) if 'meta' in item else None

    @torch.no_grad()
    def predict(self, item: dict, blocks: Iterable[np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """{output: scores (rows, classes)} for an item of a TestFeed.

        `blocks`: the blocks of the recording, if they were computed ahead.
        """
        meta = self.meta(item)
        if not self.cfg['arch']:
            return self._finish(None, meta)
        pooling, rows = self.net.pooling() if self.split_pool else None, []
        for block in self._blocks_of(item['samples']) if blocks is None else blocks:
            maps = self.maps(block)
            rows.append(self._attention(maps))
            if self.split_pool:
                pooling.add(maps)
            else:
                rows[-1].update(self._finish(self.net.pool(maps), meta))
        outputs = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
        return {**outputs, **self._finish(pooling.result(), meta)} if self.split_pool else outputs

    @torch.no_grad()
    def embeddings(self, item: dict, blocks: Iterable[np.ndarray] | None = None) -> np.ndarray:
        """Embeddings (rows, channels) of the blocks of an item of a TestFeed: the means of the last maps with features.

        `blocks`: as for `predict`.
        """
        rows = []
        for block in self._blocks_of(item['samples']) if blocks is None else blocks:
            with torch.autocast(self.device.type, devices.amp_type(self.device), enabled=self.amp):
                rows.append(self.plain.audio.features(self._spectrogram_of(block)).float().mean((2, 3)))
        return torch.cat(rows).cpu().numpy()

    def _blocks_of(self, samples):
        for start, stop in self.blocks(samples):
            yield self.block(samples, start, stop)
            audio.release(samples)

    def _finish(self, pooled, meta):
        """Outputs for pooled maps, with one row per position for networks without pooling over time."""
        return {
            name: (o.transpose(1, 2).flatten(0, 1) if o.dim() == 3 else o).float().cpu().numpy()
            for name, o in self.net.finish(pooled, meta).items()
            if name in ('output', 'output_bg')
        }

    def _attention(self, maps):
        """{'attention': (time * frequency, maps), before the softmax over time} if `with_attention`."""
        return {'attention': maps[0, self.plain.classes :].flatten(1).T.cpu().numpy()} if self.with_attention else {}

    def prepare(
        self, feed: TestFeed, numbers: Iterable[int], threads: int, with_blocks: bool = True
    ) -> Iterator[tuple[dict, list[np.ndarray] | None]]:
        """Yields (item, blocks) of the recordings with these numbers, computed ahead in background threads.

        The blocks are None for long recordings, for metadata alone, and without `with_blocks`.
        """

        def item_and_blocks(i):
            item = feed.item(i)
            blocks = self.blocks(item['samples']) if with_blocks and 'samples' in item else None
            if blocks is None or len(blocks) > MOST_BLOCKS_AHEAD:
                return item, None
            return item, [self.block(item['samples'], start, stop) for start, stop in blocks]

        return run_ahead(item_and_blocks, numbers, threads=min(threads, 4))
