"""Feeds: batches for training and validation, and recordings for prediction."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from birdsong.config import Settings
from birdsong.data import audio, augment, effects, index, metadata, prefetch, sampling, soft_windows, stft, targets
from birdsong.data.dataset import Dataset
from birdsong.data.embeddings import Embeddings
from birdsong.files import Problem, open_regular

# Makes the random numbers of the feed independent of others with the same seed.
FEED_STREAM = 0xFEED
# The same for effects, so that they do not change which excerpts are drawn.
EFFECTS_STREAM = 0xEFFEC
SOFT_STREAM = 0x50F7

Batch = dict[str, np.ndarray]


def needs_host_spectrogram(cfg: Settings) -> bool:
    """Whether an augmentation of spectrograms (stretch or shift) can only be computed by the feed."""
    return bool(cfg['spect_augment'] and (cfg['max_stretch'] or cfg['max_shift']))


class Feed:
    """Base class of all feeds: the recordings of file lists, their headers, labels and metadata.

    Raises Problem for recordings that are missing, broken, of another sample rate, or without a label.
    """

    # Continues the message about a dataset of another sample rate.
    CURE_RATE = (
        'sample_rate={expected} is set; train with --var sample_rate={found}, or prepare another dataset with '
        '--sample-rate {expected}'
    )

    def __init__(
        self,
        dataset: Dataset,
        cfg: Settings,
        filelists: Sequence[str],
        on_device: bool = False,
        labelled: bool = True,
        files: Sequence[str] | None = None,
    ):
        self.dataset, self.cfg = dataset, cfg
        self.files = [key for name in filelists for key in dataset.filelist(name)] if files is None else list(files)
        self.list_path = os.path.join(dataset.path, 'filelists', ','.join(filelists)) if files is None else dataset.path
        self.with_audio = cfg['len_max'] > 0 and bool(cfg['arch'])
        self.on_device = on_device and not needs_host_spectrogram(cfg)
        # Lengths of excerpts, in samples
        self.shortest = int(cfg['len_min'] * cfg['sample_rate'])
        self.longest = int(cfg['len_max'] * cfg['sample_rate'])
        if self.longest and self.shortest > self.longest:
            raise Problem(f'len_min={cfg["len_min"]} is more than len_max={cfg["len_max"]}')
        self.hop = stft.hop(cfg)
        self.bins = stft.num_bins(cfg) if self.with_audio else 0
        self.index = self._load_index()
        if self.with_audio:
            self._check_headers()
        self.sources = metadata.sources(cfg)
        table = dataset.metadata() if self.sources else {}
        self.meta = metadata.numbers([table.get(key, {}) for key in self.files], self.sources)
        self.embeddings = self._load_embeddings()
        self.num_meta = metadata.size(cfg) + (self.embeddings.width if self.embeddings else 0)
        if labelled:
            if self.with_audio and not self.index['length'].all():
                raise Problem(
                    f'{self.list_path}: {self.files[int(self.index["length"].argmin())]} has no samples; '
                    'delete it from the list, or prepare the dataset again'
                )
            self.labels = self._labels()
            self.background = dataset.background() if cfg['cost_bg'] or cfg['mix_fg_bg'] else None
            self.segments = targets.load(dataset, cfg, self.files, self.list_path) if self.with_audio else None

    def _header(self, item: int) -> audio.Header:
        return audio.Header(*(int(self.index[name][item]) for name in audio.Header._fields))

    def _load_index(self) -> dict[str, np.ndarray]:
        # Without audio, too, because batches of metadata contain recordings of similar length, as in 2018.
        if not self.dataset.has_audio:
            if self.with_audio:
                raise Problem(
                    f'{self.dataset.path}: has no recordings (no audio/), but the network needs them (arch, len_max); '
                    'prepare the dataset without --no-audio, or use a network on metadata alone'
                )
            return index.empty_headers(len(self.files))
        try:
            return index.load_index(self.dataset.path, self.files)
        except Problem as e:
            raise Problem(f'{self.list_path}: {e}') from None

    def _check_headers(self) -> None:
        rate, channels, width = (self.index[name] for name in ('sample_rate', 'channels', 'width'))
        expected = self.cfg['sample_rate']
        if rate[0] != expected and (rate == rate[0]).all():
            cure = self.CURE_RATE.format(found=rate[0], expected=expected)
            raise Problem(f'{self.dataset.path}: its recordings have {rate[0]} Hz, but {cure}')
        wrong = (rate != expected) | (channels != 1) | (width != 2)
        if wrong.any():
            i = int(np.argmax(wrong))
            audio.check_header(self._header(i), self.dataset.audio_path(self.files[i]), expected)

    def _load_embeddings(self) -> Embeddings | None:
        setting = self.cfg['input_embeddings']
        if setting and self.cfg['arch']:
            raise Problem(
                f'input_embeddings={setting}: for networks without spectrogram branch; set arch= or leave it out'
            )
        return Embeddings(setting, self.files) if setting else None

    def _keys(self, items: np.ndarray) -> list[str]:
        return [self.files[item] for item in items.tolist()]

    def _labels(self) -> np.ndarray:
        table = self.dataset.labels(self.cfg['label_file'])
        missing = [key for key in self.files if key not in table]
        if missing:
            more = f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''
            raise Problem(
                f'{self.list_path}: {missing[0]} has no label in labels/{self.cfg["label_file"]}{more}; '
                'prepare the dataset again'
            )
        return np.array([table[key] for key in self.files], np.int64)

    def _has_changed(self, filename: str) -> Problem:
        index_file = os.path.join(self.dataset.path, index.FILENAME)
        return Problem(f'{filename}: has changed since its header was read; delete {index_file}')

    def _read(self, item: int, start: int, out: np.ndarray) -> None:
        """Fill `out` (N,) int16 with samples of a recording from `start` on; at its end, it starts again."""
        filename = self.dataset.audio_path(self.files[item])
        length = int(self.index['length'][item])
        count = min(len(out), length - start)
        if start and count < len(out):
            self._read(item, 0, out[count:])
            out = out[:count]
        try:
            with open_regular(filename, buffering=0) as f:
                if os.fstat(f.fileno()).st_size != self.index['size'][item]:
                    raise self._has_changed(filename)
                f.seek(int(self.index['offset'][item]) + 2 * start)
                done, view = 0, memoryview(out[:count]).cast('B') if count else b''
                while done < 2 * count:
                    read = f.readinto(view[done:])
                    if not read:
                        raise Problem(f'{filename}: ends early; prepare the dataset again')
                    done += read
        except OSError as e:
            raise Problem(f'{filename}: cannot be read ({e.strerror}); prepare the dataset again') from None
        if count < len(out):
            augment.loop(out, count)

    def _spectrogram(self, samples: np.ndarray, out: np.ndarray) -> None:
        cfg = self.cfg
        stft.spectrogram(samples, cfg['sample_rate'], cfg['frame_len'], cfg['fps'], out.shape[1], out=out)

    def _targets(self, items: np.ndarray, active: np.ndarray | None) -> np.ndarray:
        """The class of each recording, or, if annotated, the classes `active` in its excerpt, bool (B, classes)."""
        rows = np.zeros((len(items), self.dataset.num_classes), bool)
        rows[np.arange(len(items)), self.labels[items]] = True
        return self._with_active(rows, items, active)

    def _background_targets(self, items: np.ndarray, active: np.ndarray | None) -> np.ndarray:
        """Foreground and background classes, or the `active` ones as for `_targets`, bool (B, classes)."""
        rows = self._targets(items, None)
        for row, item in zip(rows, items.tolist(), strict=True):
            row[self.background.get(self.files[item], [])] = True
        return self._with_active(rows, items, active)

    def _with_active(self, rows, items, active):
        return rows if active is None else np.where(self.segments.annotated[items, None], active, rows)

    def _active(self, items: np.ndarray, starts: Sequence[int], length: int) -> np.ndarray | None:
        return None if self.segments is None else self.segments.active(items, starts, length)

    def batches(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Batch]:
        """Every `step`-th of the batches start..stop - 1, prepared ahead in bg_threads or bg_processes."""
        stop = len(self) if stop is None else stop
        return prefetch.run_ahead(
            self.batch, range(start, stop, step), int(self.cfg['bg_threads']), int(self.cfg['bg_processes'])
        )


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
            return rows if soft is None else soft_windows.mix_in(rows, soft[2], float(cfg['self_training_weight']))

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
            self._read(items[place], starts[place], row)
            if excerpts.extra.shifts is not None:
                row[:] = np.roll(row, excerpts.extra.shifts[place])
        if out.dtype == np.int16:
            return
        out[:] = parts[0] if weights is None else augment.mix(parts[:1], parts[1:], weights[i : i + 1])[0]
        if excerpts.extra.fades is not None:
            effects.fade(out, *excerpts.extra.fades[i].tolist())
        if excerpts.soft is not None:
            other = np.empty(length, np.int16)
            self.unlabelled._read(excerpts.soft[0][i], excerpts.soft[1][i], other)
            out[:] = soft_windows.mix_in(out, other, float(self.cfg['self_training_weight']))
        noise = excerpts.extra.noise and excerpts.extra.noise[i]
        if noise:
            *place, ratio = noise
            added = np.empty(length, np.int16)
            self.noise._read(*place, added)
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


class ValidFeed(Feed):
    """The same `len(feed)` batches in each epoch, of recordings of similar length.

    Batches have these keys of TrainFeed: 'spect' or 'samples', 'meta', 'label', 'active', 'label_bg' and 'item'.
    All excerpts of a batch have the same length: that of the shortest recording or 0.8 times that of the longest,
    whichever is longer, clipped to len_min..len_max. Shorter recordings are looped; of longer ones, the centre is used.
    """

    def __init__(self, dataset: Dataset, cfg: Settings, filelist: str = 'valid', on_device: bool = False):
        super().__init__(dataset, cfg, [filelist], on_device)
        self.batchsize = int(cfg['batchsize'])
        self.order = np.argsort(self.index['length'], kind='stable')

    def __len__(self) -> int:
        return -(-len(self.order) // self.batchsize)

    def batch(self, k: int) -> Batch:
        items = self.order[k * self.batchsize : (k + 1) * self.batchsize]
        batch, active = {}, None
        if self.with_audio:
            starts, length = self._cut(items)
            active = self._active(items, starts, length)
            batch = self._audio(items, starts, length)
        if self.num_meta:
            batch['meta'] = metadata.encode(self.meta[items], self.cfg)
        if self.embeddings:
            batch['meta'] = np.concatenate([batch['meta'], self.embeddings.central(self._keys(items))], axis=1)
        batch['label'] = self.labels[items]
        if active is not None:
            batch['active'] = self._targets(items, active).astype(np.float32)
        if self.background is not None:
            batch['label_bg'] = self._background_targets(items, active)
        batch['item'] = items.astype(np.int64)
        return batch

    def _cut(self, items: np.ndarray) -> tuple[list[int], int]:
        """Starts and length of the excerpts in samples."""
        lengths = self.index['length'][items]
        length = max(lengths[0], int(0.8 * lengths[-1]))
        length = int(min(max(length, self.shortest), self.longest))
        return (np.maximum(lengths - length, 0) // 2).tolist(), length

    def _audio(self, items: np.ndarray, starts: list[int], length: int) -> Batch:
        places = list(zip(items.tolist(), starts, strict=True))
        if self.on_device:
            samples = np.empty((len(items), length), np.int16)
            for row, place in zip(samples, places, strict=True):
                self._read(*place, row)
            return {'samples': samples}
        frames = stft.num_frames(length, self.cfg['frame_len'], self.hop)
        spect = np.empty((len(items), frames, self.bins), np.float32)
        samples = np.empty(length, np.int16)
        for row, place in zip(spect, places, strict=True):
            self._read(*place, samples)
            self._spectrogram(samples, row)
        return {'spect': spect}


class TestFeed(Feed):
    """Whole recordings, one at a time, in the order of the lists. No labels are needed.

    `filelists`: names of lists, as a list or comma-separated; `files`: keys of recordings to use instead.

    `.item(i)` is a dict of 'file': the key; 'samples': int16 (N,), a read-only memory map, or, if shorter than len_min
    seconds, an array with the looped recording (absent if len_max=0 or without arch); 'meta': float32 (1, D), with
    input_meta, or (rows, D), with a row for each embedding of the recording.
    """

    __test__ = False  # not a test of pytest

    CURE_RATE = (
        'the model was trained at {expected} Hz; prepare another dataset with --sample-rate {expected}, or predict '
        'with a model that was trained at {found} Hz'
    )

    def __init__(
        self,
        dataset: Dataset,
        cfg: Settings,
        filelists: str | Sequence[str] = 'valid',
        files: Sequence[str] | None = None,
    ):
        names = filelists.split(',') if isinstance(filelists, str) else list(filelists)
        super().__init__(dataset, cfg, names, labelled=False, files=files)

    def __len__(self) -> int:
        return len(self.files)

    def item(self, i: int) -> dict[str, str | np.ndarray]:
        item = {'file': self.files[i]}
        if self.with_audio:
            if self.index['length'][i] < self.shortest:
                item['samples'] = np.empty(self.shortest, np.int16)
                self._read(i, 0, item['samples'])
            else:
                item['samples'] = self._mapped(i)
        if self.num_meta:
            item['meta'] = metadata.encode(self.meta[i : i + 1], self.cfg)
        if self.embeddings:
            rows = self.embeddings.rows(self.files[i])
            item['meta'] = np.concatenate([item['meta'].repeat(len(rows), axis=0), rows], axis=1)
        return item

    def _mapped(self, i: int) -> np.ndarray:
        filename = self.dataset.audio_path(self.files[i])
        try:
            if os.stat(filename).st_size == self.index['size'][i]:
                return audio.map_samples(filename, self._header(i))
        except OSError as e:
            raise Problem(f'{filename}: cannot be read ({e.strerror}); prepare the dataset again') from None
        raise self._has_changed(filename)
