#!/usr/bin/env python3
"""Collect what the XML files of a source folder tell about its recordings in one table.

Writes datasets/NAME/xml/recordings.tsv: a line of column names, then one line a recording that has XML, as found
(labels/recreate.py repairs the values), and xml/repairs.tsv: what was wrong with an XML file and what was done.
XML is read whatever its declared encoding, and where it isn't well-formed; entities are never expanded.
Run again, it reads only what is new or has changed, and adds to what is there.
"""

import os
import sys

DATASETS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(os.path.dirname(DATASETS), 'experiments'), DATASETS]
from birdsong import program  # isort: skip
import argparse
import html
import re
import xml.etree.ElementTree

import defusedxml
import defusedxml.ElementTree
from tqdm import tqdm

import layout

FIELDS = (
    'ClassId',
    'Genus',
    'Species',
    'BackgroundSpecies',
    'Date',
    'Time',
    'Latitude',
    'Longitude',
    'Elevation',
    'Author',
    'AuthorID',
    'Country',
    'Locality',
)
# No organiser's file has a hundredth of that.
MAX_BYTES = 1 << 20
TAG = re.compile(
    r'<(/?)({}|Audio|MediaId|FileName|Content|Quality|Year|Order|Family|Sub-species|VernacularNames|Comments)'
    r'(?:\s[^<>]{{0,999}})?(/?)>'.format('|'.join(FIELDS))
)


def decode(data):
    """Text of an XML file's bytes and whether it had to be taken for Latin-1; what the file declares doesn't count."""
    if data[:2] in (b'\xff\xfe', b'\xfe\xff'):
        return data.decode('utf-16', 'replace'), False
    try:
        return data.decode('utf-8-sig'), False
    except UnicodeDecodeError:
        # of the bytes that aren't UTF-8, those of Windows in 0x80..0x9f are dashes and quotes
        return data.decode('cp1252', 'replace'), True


def scan(text):
    """Fields of an XML text that no parser takes: each known tag holds what comes before the next known one."""
    fields, name, start = {}, None, 0
    for tag in TAG.finditer(text):
        if name:
            # an unknown tag ends a value, too, but '<100' is none
            fields.setdefault(name, html.unescape(re.split('<[/A-Za-z]', text[start : tag.start()], maxsplit=1)[0]))
        name, start = (None if tag.group(1) or tag.group(3) else tag.group(2)), tag.end()
    if name:
        # the file ends within a field: a part of a value would mislead
        fields.setdefault(name, '')
    return fields


def parse(data):
    """Fields of one XML file (bytes) -> (dict of texts, list of problems); the dict is None if nothing can be told.

    Every field that is missing or empty is ''. The first of several elements of one name counts.
    """
    if len(data) > MAX_BYTES:
        return None, [f'larger than {int(MAX_BYTES)} bytes']
    text, latin = decode(data)
    problems = ['not UTF-8, read as Latin-1'] if latin else []
    if not text.strip():
        return None, ['empty']
    if re.search('<!ENTITY', text, re.I):
        return None, ['declares entities']
    try:
        root = defusedxml.ElementTree.fromstring(text)
        fields = {}
        for element in root.iter():
            if element.tag in FIELDS:
                fields.setdefault(element.tag, ''.join(element.itertext()))
    except defusedxml.DefusedXmlException:
        return None, ['declares entities']
    except (xml.etree.ElementTree.ParseError, ValueError, RecursionError):
        fields = scan(text)
        if not fields:
            return None, problems + ['not XML']
        problems.append('not well-formed, read tag by tag')
    return {name: ' '.join(fields.get(name, '').split()) for name in FIELDS}, problems


def collect(source, dataset):
    """Bring the tables of a dataset's folder up to date with a source folder -> (recordings with XML, files read)."""
    found, skipped = layout.find(source, ('.xml',))
    folder = os.path.join(dataset, 'xml')
    filename, repairs_file = os.path.join(folder, 'recordings.tsv'), os.path.join(folder, layout.REPAIRS)
    known, since = {}, 0
    if os.path.exists(filename):
        since = os.stat(filename).st_mtime
        rows = layout.read_table(filename)
        if rows and tuple(rows[0][1:]) == FIELDS:
            known = {row[0]: row for row in rows[1:] if len(row) == len(FIELDS) + 1}
    old_repairs = layout.read_repairs(repairs_file)
    rows, repairs, read = dict(known), dict(old_repairs), 0
    for key, path in tqdm(found, desc='XML', disable=None):
        try:
            if (key in known or key in old_repairs) and os.stat(path).st_ctime < since:
                continue
            read += 1
            rows.pop(key, None)
            repairs.pop(key, None)
            with open(path, 'rb') as f:
                fields, problems = parse(f.read(MAX_BYTES + 1))
        except OSError as e:
            fields, problems = None, [e.strerror]
        if problems:
            repairs[key] = '; '.join(problems), 'as if without XML' if fields is None else 'fields kept'
        if fields is not None:
            rows[key] = [key] + [fields[name] for name in FIELDS]
    for key, problem, done in skipped:
        repairs.setdefault(key, (problem, done))
    # a table of an unchanged source gets no new date, so that what follows from it stays valid
    layout.write_if_changed(filename, layout.table([['path'] + list(FIELDS)] + sorted(rows.values())))
    layout.write_repairs(repairs_file, repairs)
    return len(rows), read


def read(dataset):
    """Dict key -> dict of fields of the table that `collect` wrote. Raises Problem if it is missing or damaged."""
    rows = layout.read_table(os.path.join(dataset, 'xml', 'recordings.tsv'), len(FIELDS) + 1)
    return {row[0]: dict(zip(FIELDS, row[1:])) for row in rows[1:]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='SOURCE', help='folder that the archives were extracted into')
    parser.add_argument('--dataset', default='birdclef', metavar='NAME', help='name or path of the dataset (birdclef)')
    args = parser.parse_args()
    dataset = layout.dataset_folder(args.dataset)
    total, new = collect(args.source, dataset)
    print(
        f'{os.path.join(dataset, "xml", "recordings.tsv")}: {int(total)} recordings have XML ({int(new)} files read now)'
    )


if __name__ == '__main__':
    program.run(main)
