"""XML files of recordings, and xml/recordings.tsv, the table of their fields.

The declared encoding of XML is ignored, XML that is not well-formed is read, too, and entities are never expanded.
"""

import html
import os
import re
import xml.etree.ElementTree

import defusedxml
import defusedxml.ElementTree

from shared.tables import read_table

FIELDS = ('ClassId', 'Genus', 'Species', 'BackgroundSpecies', 'Date', 'Time', 'Latitude', 'Longitude', 'Elevation')
FIELDS += ('Author', 'AuthorID', 'Country', 'Locality')
# The files of the organisers have less than a hundredth of this.
MAX_BYTES = 1 << 20
OTHER_TAGS = 'Audio|MediaId|FileName|Content|Quality|Year|Order|Family|Sub-species|VernacularNames|Comments'
TAG = re.compile(rf'<(/?)({"|".join(FIELDS)}|{OTHER_TAGS})(?:\s[^<>]{{0,999}})?(/?)>')


def decode(data: bytes) -> tuple[str, bool]:
    """Text of an XML file, and whether it was read as Latin-1. The declared encoding is ignored."""
    if data[:2] in (b'\xff\xfe', b'\xfe\xff'):
        return data.decode('utf-16', 'replace'), False
    try:
        return data.decode('utf-8-sig'), False
    except UnicodeDecodeError:
        # the Windows variant of Latin-1, which has dashes and quotes at 0x80..0x9f
        return data.decode('cp1252', 'replace'), True


def scan(text: str) -> dict[str, str]:
    """Fields of an XML text that is not well-formed: the value of each known tag ends at the next known tag."""
    fields, name, start = {}, None, 0
    for tag in TAG.finditer(text):
        if name:
            # an unknown tag ends a value, too; '<100' is not a tag
            fields.setdefault(name, html.unescape(re.split('<[/A-Za-z]', text[start : tag.start()], maxsplit=1)[0]))
        name, start = (None if tag.group(1) or tag.group(3) else tag.group(2)), tag.end()
    if name:
        # the file ends within a field, so the value may be incomplete
        fields.setdefault(name, '')
    return fields


def parse(data: bytes) -> tuple[dict[str, str] | None, list[str]]:
    """Content of an XML file -> (dict with all FIELDS, list of problems); None instead of the dict if it is unusable.

    A field that is missing or empty is ''. If several elements have the same name, the first one counts.
    """
    if len(data) > MAX_BYTES:
        return None, [f'larger than {MAX_BYTES} bytes']
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
            return None, [*problems, 'not XML']
        problems.append('not well-formed, read tag by tag')
    return {name: ' '.join(fields.get(name, '').split()) for name in FIELDS}, problems


def records_file(dataset: str) -> str:
    """The table of the XML fields of a dataset's recordings: a row of column names, then one row per recording."""
    return os.path.join(dataset, 'xml', 'recordings.tsv')


def read_records(dataset: str) -> dict[str, dict[str, str]]:
    """Dict of key -> dict of FIELDS from a dataset's table. Raises Problem if the table is missing or damaged."""
    rows = read_table(records_file(dataset), len(FIELDS) + 1)
    return {key: dict(zip(FIELDS, values, strict=True)) for key, *values in rows[1:]}
