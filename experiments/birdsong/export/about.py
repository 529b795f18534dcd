"""The metadata of an ONNX file: what other programs need to know to use it. All values are text, lists are JSON."""

import json
from collections.abc import Sequence

from birdsong.config import Settings
from birdsong.data import metadata
from birdsong.data.dataset import Dataset
from birdsong.export.members import LOGITS, Part
from birdsong.files import Problem
from birdsong.prediction.inspection import known_names
from birdsong.training.provenance import revision


def names(dataset: Dataset | None, cfg: Settings) -> dict[str, str]:
    """`classes`: class ids, or indices without a dataset; `names`: Latin names, if the dataset has them."""
    count = cfg['classes']
    if dataset is None:
        return {'classes': json.dumps([str(i) for i in range(count)])}
    known, ids = known_names(dataset, count), dataset.labelset[:count]
    if len(ids) < count:
        raise Problem(
            f'{dataset.path}/labels/labelset: {len(ids)} classes, but the network has {count}; select its --dataset'
        )
    found = {'classes': json.dumps(ids)}
    if known and known[0][:count] != ids:
        found['names'] = json.dumps(known[0][:count], ensure_ascii=False)
    return found


def metadata_values(cfg: Settings, size: int) -> list[str]:
    """What each of the `size` values of the input `metadata` is, in the order of `metadata.encode`."""
    known = {'date': 'day of the year from 1 to 365, leap days ignored', 'time': 'minute of the day, local time'}
    known |= {'latitude': 'degrees north', 'longitude': 'degrees east', 'elevation': 'metres above the sea'}
    sources = metadata.sources(cfg)
    values = [f'1 if the {name} is known, else 0' for name in sources]
    for name in sources:
        rest = f'if {name} is known, else 0; {name}: {known[name]}'
        if name in metadata.CIRCLES:
            count, period = int(cfg[f'input_meta.{name}_encoding.size']), metadata.CIRCLES[name]
            values += [f'sqrt(2) * sin(2 * pi * {name} / {period} + {k} * pi / {count}) {rest}' for k in range(count)]
        else:
            values.append(f'({name} - {cfg[f"input_meta.{name}_mean"]}) / {cfg[f"input_meta.{name}_std"]} {rest}')
    width = size - len(values)
    return values + [f'value {i} of the embedding, scaled to a mean square of 1' for i in range(width)]


def describe(parts: Sequence[Part], dataset: Dataset | None, how: str, frames: bool, half: bool) -> dict[str, str]:
    """The metadata of a file for networks; the arguments are those of `network.to_onnx`."""
    first = parts[0]
    about = {
        **names(dataset, first.cfg),
        'output': f'{first.kind} of the mean of logits'
        if how == LOGITS
        else ', '.join(sorted({p.kind for p in parts})),
        'weights': 'float16' if half else 'float32',
        'source': json.dumps({p.member.filename: p.member.digest() for p in parts}),
        'version': revision() or 'unknown',
    }
    if len(parts) > 1:
        about['ensemble'] = json.dumps({p.member.name: p.member.weight for p in parts})
    if first.cfg['arch']:
        about['sample_rate'] = str(first.cfg['sample_rate'])
        about['len_min'] = f'{max(p.cfg["len_min"] for p in parts):g}'
        about['len_max'] = f'{min(p.cfg["len_max"] for p in parts):g}'
    if first.net.meta is not None:
        about['metadata'] = json.dumps(metadata_values(first.cfg, first.net.num_meta))
    if frames:
        hop, frame_len, middle, step = first.grid
        rate = first.cfg['sample_rate']
        about['frames_first'] = f'{(middle * hop + frame_len / 2) / rate:.6f}'
        about['frames_step'] = f'{step * hop / rate:.6f}'
    return about
