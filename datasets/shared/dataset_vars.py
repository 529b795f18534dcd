"""dataset.vars, the settings that belong to a dataset: its sample rate, and the means of its metadata."""

import os

from birdsong import config
from birdsong.data.audio import read_header
from birdsong.files import Problem, read_lines
from shared.dataset import walk
from shared.tables import write_if_changed


def vars_file(dataset: str) -> str:
    """The settings of a dataset's folder; it may be missing."""
    return os.path.join(dataset, 'dataset.vars')


def sample_rate(dataset: str) -> int:
    """Sample rate in Hz of the recordings of a dataset's folder. Raises Problem for invalid settings."""
    filename = vars_file(dataset)
    return int(config.load([filename] if os.path.exists(filename) else [])['sample_rate'])


def update_vars(dataset: str, settings: dict[str, str | int | None]) -> bool:
    """Set settings in dataset.vars, or remove those that are None; other lines stay. Returns whether it changed."""
    filename = vars_file(dataset)
    lines = read_lines(filename) if os.path.exists(filename) else []
    others = [line for line in lines if line.partition('=')[0].strip() not in settings]
    known = [f'{name}={value}' for name, value in settings.items() if value is not None]
    return write_if_changed(filename, ''.join(f'{line}\n' for line in known + others))


def check_audio_rate(dataset: str, rate: int) -> None:
    """Raise Problem if the recordings in audio/ of a dataset's folder, judged by the first one, have another rate."""
    audio = os.path.join(dataset, 'audio')
    paths = (path for path in walk(audio) if path.endswith('.wav') and not os.path.basename(path).startswith('.'))
    path = next(paths, None) if os.path.isdir(audio) else None
    try:
        found = read_header(path).sample_rate if path else rate
    except Problem:  # a broken recording; validate.py reports it
        return
    if found != rate:
        cure = f'choose another --dataset NAME, or delete {audio} to convert everything again, or give'
        raise Problem(f'{path}: has {found} Hz instead of {rate} Hz; {cure} --sample-rate {found}')
