"""The frontend of a network: magnitude spectrograms, filterbanks, magnitude scales, standardisation of bands."""

import math
import re
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birdsong.data import stft
from birdsong.files import Problem
from birdsong.networks.layers import Standardise, full_precision

# time steps that the smoother of PCEN computes with one matrix product
SMOOTHER_BLOCK = 32


class Magnitudes(nn.Module):
    """Magnitude spectrograms: (batch, samples) int16 or float -> (batch, frames, bins), on the device of the samples.

    The same as `stft.spectrogram` on the host: symmetric Hann window, no padding, stft.num_bins(cfg) bins.
    """

    def __init__(self, cfg: dict[str, Any]):
        super().__init__()
        self.frame_len, self.hop, self.bins = cfg['frame_len'], stft.hop(cfg), stft.num_bins(cfg)
        self.register_buffer(
            'window', torch.from_numpy(np.hanning(self.frame_len).astype(np.float32)), persistent=False
        )

    def forward(self, samples: Tensor) -> Tensor:
        with torch.autocast(samples.device.type, enabled=False):
            if samples.shape[-1] < self.frame_len:
                return self.window.new_zeros(samples.shape[:-1] + (0, self.bins))
            frames = samples.to(self.window.dtype).unfold(-1, self.frame_len, self.hop) * self.window
            return torch.fft.rfft(frames)[..., : self.bins].abs()


class MelBank(nn.Module):
    """Fixed triangular mel filterbank for int16 samples: (batch, frames, bins) -> (batch, frames, bands)."""

    def __init__(self, cfg: dict[str, Any]):
        super().__init__()
        bank = stft.create_mel_filterbank(
            cfg['sample_rate'], cfg['frame_len'], cfg['mel_bands'], cfg['mel_min'], cfg['mel_max']
        )
        bank = np.asarray(bank, dtype=np.float64)[: stft.num_bins(cfg)] / 32767
        self.register_buffer('bank', torch.from_numpy(bank.astype(np.float32)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.bank


class LearnableMelBank(nn.Module):
    """Triangular filterbank with learnable peaks: (batch, frames, bins) -> (batch, frames, bands).

    `spaces` contains the first peak in mel, then the distances between neighbouring peaks. In training, all peaks are
    multiplied by one random factor from 1 - `spread` to 1 + `spread`.
    """

    def __init__(self, cfg: dict[str, Any]):
        super().__init__()
        self.scale, self.bins = cfg['frame_len'] / cfg['sample_rate'], cfg['frame_len'] // 2 + 1
        self.spread = cfg['arch.mel_rndspread']
        low, high = (1127 * np.log1p(f / 700.0) for f in (cfg['mel_min'], cfg['mel_max']))
        spaces = np.full(cfg['mel_bands'] + 2, (high - low) / (cfg['mel_bands'] + 1))
        spaces[0] = low
        self.spaces = nn.Parameter(
            torch.from_numpy(spaces.astype(np.float32)), requires_grad=bool(cfg['arch.mel_trainable'])
        )

    def filterbank(self) -> Tensor:
        """The filters (bins, bands)."""
        peaks = 700 * torch.expm1(self.spaces.cumsum(0) / 1127) * self.scale
        if self.training and self.spread:
            peaks = peaks * torch.empty_like(peaks[:1]).uniform_(1 - self.spread, 1 + self.spread)
        left, centre, right = peaks[:-2], peaks[1:-1], peaks[2:]
        bins = torch.arange(self.bins, dtype=peaks.dtype, device=peaks.device)[:, None]
        return torch.minimum((bins - left) / (centre - left), (bins - right) / (centre - right)).clamp_min(0)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.filterbank()


class Log(nn.Module):
    """log(max(1e-7, x)), or log(1 + x)."""

    def __init__(self, plus_one: bool = False):
        super().__init__()
        self.plus_one = plus_one

    def forward(self, x: Tensor) -> Tensor:
        return torch.log1p(x) if self.plus_one else torch.log(x.clamp_min(1e-7))


class LearnableLog(nn.Module):
    """log(1 + e^a x) with a learnable a."""

    def __init__(self, initial: float = 0.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.log1p(x * self.scale.exp())


def power(x: Tensor, exponent: Tensor) -> Tensor:
    """x ** exponent for x >= 0. The gradient with respect to x at x = 0 is 0 instead of infinite."""
    if not x.requires_grad:
        return x**exponent
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1) ** exponent, 0)


class LearnablePower(nn.Module):
    """x ** sigmoid(a) with a learnable a."""

    def __init__(self, initial: float = 0.0):
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        return power(x, torch.sigmoid(self.exponent))


def decayed_sum(x: Tensor, decay: Tensor) -> Tensor:
    """y[t] = decay * y[t - 1] + x[t] along the time axis of x (batch, time, bands); decay is (bands,).

    Blocks are computed by matrix products, and the contributions of previous blocks recursively.
    torchaudio.functional.lfilter makes PCEN 1.03 to 1.15 times as slow for 16 excerpts of 5 to 20 s, and 0.73 times for
    30 s (forward and backward, one core), but runs on CPU and CUDA only.
    """
    batch, steps, bands = x.shape
    size = min(SMOOTHER_BLOCK, steps)
    lags = torch.arange(size, device=x.device)
    lags = lags[:, None] - lags
    kernel = (decay[:, None, None] ** lags.clamp_min(0)).tril()  # bands, out, in
    blocks = F.pad(x, (0, 0, 0, -steps % size)).view(batch, -1, size, bands)
    y = torch.matmul(kernel, blocks.permute(3, 2, 0, 1).flatten(2)).view(bands, size, batch, -1)
    if y.shape[3] > 1:
        ends = decayed_sum(y[:, -1].permute(1, 2, 0), decay**size).permute(2, 0, 1)[..., :-1]  # bands, batch, blocks
        grown = decay[:, None] ** torch.arange(1, size + 1, device=x.device)
        y = y + grown[:, :, None, None] * F.pad(ends, (1, 0))[:, None]
    return y.permute(2, 3, 1, 0).reshape(batch, -1, bands)[:, :steps]


class PCEN(nn.Module):
    """Per-channel energy normalisation (Wang et al. 2017, arXiv:1607.05666, eq. 1, 2), learnable for each band.

    (x / (1e-6 + M) ** alpha + delta) ** r - delta ** r, where M is x smoothed over time, starting from the first frame.
    """

    def __init__(self, bands: int, fix_alpha: bool = False):
        super().__init__()
        self.log_s = nn.Parameter(torch.full((bands,), math.log(0.025)))
        self.log_alpha = nn.Parameter(torch.zeros(bands), requires_grad=not fix_alpha)
        self.log_delta = nn.Parameter(torch.zeros(bands))
        self.log_r = nn.Parameter(torch.zeros(bands))

    def smooth(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """Smoothed x (batch, time, bands). before: smoothed frame that precedes x (batch, bands), if any."""
        s = self.log_s.exp()
        first = x[:, :1] if before is None else x[:, :1] * s + before[:, None] * (1 - s)
        return decayed_sum(torch.cat([first, x[:, 1:] * s], 1), 1 - s)

    def normalise(self, x: Tensor, smooth: Tensor) -> Tensor:
        """The output for x, given the smoothed x, both (batch, time, bands)."""
        alpha, delta, r = self.log_alpha.exp(), self.log_delta.exp(), self.log_r.exp()
        return (x * (1e-6 + smooth) ** -alpha + delta) ** r - delta**r

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x, self.smooth(x))


def make_magnitude_scale(cfg: dict[str, Any], bands: int) -> nn.Module | None:
    """The module for the setting `magscale`, or None for no scaling."""
    kind, initial = re.fullmatch(r'(log1p_learn|pow_learn|[a-z0-9]+):?(.*)', cfg['magscale']).groups()
    return {
        'log': Log,
        'log1p': lambda: Log(True),
        'log1p_learn': lambda: LearnableLog(initial or 0),
        'pow_learn': lambda: LearnablePower(initial or 0),
        'pcen': lambda: PCEN(bands, bool(cfg['pcen_fix_alpha'])),
        'none': lambda: None,
    }[kind]()


def hide(x: Tensor, masks: Tensor) -> Tensor:
    """x (batch, frames, bands) with 0 in rectangles: masks (batch, N, 4), see `effects.draw_masks`."""

    def inside(axis: int, start: Tensor, end: Tensor) -> Tensor:
        places = torch.arange(x.shape[axis], device=x.device)
        return ((places >= start[..., None]) & (places < end[..., None])).to(x.dtype)

    frames, bands = inside(1, masks[..., 0], masks[..., 1]), inside(2, masks[..., 2], masks[..., 3])
    return x.masked_fill(frames.transpose(1, 2) @ bands > 0, 0)


class Frontend(nn.Module):
    """Filterbank, magnitude scale and standardisation: (batch, frames, bins) -> (batch, 1, frames, bands).

    With masks (see `hide`), parts of the result are 0, the mean of each band over the batch. If magnitudes were hidden,
    the masks would change these means, and be extreme values with magscale=log.
    Computes in float32, even under autocast. Raises Problem for a wrong number of bins.
    """

    def __init__(self, cfg: dict[str, Any]):
        super().__init__()
        self.bins = stft.num_bins(cfg)
        self.bands = self.bins if cfg['filterbank'] == 'none' else cfg['mel_bands']
        banks = {'mel': MelBank, 'mel_learn': LearnableMelBank}
        self.filterbank = None if cfg['filterbank'] == 'none' else banks[cfg['filterbank']](cfg)
        self.scale = make_magnitude_scale(cfg, self.bands)
        self.centre = bool(cfg['band_centre'])
        self.standardise = Standardise(self.bands)

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        if x.ndim != 3 or x.shape[2] != self.bins:
            shape = 'x'.join(map(str, x.shape))
            raise Problem(
                f'spectrograms of shape {shape} do not fit this network: it takes (batch, frames, {self.bins} bins); '
                'compute them with its own sample_rate, frame_len, mel_max and filterbank'
            )
        with torch.autocast(x.device.type, enabled=False):
            x = full_precision(x)
            if self.filterbank is not None:
                x = self.filterbank(x)
            if self.scale is not None:
                x = self.scale(x)
            if self.centre:
                x = x - x.mean(1, keepdim=True)
            x = self.standardise(x)
            return (x if masks is None else hide(x, masks))[:, None]
