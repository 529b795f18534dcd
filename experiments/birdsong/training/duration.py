"""The rule for epochsize=auto and initial_eta=auto: how many updates, and how large, for a collection and a batch size.

The number of examples that a network sees grows with the collection, but more slowly: EXAMPLES n^EXPONENT for n
excerpts. The exponent is between that of a fixed number of passes (1) and that of a fixed number of updates (0). With
16 excerpts per batch, this gives 2838 updates (142 passes) for the 320 training clips of a fold of ESC-10, and the 10^5
updates of the largest networks of 2018 for their 36 000 recordings.
"""

import math
from typing import Any

import numpy as np

from birdsong.files import Problem

EXAMPLES, EXPONENT = 600, 0.75
# A long recording counts as the number of different excerpts in it, but no more than so many: they sound alike.
MOST_EXCERPTS = 10
FEWEST_UPDATES, MOST_UPDATES = 500, 100_000
# The rule gives the number of updates in so many epochs, the default of `epochs`.
EPOCHS = 20
# Learning rate for a batch of 16, as in 2018. For Adam, it grows with the square root of the batch size (Malladi et al.
# 2022, arXiv:2205.10287).
ETA, BATCHSIZE = 0.001, 16


def count_updates(lengths: np.ndarray, longest: int, batchsize: int) -> int:
    """Number of updates for recordings with these `lengths` (N,) and excerpts of up to `longest` samples.

    If `longest` is 0, as for networks on metadata alone, each recording counts as one excerpt.
    """
    lengths = np.asarray(lengths, float)
    excerpts = np.clip(lengths / longest, 1, MOST_EXCERPTS).sum() if longest else len(lengths)
    examples = EXAMPLES * excerpts**EXPONENT
    return min(max(math.ceil(examples / batchsize), FEWEST_UPDATES), MOST_UPDATES)


def resolve(cfg: dict[str, Any], lengths: np.ndarray) -> dict[str, int | float]:
    """Replace `auto` in `epochsize` and `initial_eta` by numbers for recordings with these lengths in samples.

    Returns the settings that were replaced. Raises Problem for an optimiser for which there is no rule.
    """
    chosen = {}
    if cfg['epochsize'] == 'auto':
        longest = int(cfg['len_max'] * cfg['sample_rate']) if cfg['arch'] else 0
        chosen['epochsize'] = math.ceil(count_updates(lengths, longest, cfg['batchsize']) / EPOCHS)
    if cfg['initial_eta'] == 'auto':
        if cfg['learn_scheme'] not in ('adam', 'adamw'):
            raise Problem(f'initial_eta=auto: only for adam and adamw; for {cfg["learn_scheme"]}, set a number')
        chosen['initial_eta'] = float(f'{ETA * math.sqrt(cfg["batchsize"] / BATCHSIZE):.3g}')
    cfg.update(chosen)
    return chosen
