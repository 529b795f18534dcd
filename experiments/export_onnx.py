#!/usr/bin/env python3
"""Export a trained network, or an ensemble, as one file that ONNX Runtime and other programs run: OUT.onnx.

Input `samples`, float32 (batch, samples) from -1 to 1, at the sample rate of the network; output `probabilities`
(batch, classes). The file computes the spectrograms, too. Recordings of any length are processed as a whole, up to the
memory; give excerpts of len_min to len_max seconds, as in the training. Shorter ones are repeated, as by predict.py.
Networks that use metadata have the input `metadata` (batch, values); the metadata of the file say what each value is.

The metadata of the file are text, lists are JSON: `classes` (class ids in the order of the outputs), `names` (Latin
names, if known), `sample_rate` (Hz), `len_min`, `len_max` (seconds), `output` (softmax, sigmoid, ...), `metadata`,
`frames_first`, `frames_step` (seconds, with --frames), `weights`, `source` (files and their SHA-256), `ensemble` and
`version` (revision of this project).

Before OUT.onnx is renamed to its name, its probabilities are compared with those of this project, in ONNX Runtime.
"""

from birdsong import program  # isort: skip
import argparse
import os
import sys

import numpy as np
import soundfile

from birdsong.config import EXPERIMENTS
from birdsong.data.dataset import Dataset, dataset_of
from birdsong.export import about, check, members, network
from birdsong.files import Problem, writing
from birdsong.identification.choice import Member, read_ensemble
from birdsong.scores import combination

# Largest difference between the outputs of the file and ours, by the number of bits of the weights. In silence,
# logarithms make rounding errors of single frames large; ours also reach 1e-4.
TOLERANCES = {
    32: {network.PROBABILITIES: 1e-4, network.FRAMES: 1e-3},
    16: {network.PROBABILITIES: 1e-2, network.FRAMES: 1e-2},
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        'models',
        metavar='MODEL',
        nargs='+',
        help='MODEL.npz; or an ensemble of networks on audio: FILE:WEIGHT FILE:WEIGHT ..., or its table, TABLE.tsv, in '
        'experiments/NAME/ensembles/ or, with --dataset NAME, in experiments/ensembles/',
    )
    add('out', metavar='OUT.onnx', help='file to write')
    add(
        '--mean',
        choices=(members.OUTPUTS, members.LOGITS),
        help='of what an ensemble is the weighted mean: of the probabilities (outputs; default for files), or of the '
        'logits, from which the probabilities are then computed, as by identify.sh (default for tables)',
    )
    add('--frames', action='store_true', help='add the output frames (batch, positions, classes): scores over time')
    add('--float16', action='store_true', help='store the weights of the network in half the size')
    add(
        '--check',
        metavar='RECORDING',
        action='append',
        default=[],
        help='compare for this recording, at the sample rate of the network (repeatable; default: noise)',
    )
    add('--dataset', help='name in datasets/, or path: tells the names of the classes (default: that of the model)')
    add('--vars', metavar='FILE', action='append', default=[], help='settings that override those of the model')
    add('--var', metavar='KEY=VALUE', action='append', default=[], help='a setting that overrides all files')
    args = parser.parse_args()
    if not args.out.endswith('.onnx'):
        raise Problem(f'{args.out}: the file to write must end in .onnx')
    if os.path.isdir(args.out):
        raise Problem(f'{args.out}: a folder; name a file in it')
    folder = os.path.dirname(args.out) or '.'
    if not os.path.isdir(folder):
        raise Problem(f'{folder}: no such folder; create it, or write the file to another')
    return args


def chosen(args: argparse.Namespace) -> list[Member]:
    """The members to export. Sets args.mean."""
    if len(args.models) == 1 and args.models[0].endswith('.tsv'):
        table = args.models[0]
        folder = os.path.dirname(os.path.dirname(os.path.abspath(table)))
        if folder == EXPERIMENTS:
            folder = os.path.join(EXPERIMENTS, Dataset(args.dataset or 'birdclef').name)
        choice = read_ensemble(table, folder)
        if choice.ignored:
            print(f'note: {choice.ignored}', file=sys.stderr)
        args.mean = args.mean or (members.OUTPUTS if choice.softmax else members.LOGITS)
        return choice.members
    args.mean = args.mean or members.OUTPUTS
    weighted = [combination.parse_weighted(text) for text in args.models]
    for name, weight in weighted:
        if weight is not None and weight <= 0:
            raise Problem(f'{name}:{weight:g}: the weight must be above 0; leave out the others')
    return [Member(name, 1.0 if weight is None else weight) for name, weight in weighted]


def dataset_to_name(args: argparse.Namespace, filename: str) -> Dataset | None:
    """The dataset of a model, or None, with a note, if it is not there."""
    try:
        dataset = Dataset(args.dataset or dataset_of(filename))
        dataset.need_labels(['labelset'], 'it has the names of the classes, see --dataset')
        return dataset
    except Problem as e:
        if args.dataset:
            raise
        print(f'note: classes are named by their indices: {e}', file=sys.stderr)
        return None


def read_recording(filename: str, parts: list[members.Part]) -> np.ndarray:
    """The first len_max seconds of a recording, int16. Raises Problem for another sample rate or several channels."""
    rate = parts[0].cfg['sample_rate']
    if not parts[0].cfg['arch']:
        raise Problem(f'--check {filename}: the network uses metadata alone; leave out --check')
    try:
        longest = int(min(part.cfg['len_max'] for part in parts) * rate)
        samples, found = soundfile.read(filename, longest, dtype='int16', always_2d=True)
    except (OSError, RuntimeError) as e:
        raise Problem(f'{filename}: cannot be read ({e})') from None
    if found != rate or samples.shape[1] != 1 or not len(samples):
        raise Problem(
            f'{filename}: {found} Hz, {samples.shape[1]} channel(s), {len(samples)} samples; the network needs '
            f'recordings of {rate} Hz and 1 channel, such as those in audio/ of its dataset'
        )
    return samples[:, 0]


def main() -> None:
    args = parse_arguments()
    wanted = chosen(args)
    dataset = dataset_to_name(args, wanted[0].filename)
    parts = [members.read(member, dataset, args.vars, args.var) for member in wanted]
    members.check(parts, args.mean, args.frames)
    recordings = [read_recording(name, parts) for name in args.check]
    how = args.mean if len(parts) > 1 else members.OUTPUTS
    described = about.describe(parts, dataset, how, args.frames, args.float16)
    model = network.to_onnx(parts, described, how, args.frames, args.float16)
    with writing(args.out) as f:
        f.write(model.SerializeToString())
        f.flush()
        worst = check.differences(f.name, parts, how, recordings)
        for output, tolerance in TOLERANCES[16 if args.float16 else 32].items():
            if not worst.get(output, 0) <= tolerance:
                raise Problem(
                    f'{args.out}: not written, because its {output} differ from those of {wanted[0].filename} by '
                    f'{worst[output]:.2g}, more than {tolerance:g}; are all values in the model finite?'
                )
    what = f'{len(recordings)} recording{"s" * (len(recordings) > 1)}' if recordings else 'noise'
    size = os.path.getsize(args.out) / 1e6
    found = ' and '.join(f'{output} by at most {value:.1g}' for output, value in worst.items())
    print(f'wrote {args.out}: {size:.1f} MB; for {what}, it differs from our predictor: {found}')


if __name__ == '__main__':
    program.run(main)
