"""How the groups of recordings that belong together were split over the lists of a dataset."""

from typing import NamedTuple

import numpy as np

from birdsong.report.contents import PARTS, Contents


class Split(NamedTuple):
    """The groups in one list."""

    name: str
    recordings: int
    groups: int
    largest: int  # recordings in the largest group
    shared: int  # groups that other parts have recordings of, too


def splits(found: Contents, groups: list[str]) -> list[Split]:
    """How the groups of recordings `found.keys` were split over the lists of the parts."""
    members = {name: [groups[i] for i in rows.tolist()] for name, rows in found.lists.items() if name in PARTS}
    result = []
    for name, those in members.items():
        kinds, sizes = np.unique(those, return_counts=True)
        elsewhere = set().union(*(other for key, other in members.items() if key != name))
        shared = sum(kind in elsewhere for kind in kinds.tolist())
        result.append(Split(name, len(those), len(kinds), int(sizes.max()), shared))
    return result


def sizes(groups: list[str]) -> np.ndarray:
    """Numbers of recordings of all groups (groups,), in descending order."""
    return np.sort(np.unique(groups, return_counts=True)[1])[::-1]
