"""preparation.json: the options of the last preparation of a dataset, used again if they are not given."""

import json
import os

from birdsong.files import Problem, open_regular
from shared.tables import write_if_changed

FILENAME = 'preparation.json'


def remembered(dataset: str, step: str, options: dict, store: bool = True) -> dict:
    """Options of a step: those given now, and those of the last preparation where a value is None.

    Stores the result for the next run, unless `store` is false. Options that are None everywhere are not stored.
    Raises Problem if the file of a dataset's folder is damaged.
    """
    filename = os.path.join(dataset, FILENAME)
    steps = _read(filename)
    result = {name: steps.get(step, {}).get(name) if value is None else value for name, value in options.items()}
    if store:
        steps[step] = {name: value for name, value in result.items() if value is not None}
        write_if_changed(filename, json.dumps(steps, indent=2, sort_keys=True) + '\n')
    return result


def stored(dataset: str, step: str) -> dict:
    """The stored options of a step, {} if there are none. Raises Problem if the file is damaged."""
    return _read(os.path.join(dataset, FILENAME)).get(step, {})


def _read(filename):
    if not os.path.exists(filename):
        return {}
    try:
        with open_regular(filename, 'r', encoding='utf-8') as f:
            steps = json.load(f)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
        raise Problem(f'{filename}: not JSON: {e}; delete it, and give the options again') from None
    if not isinstance(steps, dict) or not all(isinstance(options, dict) for options in steps.values()):
        raise Problem(f'{filename}: expected the options of each step; delete it, and give the options again')
    return steps
