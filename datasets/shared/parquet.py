"""Parquet tables, if pyarrow is installed."""

import json
from collections.abc import Callable, Iterator

from birdsong.files import Problem


def read_parquet(filename: str) -> tuple[list[str], Callable[[], Iterator[tuple[int, list[str]]]]]:
    """(names of the columns, function that iterates over (number of the row, fields)) of a Parquet table.

    Columns with sound or other structures are left out; lists are texts in Python syntax. Raises Problem if the file
    cannot be read, or if pyarrow is missing.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise Problem(f'{filename}: reading Parquet needs pyarrow; type: pip install pyarrow') from None
    try:
        schema = pyarrow.parquet.read_schema(filename)
        unreadable = (pyarrow.types.is_struct, pyarrow.types.is_binary, pyarrow.types.is_large_binary)  # such as sound
        columns = [field.name for field in schema if not any(test(field.type) for test in unreadable)]
        content = pyarrow.parquet.read_table(filename, columns=columns)
    except (OSError, pyarrow.ArrowException) as e:
        raise Problem(f'{filename}: not a Parquet table: {str(e).splitlines()[0]}') from None
    names = _names_of_numbers(schema.metadata or {})
    fields = [
        [_parquet_text(value, names.get(content.column_names[number])) for value in content.column(number).to_pylist()]
        for number in range(content.num_columns)
    ]

    def rows():
        return ((line, list(row)) for line, row in enumerate(zip(*fields, strict=True), 1))

    return content.column_names, rows


def _names_of_numbers(metadata):
    """{column: names of its numbers}: Hugging Face stores classes as numbers, and their names beside the columns."""
    try:
        features = json.loads(metadata.get(b'huggingface', b'{}'))['info']['features']
        leaves = {}
        for column, feature in features.items():
            while isinstance(feature, dict) and 'feature' in feature:
                feature = feature['feature']
            leaves[column] = feature
        return {column: list(leaf['names']) for column, leaf in leaves.items() if leaf.get('_type') == 'ClassLabel'}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _parquet_text(value, names):
    if isinstance(value, list):
        return str([_parquet_text(item, names) if names else item for item in value])
    if value is None or value != value:
        return ''
    return names[value].strip() if names and isinstance(value, int) and 0 <= value < len(names) else str(value).strip()
