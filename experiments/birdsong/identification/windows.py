"""The windows of recordings, and what the settings of the networks say about them. Needs no torch."""

from collections.abc import Sequence

import numpy as np

from birdsong import config
from birdsong.data import stft
from birdsong.data.dataset import Dataset
from birdsong.files import Problem
from birdsong.findings import calibration
from birdsong.identification.choice import Choice, Member


def settings_of(member: Member, dataset: Dataset, assignments: Sequence[str] = ()) -> config.Settings:
    """The settings of a trained model, overridden by KEY=VALUE. Raises Problem if it has more classes than the dataset.

    The settings tell the kind of its outputs; `Ensemble` makes the network return logits.
    """
    cfg = config.load([f'{member.filename}.vars'], assignments)
    if cfg['input_embeddings']:
        raise Problem(f'{member.filename}: needs embeddings, which are not computed here; name others with --model')
    cfg['classes'] = cfg.get('classes') or dataset.num_classes
    if cfg['classes'] > dataset.num_classes:
        raise Problem(
            f'{member.filename}: a model of {cfg["classes"]} classes, but dataset {dataset.name} has '
            f'{dataset.num_classes}; choose the dataset that it was trained on'
        )
    return cfg


class Windows:
    """How recordings are cut: `window` and `hop` in seconds, by default what the networks were trained on.

    The last window ends with the recording; it is left out if it is shorter than `shortest` seconds, the shortest
    excerpt of the training. Shorter recordings have one window, in which they are repeated.
    """

    def __init__(self, settings: Sequence[config.Settings], window: float | None = None, hop: float | None = None):
        with_audio = [cfg for cfg in settings if cfg['arch']]
        if not with_audio:
            raise Problem('the models use metadata alone; choose at least one that needs audio, with --model or --run')
        rates = sorted({cfg['sample_rate'] for cfg in settings if cfg['arch']})
        if len(rates) > 1:
            raise Problem(f'the models were trained at {rates[0]} and {rates[1]} Hz; choose models of one sample rate')
        self.rate = rates[0]
        self.window = min(cfg['len_max'] for cfg in with_audio) if window is None else window
        self.hop = self.window if hop is None else hop
        if not 0 < self.hop <= self.window:
            raise Problem(f'--hop={self.hop:g}: more than 0 and at most the window, {self.window:g} s')
        self.shortest = min(self.window, max(cfg['len_min'] for cfg in with_audio))
        self.trained = f'{min(c["len_min"] for c in with_audio):g} to {max(c["len_max"] for c in with_audio):g} s'

    def describe(self) -> str:
        """The window and the hop, for the user."""
        return f'windows of {self.window:g} s every {self.hop:g} s; trained on excerpts of {self.trained}'

    def cut(self, length: int, frame_len: int, hop: int) -> list[tuple[int, int]]:
        """Windows (start, stop) in spectrogram frames of `frame_len` samples every `hop` samples, of a recording.

        They are counted in samples, because all networks of an ensemble must get the same number of windows.
        """
        frames = max(1, stft.num_frames(length, frame_len, hop))
        starts, stops = (np.rint(samples / hop).astype(int).tolist() for samples in self._spans(length))
        starts = [min(start, frames - 1) for start in starts]
        return [(start, max(min(stop, frames), start + 1)) for start, stop in zip(starts, stops, strict=True)]

    def times(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts and stops (n,) of the windows of a recording of `length` samples, in seconds."""
        starts, stops = self._spans(length)
        return starts / self.rate, stops / self.rate

    def _spans(self, length):
        """Starts and stops of the windows, in samples."""
        step, longest, shortest = (round(seconds * self.rate) for seconds in (self.hop, self.window, self.shortest))
        starts = np.arange(0, max(1, length - shortest + 1), step)
        return starts, np.minimum(starts + longest, length)


def kind_of(choice: Choice, settings: Sequence[config.Settings]) -> str:
    """What turns the combined scores into outputs. Raises Problem if the models have different outputs."""
    if choice.softmax:
        return calibration.OUTPUTS
    kinds = [calibration.SOFTMAX if cfg['arch.output'] == 'softmax' else calibration.SIGMOID for cfg in settings]
    if len(set(kinds)) > 1:
        one = choice.members[kinds.index(calibration.SOFTMAX)].name
        other = choice.members[kinds.index(calibration.SIGMOID)].name
        raise Problem(f'{one} was trained with arch.output=softmax, {other} with sigmoids; choose models of one kind')
    return kinds[0]
