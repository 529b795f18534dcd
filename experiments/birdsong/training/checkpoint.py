"""The state of a training run between epochs: arrays and a description, in one file without pickle.

A resumed run equals an uninterrupted one. A state that doesn't fit the command is refused, saying what differs,
unless the user wants to continue anyway.
"""

import hashlib
import json
import os

import numpy as np

from birdsong.files import Problem, load_npz, save_npz

FORMAT = 1
# settings that don't change the result, and `bins`, which the arrays themselves say
INDIFFERENT = {'bg_threads', 'bg_processes', 'bins'}
# settings that only say how long to go on, and what to write of it
DURATION = ('epochs', 'patience', 'trials_of_patience', 'save', 'first_params_log')


def fingerprint(dataset, lists=('train', 'valid')):
    """Short digest of what a data set's lists and labels say."""
    digest = hashlib.sha256()
    for folder, names in (('filelists', lists), ('labels', ('labelset', 'fg.tsv', 'bg.tsv', 'meta.tsv'))):
        for name in names:
            path = os.path.join(dataset.path, folder, name)
            if os.path.exists(path):
                with open(path, 'rb') as f:
                    digest.update(('%s %d\n' % (name, os.path.getsize(path))).encode() + f.read())
    return digest.hexdigest()[:16]


def save(filename, arrays, **description):
    """Write a state; `arrays` is a dict of dicts of arrays by group name, `description` must be writable as JSON."""
    flat = {
        f'{group}|{name}': np.asarray(value) for group, members in arrays.items() for name, value in members.items()
    }
    flat['description'] = np.array(json.dumps(dict(description, format=FORMAT)))
    save_npz(filename, flat)


def restart(filename: str) -> str:
    """What to do to train from scratch in spite of a state, in words: under a claim, the user sees the claim's folder alone."""
    claimed = os.path.dirname(filename) == os.environ.get('CLAIM_WORK')
    return f'delete {filename.removesuffix(".state") + ".npz.lock" if claimed else filename} to train from scratch'


def load(filename: str, anyway: bool = False, **expected):
    """(arrays, description) of a state as given to `save`, and a list of what differs, in words.

    Raises Problem if the file is damaged, of another format, or, unless `anyway`, if any of the `expected` parts of the
    description (settings among them, except those of INDIFFERENT and DURATION) is another.
    """
    flat = load_npz(filename, cure=restart(filename))
    try:
        description = json.loads(str(flat.pop('description')))
    except (KeyError, ValueError):
        raise Problem(f'{filename}: not the state of a training run; {restart(filename)}') from None
    if description.get('format') != FORMAT:
        raise Problem(f'{filename}: its format was {description.get("format")}, now {FORMAT}; {restart(filename)}')
    differing = []
    for key, now in expected.items():
        then = description.get(key)
        if isinstance(now, dict):
            then = then if isinstance(then, dict) else {}
            differing += [
                '{}={}, now {}'.format(k, then.get(k, 'unset'), now.get(k, 'unset'))
                for k in sorted(set(then) | set(now))
                if k not in INDIFFERENT and k not in DURATION and then.get(k) != now.get(k)
            ]
        elif then != now:
            differing.append(f'{key} was {then}, now {now}')
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
