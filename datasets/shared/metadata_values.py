"""Dates, times, places and elevations in many spellings -> the format of labels/meta.tsv."""

import datetime
import functools
import html
import re

from shared.recordings import Recording

# Times in labels/meta.tsv.
VALID_TIME = r'([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]'
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
POSITIVE = NUMBER.replace('[+-]', r'\+')
ELEVATION = re.compile(rf'{ABOUT}(?P<low>{NUMBER}){AFTER}(?:\s*(?:-|\ba\b|to|/)\s*(?P<high>{POSITIVE}){AFTER})?')
BELOW = re.compile(rf'(?:<|to\b)\s*({POSITIVE}){AFTER}')
# Longer texts are sentences, not values.
MAX_TEXT = 60
SEVERAL = re.compile(r'\d{1,6}(?:-\d{1,6}){2,}')
# A date with or without a time and a time zone: in the order of ISO 8601, or day.month.year. With slashes, the order of
# day and month is unknown.
TIMESTAMP = re.compile(
    r"""(?P<date> [0-9]{4}-[0-9]{1,2}-[0-9]{1,2} | [0-9]{4}/[0-9]{1,2}/[0-9]{1,2} | [0-9]{4}\.[0-9]{1,2}\.[0-9]{1,2}
                | (?:1[89]|20)[0-9]{6} | [0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4} )
    (?: (?: \s* t \s* | \s+ ) (?P<time> [0-9]{1,2}:[0-9]{2} (?: :[0-9]{2} )? ) (?: \.[0-9]{1,9} )?
        \s* (?P<zone> z | utc | gmt | [+-][0-9]{2}:?(?:[0-9]{2})? )? )?""",
    re.X | re.I | re.A,
)
# Times in UTC, as in file names of recorders. The times of labels/meta.tsv are local.
UTC = re.compile(r'\d\d:\d\d(:\d\d)?Z')
# A time that is UTC.
UTC = re.compile(r'(.*[0-9])\s*(?:z|utc|gmt|[+-]00:?00)', re.I)
# Degrees, with minutes and seconds or not, and a letter before or after them or a sign.
DEGREES = re.compile(
    r"""(?P<before>[NSEW])? \s* (?P<sign>[+-])? (?P<degrees> [0-9]{1,3}(?:[.,][0-9]*)? | \.[0-9]+ )
    \s* (?: [°º] \s* (?: (?P<minutes> [0-9]{1,2}(?:[.,][0-9]+)? ) \s* ['′’]
        \s* (?: (?P<seconds> [0-9]{1,2}(?:[.,][0-9]+)? ) \s* (?: ["″”] | '' ) )? )? )?
    \s* (?P<after>[NSEW])?""",
    re.X | re.I | re.A,
)


def repair_date(text: str) -> str:
    """Date: '2010-5-6', '2010/05/06', '20100506', '6.5.2010' or '2010-05-06T07:00:00Z' -> '2010-05-06'.

    Raises ValueError if it is not a full date that exists.
    """
    found = len(text) <= MAX_TEXT and TIMESTAMP.fullmatch(text.strip())
    if not found:
        raise ValueError('not YYYY-MM-DD')
    parts = re.split('[-/.]', found['date'])
    if len(parts) == 1:
        parts = [parts[0][:4], parts[0][4:6], parts[0][6:]]
    year, month, day = parts if len(parts[0]) == 4 else parts[::-1]
    return datetime.date(int(year), int(month), int(day)).isoformat()


def repair_time(text: str) -> str:
    """Time of day as 'HH:MM:SS', for a range its start, of a timestamp such as '2010-05-06 07:00:00' its time.

    Raises ValueError if it is not a time from 00:00 to 23:59.
    """
    text = text.strip().lower()
    stamp = len(text) <= MAX_TEXT and TIMESTAMP.fullmatch(text)
    text = stamp['time'] if stamp and stamp['time'] else text
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


def repair_time_of_2018(text: str) -> str:
    """Correct a time that the scripts of 2018 wrote: '24:10:00' -> '12:10:00', '700:00:00' -> '07:00:00'; else ''.

    They added 12 hours to every time with "pm", and interpreted "0700" as hours. 24:00:00 is interpreted as noon: of
    20 000 recordings of xeno-canto, several have the time "12pm" and none "24:00".
    """
    found = re.fullmatch(r'([0-9]{1,4}):([0-9]{1,2}):([0-9]{1,2})', text)
    if not found:
        return ''
    hour, minute, second = map(int, found.groups())
    if hour >= 100 and not minute:
        hour, minute = divmod(hour, 100)
    elif 24 <= hour < 36:
        hour -= 12
    time = f'{hour:02d}:{minute:02d}:{second:02d}'
    return time if re.fullmatch(VALID_TIME, time) else ''


def _metres(text):
    """'1.200' -> 1200, '12.5' -> 12: groups of exactly three digits are thousands."""
    text = text.replace('_', '')
    if re.fullmatch(r'[+-]?\d{1,3}(?:[.,\s]\d{3})+', text):
        text = re.sub(r'[.,\s]', '', text)
    return round(float(text))


def repair_elevation(text: str) -> str:
    """Metres above sea level as 'N' or 'LOW-HIGH'; '<N' becomes '0-N'. Raises ValueError for other texts."""
    text = re.sub('</?b>', '', html.unescape(text.strip().lower())).strip()
    if not text.isascii() or len(text) > MAX_TEXT:
        raise ValueError('not an elevation')
    below = BELOW.fullmatch(text)
    if below:
        return f'0-{_metres(below.group(1))}'
    if SEVERAL.fullmatch(text):
        return '-'.join(str(int(part)) for part in text.split('-'))
    found = ELEVATION.fullmatch(text)
    if not found:
        raise ValueError('not an elevation')
    low, high = _metres(found.group('low')), found.group('high')
    return str(low) if high is None else f'{low}-{_metres(high)}'


def repair_degrees(text: str, limit: int) -> str:
    """Latitude or longitude, unchanged, or in decimal degrees: '12,5 S' and '12°30'S' -> '-12.5'.

    Raises ValueError if it is not a number from -`limit` to `limit`, 90 for a latitude and 180 for a longitude.
    """
    text = text.strip()
    if not re.fullmatch(r'[+-]?(\d{1,3}(\.\d*)?|\.\d+)(e-?\d{1,2})?', text, re.A | re.I):
        text = _decimal_degrees(text, 'NS' if limit == 90 else 'EW')
    if abs(float(text)) > limit:
        raise ValueError(f'not degrees within {limit}')
    return text


def _decimal_degrees(text, letters):
    """Decimal degrees of a text that matches DEGREES; `letters` are the ones for positive and negative degrees."""
    found = len(text) <= MAX_TEXT and DEGREES.fullmatch(text)
    letter = ((found['before'] or '') + (found['after'] or '')).upper() if found else 'none'
    if letter not in ('', *letters) or letter and found['sign']:
        raise ValueError('not degrees')
    parts = [float((found[name] or '0').replace(',', '.')) for name in ('degrees', 'minutes', 'seconds')]
    if max(parts[1:]) >= 60:
        raise ValueError('not degrees')
    negative = letter == letters[1] or found['sign'] == '-'
    value = f'{parts[0] + parts[1] / 60 + parts[2] / 3600:.6f}'.rstrip('0').rstrip('.')
    return f'-{value}' if negative else value


REPAIRS = {
    'date': repair_date,
    'time': repair_time,
    'latitude': lambda text: repair_degrees(text, 90),
    'longitude': lambda text: repair_degrees(text, 180),
    'elevation': repair_elevation,
}


def metadata(recording: Recording) -> tuple[list[str], list[tuple[str, str]]]:
    """Metadata of a recording, corrected. A time that is UTC becomes local time; without a longitude, it is dropped.

    Returns [date, time, latitude, longitude, elevation], '' if unknown, and a list of (problem, what was done) with an
    entry per value that was changed or dropped. A problem is "Time '7h'", for example.
    """
    texts = {name: getattr(recording, name) for name in REPAIRS}
    if not texts['time'].strip():
        texts['time'] = _time_of_date(texts['date'])
    values = {name: _repaired(name, text) if text.strip() else '' for name, text in texts.items()}
    if utc := len(texts['time']) <= MAX_TEXT and UTC.fullmatch(texts['time'].strip()):
        time = _repaired('time', utc[1])
        values['date'], values['time'] = local_time(values['date'], time, values['longitude'])
    # added seconds of a time are not reported
    problems = [
        (f'{name.title()} {text!r}', values[name] or 'dropped')
        for name, text in texts.items()
        if text.strip() and values[name] not in (text, f'{text}:00')
    ]
    return list(values.values()), problems


def local_time(date: str, time: str, longitude: str) -> tuple[str, str]:
    """Date and time of UTC ('' if unknown) -> those of the local mean solar time at a longitude in degrees.

    The time is '' if the time or the longitude is unknown.
    """
    if not (time and longitude):
        return date, ''
    moment = datetime.datetime.fromisoformat(f'{date or "2000-01-01"}T{time}')
    try:
        moment += datetime.timedelta(seconds=round(float(longitude) * 240))
    except OverflowError:
        return date, ''
    return moment.date().isoformat() if date else '', moment.time().isoformat()


@functools.lru_cache(1 << 16)
def _repaired(name, text):
    """The corrected value, '' if it cannot be used. The same texts occur in many recordings."""
    try:
        return REPAIRS[name](text)
    except ValueError:
        return ''


def _time_of_date(text):
    """The time in a date with a time, with Z if it is UTC, else ''.

    Midnight is what programs add to dates without a time.
    """
    found = len(text) <= MAX_TEXT and TIMESTAMP.fullmatch(text.strip())
    if not found or not found['time'] or set(found['time']) <= set('0:'):
        return ''
    return found['time'] + ('Z' if UTC.fullmatch(text.strip()) else '')
