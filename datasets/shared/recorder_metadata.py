"""Date, time and place that recorders write into their WAV files: GUANO, the comment of AudioMoth (ICMT), bext.

GUANO (https://guano-md.org) is text in the chunk 'guan', lines 'Key: value'. ICMT is in LIST INFO. bext is the chunk of
the European Broadcasting Union (EBU Tech 3285): fixed fields with a date and a local time.
"""

import os
import re
import struct
from typing import NamedTuple

# Longer chunks are not metadata of a recorder.
MAX_BYTES = 1 << 20
# Chunks before and after the samples; more are those of a damaged file.
MAX_CHUNKS = 1000
COMMENT = re.compile(
    r'Recorded at (?P<time>\d\d:\d\d:\d\d)(?:\.\d+)? (?P<day>\d\d)/(?P<month>\d\d)/(?P<year>\d{4}) '
    r'\(UTC(?:(?P<sign>[+-])(?P<hours>\d{1,2})(?::(?P<minutes>\d\d))?)?\)'
)
ORIGINATION = re.compile(r'(\d{4})[-_:. ](\d\d)[-_:. ](\d\d)(\d\d)[-_:. ](\d\d)[-_:. ](\d\d)')


class Embedded(NamedTuple):
    """What a file says about its recording, as text; '' if it does not. `time` ends with a time zone if it has one."""

    origin: str  # the kind of metadata
    date: str = ''
    time: str = ''
    latitude: str = ''
    longitude: str = ''
    elevation: str = ''


def read(filename: str) -> list[Embedded]:
    """The metadata in a WAV file, the most reliable first; [] for other files, or if it has none or is damaged."""
    try:
        with open(filename, 'rb') as f:
            found = dict(_chunks(f, os.fstat(f.fileno()).st_size))
    except OSError:
        return []
    readers = (b'guan', _guano), (b'ICMT', _comment), (b'bext', _origination)
    return [embedded for name, reader in readers if name in found and (embedded := reader(found[name]))]


def _chunks(f, size):
    """Yields (name, content) of the chunks that may contain metadata, and of those in LIST INFO."""
    head = f.read(12)
    if len(head) < 12 or head[:4] not in (b'RIFF', b'RF64') or head[8:] != b'WAVE':
        return
    position = 12
    for _ in range(MAX_CHUNKS):
        f.seek(position)
        head = f.read(8)
        if len(head) < 8:
            return
        name, length = struct.unpack('<4sI', head)
        if name in (b'guan', b'bext', b'LIST') and length <= MAX_BYTES:
            content = f.read(length)
            if name == b'LIST' and content[:4] == b'INFO':
                yield from _infos(content)
            elif name != b'LIST':
                yield name, content
        position += 8 + length + length % 2
        if position >= size:
            return


def _infos(content):
    position = 4
    while position + 8 <= len(content):
        name, length = struct.unpack_from('<4sI', content, position)
        yield name, content[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _text(content):
    return content.partition(b'\0')[0].decode('utf-8', 'replace')


def _guano(content):
    values = {}
    for line in content.replace(b'\0', b'').decode('utf-8', 'replace').splitlines():
        key, colon, value = line.partition(':')
        if colon:
            values.setdefault(key.strip().casefold(), value.strip())
    date, _, time = values.get('timestamp', '').replace('T', ' ').partition(' ')
    latitude, _, longitude = values.get('loc position', '').partition(' ')
    # a fraction of a second is before the time zone
    found = Embedded(
        'GUANO',
        date,
        re.sub(r'\.\d+', '', time.strip()),
        latitude.strip(' ,'),
        longitude.strip(' ,'),
        values.get('loc elevation', ''),
    )
    return found if any(found[1:]) else None


def _comment(content):
    found = COMMENT.search(_text(content))
    if not found:
        return None
    zone = f'{found["sign"]}{int(found["hours"]):02d}:{found["minutes"] or "00"}' if found['sign'] else 'Z'
    return Embedded('ICMT', f'{found["year"]}-{found["month"]}-{found["day"]}', found['time'] + zone)


def _origination(content):
    # after the description (256 bytes), the originator and its reference (32 each): date (10) and time (8)
    found = ORIGINATION.fullmatch(content[320:338].decode('latin-1'))
    if not found or found[1] == '0000':
        return None
    return Embedded('bext', '-'.join(found.groups()[:3]), ':'.join(found.groups()[3:]))
