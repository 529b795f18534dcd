"""Metadata of xeno-canto: pages of its API (JSON), and tables of the same fields."""

import collections
import json
import os
import re

from birdsong.files import Problem, open_regular
from shared.delimited import decode, same_value
from shared.source import Source

# A page of the API has at most a few megabytes. A file is recognised by its begin.
MAX_JSON, HEAD = 1 << 28, 1 << 16
# An entry that contradicts an earlier one in these fields is reported.
COMPARED = ['gen', 'sp', 'en', 'rec', 'loc', 'lat', 'lng', 'lon', 'alt', 'date', 'time', 'lic', 'q', 'also']


def tables_with_metadata(source: Source) -> list[str]:
    """Names of the tables of a source that have the fields of the API as columns."""
    return [name for name in source.tables() if _has_fields(source, name)]


def pages_with_metadata(source: Source) -> list[str]:
    """Paths of the JSON files of a source that seem to be pages of the API."""
    heads = ((path, _read(source, path, HEAD)) for path in source.with_suffix('.json'))
    return [path for path, head in heads if b'"gen"' in head and b'"sp"' in head]


def read_metadata(source: Source) -> dict[str, dict[str, str]]:
    """{number of the recording: {field of the API: text}} of all tables and pages of a source.

    Raises Problem if a page is damaged.
    """
    metadata = {}
    for name in tables_with_metadata(source):
        table = source.read(name)
        for line, entry in table.numbered():
            _merge(metadata, entry, f'{name}, line {line}', source.report)
        source.report.add_table_problems(name, table.problems)
    for path in source.with_suffix('.json'):
        for position, entry in enumerate(_entries(source, path), 1):
            _merge(metadata, entry, f'{path}, recording {position}', source.report)
    return metadata


def _has_fields(source, name):
    try:
        return {'id', 'gen', 'sp'} <= set(source.read(name).columns)
    except Problem:
        return False


def _read(source, path, size):
    with open_regular(os.path.join(source.folder, path)) as f:
        return f.read(size)


def _merge(metadata, entry, where, report):
    """Add the fields of a recording, {field: value}, to those that earlier pages have."""
    fields = {str(name): _text(value) for name, value in entry.items()}
    number = re.sub(r'\.0$|^xc', '', fields.get('id', '').strip(), flags=re.I)
    if not re.fullmatch(r'\d{1,9}', number, re.A):
        report.add('entries without a number in the field id', 'left out', where)
        return
    if number not in metadata:
        metadata[number] = fields
        return
    report.add('entries whose recording is in an earlier entry', 'merged', where)
    earlier = metadata[number]
    both = [name for name in COMPARED if fields.get(name) and earlier.get(name)]
    if not all(same_value(fields[name], earlier[name]) for name in both):
        report.add('entries that contradict an earlier entry', 'the first one is used', where)
    for name, value in fields.items():
        earlier[name] = earlier.get(name) or value


def _text(value):
    if isinstance(value, list):
        return json.dumps(value)
    return ' '.join(str(value).split()) if isinstance(value, str | int | float) else ''


def _entries(source, path):
    """The entries of a JSON file: of pages with a field `recordings`, or of lists."""
    filename, data = os.path.join(source.folder, path), _read(source, path, MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise Problem(
            f'{filename}: larger than {MAX_JSON >> 20} MB; divide it into pages, as the API of xeno-canto does'
        )
    try:
        content = json.loads(decode(data), parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as e:
        if b'"gen"' not in data:
            source.skip(path, 'no JSON', 'not metadata of xeno-canto')
            return []
        raise Problem(f'{filename}: damaged JSON ({e}); download it again') from None
    return _flat(content)


def _flat(content):
    """The entries in parsed JSON: in pages, in lists of pages or entries, or in pages or entries by number."""
    found, pages = [], collections.deque([content])
    while pages:
        page = pages.popleft()
        if isinstance(page, list):
            pages.extendleft(reversed(page))
        elif isinstance(page, dict) and isinstance(page.get('recordings'), list | dict):
            pages.appendleft(page['recordings'])
        elif isinstance(page, dict) and {'gen', 'sp'} <= page.keys():
            found.append(page)
        elif isinstance(page, dict):
            entries = ({'id': number, **entry} for number, entry in page.items() if isinstance(entry, dict))
            pages.extendleft(reversed(list(entries)))
    return found
