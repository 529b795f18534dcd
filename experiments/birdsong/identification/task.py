"""What identify.sh was asked to do, with all its options checked."""

from typing import NamedTuple

from birdsong import config
from birdsong.data.dataset import Dataset
from birdsong.findings import calibration, detections, species
from birdsong.identification.choice import Choice
from birdsong.identification.plan import Plan
from birdsong.identification.prior import Prior
from birdsong.identification.windows import Windows
from shared.clues import Finder


class Task(NamedTuple):
    """Recordings below `folder`, the models to apply to them, and what to report."""

    folder: str
    dataset: Dataset
    chosen: Choice
    settings: list[config.Settings]
    windows: Windows
    known: list[species.Species]
    curves: calibration.Calibration | None
    rules: detections.Rules
    finder: Finder
    plan: Plan
    keep_scores: bool
    prior: Prior | None = None
