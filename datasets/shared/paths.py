"""Finds the files that a table means, where its paths are not exactly those of the files."""

import unicodedata
from collections.abc import Iterable


def located(paths: Iterable[str], files: Iterable[str]) -> tuple[dict[str, str], str]:
    """({path in a table: file} where they differ, folder that all paths of the table are below).

    Paths that differ from exactly one file in upper and lower case, or in the composition of accented letters, mean
    this file. If none of the paths exists, but most of them exist below one folder, all are below this folder.
    """
    paths, files = list(paths), set(files)
    by_form = {}
    for file in files:
        by_form.setdefault(_form(file), []).append(file)

    def find(path):
        found = [path] if path in files else by_form.get(_form(path), [])
        return found[0] if len(found) == 1 else ''

    folder = ''
    if paths and not any(map(find, paths)):
        candidates = sorted(file for file in files if _form(file).endswith(f'/{_form(paths[0])}'))
        above = candidates[0].split('/')[: -len(paths[0].split('/'))] if len(candidates) == 1 else []
        folder = ''.join(f'{name}/' for name in above)
        if 2 * sum(bool(find(folder + path)) for path in paths) <= len(paths):
            folder = ''
    result = {path: find(folder + path) for path in paths}
    return {path: file for path, file in result.items() if file and file != path}, folder.rstrip('/')


def _form(path):
    return unicodedata.normalize('NFC', path).casefold()
