"""From samples and metadata to the outputs of a network, as nodes of an ONNX graph."""

from birdsong.data import stft
from birdsong.export.graph import Graph
from birdsong.export.translation import log_mean_exp, nonlinearity, part, translate
from birdsong.export.waveform import long_enough, magnitudes
from birdsong.networks import pooling
from birdsong.networks.compiler import compile_metadata, compile_network
from birdsong.networks.model import Network


class NetworkNodes:
    """The nodes of a network: `outputs` for a whole excerpt and `frames` over time, both after the nonlinearity `kind`.

    samples: (batch, N), of which there are at least `shortest`, or None without an audio branch. metadata: (batch,
    values), or None without a metadata branch. kind: linear, exp, softmax or sigmoid.
    """

    def __init__(
        self, graph: Graph, net: Network, kind: str, samples: str | None, shortest: int = 0, metadata: str | None = None
    ):
        self.graph, self.net, self.kind = graph, net, kind
        self.maps = None if samples is None else self._maps(samples, shortest)
        self.extra = None if metadata is None else translate(graph, compile_metadata(net), metadata)

    def _maps(self, samples, shortest):
        """Class and attention maps (batch, maps, time, frequency)."""
        cfg, least = self.net.cfg, self.net.min_frames
        if stft.num_frames(shortest, cfg['frame_len'], stft.hop(cfg)) < least:
            samples = long_enough(self.graph, samples, least, cfg)
        spectrograms = magnitudes(self.graph, samples, cfg)
        return translate(self.graph, compile_network(self.net, complete=True), spectrograms)

    def outputs(self) -> str:
        """(batch, classes); for networks without pooling, the maximum over all positions."""
        if self.maps is None:
            return nonlinearity(self.graph, self.kind, self.extra)
        pools = self.net.global_pool.pools
        logits = self._with_metadata(pooled(self.graph, self.net, self.maps), 2 if pools else 3)
        output = nonlinearity(self.graph, self.kind, logits)
        return output if pools else self._best(output, 2)

    def frames(self) -> str:
        """(batch, positions, classes) at each position in time alone; the maximum over the frequency."""
        logits = self._with_metadata(part(self.graph, self.maps, 1, 0, self.net.classes), 4)
        output = self._best(nonlinearity(self.graph, self.kind, logits), 3)
        return self.graph.add('Transpose', output, perm=[0, 2, 1])

    def _with_metadata(self, logits, axes):
        """The sum of logits (batch, classes, ...), with so many `axes`, and those of the metadata branch, if any."""
        if self.extra is None:
            return logits
        extra = self.graph.add('Mul', self.extra, float(self.net.cfg['arch_meta.weight']))
        if axes > 2:
            extra = self.graph.add('Unsqueeze', extra, list(range(2, axes)))
        return self.graph.add('Add', logits, extra)

    def _best(self, x, axis):
        return self.graph.add('ReduceMax', x, axes=[axis], keepdims=0)


def pooled(graph: Graph, net: Network, maps: str) -> str:
    """Maps (batch, maps, time, frequency) -> (batch, classes), or (batch, classes, positions) without pooling."""
    pool = net.global_pool
    if isinstance(pool, pooling.AttentionPooling):
        return _attention(graph, net, graph.add('Reshape', part(graph, maps, 3, 0, 1), [0, 0, -1]))
    x = graph.add('Reshape', maps, [0, 0, -1])
    if isinstance(pool, pooling.NoPooling):
        return part(graph, x, 1, 0, net.classes)
    if isinstance(pool, pooling.LogMeanExpPooling):
        return log_mean_exp(graph, x, pool.number, 2, keep=False)
    if isinstance(pool, pooling.NoisyOrPooling):
        return graph.add('Sub', 1.0, graph.add('ReduceProd', graph.add('Sub', 1.0, x), axes=[2], keepdims=0))
    kind = {pooling.MaxPooling: 'ReduceMax', pooling.MeanPooling: 'ReduceMean'}[type(pool)]
    return graph.add(kind, x, axes=[2], keepdims=0)


def _attention(graph, net, x):
    """The mean of the class maps, weighted by the mean of the softmax of each attention map over the positions."""
    classes, attention = part(graph, x, 1, 0, net.classes), part(graph, x, 1, net.classes)
    weights = graph.add('ReduceMean', graph.add('Softmax', attention, axis=2), axes=[1], keepdims=0)
    return graph.add('Squeeze', graph.add('MatMul', classes, graph.add('Unsqueeze', weights, [2])), [2])
