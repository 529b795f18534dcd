"""Dates, times, places and elevations in many spellings -> the format of labels/meta.tsv."""

import datetime
import html
import re

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


def repair_date(text: str) -> str:
    """Date: '2010-5-6' -> '2010-05-06'. Raises ValueError if it is not a full date that exists."""
    found = re.fullmatch(r'([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})', text.strip())
    if not found:
        raise ValueError('not YYYY-MM-DD')
    return datetime.date(*map(int, found.groups())).isoformat()


def repair_time(text: str) -> str:
    """Time of day as 'HH:MM:SS', for a range its start. Raises ValueError if it is not a time from 00:00 to 23:59."""
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
    """Latitude or longitude, unchanged. Raises ValueError if it is not a number from -`limit` to `limit`."""
    number = re.fullmatch(r'[+-]?(\d{1,3}(\.\d*)?|\.\d+)(e-?\d{1,2})?', text.strip(), re.A | re.I)
    if not number or abs(float(text)) > limit:
        raise ValueError(f'not degrees within {limit}')
    return text.strip()


REPAIRS = (
    ('Date', repair_date),
    ('Time', repair_time),
    ('Latitude', lambda text: repair_degrees(text, 90)),
    ('Longitude', lambda text: repair_degrees(text, 180)),
    ('Elevation', repair_elevation),
)


def metadata(fields: dict[str, str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Metadata of a recording from its XML fields.

    Returns [date, time, latitude, longitude, elevation], '' if unknown, and a list of (problem, what was done) with an
    entry per value that was changed or dropped.
    """
    values, problems = [], []
    for name, repair in REPAIRS:
        text, value = fields.get(name, ''), ''
        if text.strip():
            try:
                value = repair(text)
            except ValueError:
                problems.append((f'{name} {text!r}', 'dropped'))
            else:
                # added seconds of a time are not reported
                if value not in (text, f'{text}:00'):
                    problems.append((f'{name} {text!r}', value))
        values.append(value)
    return values, problems
