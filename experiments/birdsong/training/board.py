"""The metrics of a training, written for TensorBoard, an optional package."""

import os

from birdsong.files import Problem


class Board:
    """Writes metrics to a folder for TensorBoard. After an interruption, metrics from `epoch` on replace earlier ones.

    Raises Problem if the package is missing.
    """

    def __init__(self, folder: str, epoch: int = 0):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise Problem('--tensorboard: needs the package tensorboard; type: pip install tensorboard') from None
        self._writer = SummaryWriter(os.path.abspath(folder), purge_step=epoch + 1)

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """Write the metrics of an epoch, counted from 1."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()
