"""Writing the findings of many recordings, in all formats that are wanted and as a summary."""

import contextlib
import os
from collections.abc import Mapping, Sequence

import numpy as np

from birdsong.files import Problem
from birdsong.findings import formats
from birdsong.findings.circumstances import Circumstances
from birdsong.findings.detections import Detection
from birdsong.findings.species import Species
from birdsong.findings.summary import Summary

FILE_SUFFIXES = {'.csv': ('csv', 'kaleidoscope'), '.parquet': ('parquet',)}


def format_names(text: str) -> list[str]:
    """'csv,raven' -> ['csv', 'raven']. Raises Problem for a format that does not exist."""
    names = list(dict.fromkeys(name.strip() for name in text.split(',')))
    for name in names:
        if name not in formats.FORMATS:
            raise Problem(f'--format={name}: not one of {", ".join(formats.FORMATS)}')
    return names


def places(output: str, names: Sequence[str], summary: str | None = None) -> dict[str, str]:
    """File or folder of each format, and of 'summary', given a folder, which is created, or the file of one format.

    Raises Problem if the formats do not fit one file.
    """
    fitting = FILE_SUFFIXES.get(os.path.splitext(output)[1].lower(), ())
    if fitting and not os.path.isdir(output):
        if len(names) > 1 or names[0] not in fitting:
            raise Problem(
                f'--output={output}: a file for {" or ".join(fitting)} only; for --format {",".join(names)}, give a '
                'folder'
            )
        result = {names[0]: output}
    else:
        os.makedirs(output, exist_ok=True)
        result = {name: os.path.join(output, formats.TABLES.get(name, name)) for name in names}
        result['summary'] = os.path.join(output, 'summary.csv')
    return result | ({'summary': summary} if summary else {})


class Tables:
    """The tables at `places`, in a with statement; they are written when it ends.

    `known`: the classes; `model`: name of the models; `folder`: where the recordings are; `highest`: highest frequency
    in Hz, see `formats.writer`.
    """

    def __init__(self, places: Mapping[str, str], known: Sequence[Species], model: str, folder: str, highest: float):
        self.places, self.known, self.model = places, known, model
        self.folder, self.highest = os.path.abspath(folder), highest
        self.summary, self.counts = Summary(), []

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            kinds = [kind for kind in self.places if kind != 'summary']
            self._adders = [
                stack.enter_context(formats.writer(kind, self.places[kind], self.folder, self.highest))
                for kind in kinds
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def add(
        self, file: str, found: Sequence[Detection], covered: Sequence[tuple[float, float]], when: Circumstances
    ) -> None:
        """Add the detections in a recording, of which the parts `covered` were listened to."""
        findings = [self._finding(one, when, file) for one in found]
        for add in self._adders:
            add(file, findings)
        self.summary.add(findings, covered, when)
        self.counts.append(len(findings))

    def _finding(self, one, when, file):
        """A detection with names, wall-clock time and place."""
        names = self.known[one.class_index]
        return formats.Finding(
            one.start,
            one.end,
            names.scientific_name,
            names.common_name,
            one.confidence,
            file,
            names.class_id,
            one.score,
            one.probability,
            *when.clock(one.start),
            when.latitude,
            when.longitude,
            self.model,
        )

    def write_summary(self) -> None:
        """Write the summary, if it has a place."""
        if 'summary' in self.places:
            self.summary.write(self.places['summary'])

    def report(self) -> str:
        """A line about all that was written."""
        return (
            f'{", ".join(self.places.values())}: {sum(self.counts)} detections of {len(self.summary.names)} classes in '
            f'{np.count_nonzero(self.counts)} of {len(self.counts)} recordings '
            f'({sum(self.summary.hours.values()):.2f} h)'
        )
