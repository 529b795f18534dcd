"""Settings: read from defaults.vars and its overrides, checked against what defaults.vars admits.

A setting is a line KEY=VALUE; the value is an int if it reads as one, else a float, else text.
"""

import difflib
import functools
import os
import re

from birdsong.files import Problem, read_lines, writing

EXPERIMENTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEFAULTS = os.path.join(EXPERIMENTS, 'defaults.vars')
# Set by programs, not by users: kept with a model.
DERIVED = {'classes': 'int 1..', 'bins': 'int 1..'}


def parse_value(text):
    """'1' -> 1, '1.5' -> 1.5, 'abc' -> 'abc'; spaces around numbers don't matter."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def parse_assignments(lines, origin='--var'):
    """Dict of the settings in `lines` (KEY=VALUE; blank lines and those that begin with # are skipped).

    Raises Problem, naming `origin`, for a line that isn't an assignment.
    """
    settings = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith('#'):
            continue
        key, equals, value = line.rstrip('\r\n').partition('=')
        if not equals or not key.strip():
            raise Problem(f'{origin}, line {int(number)}: expected KEY=VALUE, found {line!r}')
        settings[key.strip()] = parse_value(value)
    return settings


def read_vars(filename):
    """Dict of the settings in a .vars file."""
    return parse_assignments(read_lines(filename), filename)


def write_vars(filename, settings):
    """Write settings as a .vars file, whole or not at all."""
    with writing(filename, 'w', encoding='utf-8') as f:
        f.writelines('{}={}\n'.format(*item) for item in settings.items())


@functools.lru_cache(None)
def kinds():
    """Dict of each setting's kind: the text in brackets before it in defaults.vars."""
    result, kind = dict(DERIVED), None
    for line in read_lines(DEFAULTS):
        if line.startswith('#'):
            found = re.search(r'\[([^][]*)\]$', line)
            kind = found.group(1) if found else None
        elif '=' in line:
            result[line.split('=')[0]] = kind
    return result


def _admits(kind, value):
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


def check(settings, origin='settings'):
    """Raises Problem for the first setting that is unknown or whose value is of the wrong kind."""
    known = kinds()
    for key, value in settings.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise Problem(
                '{}: unknown setting {}{}'.format(
                    origin, key, f'; did you mean {near[0]}?' if near else '; experiments/defaults.vars lists all'
                )
            )
        if not _admits(known[key], value):
            raise Problem(f'{origin}: {key}={value}: expected {" or ".join(known[key].split("|")) or "nothing"}')


def load(vars_files=(), assignments=()):
    """All settings: the defaults, overridden by `vars_files` in their order, then by `assignments` (KEY=VALUE).

    Raises Problem for what can't be read, is unknown or of the wrong kind.
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


def find(filename):
    """A file that a setting or option names: as seen from the working directory, else from experiments/."""
    beside = os.path.join(EXPERIMENTS, filename)
    return beside if not os.path.exists(filename) and os.path.exists(beside) else filename
