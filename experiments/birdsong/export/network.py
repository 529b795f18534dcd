"""Trained networks as ONNX models: samples or metadata in, probabilities of the classes out."""

from collections.abc import Mapping, Sequence

import onnx

from birdsong.export.graph import Graph
from birdsong.export.members import LOGITS, OUTPUTS, Part
from birdsong.export.outputs import NetworkNodes
from birdsong.export.translation import nonlinearity
from birdsong.export.waveform import looped

# names of inputs and outputs
SAMPLES, METADATA, PROBABILITIES, FRAMES = 'samples', 'metadata', 'probabilities', 'frames'


def factors(parts: Sequence[Part], how: str) -> list[float]:
    """Factors of the networks in their sum.

    how: those of outputs add up to 1; those of logits are divided by the number of networks, as in scores/combination.
    """
    weights = [part.member.weight for part in parts]
    return [weight / (sum(weights) if how == OUTPUTS else len(weights)) for weight in weights]


def to_onnx(
    parts: Sequence[Part], about: Mapping[str, str], how: str = OUTPUTS, frames: bool = False, half: bool = False
) -> onnx.ModelProto:
    """The model of networks that fit together, see `members.check`; of several, the weighted mean.

    about: its metadata. how: OUTPUTS or LOGITS, what the mean is of. frames: a second output, scores over time.
    half: weights in float16. Raises Problem for a layer that cannot be exported.
    """
    graph, net = Graph(half), parts[0].net
    samples = SAMPLES if net.audio is not None else None
    metadata = METADATA if net.meta is not None else None
    inputs = {SAMPLES: ['batch', 'samples'], METADATA: ['batch', net.num_meta]}
    shortest = max(part.shortest for part in parts)
    looped_samples = samples and looped(graph, samples, shortest)
    nodes = [
        NetworkNodes(graph, part.net, 'linear' if how == LOGITS else part.kind, looped_samples, shortest, metadata)
        for part in parts
    ]
    outputs = {PROBABILITIES: (_mean(graph, [n.outputs() for n in nodes], parts, how, 1), ['batch', net.classes])}
    if frames:
        value = _mean(graph, [n.frames() for n in nodes], parts, how, 2)
        outputs[FRAMES] = value, ['batch', 'positions', net.classes]
    return graph.model({name: inputs[name] for name in (samples, metadata) if name}, outputs, about)


def _mean(graph, values, parts, how, axis):
    """The weighted mean of the values of networks, with the classes along an axis."""
    if len(values) > 1:
        scaled = [graph.add('Mul', value, factor) for value, factor in zip(values, factors(parts, how), strict=True)]
        values = [graph.add('Sum', *scaled)]
    return nonlinearity(graph, parts[0].kind, values[0], axis) if how == LOGITS else values[0]
