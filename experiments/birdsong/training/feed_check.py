"""Plotting and timing the training batches, for the settings plot_datafeed and benchmark_datafeed."""

import time

import numpy as np
import torch
from tqdm import tqdm

from birdsong import devices
from birdsong.data.feeds import Batch
from birdsong.files import Problem
from birdsong.training.trainer import Trainer


def plot(trainer: Trainer, filename: str) -> None:
    """Plot spectrograms of the first batches, as the layers of `arch` get them, to a PNG file.

    Raises Problem for a network on metadata alone.
    """
    if not trainer.feed.with_audio:
        raise Problem('plot_datafeed: the network has no spectrograms to plot; leave it out')
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(4, 4, figsize=(16, 10), squeeze=False)
    excerpts = (excerpt for batch in trainer.feed.batches(0, 16) for excerpt in _spectrograms(trainer, batch))
    for axis, spect in zip(axes.flat, excerpts, strict=False):
        # One range of colours for all, in standard deviations of each band, because excerpts differ in their gain.
        axis.imshow(spect.T, origin='lower', aspect='auto', vmin=-3, vmax=3)
    figure.tight_layout()
    figure.savefig(filename)
    print(f'wrote {filename}')


@torch.no_grad()
def _spectrograms(trainer: Trainer, batch: Batch) -> np.ndarray:
    """The spectrograms of a batch after the frontend, with masks: (batch, frames, bands)."""
    spect, _, masks = trainer.inputs(devices.to_device(batch, trainer.device))
    return trainer.net.audio.front(spect, masks)[:, 0].cpu().numpy()


def benchmark(trainer: Trainer, count: int) -> None:
    """Print how fast the first `count` batches are computed."""
    cfg = trainer.cfg
    hop = int(cfg['sample_rate'] // cfg['fps'])  # samples per frame
    samples = 0
    start = time.perf_counter()
    for batch in tqdm(trainer.feed.batches(0, count), 'feed', count, disable=None):
        for key, samples_per_column in ('samples', 1), ('spect', hop):
            if key in batch:
                samples += batch[key].shape[0] * batch[key].shape[1] * samples_per_column
    seconds = time.perf_counter() - start
    print(
        f'{count} batches in {seconds:.1f} s: {count / seconds:.1f} batches/s, '
        f'{samples / cfg["sample_rate"] / seconds:.0f} x real time'
    )
