"""Findings in the tables of a source folder: where each occurred, and what was done."""

from collections.abc import Iterable

from shared.source import Source, printable


class Findings:
    """Collects findings, so that the user reads one line for each kind, and can look up each of them."""

    def __init__(self):
        self._places = {}

    def add(self, kind: str, done: str, where: str) -> None:
        """Add a finding. `kind` is a plural such as 'rows without label', `where` a place such as 'a.csv, line 3'."""
        self._places.setdefault((kind, done), []).append(where)

    def add_problems(self, name: str, problems: Iterable[tuple[int, str, str]]) -> None:
        """Add the problems of a `Table` with the given name."""
        for line, problem, done in problems:
            self.add(problem, done, f'{name}, line {line}')

    def lines(self) -> Iterable[str]:
        """One line for each kind: how many, the first place, and what was done."""
        for (kind, done), places in self._places.items():
            yield f'{kind}: {len(places)}, such as {printable(places[0])}; {done}'

    def report(self, source: Source) -> None:
        """Tell the user of a source the lines, and list all findings among what was found there."""
        for line in self.lines():
            source.note(line)
        for (kind, done), places in self._places.items():
            source.found += [(printable(where), f'one of the {kind}', done) for where in places]
