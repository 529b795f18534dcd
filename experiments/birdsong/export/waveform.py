"""From samples to spectrograms, as nodes of an ONNX graph."""

import numpy as np

from birdsong.config import Settings
from birdsong.data import stft
from birdsong.export.graph import Graph

# Samples of a file of 16 bits are these integers; in an ONNX file, samples are from -1 to 1, as soundfile reads them.
FULL_SCALE = 32768


def looped(graph: Graph, samples: str, least: int) -> str:
    """Samples (batch, N), repeated from the start on if there are fewer than `least`."""
    if least < 2:
        return samples
    length = graph.add('Shape', samples, start=1, end=2)
    copies = graph.add('Div', graph.add('Add', length, [least - 1]), length)
    tiled = graph.add('Tile', samples, graph.add('Concat', [1], copies, axis=0))
    return graph.add('Slice', tiled, [0], graph.add('Max', length, [least]), [1])


def long_enough(graph: Graph, samples: str, frames: int, cfg: Settings) -> str:
    """Samples (batch, N) with at least `frames` frames: the complete frames, repeated as by `Predictor.block`."""
    hop, frame_len = stft.hop(cfg), cfg['frame_len']
    length = graph.add('Shape', samples, start=1, end=2)
    hops = graph.add('Div', graph.add('Max', graph.add('Sub', length, [frame_len]), [0]), [hop])
    end = graph.add('Add', graph.add('Mul', hops, [hop]), [frame_len])
    return looped(graph, graph.add('Slice', samples, [0], end, [1]), (frames - 1) * hop + frame_len)


def magnitudes(graph: Graph, samples: str, cfg: Settings) -> str:
    """Samples (batch, N) -> spectrograms (batch, bins, frames), the same as those of `stft.spectrogram`.

    A convolution with the cosine and the sine of each bin, in a Hann window, is the Fourier transform of each frame.
    """
    frame_len, bins = cfg['frame_len'], stft.num_bins(cfg)
    turns = np.outer(np.arange(bins), np.arange(frame_len)) % frame_len
    waves = np.exp(2j * np.pi / frame_len * turns) * np.hanning(frame_len) * FULL_SCALE
    kernels = np.concatenate([waves.real, waves.imag])[:, None]
    parts = graph.add('Conv', graph.add('Unsqueeze', samples, [1]), kernels, strides=[stft.hop(cfg)])
    squares = graph.add('Mul', parts, parts)
    cosines, sines = (graph.add('Slice', squares, [first], [first + bins], [1]) for first in (0, bins))
    return graph.add('Sqrt', graph.add('Add', cosines, sines))
