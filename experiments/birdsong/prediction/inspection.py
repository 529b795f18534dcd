"""Inspecting a network: scores at every frame, plots, and the bins that move the score of a class."""

import os
import textwrap

import numpy as np
import torch

from birdsong.data import stft
from birdsong.data.dataset import Dataset
from birdsong.files import Problem, read_lines, writing
from birdsong.names import most_similar
from birdsong.networks import layers
from birdsong.networks.fcn import spectrograms
from birdsong.prediction.saliency import saliency

# columns of a plot; longer recordings are reduced to so many
COLUMNS = 1600
# classes with a curve of their own
TOP = 5
# decibels that the colours of a spectrogram span at least, from its median on
DECIBELS = 30
# kinds of saliency, and how to read them
SALIENCY = {
    'gradient-times-magnitude': 'gradient of the score with respect to each bin, times its magnitude. '
    'Dark: the score would change most if the sound in the bin were a little louder or softer.',
    'gradient': 'gradient of the score with respect to the magnitude of each bin. '
    'Dark: the score would change most if a little were added to the bin, which with a logarithm is in silence.',
    'guided': 'guided backpropagation: the gradient of the score, passed on through the network only where it is positive. '
    'Dark: the score would rise most if a little were added to the bin, which with a logarithm is in silence.',
}


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
    near = most_similar(text.lower(), known)
    meant = f'; did you mean {class_names(dataset, classes)[known.index(near) % classes]}?' if near else ''
    raise Problem(f'--saliency {text}: neither a class of {dataset.name} nor an index below {classes}{meant}')


def probabilities(cfg: dict):
    """Function from logits (batch, classes, ...) to the probabilities that a network trained with `cfg` means by them."""
    if cfg['arch.prepool'] != 'none':
        return torch.exp if cfg['arch.prepool'] == 'logsoftmax' else lambda scores: scores
    kind = cfg['arch.output']
    if kind == 'linear':
        kind = 'softmax' if 'softmax' in str(cfg['cost']) else 'sigmoid'
    return layers.OUTPUT[kind]


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
        return (np.array(columns) + 0.5) * self.share, np.array([self.rows[c] for c in columns])


def windows(frames: int, longest: int, context: int):
    """Yields (start, stop, first, last): windows of `longest` frames of a recording, and the frames of each that are its own.

    Those have `context` frames before and after them in the window, except at the ends of the recording.
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


class Inspector:
    """Predicts as `predictor` does, and plots, and computes saliency for class number `index` unless it is None.

    `trained`: settings that the network was trained with, where those of the predictor change its output.
    """

    def __init__(
        self, predictor, dataset, index=None, folder=None, kind='png', saliency=next(iter(SALIENCY)), trained=None
    ):
        self.predictor, self.index, self.folder, self.kind, self.saliency = predictor, index, folder, kind, saliency
        self.names = class_names(dataset, predictor.plain.classes)
        self.probabilities = probabilities(trained or predictor.cfg)
        if folder is not None:
            self.truth = self._labels(dataset, predictor.cfg['label_file'], dataset.labels)
            self.background = self._labels(dataset, 'bg.tsv', dataset.background)
            import matplotlib

            if folder:
                matplotlib.use('Agg')
                os.makedirs(folder, exist_ok=True)
            elif matplotlib.get_backend().lower() == 'agg':
                raise Problem('--plot: no display here; name a folder to write the plots to: --plot FOLDER')

    def _labels(self, dataset, name, read):
        """Labels of recordings if the dataset has some for the classes of the network, else {}."""
        there = os.path.exists(os.path.join(dataset.path, 'labels', name))
        return read(name) if there and known_names(dataset, len(self.names)) else {}

    def __call__(self, item, blocks=None):
        """As `Predictor.predict`, with 'saliency', an iterator over parts (frames, bins), if there is a class.

        The plot is made before the function returns, or before that iterator ends.
        """
        outputs = self.predictor.predict(item, blocks)
        if self.index is not None:
            outputs['saliency'] = self._gradients(item, outputs['output'])
        elif self.folder is not None:
            self._plot(item, outputs['output'])
        return outputs

    def _gradients(self, item, scores):
        frames, net = self.predictor.frames(item['samples']), self.predictor.plain
        strength = Columns(frames)
        for start, stop, first, last in windows(frames, self.predictor.longest, net.min_frames + net.frame_step):
            spect = torch.from_numpy(self.predictor.spectrogram(item['samples'], start, stop))[None]
            spect = spect.to(self.predictor.device)
            _, gradient = saliency(net, spect, self.index, self.predictor.meta(item), guided=self.saliency == 'guided')
            if self.saliency == 'gradient-times-magnitude':
                gradient = gradient * spect
            gradient = gradient[0, first - start : last - start].cpu().numpy()
            strength.add(np.abs(gradient), np.arange(first, last))
            yield gradient
        if self.folder is not None:
            self._plot(item, scores, strength)

    @torch.no_grad()
    def _listen(self, item):
        """Columns of the spectrogram (bins), of the probabilities (classes), and of the attention maps (K) of a recording."""
        predictor, samples = self.predictor, item['samples']
        net, meta = predictor.plain, predictor.meta(item)
        spect, chances, attention = (Columns(predictor.frames(samples)) for _ in range(3))
        middle, first = _first_middle(net), 0
        for block in spectrograms(samples, predictor.cfg, 1):
            spect.add(block, first + np.arange(len(block)))
            first += len(block)
        for first, maps in predictor.all_maps(samples):
            frames = middle + first + net.frame_step * np.arange(maps.shape[2])
            frames = np.minimum(frames, predictor.frames(samples) - 1)
            logits = net.finish(maps[:, : net.classes].flatten(2), meta)['logits']
            chance = self.probabilities(logits).view(net.classes, *maps.shape[2:]).amax(2)
            chances.add(chance.T.cpu().numpy(), frames)
            attention.add(maps[0, net.classes :, :, 0].T.cpu().numpy(), frames)
        return spect, chances, attention

    def _recording_chances(self, scores):
        """Probability of each class for a recording of scores (rows, classes): the highest of its rows."""
        if self.predictor.cfg['arch.output'] == 'linear':
            scores = self.probabilities(torch.from_numpy(scores)).numpy()
        return scores.max(0)

    def _title(self, file):
        """Name of a recording, and its species where they are known."""
        text = file
        if file in self.truth:
            text += f'\ntrue species: {self.names[self.truth[file]]}'
        if self.background.get(file):
            text += f'\nin the background: {", ".join(self.names[i] for i in self.background[file])}'
        return text

    def _plot(self, item, scores, strength=None):
        """Spectrogram, the most probable classes over time, attention and saliency as far as there are such."""
        import matplotlib.pyplot as plt

        cfg, samples = self.predictor.cfg, item['samples']
        spect, chances, attention = (columns.result() for columns in self._listen(item))
        with_attention = attention[1].shape[1] > 0
        panels = 2 + with_attention + (strength is not None)
        figure, axes = plt.subplots(panels, 1, sharex=True, figsize=(12, 2.4 * panels + 0.8), layout='constrained')
        rate, frame_len = cfg['sample_rate'], cfg['frame_len']
        seconds = max(len(samples), frame_len) / rate
        notes = [
            'Level: 0 dB is the loudest bin.',
            'Probability: the output for each position alone; in the legend, for the whole recording.',
        ]

        def times(frames):
            return (frames * stft.hop(cfg) + frame_len / 2) / rate

        def picture(panel, values, label, extend, **options):
            image = panel.imshow(
                values.T,
                origin='lower',
                aspect='auto',
                interpolation='nearest',
                extent=(0, seconds, 0, spect[1].shape[1] * rate / frame_len / 1000),
                **options,
            )
            figure.colorbar(image, cax=panel.inset_axes([1.01, 0, 0.015, 1]), label=label, extend=extend)
            panel.set(ylabel='frequency (kHz)')

        decibels = 20 * np.log10(np.maximum(spect[1], 1))
        decibels -= decibels.max()
        floor = np.median(decibels)
        picture(
            axes[0],
            decibels,
            'level (dB)',
            'both',
            cmap='magma',
            vmin=floor,
            vmax=max(floor + DECIBELS, np.quantile(decibels, 0.999)),
        )
        axes[0].set(title=self._title(item['file']))
        self._curves(axes[1], item['file'], times(chances[0]), chances[1], self._recording_chances(scores))
        if with_attention:
            weights = np.exp(attention[1] - attention[1].max(0))
            weights = (weights / weights.sum(0)).mean(1)
            axes[2].fill_between(times(attention[0]), weights * len(weights), step='mid', alpha=0.6)
            axes[2].axhline(1, color='grey', linewidth=0.5)
            axes[2].set(ylabel='attention\n(1: even)', ylim=(0, None))
            notes.append('Attention: weight of each position in the scores, relative to the mean.')
        if strength is not None:
            strength = strength.result()[1]
            picture(
                axes[-1],
                strength / (np.quantile(strength, 0.999) or 1),
                'relative strength',
                'max',
                cmap='Greys',
                vmin=0,
                vmax=1,
            )
            axes[-1].set(title=f'saliency for {self.names[self.index]}')
            notes.append(f'Saliency: {SALIENCY[self.saliency]}')
        axes[-1].set(xlabel='time (s)' if seconds < 120 else 'time (h:mm:ss)', xlim=(0, seconds))
        if seconds >= 120:
            axes[-1].xaxis.set_major_formatter(lambda x, _: f'{int(x // 3600)}:{int(x // 60 % 60):02}:{int(x % 60):02}')
        figure.supxlabel(
            '\n'.join(textwrap.fill(note, 160) for note in notes), x=0.01, ha='left', fontsize=8, color='dimgrey'
        )
        if self.folder:
            name = os.path.splitext(item['file'])[0].replace('/', '_')
            with writing(os.path.join(self.folder, f'{name}.{self.kind}')) as f:
                figure.savefig(f, format=self.kind, dpi=110)
        else:
            plt.show()
        plt.close(figure)

    def _curves(self, panel, file, seconds, chances, of_recording):
        """Probabilities (columns, classes) of the most probable classes, the true one and that of the saliency."""
        truth = self.truth.get(file)
        top = list(np.argsort(-of_recording, kind='stable')[:TOP])
        others = [index for index in dict.fromkeys((truth, self.index)) if index is not None and index not in top]
        for index in top + others:
            panel.plot(
                seconds,
                chances[:, index],
                linewidth=2 if index == top[0] else 1,
                color='black' if index in others and index == self.index else None,
                linestyle='--' if index in others else '-',
                marker='.' if len(seconds) == 1 else None,
                label=f'{self.names[index]} ({of_recording[index]:.3g}){", true" if index == truth else ""}',
            )
        panel.set(ylabel='probability', ylim=(0, max(1.05 * chances[:, top + others].max(), 1e-9)))
        panel.legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)


def _first_middle(net):
    """The frame in the middle of what the first position of the maps looks at."""
    middle, step = 0, 1
    for size, stride, padded in net.audio.chain.steps:
        middle, step = middle + (0 if padded else (size - 1) / 2 * step), step * stride
    return middle
