"""Several processes that train one network together, started by launch.py or by torchrun."""

import io
import os

import numpy as np
import torch
import torch.distributed as dist

from birdsong.files import Problem


class Team:
    """The processes that train one network: only this one, or those that launch.py or torchrun started.

    Each process computes its share of each batch.
    """

    def __init__(self, device: torch.device):
        self.size = int(os.environ.get('WORLD_SIZE', 1))
        self.rank = int(os.environ.get('RANK', 0))
        self.device = device
        if self.size > 1 and not dist.is_initialized():
            # torchrun's store listens on the network, so it is used only if there is no other
            store = os.environ.get('TEAM_STORE')
            dist.init_process_group(
                'nccl' if device.type == 'cuda' else 'gloo',
                f'file://{store}' if store else 'env://',
                rank=self.rank,
                world_size=self.size,
            )

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def share(self, batch: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        """This process's rows of a batch of arrays, and their fraction of the whole batch.

        Raises Problem if there are fewer rows than processes.
        """
        if self.size == 1:
            return batch, 1.0
        total = len(next(iter(batch.values())))
        if total < self.size:
            raise Problem(f'batchsize={total}: too few for {self.size} processes')
        rows = slice(total * self.rank // self.size, total * (self.rank + 1) // self.size)
        return {k: v[rows] for k, v in batch.items()}, (rows.stop - rows.start) / total

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, arrays: list[np.ndarray]) -> list[list[np.ndarray]]:
        """The arrays of all processes, which may differ in shape, in one list per rank; sent without pickle."""
        if self.size == 1:
            return [arrays]
        buffer = io.BytesIO()
        np.savez(buffer, *arrays)
        mine = torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8).to(self.device)
        sizes = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        sizes[self.rank] = len(mine)
        sizes = self.sum(sizes).tolist()
        everyone = [torch.empty(max(sizes), dtype=torch.uint8, device=self.device) for _ in sizes]
        dist.all_gather(everyone, torch.nn.functional.pad(mine, (0, max(sizes) - len(mine))))
        gathered = []
        for size, theirs in zip(sizes, everyone, strict=True):
            with np.load(io.BytesIO(theirs[:size].cpu().numpy().tobytes()), allow_pickle=False) as f:
                gathered.append([f[name] for name in f.files])
        return gathered

    def leave(self) -> None:
        """Wait until all processes have finished, and close the connections."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()
