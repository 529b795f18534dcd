"""The state of models: finished, running, waiting, failed, interrupted or free. Needs no torch."""

import datetime
import os
import re
import statistics
import subprocess

from birdsong.config import EXPERIMENTS
from birdsong.files import Problem, load_npz
from birdsong.model_table import Model, teachers_of
from birdsong.training import provenance
from birdsong.training.schedule import COLUMNS

# exit statuses of claim.sh --status
HELD, FREE, STALE, FAILED, FINISHED, PUBLISHED = 0, 1, 3, 4, 5, 6


def claim(action: str, result: str) -> tuple[int, str]:
    """Exit status and first line of the output of claim.sh for a result; claim.sh is not run if there is no claim."""
    if not os.path.exists(result + '.lock'):
        return FREE, 'free'
    command = [os.path.join(EXPERIMENTS, 'claim.sh'), action, result + '.lock']
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return answer.returncode, (answer.stdout.splitlines() or [''])[0]


def last_lines(filename: str, count: int) -> list[str]:
    """The last `count` lines of a log, or fewer; none if it cannot be read."""
    try:
        with open(filename, 'rb') as f:
            f.seek(max(0, os.path.getsize(filename) - 8192))
            return f.read().decode('utf-8', 'replace').strip().splitlines()[-count:]
    except OSError:
        return []


def last_line(filename: str) -> str:
    """Last line of a log, empty if there is none."""
    return ''.join(last_lines(filename, 1))


def metrics_of(root: str) -> list[dict]:
    """The metrics of each epoch in ROOT.run.json or, if it contains none (older versions), in ROOT.err.npz.

    Entries of the record that are not as `provenance.Record` writes them are left out.
    """
    metrics = provenance.read(root + '.run.json').get('metrics')
    metrics = [row for row in metrics if _is_epoch(row)] if isinstance(metrics, list) else []
    if metrics:
        return metrics
    try:
        stored = load_npz(root + '.err.npz')
        errors = stored['errors'] if 'errors' in stored else stored['arr_0']  # files of 2018 have no names
    except (Problem, KeyError):
        return []
    columns = [str(name) for name in stored.get('columns', COLUMNS)]
    rows = errors.tolist() if errors.ndim == 2 else []
    return [{'epoch': number, **dict(zip(columns, row, strict=False))} for number, row in enumerate(rows, 1)]


def _is_epoch(row):
    """Whether an entry has the number of an epoch, and otherwise only numbers or None."""
    good = isinstance(row, dict) and isinstance(row.get('epoch'), int)
    return good and all(value is None or isinstance(value, (int, float)) for value in row.values())


def progress(root: str, now: datetime.datetime | None = None) -> str:
    """Progress of the training whose files begin with `root`: epoch, metrics, learning rate, duration, expected end."""
    epochs = metrics_of(root)
    if not epochs:
        return 'no epoch finished yet'
    last = epochs[-1]
    values = [f'{name.replace("_", " ")} {last[name]:.4f}' for name in COLUMNS if last.get(name) is not None]
    words = f'epoch {last["epoch"]} ({", ".join(values)})'
    if last.get('seconds') is None or last.get('rate') is None:
        return words
    pace = statistics.median_high(epoch.get('seconds') or 0 for epoch in epochs[-9:])
    words += f', rate {last["rate"]:.3g}, {span(pace)} per epoch'
    settings = provenance.read(root + '.run.json').get('settings')
    settings = settings if isinstance(settings, dict) else {}
    planned = settings.get('epochs')
    left = planned - last['epoch'] if isinstance(planned, int) else 0
    if left > 0:
        end = (now or datetime.datetime.now()) + datetime.timedelta(seconds=pace * left)
        words += f', ends {"by" if settings.get("patience") else "about"} {end:%Y-%m-%d %H:%M}'
    return words


def span(seconds: float) -> str:
    """90 -> '1.5 min'"""
    for size, unit in ((3600, 'h'), (60, 'min')):
        if seconds >= size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.1f} s'


def reached(root: str) -> str:
    """The MAP of a finished model for excerpts of the validation recordings; empty if unknown."""
    epochs = metrics_of(root)
    saved = provenance.read(root + '.run.json').get('saved_epoch')
    epoch = saved if isinstance(saved, int) and saved else len(epochs)
    value = epochs[epoch - 1].get('valid_map') if 0 < epoch <= len(epochs) else None
    return '' if value is None else f'MAP of excerpts {value:.3f} after epoch {epoch} of {len(epochs)}'


def state_of(model: Model, folder: str) -> tuple[str, str]:
    """State of a model and details."""
    root = os.path.join(folder, model.name)
    code, words = claim('--status', root + '.npz')
    if os.path.exists(root + '.npz'):
        return 'finished', '; '.join(filter(None, (reached(root), predictions_of(root))))
    if code == HELD:
        return 'running', f'{re.sub("^held by ", "on ", words)}; {progress(attempt(root))}'
    if code == FAILED:
        reason = last_line(root + '.log')
        return 'failed', f'{reason}; see {root}.log' if reason else words
    if code in (FINISHED, PUBLISHED):
        return 'finished', ''
    teachers = [os.path.join(folder, name + '.npz') for name in teachers_of(model)]
    missing = [
        os.path.basename(teacher)[:-4] + (', which failed' if claim('--status', teacher)[0] == FAILED else '')
        for teacher in teachers
        if not os.path.exists(teacher)
    ]
    if missing:
        return 'waiting', f'for {", ".join(missing)}'
    if words == 'free':
        return 'free', ''
    return 'interrupted', f'{words}; {progress(attempt(root))}'


def predictions_of(root: str) -> str:
    """State of the predictions of a finished model; empty if they are finished, too."""
    if os.path.exists(root + '.pred.npz'):
        return ''
    code, holder = claim('--status', root + '.pred.npz')
    if code == HELD:
        return f'predictions: {holder}'
    if code == FAILED:
        return f'predictions failed: {last_line(root + ".pred.log") or holder}'
    return 'no predictions yet'


def attempt(root: str) -> str:
    """Like `root`, but in the folder of the latest attempt."""
    return os.path.join(claim('--work', root + '.npz')[1], os.path.basename(root))
