"""The networks that become one ONNX file: reading them, and checking that they fit together."""

import dataclasses
import os
from collections.abc import Sequence

from birdsong import config
from birdsong.data import metadata, stft
from birdsong.data.dataset import Dataset
from birdsong.files import Problem, load_npz
from birdsong.identification.choice import Member
from birdsong.networks import model
from birdsong.networks.model import Network
from birdsong.prediction.inspection import probability_kind
from birdsong.prediction.predictor import load_model

# What an ensemble is the weighted mean of: the outputs of its networks, or their logits, to which the nonlinearity of
# the output is then applied.
OUTPUTS, LOGITS = 'outputs', 'logits'


@dataclasses.dataclass
class Part:
    """A network to export. `net` returns logits; `kind` turns these into outputs: linear, exp, softmax or sigmoid.

    `cfg` are the settings of its training.
    """

    member: Member
    cfg: config.Settings
    net: Network
    kind: str

    @property
    def shortest(self) -> int:
        """Samples of the shortest excerpt; shorter ones are repeated."""
        return int(self.cfg['len_min'] * self.cfg['sample_rate'])

    @property
    def grid(self) -> tuple:
        """What the times of the positions of its maps depend on."""
        return stft.hop(self.cfg), self.cfg['frame_len'], self.net.audio.chain.first_middle(), self.net.frame_step


def read(
    member: Member, dataset: Dataset | None, vars_files: Sequence[str] = (), assignments: Sequence[str] = ()
) -> Part:
    """Read a network. dataset: tells the number of classes if the settings do not.

    Raises Problem if the file or its settings are missing or do not fit.
    """
    filename = member.filename
    if not os.path.exists(filename):
        raise Problem(f'{filename}: no such file; name a trained network, MODEL.npz')
    if not os.path.exists(f'{filename}.vars'):
        raise Problem(f'{filename}.vars: missing; a model and its settings belong together')
    cfg = config.load([f'{filename}.vars', *vars_files], assignments)
    model.note_bins(cfg, filename)
    cfg['classes'] = cfg.get('classes') or (dataset.num_classes if dataset else 0)
    if not cfg['classes']:
        raise Problem(f'{filename}.vars: no value for classes; name the dataset of the model with --dataset')
    kind = cfg['arch.output'] if cfg['arch.output'] != 'linear' else probability_kind(cfg)
    net = load_model(filename, {**cfg, 'arch.output': 'linear', 'arch.output_bg': ''}, _num_meta(cfg, filename))
    return Part(member, cfg, net.eval(), kind)


def _num_meta(cfg, filename):
    """Number of metadata values, including those of embeddings, of which the file alone tells the number."""
    if not cfg['input_embeddings']:
        return metadata.size(cfg)
    first = 'meta.layers.0.linear.weight'
    weights = load_npz(filename, [first]).get(first)
    if weights is None or weights.ndim != 2:
        raise Problem(f'{filename}: does not tell the number of its inputs; train it again')
    return weights.shape[1]


def check(parts: Sequence[Part], how: str = OUTPUTS, frames: bool = False) -> None:
    """Raise Problem if networks cannot be combined, or, with `frames`, have no common positions in time."""
    first = parts[0]
    if frames and not first.cfg['arch']:
        raise Problem(f'--frames: {first.member.filename} uses metadata alone, which has no time axis')
    for part in parts if len(parts) > 1 else ():
        one, other = first.member.filename, part.member.filename
        if not part.cfg['arch'] or part.cfg['arch_meta']:
            raise Problem(f'{other}: uses metadata; only networks on audio alone can be combined in one file')
        for name, what in ('classes', 'classes'), ('sample_rate', 'Hz'):
            if part.cfg[name] != first.cfg[name]:
                raise Problem(
                    f'{one} has {first.cfg[name]} {what}, but {other} has {part.cfg[name]}; '
                    'choose networks of one dataset'
                )
        if how == LOGITS and part.kind != first.kind:
            raise Problem(
                f'{one} has the output {first.kind}, {other} {part.kind}; a mean of logits needs models of one kind'
            )
        if frames and part.grid != first.grid:
            raise Problem(f'--frames: {one} and {other} have different positions in time; export them separately')
