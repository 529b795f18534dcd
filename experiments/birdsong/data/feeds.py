"""The batches that training, validation and prediction are fed with. Needs no torch."""

import os
import sys

import numpy as np

from birdsong.data import audio, augment, index, metadata, prefetch, stft
from birdsong.files import Problem, open_regular

# Parts the feed's random numbers from others of the same seed.
FEED_STREAM = 0xFEED


def needs_host_spectrogram(cfg):
    """Whether an augmentation acts on spectrograms in a way that only the feed can do (stretch and shift)."""
    return bool(cfg['spect_augment'] and (cfg['max_stretch'] or cfg['max_shift']))


class Feed:
    """What the feeds share: the recordings of a list, their lengths, labels and metadata.

    Raises Problem, before anything long, for recordings that are missing, broken, or of another sample rate, and
    for those without a label.
    """

    def __init__(self, dataset, cfg, filelists, on_device=False, labelled=True, files=None):
        self.dataset, self.cfg = dataset, cfg
        self.files = [key for name in filelists for key in dataset.filelist(name)] if files is None else list(files)
        self.list_path = os.path.join(dataset.path, 'filelists', ','.join(filelists)) if files is None else dataset.path
        self.with_audio = cfg['len_max'] > 0 and bool(cfg['arch'])
        self.on_device = on_device and not needs_host_spectrogram(cfg)
        self.shortest = int(cfg['len_min'] * cfg['sample_rate'])
        self.longest = int(cfg['len_max'] * cfg['sample_rate'])
        if self.longest and self.shortest > self.longest:
            raise Problem(f'len_min={cfg["len_min"]} is more than len_max={cfg["len_max"]}')
        self.step = stft.hop(cfg)
        self.bins = stft.num_bins(cfg)
        try:
            self.index = index.load_index(dataset.path, self.files)
        except Problem as e:
            raise Problem(f'{self.list_path}: {e}') from None
        if self.with_audio:
            self._check_headers()
        self.sources = metadata.sources(cfg)
        self.num_meta = metadata.size(cfg)
        if self.sources:
            table = dataset.metadata()
            self.meta = metadata.numbers([table.get(key, {}) for key in self.files], self.sources)
        if labelled:
            if self.with_audio and not self.index['length'].all():
                raise Problem(
                    f'{self.list_path}: {self.files[int(self.index["length"].argmin())]} has no samples; delete it from the list, or prepare the data set again'
                )
            self.labels = self._labels()
            self.background = dataset.background() if cfg['cost_bg'] or cfg['mix_fg_bg'] else None

    def _check_headers(self):
        wrong = (
            (self.index['sample_rate'] != self.cfg['sample_rate'])
            | (self.index['channels'] != 1)
            | (self.index['width'] != 2)
        )
        if wrong.any():
            i = int(np.argmax(wrong))
            header = audio.Header(*(int(self.index[name][i]) for name in audio.Header._fields))
            audio.check_header(header, self.dataset.audio_path(self.files[i]), self.cfg['sample_rate'])

    def _labels(self):
        table = self.dataset.labels(self.cfg['label_file'])
        without = [key for key in self.files if key not in table]
        if without:
            raise Problem(
                '{}: {} has no label in labels/{}{}; prepare the data set again'.format(
                    self.list_path,
                    without[0],
                    self.cfg['label_file'],
                    ' (and %d more)' % (len(without) - 1) if len(without) > 1 else '',
                )
            )
        return np.array([table[key] for key in self.files], np.int64)

    def _read(self, item, start, out):
        """Fills `out` (N,) int16 with the recording's samples from `start` on, looped if it has fewer."""
        filename = self.dataset.audio_path(self.files[item])
        length = int(self.index['length'][item])
        count = min(len(out), length - start)
        try:
            with open_regular(filename, buffering=0) as f:
                if os.fstat(f.fileno()).st_size != self.index['size'][item]:
                    raise Problem(
                        f'{filename}: has changed since its header was read; delete {os.path.join(self.dataset.path, index.FILENAME)}'
                    )
                f.seek(int(self.index['offset'][item]) + 2 * start)
                done, view = 0, memoryview(out[:count]).cast('B') if count else b''
                while done < 2 * count:
                    done += f.readinto(view[done:]) or self._cut_short(filename)
        except OSError as e:
            raise Problem(f'{filename}: cannot be read ({e.strerror}); prepare the data set again') from None
        if count < len(out):
            augment.loop(out, count)

    def _cut_short(self, filename):
        raise Problem(f'{filename}: ends early; prepare the data set again')

    def _audio(self, items, starts, length, batch):
        """Adds the excerpts to a batch: 'samples', or 'spect' computed straight into its rows."""
        if self.on_device:
            batch['samples'] = np.empty((len(items), length), np.int16)
            for row, item, start in zip(batch['samples'], items.tolist(), starts.tolist()):
                self._read(item, start, row)
            return
        cfg = self.cfg
        frames = stft.num_frames(length, cfg['frame_len'], self.step)
        batch['spect'] = np.empty((len(items), frames, self.bins), np.float32)
        samples = np.empty(length, np.int16)
        for row, item, start in zip(batch['spect'], items.tolist(), starts.tolist()):
            self._read(item, start, samples)
            stft.spectrogram(samples, cfg['sample_rate'], cfg['frame_len'], cfg['fps'], self.bins, out=row)

    def _one_hot(self, items):
        targets = np.zeros((len(items), self.dataset.num_classes), np.float32)
        targets[np.arange(len(items)), self.labels[items]] = 1
        return targets

    def _background_targets(self, items):
        """Foreground and background classes as a bool (B, classes)."""
        targets = np.zeros((len(items), self.dataset.num_classes), bool)
        for row, item in zip(targets, items.tolist()):
            row[self.background.get(self.files[item], [])] = True
            row[self.labels[item]] = True
        return targets

    def batches(self, start=0, stop=None, step=1):
        """Iterates over batch(start)..batch(stop - 1), each step-th, prepared ahead in bg_threads or bg_processes."""
        stop = len(self) if stop is None else stop
        return prefetch.run_ahead(
            self.batch, range(start, stop, step), int(self.cfg['bg_threads']), int(self.cfg['bg_processes'])
        )


class TrainFeed(Feed):
    """Random excerpts: `batch(k)` is a pure function of (cfg['seed'], k).

    Recordings of similar length share a batch; each has the same chance. A batch is a dict: 'spect' float32
    (B, frames, bins), or, with `on_device`, 'samples' int16 (B, N) (float32 after mixup) and, if there are random
    filters, 'filter' float32 (B, bins), factors for the magnitudes; neither if len_max=0 or there is no arch.
    Stretch and shift need the spectrogram here: then it is 'spect' in any case. 'meta' float32 (B, D); 'label'
    int64 (B,); 'label_bg' bool (B, C); 'pseudo_label', 'mixed_label' float32 (B, C); 'weight' float32 (B,);
    'item' int64 (B,), places in the file list. With mixup, all but the samples stems from the first excerpts; with
    mixup2, 'label_bg' (then float32), 'pseudo_label' and 'weight' are mixed as 'mixed_label' is.

    `pseudo_labels`: function of indices into the file list (B,) that gives 'pseudo_label'; without it there is none.
    """

    def __init__(self, dataset, cfg, filelist='train', on_device=False, pseudo_labels=None):
        super().__init__(dataset, cfg, [filelist], on_device)
        if cfg['mixup'] and cfg['mixup2']:
            raise Problem('mixup and mixup2 exclude each other; set one of them to 0')
        self.batchsize = int(cfg['batchsize'])
        lengths = self.index['length']
        self.shortest = min(self.shortest, self.longest)
        self.buckets = augment.make_buckets(lengths, self.shortest, self.longest, int(cfg['len_buckets']))
        self.drawn = self.batchsize * (2 if self.with_audio and (cfg['mixup'] or cfg['mixup2']) else 1)
        least = min(len(bucket) for bucket in self.buckets)
        if least < self.drawn:
            sys.stderr.write(
                f'{self.list_path}: {int(least)} recordings of similar length are fewer than the {int(self.drawn)} of a batch: drawn with replacement\n'
            )
        if self.with_audio and max(self.shortest, lengths.min()) < cfg['frame_len']:
            raise Problem(
                f'{self.list_path}: {self.files[int(lengths.argmin())]} is shorter than one frame of {int(cfg["frame_len"])} samples; raise len_min'
            )
        self.weights = class_weights(cfg, self.labels, dataset.num_classes)
        self.pseudo = pseudo_labels

    def batch(self, k):
        """Batch number k, whoever asks and in whatever order."""
        cfg = self.cfg
        rng = np.random.Generator(
            np.random.Philox(np.random.SeedSequence(int(cfg['seed']), spawn_key=(FEED_STREAM, k)))
        )
        items = augment.draw_items(self.buckets, self.drawn, rng)
        first = items[: self.batchsize]
        batch = {}
        weights = None
        if self.with_audio:
            lengths = self.index['length'][items]
            length = augment.excerpt_length(lengths, self.shortest, self.longest)
            starts = augment.draw_starts(lengths, length, rng)
            weights = augment.mixing_weights(cfg, len(first), rng)
            self._augmented_audio(items, starts, length, weights, batch, rng)
        if self.sources:
            batch['meta'] = metadata.encode(metadata.distort(self.meta[first], cfg, rng), cfg)
        batch['label'] = self.labels[first]
        if cfg['mixup2'] and weights is not None:

            def target(function):
                return augment.mix(function(first), function(items[self.batchsize :]), weights)

            batch['mixed_label'] = target(self._one_hot)
        else:

            def target(function):
                return function(first)

        if self.background is not None:
            batch['label_bg'] = target(self._background_targets)
        if self.pseudo is not None:
            batch['pseudo_label'] = target(self.pseudo)
        if self.weights is not None:
            batch['weight'] = target(self.weights.__getitem__)
        batch['item'] = first.astype(np.int64)
        return batch

    def __len__(self):
        return int(self.cfg['epochs']) * int(self.cfg['epochsize'])

    def _augmented_audio(self, items, starts, length, weights, batch, rng):
        cfg, count = self.cfg, self.batchsize
        spectral = bool(cfg['spect_augment'])
        stretch = shift = filters = None
        if needs_host_spectrogram(cfg):
            stretch = 1 + cfg['max_stretch'] * (2 * rng.random(count) - 1)
            shift = 1 + cfg['max_shift'] * (2 * rng.random(count) - 1)
        if spectral and cfg['max_db']:
            filters = augment.draw_filters(count, self.bins, cfg['mel_max'], cfg['max_db'], rng)
        items, starts = items.tolist(), starts.tolist()
        if self.on_device:
            dtype = np.int16 if weights is None else np.float32
            rows = batch['samples'] = np.empty((count, length), dtype)
        else:
            frames = stft.num_frames(length, cfg['frame_len'], self.step)
            kept = augment.kept_frames(frames, cfg['max_stretch']) if stretch is not None else frames
            if not kept:
                raise Problem(
                    f'max_stretch={cfg["max_stretch"]} leaves no frame of an excerpt of {int(frames)}; raise len_min'
                )
            rows = batch['spect'] = np.empty((count, kept, self.bins), np.float32)
            samples = np.empty(length, np.int16)
        if weights is not None:
            pair = np.empty((2, length), np.int16)
        for i, row in enumerate(rows):
            if weights is not None:
                self._read(items[i], starts[i], pair[0])
                self._read(items[count + i], starts[count + i], pair[1])
                samples = augment.mix(pair[:1], pair[1:], weights[i : i + 1])[0]
            elif self.on_device:
                self._read(items[i], starts[i], row)
                continue
            else:
                self._read(items[i], starts[i], samples)
            if self.on_device:
                row[:] = samples
            elif stretch is None:
                self._spectrogram(samples, row)
            else:
                wide = augment.needed_bins(self.bins, cfg['max_shift'], cfg['frame_len'] // 2 + 1)
                spect = np.empty((frames, wide), np.float32)
                self._spectrogram(samples, spect)
                augment.stretch_shift(spect, stretch[i], shift[i], row, int(cfg['spline_order']))
            if filters is not None and not self.on_device:
                row *= filters[i]
        if filters is not None and self.on_device:
            batch['filter'] = filters

    def _spectrogram(self, samples, out):
        cfg = self.cfg
        stft.spectrogram(samples, cfg['sample_rate'], cfg['frame_len'], cfg['fps'], out.shape[1], out=out)


class ValidFeed(Feed):
    """Fixed batches of recordings of similar length: `len(feed)` of them, the same keys as in TrainFeed, of which
    only 'spect' or 'samples', 'meta', 'label', 'label_bg' and 'item'.

    All of a batch get one length: the longer of the shortest and of 0.8 times the longest, clipped to
    len_min..len_max; shorter ones are looped, longer ones cut to their centre.
    """

    def __init__(self, dataset, cfg, filelist='valid', on_device=False):
        super().__init__(dataset, cfg, [filelist], on_device)
        self.batchsize = int(cfg['batchsize'])
        self.order = np.argsort(self.index['length'], kind='stable')

    def __len__(self):
        return -(-len(self.order) // self.batchsize)

    def batch(self, k):
        """Batch number k of len(self)."""
        items = self.order[k * self.batchsize : (k + 1) * self.batchsize]
        batch = {}
        if self.with_audio:
            lengths = self.index['length'][items]
            length = max(lengths[0], int(0.8 * lengths[-1]))
            length = int(min(max(length, self.shortest), self.longest))
            self._audio(items, np.maximum(lengths - length, 0) // 2, length, batch)
        if self.sources:
            batch['meta'] = metadata.encode(self.meta[items], self.cfg)
        batch['label'] = self.labels[items]
        if self.background is not None:
            batch['label_bg'] = self._background_targets(items)
        batch['item'] = items.astype(np.int64)
        return batch


class TestFeed(Feed):
    """Whole recordings, one at a time, in the order of the lists; no labels are needed.

    `filelists`: names, a list or separated by commas; `files`: keys of recordings to take instead.

    `.item(i)` -> {'file': key, 'samples': int16 (N,), a read-only memory map, looped to len_min seconds if
    shorter; absent if len_max=0 or there is no arch; 'meta': float32 (D,) if there is input_meta}.
    """

    __test__ = False

    def __init__(self, dataset, cfg, filelists='valid', files=None):
        names = filelists.split(',') if isinstance(filelists, str) else list(filelists)
        super().__init__(dataset, cfg, names, labelled=False, files=files)

    def __len__(self):
        return len(self.files)

    def item(self, i):
        """What there is of recording number i."""
        item = {'file': self.files[i]}
        if self.with_audio:
            length = int(self.index['length'][i])
            if length < self.shortest:
                item['samples'] = np.empty(self.shortest, np.int16)
                self._read(i, 0, item['samples'])
            else:
                item['samples'] = self._mapped(i)
        if self.sources:
            item['meta'] = metadata.encode(self.meta[i : i + 1], self.cfg)[0]
        return item

    def _mapped(self, i):
        filename = self.dataset.audio_path(self.files[i])
        header = audio.Header(*(int(self.index[name][i]) for name in audio.Header._fields))
        try:
            if os.stat(filename).st_size == self.index['size'][i]:
                return audio.map_samples(filename, header)
        except OSError as e:
            raise Problem(f'{filename}: cannot be read ({e.strerror}); prepare the data set again') from None
        raise Problem(
            f'{filename}: has changed since its header was read; delete {os.path.join(self.dataset.path, index.FILENAME)}'
        )


def class_weights(cfg, labels, num_classes):
    """float32 (N,): weight of each training item, or None unless class_weights=google:BETA is set.

    ((p_mean / p_c) (1 - p_c) / (1 - p_mean))^BETA, p_c being the share of the item's class in the list.
    """
    if not cfg['class_weights']:
        return None
    beta = float(cfg['class_weights'].partition(':')[2])
    share = np.bincount(labels, minlength=num_classes) / len(labels)
    mean = share.mean()
    own = share[labels]
    with np.errstate(divide='ignore', invalid='ignore'):
        weights = ((mean / own) * (1 - own) / (1 - mean)) ** beta
    # With a single class all weigh the same.
    return np.nan_to_num(weights, nan=1, posinf=1).astype(np.float32)
