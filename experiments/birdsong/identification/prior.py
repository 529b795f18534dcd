"""Which classes are plausible at a place and time, according to metadata networks, and what follows for detections.

A network on audio alone estimates how probable a class is given the sound, among recordings such as those of the
training list. At a known place and time, Bayes' rule multiplies the odds by

    factor = (probability of the class at that place and time) / (its mean probability over the training list)

where both are the mean over metadata networks (prior shift: Saerens et al. 2002; geographical priors: Mac Aodha et al.
2019). Needs torch only to apply networks.
"""

import glob
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from birdsong import config
from birdsong.data import metadata
from birdsong.data.dataset import Dataset
from birdsong.files import Problem
from birdsong.identification import choice

SOFT, MASK = KINDS = ('soft', 'mask')
# At places that are in no training list (BirdCLEF 2022, held-out cells of 5 degrees, mean of 2 networks of small_meta),
# 39 % of all classes have a factor below 0.01, but only 0.4 % of the labels (0.1: 56 % and 2.1 %).
LIMIT = 0.01
# Circumstances that must be known, if the networks use them; they can do without the others.
NEEDED = ('date', 'latitude', 'longitude')
# Seconds after which the probabilities are computed for a new time of day.
STEP = 600
# Number of recordings whose probabilities are computed at once.
BATCH = 4096


def networks(dataset: Dataset, names: Sequence[str] | None = None) -> list[choice.Member]:
    """The metadata networks with these names or, without names, all of the dataset.

    Raises Problem if there is none, or if one of those named is missing, belongs to another dataset, or uses audio.
    """
    folder = os.path.join(config.EXPERIMENTS, dataset.name)
    found = names or [file for file in sorted(glob.glob(os.path.join(glob.escape(folder), '*.npz'))) if is_meta(file)]
    if not found:
        raise Problem(
            f'{folder}: no metadata networks; train some, such as train_all.sh --dataset {dataset.name} --models '
            'small_meta.tsv, or name one of another folder'
        )
    members = choice.choose(dataset, models=found).members
    for member in members:
        if not is_meta(member.filename):
            raise Problem(
                f'{member.filename}: a network that needs audio or embeddings; name one that uses metadata alone'
            )
    return members


def is_meta(filename: str) -> bool:
    """Whether a file is a network on metadata alone."""
    if not os.path.exists(f'{filename}.vars'):
        return False
    cfg = config.load([f'{filename}.vars'])
    return not cfg['arch'] and not cfg['input_embeddings']


class MetadataNetworks:
    """Metadata networks, for a dataset of `count` classes. `.sources`: {file: what it uses}, see `metadata.SOURCES`.

    Raises Problem if one of them knows more classes.
    """

    def __init__(self, filenames: Sequence[str], count: int):
        self.count, self.settings = count, {name: config.load([f'{name}.vars']) for name in filenames}
        for name, cfg in self.settings.items():
            cfg['classes'] = cfg.get('classes') or count
            if cfg['classes'] > count:
                raise Problem(
                    f'{name}: knows {cfg["classes"]} classes, but the dataset has {count}; choose its --dataset'
                )
        self.sources = {name: metadata.sources(cfg) for name, cfg in self.settings.items()}
        self._loaded = None

    def probabilities(self, items: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Mean over the networks (len(items), count) of the probabilities, float64.

        `items`: {source: number} as in `Dataset.metadata`, of what is known. A network gives 0 to newer classes.
        """
        # Imported here because torch takes seconds, and messages about wrong options should not.
        import torch

        from birdsong.prediction import inspection
        from birdsong.prediction.predictor import load_model

        if self._loaded is None:
            self._loaded = [load_model(n, cfg, metadata.size(cfg)).eval() for n, cfg in self.settings.items()]
        result = np.zeros((len(items), self.count))
        for net, cfg in zip(self._loaded, self.settings.values(), strict=True):
            values = metadata.encode(metadata.numbers(items, metadata.sources(cfg)), cfg)
            with torch.no_grad():
                logits = net.finish(None, torch.from_numpy(values))['logits']
                result[:, : cfg['classes']] += inspection.probabilities(cfg)(logits).numpy()
        return result / len(self._loaded)


class Prior(NamedTuple):
    """What to do with classes that are more or less probable at a place and time than on average.

    `kind`: SOFT multiplies the odds of a class by the factor, from `limit` to 1 / `limit`; MASK removes classes whose
    factor is below `limit`.
    """

    kind: str
    limit: float
    filenames: tuple[str, ...]
    dataset: Dataset

    def about(self) -> list:
        """What the factors depend on."""
        digest = hashlib.sha256()
        for name in 'filelists/train', 'labels/meta.tsv':
            with open(os.path.join(self.dataset.path, name), 'rb') as f:
                digest.update(f.read())
        return [self.kind, self.limit, [choice.Member(name, 1).digest() for name in self.filenames], digest.hexdigest()]


def prior_of(
    dataset: Dataset,
    kind: str,
    limit: float,
    names: Sequence[str],
    chosen: choice.Choice,
    settings: Sequence[config.Settings],
) -> Prior:
    """The prior for the models `chosen`, with the metadata networks `names` or all. Raises Problem if it is impossible.

    `settings` are those of the models; networks that use metadata already have a prior.
    """
    if not 0 < limit < 1:
        raise Problem(f'--prior-limit={limit:g}: expected a number between 0 and 1')
    for member, cfg in zip(chosen.members, settings, strict=True):
        if metadata.sources(cfg):
            raise Problem(
                f'--prior={kind}: {member.name} uses metadata already, which would count twice; choose models on '
                'audio alone, or leave out --prior'
            )
    members = networks(dataset, names)
    dataset.need_labels(['meta.tsv'], '--prior compares with the metadata of the training list')
    dataset.filelist('train')
    return Prior(kind, limit, tuple(member.filename for member in members), dataset)


class Factors:
    """Computes the factors of a prior. `.needed`: the circumstances that must be known.

    Raises Problem if they are known of no recording of the training list.
    """

    def __init__(self, prior: Prior):
        self.prior = prior
        self.networks = MetadataNetworks(prior.filenames, prior.dataset.num_classes)
        used = {source for sources in self.networks.sources.values() for source in sources}
        self.needed = [source for source in NEEDED if source in used]
        table = prior.dataset.metadata()
        items = [table.get(key, {}) for key in prior.dataset.filelist('train')]
        items = [item for item in items if self.known(item)]
        if not items:
            raise Problem(
                f'{prior.dataset.path}/labels/meta.tsv: {" and ".join(self.needed)} of no recording of the training '
                'list are known; leave out --prior'
            )
        blocks = (self.networks.probabilities(items[i : i + BATCH]) for i in range(0, len(items), BATCH))
        self.mean = sum(block.sum(axis=0) for block in blocks) / len(items)

    def known(self, item: Mapping[str, float]) -> bool:
        """Whether enough is known to compute factors; `item` as for `MetadataNetworks.probabilities`."""
        return all(source in item for source in self.needed)

    def of(self, at: Callable[[float], Mapping[str, float]]) -> Callable[[np.ndarray], np.ndarray] | None:
        """A function of times (n,), in seconds from the start of a recording, that returns factors (n, classes).

        `at` returns what is known at a time. None if too little is known. A factor is 1 for classes that no network
        knows, and with MASK 0 or 1.
        """
        if not self.known(at(0)):
            return None

        def factors(seconds: np.ndarray) -> np.ndarray:
            steps, which = np.unique((seconds // STEP).astype(int), return_inverse=True)
            here = self.networks.probabilities([at(float(step * STEP)) for step in steps])
            ratios = np.divide(here, self.mean, out=np.ones_like(here), where=self.mean > 0)
            limit = self.prior.limit
            if self.prior.kind == MASK:
                return (ratios >= limit).astype(np.float64)[which]
            return np.clip(ratios, limit, 1 / limit)[which]

        return factors
