"""Layouts of source folders. Each module of this package translates one layout to the rows of recordings.tsv.

A module has

- a docstring that shows the folders and tables that it reads,
- `LOOKED_FOR`, what it recognises a folder by, in one line,
- `PRECEDENCE`, 1 if the layout is recognised by tables or marked names, 2 by folders alone, 3 by nothing,
- `recognise(source: Source) -> str`: why the folder has this layout, or '' if it does not,
- `rows(source: Source) -> Iterable[Recording]`: its recordings. Raises Problem for a table that cannot be used.

To add a layout, add a module.
"""

import importlib
import pkgutil
from types import ModuleType

from birdsong.files import Problem
from shared.source import Source, columns_of


def names() -> list[str]:
    """Names of all layouts, as the option --layout has them."""
    return sorted(module.name.replace('_', '-') for module in pkgutil.iter_modules(__path__))


def module(name: str) -> ModuleType:
    """The module of the layout `name`."""
    return importlib.import_module(f'{__name__}.{name.replace("-", "_")}')


def recognise(source: Source) -> tuple[str, str]:
    """(name of the layout of a source folder, why).

    Raises Problem if there is none, or if several are equally plausible.
    """
    best = []
    for name in sorted(names(), key=lambda name: module(name).PRECEDENCE):
        if best and module(best[0][0]).PRECEDENCE != module(name).PRECEDENCE:
            break
        why = module(name).recognise(source)
        if why:
            best.append((name, why))
    if not best:
        looked_for = '; '.join(f'{name} ({module(name).LOOKED_FOR})' for name in names())
        tables = columns_of(source, source.tables())
        problem = 'no known layout' if tables or source.recordings() else 'no recordings found'
        raise Problem(f'{source.path}: {problem}{f" ({tables})" if tables else ""}; looked for {looked_for}')
    if len(best) > 1:
        options = ', '.join(f'--layout {name} ({why})' for name, why in best)
        raise Problem(f'{source.path}: has several layouts; choose one of {options}')
    return best[0]
