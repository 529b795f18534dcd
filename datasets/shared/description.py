"""The content of a dataset, and its description by validate.py."""

import collections
import dataclasses
import math
import os
from collections.abc import Iterator

from birdsong.data.metadata import SOURCES
from shared.dataset import recordings
from shared.dataset_vars import sample_rate
from shared.folds import base_of
from shared.tables import REPAIRS, read_repairs

Lists, Rows = dict[str, list[str]], dict[str, str]


@dataclasses.dataclass
class Content:
    """The content of a dataset."""

    folder: str
    lists: Lists  # file list -> keys
    labelset: list[str] = dataclasses.field(default_factory=list)  # class ids
    foreground: Rows = dataclasses.field(default_factory=dict)  # key -> class index
    background: Rows = dataclasses.field(default_factory=dict)  # key -> comma-separated class indices
    metadata: Rows | None = None  # key -> tab-separated fields, None if not checked
    segments: list[list[str]] = dataclasses.field(default_factory=list)  # fields of labels/segments.tsv
    groups: Rows = dataclasses.field(default_factory=dict)  # key -> group
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)  # key -> length, {} if not checked

    def keys(self) -> list[str]:
        """Keys of all lists, each once."""
        return list(dict.fromkeys(key for keys in self.lists.values() for key in keys))


def describe(content: Content, quick: bool) -> Iterator[str]:
    """Lines that describe a dataset without faults."""
    keys, seconds = content.keys(), content.seconds
    rate = sample_rate(content.folder)
    hours = f', {sum(seconds.values()) / 3600:.2f} hours at {rate} Hz' if seconds else ''
    classes = f', {len(content.labelset)} classes' if content.labelset else ''
    kind = '' if seconds or content.metadata is None else ', metadata only'
    base = base_of(content.folder)
    kind += f', a fold of {os.path.basename(base)}' if base else ''
    yield f'{os.path.basename(content.folder.rstrip("/"))}: {len(keys)} recordings{hours}{classes}{kind}'
    for name, listed in content.lists.items():
        line = f'  {name:16} {len(listed):6d} recordings'
        if seconds:
            lengths = [seconds[key] for key in listed]
            line += f' {sum(lengths) / 3600:8.2f} hours, {min(lengths):.1f} to {max(lengths):.1f} s'
        labels = {content.foreground[key] for key in listed if key in content.foreground}
        yield line + (f', {len(labels)} classes' if labels else '')
    if content.labelset:
        yield from describe_labels(content)
    if content.metadata is not None:
        rows = [content.metadata[key].split('\t') for key in keys if key in content.metadata]
        known = [sum(bool(row[i]) for row in rows) for i in range(len(SOURCES))]
        shares = [f'{field} {100 * n / len(keys):.0f} %' for field, n in zip(SOURCES, known, strict=True) if n]
        yield f'  metadata: {", ".join(shares) or "none"}'
    tables = [REPAIRS, *(f'{folder}/{REPAIRS}' for folder in ('audio', 'xml', 'labels'))]
    counts = {table: len(read_repairs(os.path.join(content.folder, table))) for table in tables}
    if any(counts.values()):
        yield '  files with repairs: ' + ', '.join(f'{n} in {table}' for table, n in counts.items() if n)
    if not quick and seconds and not base_of(content.folder):
        unlisted = set(recordings(content.folder)) - set(keys)
        if unlisted:
            yield f'  in audio/ but in no list: {len(unlisted)}, such as {min(unlisted)}'


def describe_labels(content: Content) -> Iterator[str]:
    """Lines that describe the labels of a dataset without faults."""
    if 'train' in content.lists:
        counts = collections.Counter(content.foreground[key] for key in content.lists['train'])
        absent = [class_id for i, class_id in enumerate(content.labelset) if not counts[str(i)]]
        least = 0 if absent else min(counts.values())
        single = sum(number == 1 for number in counts.values())
        more = f'; {single} classes have one' if single else ''
        more += f'; {len(absent)} classes have none, such as {absent[0]}' if absent else ''
        yield f'  training recordings per class: {least} to {max(counts.values())}{more}'
    yield f'  with background species: {sum(map(bool, content.background.values()))} of {len(content.foreground)}'
    if content.segments:
        classes = {label for *_, label in content.segments if label}
        recordings = {key for key, *_ in content.segments}
        text = f'{len(content.segments)} of {len(classes)} classes in {len(recordings)} recordings'
        empty = sum(not label for *_, label in content.segments)
        text += f'; {empty} without any class' if empty else ''
        late = [key for key, start, *_ in content.segments if float(start) >= content.seconds.get(key, math.inf)]
        text += f'; {len(late)} start after the end of their recording, such as {late[0]}' if late else ''
        yield f'  segments: {text}'
    if content.groups:
        yield describe_groups(content)


def describe_groups(content: Content) -> str:
    """Line that describes the groups of recordings."""
    lists = collections.defaultdict(set)
    sizes = collections.Counter()
    for name in {'train', 'valid', 'test'} & content.lists.keys():
        for key in content.lists[name]:
            sizes[content.groups[key]] += 1
            lists[content.groups[key]].add(name)
    divided = sorted(group for group, names in lists.items() if len(names) > 1)
    text = f'  groups: {len(sizes)}, of which the largest has {max(sizes.values())} recordings'
    return text + (f'; {len(divided)} are in more than one list, such as {divided[0]}' if divided else '')
