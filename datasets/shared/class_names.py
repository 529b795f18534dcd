"""classes.tsv of a dataset: names of classes that are no recording's own class, for example if they occur in segments.

Its columns are class id, scientific name and common name.
"""

import os

from shared.tables import read_table, table, write_if_changed


def read_class_names(dataset: str) -> dict[str, tuple[str, str]]:
    """Class id -> (scientific, common name), from the table of a dataset's folder; {} if there is none."""
    filename = os.path.join(dataset, 'classes.tsv')
    return {row[0]: (row[1], row[2]) for row in read_table(filename, 3)} if os.path.exists(filename) else {}


def add_class_names(dataset: str, names: dict[str, tuple[str, str]]) -> None:
    """Add names to the table of a dataset's folder, and replace those that have changed."""
    names = {class_id: both for class_id, both in names.items() if any(both)}
    if names:
        rows = sorted((class_id, *both) for class_id, both in {**read_class_names(dataset), **names}.items())
        write_if_changed(os.path.join(dataset, 'classes.tsv'), table(rows))
