"""MODEL.run.json: command, settings, versions, host and time of a training run, and the metrics of its epochs."""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import resource
import socket
import subprocess
import sys
from typing import Any

from birdsong.files import writing

PACKAGES = ('numpy', 'scipy', 'torch', 'pyfftw', 'numba', 'soundfile', 'soxr')


def version(package: str) -> str | None:
    """The version of an installed package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def revision() -> str | None:
    """The git revision of these programs, None if it is unknown."""
    command = ['git', 'describe', '--always', '--dirty']
    folder = os.path.dirname(os.path.abspath(__file__))
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def now() -> str:
    """The time in UTC, in the format of ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')


def read(filename: str) -> dict[str, Any]:
    """The content of a record, or an empty dict if it is missing or damaged."""
    try:
        with open(filename, encoding='utf-8') as f:
            known = json.load(f)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


class Record:
    """MODEL.run.json: what is known when a run starts (`known`), and what `add_epoch` and `write` add.

    Each entry of `metrics` is a dict of one epoch: 'epoch', counted from 1, its metrics by name (None if not finite),
    the learning 'rate' and the 'seconds' it took.
    """

    def __init__(self, filename: str, **known: Any):
        self.filename = filename
        self.known = dict(
            command=sys.argv,
            host=socket.gethostname(),
            python=platform.python_version(),
            packages={p: version(p) for p in PACKAGES},
            revision=revision(),
            slurm_job=os.environ.get('SLURM_JOB_ID'),
            started=now(),
            **known,
        )
        self.metrics = []

    def resume(self, epoch: int) -> None:
        """Copy the metrics up to an epoch from the record of the interrupted run."""
        self.metrics = [row for row in read(self.filename).get('metrics', []) if row['epoch'] <= epoch]

    def add_epoch(self, epoch: int, metrics: dict[str, float], rate: float, seconds: float) -> None:
        """Add the metrics of an epoch."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self.metrics.append({'epoch': epoch, **finite, 'rate': rate, 'seconds': round(seconds, 1)})

    def write(self, **news: Any) -> None:
        """Write the file, with further entries."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        unit = 1 << 20 if sys.platform == 'darwin' else 1 << 10
        self.known.update(news, written=now(), peak_memory_MB=round(peak / unit), metrics=self.metrics)
        with writing(self.filename, 'w') as f:
            json.dump(self.known, f, indent=1)
            f.write('\n')
