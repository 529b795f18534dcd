"""Drawing a part of the recordings by groups, stratified by class."""

import collections
import hashlib
import heapq
from collections.abc import Callable, Collection, Iterable

SHARE = 0.08


def hash_order(keys: Iterable[str], seed: int) -> bytes:
    """A sort key that puts groups of recordings in a random order, which depends only on the seed and their keys."""
    return hashlib.sha256(f'{seed}|{min(keys)}'.encode()).digest()


def draw(
    labels: dict[str, str],
    groups: list[list[str]],
    share: float = SHARE,
    seed: int = 0,
    *,
    drawn: Collection[str] = (),
    totals: dict[str, int] | None = None,
    clips: Callable[[str], list[str]] | None = None,
) -> tuple[set[str], int]:
    """Draw a share of the recordings of each class -> (set of keys, number of groups that had to be divided).

    `labels`: dict of key -> class of the recordings that are on one of the two sides; `groups`: lists of keys that
    stay together and may be drawn; `drawn`: keys of `labels` that are on the drawn side already and count towards its
    share; `totals`: number of recordings per class that the share refers to (default: those of `labels`).
    Of each class with at least two recordings, at least one is drawn and at least one is not, unless its groups do not
    allow it. If `clips` is given, groups are divided where it is impossible otherwise; it returns the keys that must
    stay together even then. The result depends on the keys and the seed, not on their order.
    """
    groups = sorted(groups, key=lambda keys: hash_order(keys, seed))
    drawing = _Drawing(labels, groups, share, drawn, totals)
    result, divided = set(), set()
    # the rarest classes first: they have the least choice
    for s in sorted(drawing.sizes, key=lambda s: (drawing.sizes[s], s)):
        for number in drawing.take_groups(s):
            result.update(groups[number])
        if clips and drawing.wanted[s] and not drawing.drawn[s]:
            number, keys = _divide(drawing, s, labels, clips, result, seed)
            result.update(keys)
            divided.update([number] if keys else [])
            for number in drawing.take_groups(s):
                result.update(groups[number])
    return result, len(divided)


class _Drawing:
    """How many recordings of each class are wanted and drawn, and what each group would add."""

    def __init__(self, labels, groups, share, drawn, totals):
        self.groups = groups
        self.sizes = collections.Counter(labels.values())
        totals = totals or self.sizes
        self.wanted = {s: max(1, round(share * totals[s])) if n > 1 else 0 for s, n in self.sizes.items()}
        self.drawn = collections.Counter(labels[key] for key in drawn)
        self.counts = [collections.Counter(labels[key] for key in group) for group in groups]
        self.taken = set()
        # The last known excess of each group, which can only grow; None if it cannot be taken any more.
        self.least = [0] * len(groups)
        self.groups_of = collections.defaultdict(list)
        for number, count in enumerate(self.counts):
            for s in count:
                self.groups_of[s].append(number)

    def excess(self, count):
        """Number of recordings too many if `count` per class are taken; None if a class had none left for training."""
        total = 0
        for s, n in count.items():
            if self.drawn[s] + n >= self.sizes[s]:
                return None
            total += max(0, self.drawn[s] + n - self.wanted[s])
        return total

    def add(self, count):
        self.drawn.update(count)

    def take_groups(self, s):
        """Take groups with class `s`, those with the least excess first, until there are enough; yields their numbers.

        If the class has a recording already, groups whose excess is above what they help are not taken.
        """
        candidates = (number for number in self.groups_of[s] if number not in self.taken)
        heap = [(self.least[number], number) for number in candidates if self.least[number] is not None]
        heapq.heapify(heap)
        while heap and (missing := self.wanted[s] - self.drawn[s]) > 0:
            least, number = heap[0]
            cost = self.least[number] = self.excess(self.counts[number])
            if cost is not None and cost > least:
                heapq.heapreplace(heap, (cost, number))
                continue
            heapq.heappop(heap)
            if cost is not None and (not self.drawn[s] or cost <= min(self.counts[number][s], missing)):
                self.taken.add(number)
                self.add(self.counts[number])
                yield number


def _divide(drawing, s, labels, clips, taken, seed):
    """A recording of class `s` from the group with most of them, with its clips -> (number of the group, keys).

    No keys if a class would have none left for training.
    """
    number = max(drawing.groups_of[s], key=lambda number: (drawing.counts[number][s], -number), default=None)
    keys = () if number is None else (key for key in drawing.groups[number] if labels[key] == s and key not in taken)
    for key in sorted(keys, key=lambda key: hash_order([key], seed)):
        together = [other for other in clips(key) if other not in taken]
        count = collections.Counter(labels[other] for other in together)
        if drawing.excess(count) is not None:
            drawing.add(count)
            return number, together
    return number, []


def draw_side(
    labels: dict[str, str],
    groups: list[list[str]],
    settled: dict[str, bool],
    share: float,
    seed: int = 0,
    totals: dict[str, int] | None = None,
    clips: Callable[[str], list[str]] | None = None,
) -> tuple[set[str], int]:
    """Draw a part where the side of some recordings is known -> (keys on the drawn side, number of divided groups).

    `labels`: dict of key -> class of all recordings that have one, `groups`: lists of keys, `settled`: dict of key ->
    whether it is on the drawn side. The other recordings of a group join the drawn side if all settled recordings of
    the group are there; groups without settled recordings are drawn so that the share of each class holds.
    See `draw` for the other parameters.
    """
    drawn, free = {key for key, side in settled.items() if side}, []
    for keys in groups:
        sides = [settled[key] for key in keys if key in settled]
        if not sides:
            free.append(keys)
        elif all(sides):
            drawn.update(keys)
    labels = {key: labels[key] for keys in groups for key in keys if key in labels}
    counted = [key for key in drawn if key in labels]
    new, divided = draw(labels, free, share, seed, drawn=counted, totals=totals, clips=clips)
    return drawn | new, divided
