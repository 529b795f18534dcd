"""Plots of recordings: spectrogram, the most probable classes over time, attention and saliency."""

import collections
import hashlib
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from birdsong.data import stft
from birdsong.data.dataset import Dataset
from birdsong.files import Problem, read_lines, writing
from birdsong.names import most_similar
from birdsong.networks import layers
from birdsong.networks.fcn import spectrograms
from birdsong.prediction import saliency
from birdsong.prediction.predictor import Predictor

# largest number of columns in a plot
COLUMNS = 1600
# number of classes with a curve
TOP = 5
# longest name of a plot in bytes; file systems allow 255, of which a temporary file needs some
LONGEST_NAME = 200
# smallest range of the colours of a spectrogram in decibels, starting at its median
DECIBELS = 30


def known_names(dataset: Dataset, classes: int) -> list[list[str]]:
    """The lists of class names in the dataset (Latin names, class ids) with at least this number of classes.

    Classes that were added to the dataset after the training have the highest indices.
    """
    filenames = (os.path.join(dataset.path, 'labels', name) for name in ('labelset_latin', 'labelset'))
    lists = (read_lines(filename) for filename in filenames if os.path.exists(filename))
    return [names for names in lists if len(names) >= classes]


def class_names(dataset: Dataset, classes: int) -> list[str]:
    """Names of the classes in plots: Latin names or class ids if the dataset has them, else numbers."""
    return next(iter(known_names(dataset, classes)), [f'class {i}' for i in range(classes)])


def find_class(text: str, dataset: Dataset, classes: int) -> int:
    """Index of a class given by class id, Latin name, or index. Raises Problem if there is none."""
    known = [name.lower() for names in known_names(dataset, classes) for name in names[:classes]]
    if text.lower() in known:
        return known.index(text.lower()) % classes
    if text.isdecimal() and int(text) < classes:
        return int(text)
    near = most_similar(text.lower(), known)
    meant = f'; did you mean {class_names(dataset, classes)[known.index(near) % classes]}?' if near else ''
    raise Problem(f'--saliency {text}: neither a class of {dataset.name} nor an index below {classes}{meant}')


def probability_kind(cfg: dict) -> str:
    """What turns logits into probabilities, for a network trained with `cfg`: linear, exp, softmax or sigmoid."""
    if cfg['arch.prepool'] != 'none':
        return 'exp' if cfg['arch.prepool'] == 'logsoftmax' else 'linear'
    kind = cfg['arch.output']
    if kind == 'linear':
        kind = 'softmax' if 'softmax' in str(cfg['cost']) else 'sigmoid'
    return kind


def output_of(kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Function from logits (batch, classes, ...) to outputs: linear, exp, softmax or sigmoid."""
    return torch.exp if kind == 'exp' else layers.OUTPUT[kind]


def probabilities(cfg: dict) -> Callable[[torch.Tensor], torch.Tensor]:
    """Function from logits (batch, classes, ...) to probabilities, for a network that was trained with `cfg`."""
    return output_of(probability_kind(cfg))


class Columns:
    """Reduces values at the frames of a recording to their maxima in at most COLUMNS columns."""

    def __init__(self, frames: int):
        self.frames_per_column = max(1, frames / COLUMNS)
        self.rows = {}

    def add(self, rows: np.ndarray, frames: np.ndarray) -> None:
        """Add rows (n, width) at `frames` (n,), which must be ascending."""
        if not len(rows):
            return
        columns = (frames // self.frames_per_column).astype(int)
        starts = np.flatnonzero(np.diff(columns, prepend=-1))
        for column, row in zip(columns[starts].tolist(), np.maximum.reduceat(rows, starts), strict=True):
            self.rows[column] = np.maximum(self.rows[column], row) if column in self.rows else row

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(middle frames of the columns that are not empty (columns,), values (columns, width))."""
        columns = sorted(self.rows)
        return (np.array(columns) + 0.5) * self.frames_per_column, np.array([self.rows[c] for c in columns])


def plot_names(files: Sequence[str]) -> dict[str, str]:
    """Name of the plot of each recording (key), without suffix: that of the recording, with _ for /.

    Where several recordings would have the same name, or it would be too long, a digest of the key is appended.
    """
    names = {key: os.path.splitext(key)[0].replace('/', '_') for key in files}
    counts = collections.Counter(names.values())
    for key, name in names.items():
        if counts[name] > 1 or len(name.encode()) > LONGEST_NAME:
            start = name.encode()[: LONGEST_NAME - 9].decode(errors='ignore')
            names[key] = f'{start}_{hashlib.sha256(key.encode()).hexdigest()[:8]}'
    return names


@torch.no_grad()
def over_time(
    predictor: Predictor, item: dict, probability: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[Columns, Columns]:
    """Columns of the probabilities (classes) and the attention maps (maps, 0 without attention) of a recording.

    `item` is one of a TestFeed, `probability` is `probabilities` of the settings of the training.
    """
    samples, net, meta = item['samples'], predictor.plain, predictor.meta(item)
    chances, attention = (Columns(predictor.frames(samples)) for _ in range(2))
    middle = net.audio.chain.first_middle()
    for first, maps in predictor.all_maps(samples):
        frames = middle + first + net.frame_step * np.arange(maps.shape[2])
        frames = np.minimum(frames, predictor.frames(samples) - 1)
        logits = net.finish(maps[:, : net.classes].flatten(2), meta)['logits']
        chance = probability(logits).view(net.classes, *maps.shape[2:]).amax(2)
        chances.add(chance.T.cpu().numpy(), frames)
        attention.add(maps[0, net.classes :, :, 0].T.cpu().numpy(), frames)
    return chances, attention


def seconds(cfg: dict, frames: np.ndarray) -> np.ndarray:
    """Times of the middles of frames in seconds."""
    return (frames * stft.hop(cfg) + cfg['frame_len'] / 2) / cfg['sample_rate']


def attention_weights(logits: np.ndarray) -> np.ndarray:
    """The weight of each position in the scores, relative to the mean (positions,), given attention maps."""
    weights = np.exp(logits - logits.max(0))
    weights = (weights / weights.sum(0)).mean(1)
    return weights * len(weights)


class Plotter:
    """Plots the recordings `files` (keys) to files in `folder`, or shows them if `folder` is empty.

    `trained`: the settings of the training, if those of the predictor change the output.
    Raises Problem if plots are to be shown and there is no display.
    """

    def __init__(
        self,
        predictor: Predictor,
        dataset: Dataset,
        files: Sequence[str],
        folder: str,
        file_format: str = 'png',
        trained: dict | None = None,
    ):
        import matplotlib

        self.plot_names = plot_names(files)
        self.predictor, self.folder, self.file_format = predictor, folder, file_format
        self.names = class_names(dataset, predictor.plain.classes)
        self.probabilities = probabilities(trained or predictor.cfg)
        self.truth = self._labels(dataset, predictor.cfg['label_file'], dataset.labels)
        self.background = self._labels(dataset, 'bg.tsv', dataset.background)
        if folder:
            matplotlib.use('Agg')
            os.makedirs(folder, exist_ok=True)
        elif matplotlib.get_backend().lower() == 'agg':
            raise Problem('--plot: no display here; give a folder to write the plots to: --plot FOLDER')

    def _labels(self, dataset, name, read):
        """Labels of recordings if the dataset has them for the classes of the network, else {}."""
        exists = os.path.exists(os.path.join(dataset.path, 'labels', name))
        return read(name) if exists and known_names(dataset, len(self.names)) else {}

    def plot(
        self,
        item: dict,
        scores: np.ndarray,
        class_index: int | None = None,
        kind: str = saliency.DEFAULT,
        strength: Columns | None = None,
    ) -> None:
        """Plot an item of a TestFeed with scores (rows, classes), and the saliency `strength` for a class if given."""
        import matplotlib.pyplot as plt

        cfg, samples = self.predictor.cfg, item['samples']
        rate, frame_len = cfg['sample_rate'], cfg['frame_len']
        length = max(len(samples), frame_len) / rate
        parts = self._spectrogram(item), *over_time(self.predictor, item, self.probabilities)
        spect, chances, attention = (columns.result() for columns in parts)
        extent = (0, length, 0, spect[1].shape[1] * rate / frame_len / 1000)
        panels = 2 + (attention[1].shape[1] > 0) + (strength is not None)
        figure, axes = plt.subplots(panels, 1, sharex=True, figsize=(12, 2.4 * panels + 0.8), layout='constrained')

        notes = [_spectrogram_panel(axes[0], spect[1], extent)]
        axes[0].set_title(self._title(item['file']), parse_math=False)
        notes.append(self._curves(axes[1], item['file'], seconds(cfg, chances[0]), chances[1], scores, class_index))
        if attention[1].shape[1] > 0:
            notes.append(_attention_panel(axes[2], seconds(cfg, attention[0]), attention[1]))
        if strength is not None:
            notes.append(_saliency_panel(axes[-1], strength.result()[1], extent, kind))
            axes[-1].set_title(f'saliency for {self.names[class_index]}', parse_math=False)
        _time_axis(axes[-1], length)
        text = '\n'.join(textwrap.fill(note, 160) for note in notes)
        figure.supxlabel(text, x=0.01, ha='left', fontsize=8, color='dimgrey')
        if self.folder:
            name = f'{self.plot_names[item["file"]]}.{self.file_format}'
            with writing(os.path.join(self.folder, name)) as f:
                figure.savefig(f, format=self.file_format, dpi=110)
        else:
            plt.show()
        plt.close(figure)

    def _spectrogram(self, item):
        """Columns of the spectrogram (bins) of a recording."""
        samples, first = item['samples'], 0
        spect = Columns(self.predictor.frames(samples))
        for block in spectrograms(samples, self.predictor.cfg, 1):
            spect.add(block, first + np.arange(len(block)))
            first += len(block)
        return spect

    def _title(self, file):
        """Name of a recording, and its species if known."""
        text = file
        if file in self.truth:
            text += f'\ntrue species: {self.names[self.truth[file]]}'
        if self.background.get(file):
            text += f'\nin the background: {", ".join(self.names[i] for i in self.background[file])}'
        return text

    def _curves(self, panel, file, times, chances, scores, class_index):
        """Draw the probabilities (columns, classes) of the most probable classes, the true one and `class_index`."""
        if self.predictor.cfg['arch.output'] == 'linear':
            scores = self.probabilities(torch.from_numpy(scores)).numpy()
        of_recording, truth = scores.max(0), self.truth.get(file)
        truth = truth if truth is None or truth < len(of_recording) else None  # the network may not know the class
        top = list(np.argsort(-of_recording, kind='stable')[:TOP])
        others = [index for index in dict.fromkeys((truth, class_index)) if index is not None and index not in top]
        for index in top + others:
            panel.plot(
                times,
                chances[:, index],
                linewidth=2 if index == top[0] else 1,
                color='black' if index in others and index == class_index else None,
                linestyle='--' if index in others else '-',
                marker='.' if len(times) == 1 else None,
                label=f'{self.names[index]} ({of_recording[index]:.3g}){", true" if index == truth else ""}',
            )
        panel.set(ylabel='probability', ylim=(0, max(1.05 * chances[:, top + others].max(), 1e-9)))
        legend = panel.legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
        return 'Probability: the output for each position alone; in the legend, for the whole recording.'


# == Panels: each draws one part of a plot and returns the note that explains it ==


def _image(panel, values, label, extent, extend, **options):
    image = panel.imshow(values.T, origin='lower', aspect='auto', interpolation='nearest', extent=extent, **options)
    panel.figure.colorbar(image, cax=panel.inset_axes([1.01, 0, 0.015, 1]), label=label, extend=extend)
    panel.set(ylabel='frequency (kHz)')


def _spectrogram_panel(panel, magnitudes, extent):
    decibels = 20 * np.log10(np.maximum(magnitudes, 1))
    decibels -= decibels.max()
    floor = np.median(decibels)
    top = max(floor + DECIBELS, np.quantile(decibels, 0.999))
    _image(panel, decibels, 'level (dB)', extent, 'both', cmap='magma', vmin=floor, vmax=top)
    return 'Level: 0 dB is the loudest bin.'


def _attention_panel(panel, times, logits):
    panel.fill_between(times, attention_weights(logits), step='mid', alpha=0.6)
    panel.axhline(1, color='grey', linewidth=0.5)
    panel.set(ylabel='attention\n(1: even)', ylim=(0, None))
    return 'Attention: weight of each position in the scores, relative to the mean.'


def _saliency_panel(panel, strength, extent, kind):
    relative = strength / (np.quantile(strength, 0.999) or 1)
    _image(panel, relative, 'relative strength', extent, 'max', cmap='Greys', vmin=0, vmax=1)
    return f'Saliency: {saliency.KINDS[kind]}'


def _time_axis(panel, length):
    panel.set(xlabel='time (s)' if length < 120 else 'time (h:mm:ss)', xlim=(0, length))
    if length >= 120:
        panel.xaxis.set_major_formatter(lambda x, _: f'{int(x // 3600)}:{int(x // 60 % 60):02}:{int(x % 60):02}')


class Inspector:
    """Predicts like `predictor`, computes the saliency if a class is given, and plots if a plotter is given."""

    def __init__(
        self,
        predictor: Predictor,
        plotter: Plotter | None = None,
        class_index: int | None = None,
        kind: str = saliency.DEFAULT,
    ):
        self.predictor, self.plotter, self.class_index, self.kind = predictor, plotter, class_index, kind

    def predict(self, item: dict, blocks: list[np.ndarray] | None = None) -> dict:
        """As `Predictor.predict`; for a class also 'saliency', an iterator over parts (frames, bins).

        With saliency, the plot is made when that iterator ends.
        """
        outputs = self.predictor.predict(item, blocks)
        if self.class_index is not None:
            outputs['saliency'] = self._saliency(item, outputs['output'])
        elif self.plotter is not None:
            self.plotter.plot(item, outputs['output'])
        return outputs

    def _saliency(self, item, scores) -> Iterator[np.ndarray]:
        strength = Columns(self.predictor.frames(item['samples']))
        for first, gradient in saliency.of_recording(self.predictor, item, self.class_index, self.kind):
            strength.add(np.abs(gradient), np.arange(first, first + len(gradient)))
            yield gradient
        if self.plotter is not None:
            self.plotter.plot(item, scores, self.class_index, self.kind, strength)
