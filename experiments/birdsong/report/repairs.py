"""The tables of repairs of a dataset, summed by kind: what was wrong, how often, and what was done."""

import os
import re
from typing import NamedTuple

from birdsong.files import Problem, read_lines

# Table -> what it is about, in the order of the preparation.
TABLES = {
    'repairs.tsv': 'source',
    'xml/repairs.tsv': 'XML',
    'labels/repairs.tsv': 'metadata',
    'audio/repairs.tsv': 'audio',
}
DROPPED = ('dropped', 'left out')


class Kind(NamedTuple):
    """Repairs of one kind."""

    about: str
    problem: str
    done: str
    count: int
    example: str  # of the path and the problem


def read(folder: str) -> tuple[list[Kind], list[str]]:
    """The kinds of repairs of a dataset's folder, the most frequent of each table first, and problems with tables."""
    kinds, problems = [], []
    for name, about in TABLES.items():
        filename = os.path.join(folder, *name.split('/'))
        try:
            lines = read_lines(filename) if os.path.exists(filename) else []
        except (Problem, OSError) as e:
            problems.append(str(e))
            continue
        counts, examples = {}, {}
        for line in lines:
            fields = line.split('\t')
            if len(fields) == 3:
                kind = _kind(about, *fields[1:])
                counts[kind] = counts.get(kind, 0) + 1
                examples.setdefault(kind, f'{fields[0]}: {fields[1]}')
        found = sorted(counts.items(), key=lambda item: -item[1])
        kinds += [Kind(about, *kind, count, examples[kind]) for kind, count in found]
    return kinds, problems


def _kind(about: str, problem: str, done: str) -> tuple[str, str]:
    """The problem and what was done, without what is particular to one recording: values, numbers and paths."""
    if about == 'metadata' and "'" in problem:
        return problem.partition(' ')[0].lower(), done if done in DROPPED else 'corrected'
    words = ['…' if re.search(r'^\W*\d|/', word) else word for word in re.sub(r"'[^']*'", '…', problem).split()]
    return re.sub(r'…( …)+', '…', ' '.join(words)), done.partition('; ')[0]
