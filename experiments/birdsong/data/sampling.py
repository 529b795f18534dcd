"""Which recordings are drawn for training, and the weights of their examples: class balance and quality."""

import os
import re
import sys
from collections.abc import Sequence

import numpy as np

from birdsong.config import Settings
from birdsong.data.dataset import Dataset
from birdsong.files import Problem

QUALITIES = 'ABCDE'


# == Probabilities of recordings ==


def recording_shares(cfg: Settings, labels: np.ndarray, drawn: int) -> np.ndarray | None:
    """Probability of each training recording (N,), or None unless class_balance is set: then all are equally likely.

    It is proportional to count ** -class_balance, where count is the number of recordings of its class (0.5 and 1 are
    the square-root and the class-balanced sampling of Kang et al., ICLR 2020). With max_excerpts, no recording is
    expected more often in an epoch than that, or than it would be if all were equally likely; the other recordings get
    the rest. labels: class indices (N,); drawn: number of recordings drawn per batch.
    """
    if not cfg['class_balance']:
        return None
    weights = np.bincount(labels)[labels] ** -float(cfg['class_balance'])
    limit = cfg['max_excerpts'] / (drawn * cfg['epochsize']) if cfg['max_excerpts'] else 1
    return limited_shares(weights, max(limit, 1 / len(labels)))


def limited_shares(weights: np.ndarray, limit: float) -> np.ndarray:
    """Shares (N,) with a sum of 1, proportional to `weights` (N,), but none above `limit`, which is at least 1 / N."""
    shares, full = weights / weights.sum(), np.zeros(len(weights), bool)
    while (shares > limit * (1 + 1e-9)).any():
        full |= shares > limit
        rest = np.where(full, 0, weights)
        shares = np.where(full, limit, rest / rest.sum() * (1 - limit * full.sum()))
    return shares


def draw_by_share(
    buckets: Sequence[np.ndarray], shares: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Index array (count,): items drawn from one bucket, each as often as its share (N,) demands.

    The probability of a bucket is the sum of its shares. In it, systematic sampling (Madow 1949) draws each item
    floor(e) or ceil(e) times, where e is its expected number, so that few are repeated. Repeated items are neighbours
    in the result, so that mixup does not mix an item with itself unless it is half of the batch.
    """
    bucket = buckets[_places(np.array([shares[bucket].sum() for bucket in buckets]), rng.random())]
    bucket = rng.permutation(bucket)
    # Each point alone is uniformly distributed, so that a position in the batch says nothing about the item.
    return bucket[_places(shares[bucket], (rng.random() + np.arange(count) / count) % 1)]


def _places(shares, points):
    """Indices of the intervals with the lengths `shares` in which `points`, fractions of their sum, are."""
    edges = np.cumsum(shares)
    # Rounding may move a point to the end of the last interval.
    return np.minimum(np.searchsorted(edges, points * edges[-1], side='right'), len(edges) - 1)


# == Weights of examples ==


def quality_rank(quality: str) -> float | None:
    """1 for the best quality to 5 for the worst, None if unknown. Ratings from 5 stars (A) to 1 (E) are read, too."""
    text = quality.strip().upper()
    if len(text) == 1 and text in QUALITIES:
        return 1 + QUALITIES.index(text)
    stars = float(text) if re.fullmatch(r'[0-5](\.[0-9]{1,3})?', text, re.A) else 0
    return 6 - stars if 0 < stars <= 5 else None


def quality_weights(cfg: Settings, dataset: Dataset, files: Sequence[str]) -> np.ndarray | None:
    """Weight of each recording from its quality in recordings.tsv, float32 (N,), or None unless quality_weights is set.

    Recordings of unknown quality have weight 1; weights of ratings between two letters are interpolated. Raises Problem
    if the setting does not have five numbers, or if there is no recordings.tsv.
    """
    text = str(cfg['quality_weights'])
    if not text:
        return None
    try:
        weights = [float(part) for part in text.split(':')]
    except ValueError:
        weights = []
    if len(weights) != len(QUALITIES) or not all(0 <= weight < np.inf for weight in weights):
        raise Problem(f'quality_weights={text}: expected five numbers from 0, for the qualities A:B:C:D:E')
    filename = os.path.join(dataset.path, 'recordings.tsv')
    if not os.path.exists(filename):
        raise Problem(f'{filename}: no such file; quality_weights needs it, see datasets/README.md')
    ranks = {row['key']: quality_rank(row.get('quality', '')) for row in dataset.recordings()}
    found = [ranks.get(key) for key in files]
    if not any(found):
        sys.stderr.write(f'{filename}: no quality of a training recording is known: quality_weights has no effect\n')
    return np.array([1 if rank is None else np.interp(rank, range(1, 6), weights) for rank in found], np.float32)


def class_weights(cfg: Settings, labels: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Weight of each training recording, float32 (N,), or None unless class_weights=google:BETA is set.

    ((p_mean / p_c) (1 - p_c) / (1 - p_mean))^BETA, where p_c is the share of the recording's class in the list.
    """
    if not cfg['class_weights']:
        return None
    beta = float(cfg['class_weights'].partition(':')[2])
    share = np.bincount(labels, minlength=num_classes) / len(labels)
    mean = share.mean()
    own = share[labels]
    with np.errstate(divide='ignore', invalid='ignore'):
        weights = ((mean / own) * (1 - own) / (1 - mean)) ** beta
    # With a single class, the formula is 0 / 0.
    return np.nan_to_num(weights, nan=1, posinf=1).astype(np.float32)


def example_weights(cfg: Settings, dataset: Dataset, files: Sequence[str], labels: np.ndarray) -> np.ndarray | None:
    """The product of class weights and quality weights of the training recordings, float32 (N,); None without both."""
    by_class, by_quality = class_weights(cfg, labels, dataset.num_classes), quality_weights(cfg, dataset, files)
    if by_class is None or by_quality is None:
        return by_quality if by_class is None else by_class
    return by_class * by_quality
