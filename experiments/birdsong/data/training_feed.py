"""The feed for training: batches of random excerpts, with augmentation, mixtures and targets."""

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from birdsong.config import Settings
from birdsong.data import augment, effects, metadata, sampling, soft_windows, stft
from birdsong.data.dataset import Dataset
from birdsong.data.feeds import Batch, Feed, needs_host_spectrogram
from birdsong.files import Problem

# Makes the random numbers of the feed independent of others with the same seed.
FEED_STREAM = 0xFEED
# The same for effects, so that they do not change which excerpts are drawn.
EFFECTS_STREAM = 0xEFFEC
SOFT_STREAM = 0x50F7
# Lists that evaluate networks
HELD_OUT = ('valid', 'test', 'soundscapes_val', 'soundscapes_test')


class Excerpts(NamedTuple):
    """The random choices for the audio of a batch of B excerpts."""

    items: list[int]  # indices of recordings: B, or 2 B if excerpts are mixed in pairs (i, B + i)
    starts: list[int]  # of the excerpts, in samples
    length: int  # samples of each excerpt
    weights: np.ndarray | None  # (B,): of the first excerpt of each pair
    stretch: np.ndarray | None  # (B,): factors of duration
    shift: np.ndarray | None  # (B,): factors of frequency
    filters: np.ndarray | None  # (B, bins): factors of the magnitudes
    extra: effects.Effects = effects.Effects()
    soft: tuple[list[int], list[int], np.ndarray] | None = None  # recordings, starts, targets (B each), see SoftWindows

    @property
    def dtype(self) -> type:
        """Type of the samples: int16 if they are those of the recordings."""
        return np.float32 if self.weights is not None or self.soft or self.extra.change_samples else np.int16


class TrainFeed(Feed):
    """Batches of random excerpts. `batch(k)` depends on (cfg['seed'], k) only.

    The recordings of a batch have similar lengths, and all recordings are equally likely unless class_balance is set.
    A batch of B excerpts and C classes is a dict of
        'spect': float32 (B, frames, bins). Absent if len_max=0 or without arch. With `on_device`, unless
            needs_host_spectrogram(cfg), it is replaced by
        'samples': int16 (B, N), float32 after mixing, with fade or noise; and, with random filters or gain_db,
        'filter': float32 (B, bins), factors of the magnitudes
        'masks': int32 (B, masks, 4), with time_masks or freq_masks: rectangles that the network hides, see
            effects.draw_masks
        'meta': float32 (B, D), with input_meta, then the embeddings, with input_embeddings
        'label': int64 (B,)
        'label_bg': bool (B, C), foreground and background classes, with cost_bg or mix_fg_bg
        'mixed_label': float32 (B, C), with mixup2 or `soft`
        'active': float32 (B, C) instead, with segment_targets if there are annotated recordings: for these, the classes
            that are active in the excerpt; also in 'label_bg'
        'pseudo_label': float32 (B, C)
        'weight': float32 (B,), with class_weights or quality_weights
        'item': int64 (B,), positions in the file list
    With mixup, everything except the audio belongs to the first excerpt of each pair. With mixup2, 'active', 'label_bg'
    (then float32), 'pseudo_label' and 'weight' are mixed, too.

    `pseudo_labels`: function that returns 'pseudo_label' for positions in the file list (B,), if there are any. `soft`:
    windows of unlabelled recordings, of which one is mixed into each excerpt, and its targets into 'mixed_label' or
    'active', with the weight self_training_weight.
    """

    def __init__(
        self,
        dataset: Dataset,
        cfg: Settings,
        filelist: str = 'train',
        on_device: bool = False,
        pseudo_labels: Callable[[np.ndarray], np.ndarray] | None = None,
        soft: soft_windows.SoftWindows | None = None,
    ):
        super().__init__(dataset, cfg, [filelist], on_device)
        if cfg['mixup'] and cfg['mixup2']:
            raise Problem('mixup and mixup2 exclude each other; set one of them to 0')
        self.batchsize = int(cfg['batchsize'])
        lengths = self.index['length']
        self.shortest = min(self.shortest, self.longest)
        self.buckets = augment.make_buckets(lengths, self.shortest, self.longest, int(cfg['len_buckets']))
        self.drawn = self.batchsize * (2 if self.with_audio and (cfg['mixup'] or cfg['mixup2']) else 1)
        self.shares = sampling.recording_shares(cfg, self.labels, self.drawn)
        smallest = min(len(bucket) for bucket in self.buckets)
        if self.shares is None and smallest < self.drawn:
            sys.stderr.write(
                f'{self.list_path}: a group of recordings of similar length has only {smallest} of the {self.drawn} '
                'that a batch needs: drawn with replacement\n'
            )
        if self.with_audio and max(self.shortest, lengths.min()) < cfg['frame_len']:
            raise Problem(
                f'{self.list_path}: {self.files[int(lengths.argmin())]} is shorter than one frame of '
                f'{cfg["frame_len"]} samples; raise len_min'
            )
        self.noise = self._noise_feed() if self.with_audio and cfg['noise'] != '' else None
        self.weights = sampling.example_weights(cfg, dataset, self.files, self.labels)
        self.pseudo_labels = pseudo_labels
        self.soft = soft
        self.unlabelled = Feed(dataset, cfg, [], labelled=False, files=soft.files) if soft else None

    def _noise_feed(self) -> Feed:
        """The recordings of the list `noise`."""
        effects.ratio_range(self.cfg['noise_snr'])
        name = str(self.cfg['noise'])
        if name in HELD_OUT:
            raise Problem(f'noise={name}: recordings of this list must not be used in training; name another list')
        if not os.path.exists(os.path.join(self.dataset.path, 'filelists', name)):
            raise Problem(
                f'noise={name}: {self.dataset.path}/filelists has no such list; put recordings without classes into a '
                'folder noise/ of the source and prepare the dataset again, or leave noise empty'
            )
        return Feed(self.dataset, self.cfg, [name], labelled=False)

    def __len__(self) -> int:
        return int(self.cfg['epochs']) * int(self.cfg['epochsize'])

    def _generator(self, stream: int, k: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(np.random.SeedSequence(int(self.cfg['seed']), spawn_key=(stream, k)))
        )

    def batch(self, k: int) -> Batch:
        """Batch number k, the same in every call."""
        cfg = self.cfg
        rng = self._generator(FEED_STREAM, k)
        if self.shares is None:
            items = augment.draw_items(self.buckets, self.drawn, rng)
        else:
            items = sampling.draw_by_share(self.buckets, self.shares, self.drawn, rng)
        first = items[: self.batchsize]
        batch = {}
        weights = active = soft = None
        mixed = bool(cfg['mixup2']) and self.with_audio
        used = items if mixed else first  # the recordings whose targets are used
        if self.with_audio:
            excerpts = self._draw_effects(self._draw_excerpts(items, rng), self._generator(EFFECTS_STREAM, k))
            excerpts = self._draw_soft(excerpts, self._generator(SOFT_STREAM, k))
            soft = excerpts.soft
            weights = excerpts.weights
            active = self._active(used, excerpts.starts[: len(used)], excerpts.length)
            batch = self._samples(excerpts) if self.on_device else self._spectrograms(excerpts)
            if excerpts.extra.masks is not None:
                batch['masks'] = excerpts.extra.masks
        if self.num_meta:
            batch['meta'] = metadata.encode(metadata.distort(self.meta[first], cfg, rng), cfg)
        if self.embeddings:
            batch['meta'] = np.concatenate([batch['meta'], self.embeddings.drawn(self._keys(first), rng)], axis=1)
        batch['label'] = self.labels[first]

        def target(rows):
            return augment.mix(rows[: self.batchsize], rows[self.batchsize :], weights) if mixed else rows

        def with_soft(rows):
            return rows if soft is None else augment.mix(rows, soft[2], 1 - cfg['self_training_weight'])

        if active is not None:
            batch['active'] = with_soft(target(self._targets(used, active)).astype(np.float32))
        elif mixed or soft is not None:
            batch['mixed_label'] = with_soft(target(self._targets(used, None)))
        if self.background is not None:
            batch['label_bg'] = with_soft(target(self._background_targets(used, active)))
        if self.pseudo_labels is not None:
            batch['pseudo_label'] = target(self.pseudo_labels(used))
        if self.weights is not None:
            batch['weight'] = target(self.weights[used])
        batch['item'] = first.astype(np.int64)
        return batch

    def _draw_excerpts(self, items: np.ndarray, rng: np.random.Generator) -> Excerpts:
        cfg, count = self.cfg, self.batchsize
        lengths = self.index['length'][items]
        length = augment.excerpt_length(lengths, self.shortest, self.longest)
        starts = augment.draw_starts(lengths, length, rng)
        if self.segments is not None:
            starts = self.segments.aim(starts, items, lengths, length, rng)
        weights = augment.mixing_weights(cfg, count, rng)
        stretch = shift = filters = None
        if needs_host_spectrogram(cfg):
            stretch = 1 + cfg['max_stretch'] * (2 * rng.random(count) - 1)
            shift = 1 + cfg['max_shift'] * (2 * rng.random(count) - 1)
        if cfg['spect_augment'] and cfg['max_db']:
            filters = augment.draw_filters(count, self.bins, cfg['mel_max'], cfg['max_db'], rng)
        return Excerpts(items.tolist(), starts.tolist(), length, weights, stretch, shift, filters)

    def _draw_effects(self, excerpts: Excerpts, rng: np.random.Generator) -> Excerpts:
        """The excerpts with random effects."""
        cfg, filters, shifts = self.cfg, excerpts.filters, None
        if cfg['time_shift']:
            shifts = effects.draw_shifts(self.index['length'][excerpts.items], excerpts.length, rng)
        bands = self.bins if cfg['filterbank'] == 'none' else int(cfg['mel_bands'])
        noise_lengths = None if self.noise is None else self.noise.index['length']
        drawn = effects.draw(cfg, self.batchsize, self._frames(excerpts), bands, noise_lengths, rng)
        if drawn.gains is not None:
            gains = np.repeat(drawn.gains[:, None], self.bins, 1)
            filters = gains if filters is None else filters * gains
        return excerpts._replace(filters=filters, extra=drawn._replace(shifts=shifts))

    def _draw_soft(self, excerpts: Excerpts, rng: np.random.Generator) -> Excerpts:
        """The excerpts with the windows of unlabelled recordings to mix in."""
        if self.soft is None:
            return excerpts
        lengths, rate = self.unlabelled.index['length'], int(self.cfg['sample_rate'])
        return excerpts._replace(soft=self.soft.draw(self.batchsize, excerpts.length, rate, lengths, rng))

    def _frames(self, excerpts: Excerpts) -> int:
        """Number of frames that the network gets."""
        frames = stft.num_frames(excerpts.length, self.cfg['frame_len'], self.hop)
        return frames if excerpts.stretch is None else augment.kept_frames(frames, self.cfg['max_stretch'])

    def _fill(self, out: np.ndarray, excerpts: Excerpts, i: int) -> None:
        """Fill `out` (N,) with the samples of excerpt number i, mixed with those of its pair if there are weights."""
        items, starts, length, weights = excerpts[:4]
        parts = np.empty((1 if weights is None else 2, length), np.int16) if out.dtype == np.float32 else out[None]
        for row, place in zip(parts, range(i, len(items), self.batchsize), strict=True):
            self.read(items[place], starts[place], row)
            if excerpts.extra.shifts is not None:
                row[:] = np.roll(row, excerpts.extra.shifts[place])
        if out.dtype == np.int16:
            return
        out[:] = parts[0] if weights is None else augment.mix(parts[:1], parts[1:], weights[i : i + 1])[0]
        if excerpts.extra.fades is not None:
            effects.fade(out, *excerpts.extra.fades[i].tolist())
        if excerpts.soft is not None:
            other = np.empty(length, np.int16)
            self.unlabelled.read(excerpts.soft[0][i], excerpts.soft[1][i], other)
            out[:] = augment.mix(out, other, 1 - self.cfg['self_training_weight'])
        noise = excerpts.extra.noise and excerpts.extra.noise[i]
        if noise:
            *place, ratio = noise
            added = np.empty(length, np.int16)
            self.noise.read(*place, added)
            effects.add_noise(out, added, ratio)

    def _samples(self, excerpts: Excerpts) -> Batch:
        samples = np.empty((self.batchsize, excerpts.length), excerpts.dtype)
        for i, row in enumerate(samples):
            self._fill(row, excerpts, i)
        return {'samples': samples} if excerpts.filters is None else {'samples': samples, 'filter': excerpts.filters}

    def _spectrograms(self, excerpts: Excerpts) -> Batch:
        cfg, stretch = self.cfg, excerpts.stretch
        frames, kept = stft.num_frames(excerpts.length, cfg['frame_len'], self.hop), self._frames(excerpts)
        if stretch is not None:
            wide = augment.needed_bins(self.bins, cfg['max_shift'], cfg['frame_len'] // 2 + 1)
            spect = np.empty((frames, wide), np.float32)
        if not kept:
            raise Problem(f'max_stretch={cfg["max_stretch"]} leaves no frame of an excerpt of {frames}; raise len_min')
        samples = np.empty(excerpts.length, excerpts.dtype)
        rows = np.empty((self.batchsize, kept, self.bins), np.float32)
        for i, row in enumerate(rows):
            self._fill(samples, excerpts, i)
            if stretch is None:
                self._spectrogram(samples, row)
            else:
                self._spectrogram(samples, spect)
                augment.stretch_shift(spect, stretch[i], excerpts.shift[i], row, int(cfg['spline_order']))
            if excerpts.filters is not None:
                row *= excerpts.filters[i]
        return {'spect': rows}
