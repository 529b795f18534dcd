"""Feeds: recordings of a dataset with their labels and metadata, batches for validation, recordings for prediction.

The batches for training are in training_feed.py.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from birdsong.config import Settings
from birdsong.data import audio, augment, index, metadata, prefetch, stft, targets
from birdsong.data.dataset import Dataset
from birdsong.data.embeddings import Embeddings
from birdsong.files import Problem, open_regular

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

    def read(self, item: int, start: int, out: np.ndarray) -> None:
        """Fill `out` (N,) int16 with samples of a recording from `start` on; at its end, it starts again."""
        filename = self.dataset.audio_path(self.files[item])
        length = int(self.index['length'][item])
        count = min(len(out), length - start)
        if start and count < len(out):
            self.read(item, 0, out[count:])
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
                self.read(*place, row)
            return {'samples': samples}
        frames = stft.num_frames(length, self.cfg['frame_len'], self.hop)
        spect = np.empty((len(items), frames, self.bins), np.float32)
        samples = np.empty(length, np.int16)
        for row, place in zip(spect, places, strict=True):
            self.read(*place, samples)
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
                self.read(i, 0, item['samples'])
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
