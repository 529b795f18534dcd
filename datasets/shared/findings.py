"""Findings in the tables of a source folder: how often each occurred, where first, and what was done."""

from collections.abc import Iterable


class Findings:
    """Counts findings of equal kind, so that the user reads one line for each kind."""

    def __init__(self):
        self._found = {}

    def add(self, kind: str, done: str, where: str, count: int = 1) -> None:
        """Count a finding. `kind` is a plural such as 'rows without label', `where` a place such as 'a.csv, line 3'."""
        first, number = self._found.get((kind, done), (where, 0))
        self._found[kind, done] = first, number + count

    def add_problems(self, name: str, problems: Iterable[tuple[int, str, str]]) -> None:
        """Count the problems of a `Table` with the given name."""
        for line, problem, done in problems:
            self.add(problem, done, f'{name}, line {line}')

    def lines(self) -> Iterable[str]:
        """One line for each kind: how many, the first place, and what was done."""
        for (kind, done), (where, number) in self._found.items():
            yield f'{number} {kind} ({where}{", ..." if number > 1 else ""}): {done}'
