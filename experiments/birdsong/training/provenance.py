"""MODEL.run.json: with what, when and where a model was made."""

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import socket
import subprocess
import sys

from birdsong.files import writing

PACKAGES = ('numpy', 'scipy', 'torch', 'pyfftw', 'numba', 'soundfile', 'soxr')


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision():
    try:
        return (
            subprocess.run(
                ['git', 'describe', '--always', '--dirty'],
                cwd=os.path.dirname(os.path.abspath(__file__)),
                capture_output=True,
                text=True,
                timeout=10,
            ).stdout.strip()
            or None
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')


class Record:
    """What is known of a run; `write` says how far it came, each time it is called."""

    def __init__(self, filename, **known):
        self.filename = filename
        self.known = dict(
            command=sys.argv,
            host=socket.gethostname(),
            python=platform.python_version(),
            packages={p: _version(p) for p in PACKAGES},
            revision=_revision(),
            slurm_job=os.environ.get('SLURM_JOB_ID'),
            started=now(),
            **known,
        )

    def write(self, **news):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.known.update(
            news, written=now(), peak_memory_MB=round(peak / (1 << 20 if sys.platform == 'darwin' else 1 << 10))
        )
        with writing(self.filename, 'w') as f:
            json.dump(self.known, f, indent=1)
            f.write('\n')
