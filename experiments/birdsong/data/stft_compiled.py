"""The loops of stft.py over samples and magnitudes, compiled by numba. If numba is missing, stft.py works without them.

A real Fourier transform of 2 M samples is computed as a complex one of M samples (even samples are real parts, odd ones
imaginary parts), which is faster in FFT libraries. `magnitudes` computes the real transform from its result.
"""

import numba
import numpy as np

# Indices are unsigned because numba checks whether signed ones are negative, which prevents vectorisation.
ONE, TWO = np.uint64(1), np.uint64(2)
# Fused multiplication and addition is the only permitted optimisation: its results are the same in every run.
FAST = {'contract'}


@numba.njit(nogil=True, fastmath=FAST)
def cut_frames(samples: np.ndarray, start: int, step: int, window: np.ndarray, frames: np.ndarray) -> None:
    """Fill `frames` (n, frame_len) with windowed samples; the first frame begins at `start`, the next `step` later."""
    for i in range(frames.shape[0]):
        first = start + i * step
        source, row = samples[first : first + len(window)], frames[i]
        for j in range(len(window)):
            row[j] = np.float32(source[j]) * window[j]


@numba.njit(nogil=True, fastmath=FAST)
def magnitudes(
    halves: np.ndarray, real: np.ndarray, imag: np.ndarray, cosine: np.ndarray, sine: np.ndarray, out: np.ndarray
) -> None:
    """Fill `out` (n, bins <= M) from `halves` (>= n, 2 M: real and imaginary in turn), transforms of halved frames.

    `real` and `imag` (M,) are overwritten; `cosine` and `sine` (M,) are those of pi k / M.
    """
    bins, half = np.uint64(out.shape[1]), np.uint64(len(real))
    for i in range(out.shape[0]):
        source, row = halves[i], out[i]
        for k in range(half):
            real[k] = source[TWO * k]
            imag[k] = source[TWO * k + ONE]
        row[0] = 2 * abs(real[0] + imag[0])
        for k in range(ONE, bins):
            even_r, even_i = real[k] + real[half - k], imag[k] - imag[half - k]
            odd_r, odd_i = imag[k] + imag[half - k], real[half - k] - real[k]
            r = even_r + (cosine[k] * odd_r + sine[k] * odd_i)
            i_ = even_i + (cosine[k] * odd_i - sine[k] * odd_r)
            row[k] = np.sqrt(r * r + i_ * i_)
