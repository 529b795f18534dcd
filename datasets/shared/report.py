"""What the preparation of a dataset finds in its source: lines for the user, and the cases in repairs.tsv."""

from collections.abc import Iterable


class Report:
    """Collects notes and cases, so that the user reads one line for each kind, and can look up each case."""

    def __init__(self):
        self._notes = []
        self._cases = {}  # (kind, what was done) -> [(place, problem)]

    def note(self, text: str) -> None:
        """Add a line for the user."""
        self._notes.append(text)

    def add(self, kind: str, done: str, place: str, problem: str = '') -> None:
        """Add a case.

        `kind` is a plural such as 'rows without label', `done` says what was done, `place` is a path in the source, a
        class, or a line of a table, and `problem` describes the case if its kind does not say all.
        """
        self._cases.setdefault((kind, done), []).append((printable(place), problem or f'one of the {kind}'))

    def add_all(self, kind: str, done: str, cases: Iterable[tuple[str, str]]) -> None:
        """Add cases (place, problem) of one kind."""
        for place, problem in cases:
            self.add(kind, done, place, problem)

    def add_table_problems(self, name: str, problems: Iterable[tuple[int, str, str]]) -> None:
        """Add the problems of a `Table` with the given name."""
        for line, problem, done in problems:
            self.add(problem, done, f'{name}, line {line}')

    def lines(self) -> list[str]:
        """The notes, then one line for each kind: how many, the first place, and what was done."""
        kinds = self._cases.items()
        return self._notes + [f'{kind}: {len(cases)}, such as {cases[0][0]}; {done}' for (kind, done), cases in kinds]

    def rows(self) -> list[tuple[str, str, str]]:
        """(place, problem, what was done) of each case, for repairs.tsv."""
        return [(*case, done) for (_, done), cases in self._cases.items() for case in cases]


def is_printable(text: str) -> bool:
    """Whether a text can be written in lists: it has no control characters and is valid Unicode."""
    try:
        return text.isprintable() and bool(text.encode())
    except UnicodeEncodeError:
        return False


def printable(text: str) -> str:
    """A text in a form that can be printed."""
    return text if is_printable(text) else ascii(text)[1:-1]
