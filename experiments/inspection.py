"""What a network hears in recordings: scores at every frame, plots, and the bins that speak for a class."""
import difflib
import os

import numpy as np
import torch

import audio
import inference
from data import Dataset
from fcn import spectrograms, to_fcn
from files import Problem, read_lines, writing

# columns of a plot; longer recordings are reduced to so many
COLUMNS = 1600
# classes with a curve of their own
TOP = 5
# decibels that the colours of a spectrogram span at least, from its median on
DECIBELS = 30


def known_names(dataset: Dataset, classes: int) -> list[list[str]]:
    """The lists of names that the dataset has for the classes of a network: Latin names, class ids; maybe none."""
    filenames = (os.path.join(dataset.path, 'labels', name) for name in ('labelset_latin', 'labelset'))
    lists = (read_lines(filename) for filename in filenames if os.path.exists(filename))
    return [names for names in lists if len(names) == classes]


def class_names(dataset: Dataset, classes: int) -> list[str]:
    """What to call the classes of a network in a plot: Latin names or class ids where the dataset has such."""
    return next(iter(known_names(dataset, classes)), [f'class {i}' for i in range(classes)])


def find_class(text: str, dataset: Dataset, classes: int) -> int:
    """Index of a class given by class id, Latin name, or index. Raises Problem if there is none."""
    known = [name.lower() for names in known_names(dataset, classes) for name in names]
    if text.lower() in known:
        return known.index(text.lower()) % classes
    if text.isdecimal() and int(text) < classes:
        return int(text)
    near = difflib.get_close_matches(text.lower(), known, 1)
    meant = f'; did you mean {class_names(dataset, classes)[known.index(near[0]) % classes]}?' if near else ''
    raise Problem(f'--saliency {text}: neither a class of {dataset.name} nor an index below {classes}{meant}')


def full_resolution(predictor, window, own_step):
    """Function of an item: {'output': iterator over its scores (n, classes) at every frame}, of which row i is what the network
    says of the `window` seconds that begin at frame i, or at i times the network's own step."""
    converted = to_fcn(predictor.plain, window, predictor.plain.frame_step if own_step else 1)
    print(converted.describe())

    def outputs(item, _=None):
        return {'output': (scores['output'] for _, scores in converted.recording(item['samples'], predictor.meta(item)))}
    return outputs


class Columns:
    """Rows at frames of a recording, reduced to the maxima in at most COLUMNS columns."""

    def __init__(self, frames):
        self.share = max(1, frames / COLUMNS)
        self.rows = {}

    def add(self, rows, frames):
        """rows: (n, width); frames: (n,), ascending."""
        if not len(rows):
            return
        columns = (frames // self.share).astype(int)
        starts = np.flatnonzero(np.diff(columns, prepend=-1))
        for column, row in zip(columns[starts].tolist(), np.maximum.reduceat(rows, starts)):
            self.rows[column] = np.maximum(self.rows[column], row) if column in self.rows else row

    def result(self):
        """(frames (columns,) of the middles of the columns that hold something, rows (columns, width))."""
        columns = sorted(self.rows)
        return (np.array(columns) + .5) * self.share, np.array([self.rows[c] for c in columns])


class Inspector:
    """Predicts as `predictor` does, and plots, and computes guided gradients for class number `index` unless it is None."""

    def __init__(self, predictor, dataset, index=None, folder=None, kind='png'):
        self.predictor, self.index, self.folder, self.kind = predictor, index, folder, kind
        self.names = class_names(dataset, predictor.plain.classes)
        if folder is not None:
            import matplotlib
            if folder:
                matplotlib.use('Agg')
                os.makedirs(folder, exist_ok=True)
            elif matplotlib.get_backend().lower() == 'agg':
                raise Problem('--plot: no display here; name a folder to write the plots to: --plot FOLDER')

    def __call__(self, item, blocks=None):
        """As `Predictor.predict`, with 'saliency', an iterator over guided gradients (frames, bins), if there is a class.

        The plot is made before the function returns, or before that iterator ends.
        """
        outputs = self.predictor.predict(item, blocks)
        if self.index is not None:
            outputs['saliency'] = self._gradients(item, outputs['output'])
        elif self.folder is not None:
            self._plot(item, outputs['output'])
        return outputs

    def _gradients(self, item, scores):
        strength, first = Columns(self.predictor.frames(item['samples'])), 0
        for start, stop in self.predictor.blocks(item['samples'], overlap=False):
            spect = torch.from_numpy(self.predictor.spectrogram(item['samples'], start, stop))[None].to(self.predictor.device)
            _, gradient = inference.saliency(self.predictor.plain, spect, self.index, self.predictor.meta(item))
            gradient = gradient[0, :stop - start].cpu().numpy()
            strength.add(np.abs(gradient), first + np.arange(len(gradient)))
            first += len(gradient)
            yield gradient
        if self.folder is not None:
            self._plot(item, scores, strength)

    def _listen(self, samples):
        """Columns of the spectrogram (bins), of the class maps (classes), and of the attention maps (K) of a recording."""
        predictor = self.predictor
        spect, logits, attention = (Columns(predictor.frames(samples)) for _ in range(3))
        step, classes = predictor.plain.frame_step, predictor.plain.classes
        middle, first = _first_middle(predictor.plain), 0
        for block in spectrograms(samples, predictor.cfg, 1):
            spect.add(block, first + np.arange(len(block)))
            first += len(block)
        for first, maps in predictor.all_maps(samples):
            maps = maps[0].cpu().numpy()
            frames = np.minimum(middle + first + step * np.arange(maps.shape[1]), predictor.frames(samples) - 1)
            logits.add(maps[:classes].max(2).T, frames)
            attention.add(maps[classes:, :, 0].T, frames)
        return spect, logits, attention

    def _plot(self, item, scores, strength=None):
        """Spectrogram, the classes with the highest scores over time, attention and saliency as far as there are such."""
        import matplotlib.pyplot as plt
        cfg, samples = self.predictor.cfg, item['samples']
        spect, logits, attention = (columns.result() for columns in self._listen(samples))
        scores = scores.max(0)
        shown = list(np.argsort(-scores, kind='stable')[:TOP])
        if self.index is not None and self.index not in shown:
            shown.append(self.index)
        with_attention = attention[1].shape[1] > 0
        panels = 2 + with_attention + (strength is not None)
        figure, axes = plt.subplots(panels, 1, sharex=True, figsize=(12, 2.4 * panels + .4), layout='constrained')
        rate, frame_len = cfg['sample_rate'], cfg['frame_len']
        seconds = max(len(samples), frame_len) / rate

        def times(frames):
            return (frames * audio.hop(cfg) + frame_len / 2) / rate
        picture = dict(origin='lower', aspect='auto', extent=(0, seconds, 0, spect[1].shape[1] * rate / frame_len / 1000), interpolation='nearest')
        decibels = 20 * np.log10(np.maximum(spect[1], 1)).T
        floor = np.median(decibels)
        axes[0].imshow(decibels, cmap='magma', vmin=floor, vmax=max(floor + DECIBELS, np.quantile(decibels, .999)), **picture)
        axes[0].set(title=item['file'], ylabel='frequency (kHz)')
        for index in shown:
            axes[1].plot(times(logits[0]), logits[1][:, index], linewidth=2 if index == shown[0] else 1,
                         color='black' if index == self.index and index not in shown[:TOP] else None,
                         label='%s (%.3g)' % (self.names[index], scores[index]))
        axes[1].set(ylabel='class map\n(before pooling)')
        axes[1].legend(loc='center left', bbox_to_anchor=(1, .5), frameon=False, title='highest score')
        if with_attention:
            weights = np.exp(attention[1] - attention[1].max(0))
            weights = (weights / weights.sum(0)).mean(1)
            axes[2].fill_between(times(attention[0]), weights * len(weights), step='mid', alpha=.6)
            axes[2].axhline(1, color='grey', linewidth=.5)
            axes[2].set(ylabel='attention\n(1: even)', ylim=(0, None))
        if strength is not None:
            strength = strength.result()[1]
            axes[-1].imshow(strength.T, cmap='Greys', vmin=0, vmax=np.quantile(strength, .999) or 1, **picture)
            axes[-1].set(ylabel='frequency (kHz)', title='guided gradients for %s' % self.names[self.index])
        axes[-1].set(xlabel='time (s)' if seconds < 120 else 'time (h:mm:ss)', xlim=(0, seconds))
        if seconds >= 120:
            axes[-1].xaxis.set_major_formatter(lambda x, _: '%d:%02d:%02d' % (x // 3600, x // 60 % 60, x % 60))
        if self.folder:
            name = os.path.splitext(item['file'])[0].replace('/', '_')
            with writing(os.path.join(self.folder, '%s.%s' % (name, self.kind))) as f:
                figure.savefig(f, format=self.kind, dpi=110)
        else:
            plt.show()
        plt.close(figure)


def _first_middle(net):
    """The frame in the middle of what the first position of the maps looks at."""
    middle, step = 0, 1
    for size, stride, padded in net.audio.steps:
        middle, step = middle + (0 if padded else (size - 1) / 2 * step), step * stride
    return middle
