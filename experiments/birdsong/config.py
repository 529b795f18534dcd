"""Settings: the defaults in defaults.vars, overridden by files and options, and checked against defaults.vars.

A setting is a line KEY=VALUE. The value is an int if it can be read as one, otherwise a float, otherwise text.
"""

import functools
import os
import re
from collections.abc import Iterable

from birdsong.files import Problem, read_lines, writing
from birdsong.names import did_you_mean

EXPERIMENTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEFAULTS = os.path.join(EXPERIMENTS, 'defaults.vars')
# Settings that are added by programs, not by users, with the kinds of their values.
DERIVED = {'classes': 'int 1..', 'bins': 'int 1..'}
# Settings that change how fast results are computed, but not the results.
INDIFFERENT = ('bg_threads', 'bg_processes')

Value = int | float | str
Settings = dict[str, Value]


def parse_value(text: str) -> Value:
    """'1' -> 1, '1.5' -> 1.5, 'abc' -> 'abc'; spaces around numbers are ignored."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def parse_assignments(lines: Iterable[str], origin: str = '--var') -> Settings:
    """The settings in lines KEY=VALUE; blank lines and lines that begin with # are skipped.

    Raises Problem, with `origin` in the message, for any other line.
    """
    settings = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith('#'):
            continue
        key, equals, value = line.rstrip('\r\n').partition('=')
        if not equals or not key.strip():
            raise Problem(f'{origin}, line {number}: expected KEY=VALUE, found {line!r}')
        settings[key.strip()] = parse_value(value)
    return settings


def read_vars(filename: str) -> Settings:
    """The settings in a .vars file."""
    return parse_assignments(read_lines(filename), filename)


def write_vars(filename: str, settings: Settings) -> None:
    """Write settings to a .vars file, atomically."""
    with writing(filename, 'w', encoding='utf-8') as f:
        f.writelines(f'{key}={value}\n' for key, value in settings.items())


@functools.lru_cache(None)
def kinds() -> dict[str, str]:
    """Allowed values of each setting: the text in brackets at the end of the comment above it in defaults.vars."""
    result, kind = dict(DERIVED), None
    for line in read_lines(DEFAULTS):
        if line.startswith('#'):
            found = re.search(r'\[([^][]*)\]$', line)
            kind = found.group(1) if found else None
        elif '=' in line:
            result[line.split('=')[0]] = kind
    return result


def _is_of_kind(value: Value, kind: str) -> bool:
    if kind == 'text':
        return True
    for alternative in kind.split('|'):
        word, _, bounds = alternative.partition(' ')
        if word in ('int', 'number'):
            if isinstance(value, int) or word == 'number' and isinstance(value, float) and value == value:
                low, _, high = bounds.partition('..')
                if (not low or value >= float(low)) and (not high or value <= float(high)):
                    return True
        elif re.fullmatch(re.escape(alternative).replace('A', r'[-+]?[0-9.]+(e[-+]?[0-9]+)?'), str(value)):
            return True
    return False


def check(settings: Settings, origin: str = 'settings') -> None:
    """Raise Problem, with `origin` in the message, for a setting that is unknown or has a value of the wrong kind."""
    known = kinds()
    for key, value in settings.items():
        if key not in known:
            hint = did_you_mean(key, known, 'experiments/defaults.vars lists all settings')
            raise Problem(f'{origin}: unknown setting {key}; {hint}')
        if not _is_of_kind(value, known[key]):
            raise Problem(f'{origin}: {key}={value}: expected {" or ".join(known[key].split("|")) or "nothing"}')


def load(vars_files: Iterable[str] = (), assignments: Iterable[str] = ()) -> Settings:
    """All settings: the defaults, overridden by `vars_files` in their order, then by `assignments` (KEY=VALUE).

    Raises Problem for files that cannot be read, and as `check`.
    """
    settings = read_vars(DEFAULTS)
    for filename in vars_files:
        filename = find(filename)
        overrides = read_vars(filename)
        check(overrides, filename)
        settings.update(overrides)
    overrides = parse_assignments(assignments)
    check(overrides, '--var')
    settings.update(overrides)
    return settings


def find(filename: str) -> str:
    """Path of a file in a setting or option, relative to the working directory or, if missing there, experiments/."""
    in_experiments = os.path.join(EXPERIMENTS, filename)
    return in_experiments if not os.path.exists(filename) and os.path.exists(in_experiments) else filename
