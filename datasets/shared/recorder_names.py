"""Place, date and time from the file names of automatic recorders."""

import os
import re
from typing import NamedTuple

DATE = r'(?P<year>(?:19|20)\d\d)(?P<month>0[1-9]|1[0-2])(?P<day>0[1-9]|[12]\d|3[01])'
TIME = r'(?P<hour>[01]\d|2[0-3])(?P<minute>[0-5]\d)(?P<second>[0-5]\d)'
NAME = re.compile(rf'(?:(?P<site>.+)[_-])?{DATE}(?:[_T-]{TIME}(?P<utc>Z)?)?(?:[_.+-].*)?')
# A site is the last part of the text before the date: BC2026_Train_0001_S05_..., 2782_SSW_...
UTC_SITE = re.compile(r'BC\d{4}_.*')


class RecorderName(NamedTuple):
    """What a file name tells; '' if it does not. `date` is YYYY-MM-DD, `time` HH:MM:SS, with Z if it is UTC."""

    site: str = ''
    date: str = ''
    time: str = ''


def parse(path: str) -> RecorderName:
    """What the file name of a recording tells.

    Understands SITE_YYYYMMDD_HHMMSS, YYYYMMDD_HHMMSS (both also with Z for UTC, else local time), and the names of
    BirdCLEF's soundscapes: AUDIOID_SITE_YYYYMMDD of 2021, BC2026_Train_0001_SITE_YYYYMMDD_HHMMSS, in UTC.
    """
    found = NAME.fullmatch(os.path.splitext(os.path.basename(path))[0])
    if not found:
        return RecorderName()
    before = found['site'] or ''
    time = f'{found["hour"]}:{found["minute"]}:{found["second"]}' if found['hour'] else ''
    utc = 'Z' if time and (found['utc'] or UTC_SITE.fullmatch(before)) else ''
    return RecorderName(before.rpartition('_')[2], f'{found["year"]}-{found["month"]}-{found["day"]}', time + utc)
