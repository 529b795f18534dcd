"""Identifying the recordings of a shard."""

import os
import shutil
from typing import BinaryIO

import numpy as np

from birdsong import devices
from birdsong.data import audio
from birdsong.files import Problem, naming
from birdsong.findings import detections
from birdsong.identification import results
from birdsong.identification.ensemble import Ensemble
from birdsong.identification.prior import Factors
from birdsong.identification.recordings import Converted, converted
from birdsong.identification.task import Task
from birdsong.scores import predictions


def identify(task: Task, name: str, out: str, device: str | None = None, amp: bool = False) -> results.Result:
    """Identify the recordings of shard `name` and write the result to the file `out`."""
    work = os.path.join(os.path.dirname(out), '.recordings')
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    device = devices.pick(device)
    devices.deterministic()
    amp = devices.mixed_precision(amp, device)
    ensemble = Ensemble(task.chosen, task.settings, task.windows, len(task.known), device, amp)
    result, spans = results.Result(task.prior is not None), []
    factors = Factors(task.prior) if task.prior else None
    scratch = os.path.join(work, 'scores')
    with naming(scratch), open(scratch, 'wb') as scores:
        for one in converted(task, task.plan.recordings(name), work):
            done = results.LEFT_OUT if one.filename is None else results.USED
            result.problems += [(one.path, ' '.join(problem.split()), done) for problem in one.problems]
            if one.filename is not None:
                spans.append(_add(task, ensemble, factors, one, scores, result))
                os.unlink(one.filename)
    if task.keep_scores and spans:
        _keep_scores(f'{out.removesuffix(".npz")}.pred.npz', scratch, result, spans, len(task.known))
    result.save(out)
    shutil.rmtree(work, ignore_errors=True)
    return result


def _add(
    task: Task, ensemble: Ensemble, factors: Factors | None, one: Converted, scores: BinaryIO, result: results.Result
) -> tuple[np.ndarray, np.ndarray]:
    """Append the scores of a recording to the open file `scores`, and what was found to the result.

    Returns starts and stops of the windows.
    """
    samples = audio.map_samples(one.filename, audio.read_header(one.filename))
    starts, stops = task.windows.times(len(samples))
    first = scores.tell()
    for rows in ensemble.scores(samples, one.clues.inputs()):
        if not np.isfinite(rows).all():
            raise Problem(f'{one.path}: the scores of {task.chosen.model} are not finite; train the models again')
        scores.write(rows.tobytes())
    scores.flush()
    rows = np.memmap(scores.name, np.float32, 'r', first, (len(starts), len(task.known)))

    def outputs(block):
        return ensemble.outputs(block), task.curves.probabilities(block) if task.curves else None

    found, without_prior = detections.detect(one.path, starts, stops, rows, task.rules, outputs), None
    here = factors and factors.of(lambda seconds: one.clues.later(seconds).inputs())
    if here:
        without_prior = found
        found = detections.detect(one.path, starts, stops, rows, task.rules, outputs, here)
    duration = f'{len(samples) / task.windows.rate:.3f}'
    row = [*one.clues.row(one.path), duration]
    result.add(row, found, detections.covered(starts, stops), without_prior)
    return starts, stops


def _keep_scores(filename, scratch, result, spans, classes):
    """Write the scores of a shard as a prediction file."""
    offsets = np.concatenate([[0], np.cumsum([len(starts) for starts, _ in spans])])
    scores = np.memmap(scratch, np.float32, 'r', shape=(int(offsets[-1]), classes))
    step = max(1, (1 << 20) // classes)
    blocks = (np.ascontiguousarray(scores[i : i + step], '<f4') for i in range(0, len(scores), step))
    files = [row[0] for row in result.recordings]
    times = ((starts for starts, _ in spans), (stops for _, stops in spans))
    predictions.write(filename, files, offsets, blocks, classes, times=times)
