"""The passes over samples and magnitudes, compiled by numba; stft.py does without where numba is missing.

A real transform of 2 M samples is done as a complex one of M (even samples real, odd ones imaginary), which
Fourier transform libraries do best, and taken apart again on the way to the magnitudes.
"""

import numpy as np

from birdsong.numba_cache import compiled

# Unsigned indices: with signed ones numba tests each for being negative, and nothing is vectorised.
ONE, TWO = np.uint64(1), np.uint64(2)
# Fused multiplication and addition is all that is allowed: it gives the same result in every run.
FAST = {'contract'}


@compiled(fastmath=FAST)
def cut_frames(samples, start, step, window, frames):
    """Fills frames (n, frame_len) with windowed samples from `start` on, every `step`."""
    for i in range(frames.shape[0]):
        first = start + i * step
        source, row = samples[first : first + len(window)], frames[i]
        for j in range(len(window)):
            row[j] = np.float32(source[j]) * window[j]


@compiled(fastmath=FAST)
def magnitudes(halves, real, imag, cosine, sine, out):
    """Fills out (n, bins <= M) from transforms `halves` (>= n, 2 M: real, imaginary in turn) of half-scaled frames.

    `real`, `imag` (M,) are scratch; `cosine`, `sine` (M,) those of pi k / M.
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
