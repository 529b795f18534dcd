#!/usr/bin/env python3
"""Make the labels and metadata of a dataset from what its XML tells.

Reads datasets/NAME/xml/recordings.tsv (of xml/collect.py) and writes into datasets/NAME/labels/: labelset,
labelset_latin, labelset_2014, _2015, _2017, fg.tsv, bg.tsv, meta.tsv, and repairs.tsv: each date, time, place or
elevation that was repaired or dropped. Foreground species are given by class id, background species by Latin name;
which name belongs to which class is counted over all training recordings.
"""

import os
import sys

DATASETS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [
    os.path.join(os.path.dirname(DATASETS), 'experiments'),
    DATASETS,
    os.path.join(DATASETS, 'birdclef', 'xml'),
]
from birdsong import program  # isort: skip
import argparse
import collections
import datetime
import html
import re

import collect
import layout
from birdsong.files import Problem

# Editions of the challenge and the years of the recordings that count for them.
EDITIONS = {'2014': ('2014',), '2015': ('2014', '2015'), '2017': ('2017',)}

TIME = re.compile(
    r"""~?\s*
    (?: (?P<h>\d{1,2}) (?: (?: h | [.:,_-]+ ) \s* (?P<m>\d{1,2}) (?: [.:,_-]+ (?P<s>\d{1,2}) )? )?
      | (?P<hm>\d{3,4}) )
    \s* (?: h | hs | hrs? | m | min | s )? (?: \s+ 00 )?
    \s* (?P<half> a | p | a\.?\s?m | p\.?\s?m )? \.?""",
    re.X,
)
NUMBER = r'[+-]?(?:\d{1,3}(?:[.,\s]\d{3})+|\d{1,6}(?:\.\d{1,6})?|\d{1,3}(?:_\d{3})+)'
UNIT = r'(?:\s*(?:m|mts|mtrs|met(?:re|er|ro)s?|m\.?\s?s\.?\s?n\.?\s?m|m\.?\s?a\.?\s?s\.?\s?l)\.?)?'
ABOUT = r'(?:(?:~|c|c\.|ca|ca\.|circa|about|aprox\.?|approx\.?)\s*)?'
UNSURE = r'\s*(?:\?|~|approx\.?|approximately|\(estimated\))?\s*'
AFTER = UNSURE + UNIT + UNSURE
ELEVATION = re.compile(
    r'{}(?P<low>{}){}(?:\s*(?:-|\ba\b|to|/)\s*(?P<high>{}){})?'.format(
        ABOUT, NUMBER, AFTER, NUMBER.replace('[+-]', r'\+'), AFTER
    )
)
BELOW = re.compile(r'(?:<|to\b)\s*({}){}'.format(NUMBER.replace('[+-]', r'\+'), AFTER))
# longer texts are prose
MAX_TEXT = 60
SEVERAL = re.compile(r'\d{1,6}(?:-\d{1,6}){2,}')


def repair_date(text):
    """'2010-5-6' -> '2010-05-06'. Raises ValueError for what is no day of a known year."""
    found = re.fullmatch(r'([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})', text.strip())
    if not found:
        raise ValueError('not YYYY-MM-DD')
    return datetime.date(*map(int, found.groups())).isoformat()


def repair_time(text):
    """Time of day as 'HH:MM:SS'; of a range its start. Raises ValueError for what is no time between 00:00 and 23:59."""
    text = text.strip().lower()
    found = len(text) <= MAX_TEXT and TIME.fullmatch(text)
    if not found:
        span = re.fullmatch(r'(\d{1,2}[:.h]\d{2})\s*(?:-|to)\s*\d{1,2}[:.h]\d{2}(?:\s*am)?', text)
        found = span and TIME.fullmatch(span.group(1))
    if not found or not text.isascii() and not text.replace('\xa0', ' ').isascii():
        raise ValueError('not a time')
    if found.group('hm'):
        hour, minute = divmod(int(found.group('hm')), 100)
    else:
        hour, minute = int(found.group('h')), int(found.group('m') or 0)
    second = int(found.group('s') or 0)
    half = found.group('half')
    if half and hour <= 12:
        hour = hour % 12 + (12 if half.startswith('p') else 0)
    return datetime.time(hour, minute, second).isoformat()


def _metres(text):
    """'1.200' -> 1200, '12.5' -> 12: parts of exactly three digits are thousands."""
    text = text.replace('_', '')
    if re.fullmatch(r'[+-]?\d{1,3}(?:[.,\s]\d{3})+', text):
        text = re.sub(r'[.,\s]', '', text)
    return round(float(text))


def repair_elevation(text):
    """Metres above the sea as 'N' or 'LOW-HIGH'; 'below N' counts from 0. Raises ValueError for what is neither."""
    text = re.sub('</?b>', '', html.unescape(text.strip().lower())).strip()
    if not text.isascii() or len(text) > MAX_TEXT:
        raise ValueError('not an elevation')
    below = BELOW.fullmatch(text)
    if below:
        return '0-%d' % _metres(below.group(1))
    if SEVERAL.fullmatch(text):
        return '-'.join(str(int(part)) for part in text.split('-'))
    found = ELEVATION.fullmatch(text)
    if not found:
        raise ValueError('not an elevation')
    low, high = _metres(found.group('low')), found.group('high')
    return str(low) if high is None else '%d-%d' % (low, _metres(high))


def repair_degrees(text, limit):
    """Latitude or longitude as it stands. Raises ValueError if it isn't a number of at most `limit` degrees."""
    if (
        not re.fullmatch(r'[+-]?(\d{1,3}(\.\d*)?|\.\d+)(e-?\d{1,2})?', text.strip(), re.A | re.I)
        or abs(float(text)) > limit
    ):
        raise ValueError('not degrees within %d' % limit)
    return text.strip()


REPAIRS = (
    ('Date', repair_date),
    ('Time', repair_time),
    ('Latitude', lambda text: repair_degrees(text, 90)),
    ('Longitude', lambda text: repair_degrees(text, 180)),
    ('Elevation', repair_elevation),
)


def metadata(fields):
    """(date, time, latitude, longitude, elevation) of a recording's XML fields, '' where unknown, and a list of (problem,
    what was done), one for each value that doesn't stay as it is."""
    values, problems = [], []
    for name, repair in REPAIRS:
        text, value = fields.get(name, ''), ''
        if text.strip():
            try:
                value = repair(text)
            except ValueError:
                problems.append((f'{name} {text!r}', 'dropped'))
            else:
                # hours and minutes are as they should be; the seconds are ours
                if value not in (text, text + ':00'):
                    problems.append((f'{name} {text!r}', value))
        values.append(value)
    return values, problems


def latin_name(fields):
    """Genus, space, species; '' unless both are known."""
    return (
        ' '.join((fields['Genus'] + ' ' + fields['Species']).split()) if fields['Genus'] and fields['Species'] else ''
    )


def tie(pairs):
    """Tie class ids and Latin names, given as an iterable of (class id, name), by what goes together most often.

    Returns (dict class id -> name, dict name -> class id, list of lines that tell each inconsistency). Of those as
    frequent as each other the first in the alphabet wins.
    """
    counts = collections.Counter(pair for pair in pairs if pair[1])
    lines, results = [], []
    for here, there in (0, 1), (1, 0):
        sides = collections.defaultdict(list)
        for pair, count in counts.items():
            sides[pair[here]].append((-count, pair[there]))
        result = {}
        for one, others in sorted(sides.items()):
            others.sort()
            result[one] = others[0][1]
            if len(others) > 1:
                lines.append(
                    '{} goes with {}; the first counts'.format(
                        one, ', '.join('%s (%dx)' % (other, -count) for count, other in others)
                    )
                )
        results.append(result)
    return results[0], results[1], lines


def recreate(records):
    """What the files of labels/ say, from the records (dict key -> fields) -> (dict of file name -> text, inconsistencies)."""
    train = {key: fields for key, fields in sorted(records.items()) if key.startswith('train/') and fields['ClassId']}
    if not train:
        raise Problem(
            'no training recording has XML with a ClassId; is the source complete, with the .xml beside the .wav?'
        )
    names, classes_of, inconsistencies = tie((fields['ClassId'], latin_name(fields)) for fields in train.values())
    labelset = sorted({fields['ClassId'] for fields in train.values()})
    index = {class_id: i for i, class_id in enumerate(labelset)}
    result = {
        'labelset': '\n'.join(labelset) + '\n',
        'labelset_latin': ''.join(names.get(class_id, class_id) + '\n' for class_id in labelset),
    }
    for edition, years in EDITIONS.items():
        members = {fields['ClassId'] for key, fields in train.items() if layout.year_of(os.path.basename(key)) in years}
        result['labelset_' + edition] = ''.join(class_id + '\n' for class_id in sorted(members))
    fg, bg, meta, repairs = [], [], [], []
    for key, fields in train.items():
        fg.append((key, index[fields['ClassId']]))
        others = [' '.join(name.split()) for name in fields['BackgroundSpecies'].split(',')]
        known = dict.fromkeys(index[classes_of[name]] for name in others if name in classes_of)
        bg.append((key, ','.join(map(str, known))))
    for key, fields in sorted(records.items()):
        values, problems = metadata(fields)
        meta.append([key] + values)
        repairs += [(key,) + problem for problem in problems]
        if key.startswith('train/') and not fields['ClassId']:
            repairs.append((key, 'no ClassId', 'left out'))
    result.update(
        {
            'fg.tsv': layout.table(fg),
            'bg.tsv': layout.table(bg),
            'meta.tsv': layout.table(meta),
            layout.REPAIRS: layout.table(repairs),
        }
    )
    return result, inconsistencies


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    args = parser.parse_args()
    folder = os.path.join(layout.dataset_folder(args.dataset), 'labels')
    result, inconsistencies = recreate(collect.read(os.path.dirname(folder)))
    changed = sum([layout.write_if_changed(os.path.join(folder, name), text) for name, text in result.items()])
    for line in inconsistencies:
        print('- ' + line)
    repairs = result[layout.REPAIRS].splitlines()
    print(
        '%s: %d classes, %d training recordings, %d with metadata (%d values repaired, %d dropped); %s'
        % (
            folder,
            result['labelset'].count('\n'),
            result['fg.tsv'].count('\n'),
            result['meta.tsv'].count('\n'),
            sum(not r.endswith(('\tdropped', '\tleft out')) for r in repairs),
            sum(r.endswith('\tdropped') for r in repairs),
            '%d files written' % changed if changed else 'nothing new',
        )
    )


if __name__ == '__main__':
    program.run(main)
