"""Suggestions for misspelt names."""

import difflib
from collections.abc import Collection


def most_similar(name: str, known: Collection[str]) -> str | None:
    """The name among `known` that is most similar to `name`, or None if none is similar."""
    return next(iter(difflib.get_close_matches(name, known, 1)), None)


def did_you_mean(name: str, known: Collection[str], otherwise: str = '') -> str:
    """End of a message about an unknown name: a similar name or, if there is none, `otherwise` (default: all names)."""
    near = most_similar(name, known)
    return f'did you mean {near}?' if near else otherwise or f'known names: {", ".join(known)}'
