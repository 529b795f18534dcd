"""The state of a training run between epochs: arrays and a description, in one file without pickle.

A resumed run equals an uninterrupted one. A state that doesn't fit the command is refused, saying what differs.
"""
import hashlib
import json
import os

import numpy as np

from files import Problem, load_npz, save_npz

FORMAT = 1
# settings that don't change the result, and `bins`, which the arrays themselves say
INDIFFERENT = {'bg_threads', 'bg_processes', 'bins'}


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
    flat = {'%s|%s' % (group, name): np.asarray(value) for group, members in arrays.items() for name, value in members.items()}
    flat['description'] = np.array(json.dumps(dict(description, format=FORMAT)))
    save_npz(filename, flat)


def load(filename, **expected):
    """(arrays, description) of a state as given to `save`.

    Raises Problem if the file is damaged, of another format, or if any of the `expected` parts of the description
    (settings among them, but for those that don't change the result) is another.
    """
    flat = load_npz(filename)
    try:
        description = json.loads(str(flat.pop('description')))
    except (KeyError, ValueError):
        raise Problem('%s: not the state of a training run; delete it to start anew' % filename) from None
    differing = []
    for key, now in dict(expected, format=FORMAT).items():
        then = description.get(key)
        if isinstance(now, dict):
            then = then if isinstance(then, dict) else {}
            differing += ['%s=%s, now %s' % (k, then.get(k, 'unset'), now.get(k, 'unset')) for k in sorted(set(then) | set(now))
                          if k not in INDIFFERENT and then.get(k) != now.get(k)]
        elif then != now:
            differing.append('%s was %s, now %s' % (key, then, now))
    if differing:
        raise Problem('%s: does not fit this run: %s; use what it was started with, or delete it to start anew' %
                      (filename, '; '.join(differing[:4]) + (' and %d more' % (len(differing) - 4) if len(differing) > 4 else '')))
    arrays = {}
    for key, value in flat.items():
        group, _, name = key.partition('|')
        arrays.setdefault(group, {})[name] = value
    return arrays, description
