"""From samples to spectrograms, as nodes of an ONNX graph."""

import math

import numpy as np

from birdsong.config import Settings
from birdsong.data import stft
from birdsong.export.graph import Graph

# Samples of a file of 16 bits are these integers; in an ONNX file, samples are from -1 to 1, as soundfile reads them.
FULL_SCALE = 32768
# Number of short Fourier transforms that make up one of a frame. More would hardly be faster.
MOST_PARTS = 8
# the end of an axis in Slice
END = 1 << 62


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

    Fourier transforms are computed by convolutions in two steps (decimation in time, Cooley and Tukey 1965): every P-th
    sample of a windowed frame is multiplied by cosines and sines, for P parts of the frame; then these are combined.
    With P = 8, this takes a third of the time of a single convolution, and a sixth of its constants.
    """
    frame_len, bins = cfg['frame_len'], stft.num_bins(cfg)
    parts = math.gcd(frame_len, MOST_PARTS)
    size = frame_len // parts
    half = size // 2 + 1
    transforms = _short_transforms(graph, samples, frame_len, stft.hop(cfg), parts)
    # to (batch, half * 2 parts, frames), so that the values for a bin are neighbours
    apart = graph.add('Reshape', transforms, [0, 2 * parts, half, -1])
    together = graph.add('Transpose', apart, perm=[0, 2, 1, 3])
    together = graph.add('Reshape', together, [0, half * 2 * parts, -1])
    kernels, places = _combinations(frame_len, bins, parts)
    squares = [graph.add('Conv', together, kernel, group=half) for kernel in kernels]
    squares = [graph.add('Mul', x, x) for x in squares]
    return graph.add('Gather', graph.add('Sqrt', graph.add('Add', *squares)), places, axis=1)


def _short_transforms(graph, samples, frame_len, hop, parts):
    """The lower bins of the transforms of the parts of each frame: (batch, parts * 2 * half, frames), in which the real
    numbers of part 0 come first, then the imaginary ones, then those of part 1.
    """
    size = frame_len // parts
    turns = np.outer(np.arange(size // 2 + 1), np.arange(size)) % size
    waves = np.exp(-2j * np.pi / size * turns)
    window = np.hanning(frame_len) * FULL_SCALE
    found, channels = [], graph.add('Unsqueeze', samples, [1])
    for part in range(parts):
        kernels = waves * window[part::parts]
        kernels = np.concatenate([kernels.real, kernels.imag])[:, None]
        shifted = graph.add('Slice', channels, [part], [part + 1 - parts or END], [2])
        found.append(graph.add('Conv', shifted, kernels, strides=[hop], dilations=[parts]))
    return graph.add('Concat', *found, axis=1)


def _combinations(frame_len, bins, parts):
    """Kernels that combine short transforms to the real and to the imaginary parts of bins, and the places of the bins.

    Bin k is the sum of the bins k mod size of the short transforms, each shifted in phase. Above half of their size,
    these are the complex conjugates of lower ones. So groups of up to `parts` bins depend on the same values.
    """
    size = frame_len // parts
    half, shifts = size // 2 + 1, np.arange(parts)
    kernels, used, places = np.zeros((2, half, parts, parts, 2)), np.zeros(half, int), []
    for k in range(bins):
        group = min(k % size, size - k % size)
        sign = 1 if k % size == group else -1
        phase = np.exp(-2j * np.pi * k * shifts / frame_len)
        kernels[0, group, used[group]] = np.stack([phase.real, -sign * phase.imag], 1)
        kernels[1, group, used[group]] = np.stack([phase.imag, sign * phase.real], 1)
        places.append(group * parts + used[group])
        used[group] += 1
    return kernels.reshape(2, half * parts, 2 * parts, 1), places
