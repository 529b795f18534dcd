"""The state of a training run between epochs: arrays and a description, in one file without pickle.

A run that continues from a state gives the same result as one without interruption.
"""

import hashlib
import json
import os
from typing import Any

import numpy as np

from birdsong import config
from birdsong.data.dataset import Dataset
from birdsong.files import Problem, load_npz, save_npz

FORMAT = 1
# Settings that only affect how long to train and what to write.
DURATION = ('epochs', 'patience', 'trials_of_patience', 'save', 'first_params_log')
# Settings that may differ between a state and a run. `bins` follows from the shapes of the arrays.
MAY_DIFFER = {*config.INDIFFERENT, *DURATION, 'bins'}

Groups = dict[str, dict[str, np.ndarray]]


def fingerprint(dataset: Dataset, cfg: dict[str, Any]) -> str:
    """Short digest of the lists and labels of a dataset that training with the settings `cfg` reads."""
    digest = hashlib.sha256()
    lists = ['train', 'valid', *filter(None, [str(cfg['noise'])])]
    labels = ['labelset', 'fg.tsv', 'bg.tsv', 'meta.tsv', *(['segments.tsv'] if cfg['segment_targets'] else [])]
    tables = ['recordings.tsv'] if cfg['quality_weights'] else []
    for folder, names in (('filelists', lists), ('labels', labels), ('', tables)):
        for name in names:
            path = os.path.join(dataset.path, folder, name)
            if os.path.exists(path):
                with open(path, 'rb') as f:
                    digest.update(f'{name} {os.path.getsize(path)}\n'.encode() + f.read())
    return digest.hexdigest()[:16]


def save(filename: str, arrays: Groups, **description: Any) -> None:
    """Write a state: arrays by group and name, and a description, which must be convertible to JSON."""
    flat = {
        f'{group}|{name}': np.asarray(value) for group, members in arrays.items() for name, value in members.items()
    }
    flat['description'] = np.array(json.dumps(dict(description, format=FORMAT)))
    save_npz(filename, flat)


def restart(filename: str) -> str:
    """The cure in messages: what to delete (the state, or the claim that it is in) to train from scratch."""
    claimed = os.path.dirname(filename) == os.environ.get('CLAIM_WORK')
    return f'delete {filename.removesuffix(".state") + ".npz.lock" if claimed else filename} to train from scratch'


def load(filename: str, anyway: bool = False, **expected: Any) -> tuple[Groups, dict[str, Any], list[str]]:
    """Arrays and description of a state, as given to `save`, and its `differences` from `expected`.

    Raises Problem if the file is damaged or has another format, or, unless `anyway`, if there are differences.
    """
    flat = load_npz(filename, cure=restart(filename))
    try:
        description = json.loads(str(flat.pop('description')))
    except (KeyError, ValueError):
        raise Problem(f'{filename}: not the state of a training run; {restart(filename)}') from None
    if description.get('format') != FORMAT:
        raise Problem(f'{filename}: its format was {description.get("format")}, now {FORMAT}; {restart(filename)}')
    differing = differences(description, expected)
    if differing and not anyway:
        more = f' and {len(differing) - 4} more' if len(differing) > 4 else ''
        raise Problem(
            f'{filename}: does not fit this run: {"; ".join(differing[:4])}{more}; use what it was started with, or '
            f'{restart(filename)}, or add --continue-anyway: then no single command reproduces the result'
        )
    arrays = {}
    for key, value in flat.items():
        group, _, name = key.partition('|')
        arrays.setdefault(group, {})[name] = value
    return arrays, description, differing


def differences(description: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Differences of a description from `expected`, one line per item, without the settings in MAY_DIFFER.

    Settings that are missing, because they were added after the state was written, have their defaults, which change
    nothing.
    """
    found, defaults = [], config.load()
    may_differ = MAY_DIFFER
    if expected.get('settings', {}).get('eta_schedule') == 'cosine':
        may_differ = MAY_DIFFER - {'epochs'}  # the learning rate of all updates depends on it
    for key, now in expected.items():
        then = description.get(key)
        if isinstance(now, dict):
            then = then if isinstance(then, dict) else {}
            for k in sorted((set(then) | set(now)) - may_differ):
                before, after = (settings.get(k, defaults.get(k, 'unset')) for settings in (then, now))
                if before != after:
                    found.append(f'{k}={before}, now {after}')
        elif then != now:
            found.append(f'{key} was {then}, now {now}')
    return found
