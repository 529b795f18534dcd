"""Where networks run, and several processes that train one network together (launch.py)."""

import io
import os

import numpy as np
import torch
import torch.distributed as dist

from birdsong.files import Problem

# With mixed precision, oneDNN's kernels for AMX end the program in some virtual machines ("illegal instruction"), so the
# default is AVX-512. Set the variable to ALL to use AMX.
os.environ.setdefault('ONEDNN_MAX_CPU_ISA', 'AVX512_CORE_FP16')


def pick(name=None):
    """The torch.device called `name`; without a name CUDA if there is one, then MPS, else the CPU.

    Each of several processes gets the CUDA device of its local rank. Raises Problem if the device is not there.
    """
    if not name:
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    if name.startswith('cuda') and 'LOCAL_RANK' in os.environ:
        if name != 'cuda':
            raise Problem(
                f'--device {name}: each process gets a GPU of its own; say --device cuda, and which ones by CUDA_VISIBLE_DEVICES'
            )
        name = f'cuda:{os.environ["LOCAL_RANK"]}'
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as e:
        raise Problem(
            '--device {}: not available here ({}); try --device cpu'.format(name, str(e).split('\n')[0])
        ) from None
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    return device


def deterministic():
    """Have torch choose kernels that give the same result every time, also on a GPU."""
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def describe(device):
    """The device in words."""
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type


def to_device(batch, device):
    """The numpy arrays of a batch as tensors on `device`; the copies don't make the host wait."""
    tensors = {}
    for key, value in batch.items():
        tensor = torch.from_numpy(value)
        if device.type == 'cuda':
            tensor = tensor.pin_memory()
        tensors[key] = tensor.to(device, non_blocking=True)
    return tensors


def amp_type(device):
    """The number format of mixed precision on `device`: bfloat16, or float16 on GPUs that lack it."""
    if device.type == 'cuda' and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


class Team:
    """The processes that train one network: this one alone, or those that launch.py (or torchrun) started.

    Every process computes its share of each batch; figures are of all shares together.
    """

    def __init__(self, device):
        self.size = int(os.environ.get('WORLD_SIZE', 1))
        self.rank = int(os.environ.get('RANK', 0))
        if self.size > 1 and not dist.is_initialized():
            # torchrun's store, which listens on the network, only if it was torchrun that started us
            store = os.environ.get('TEAM_STORE')
            dist.init_process_group(
                'nccl' if device.type == 'cuda' else 'gloo',
                f'file://{store}' if store else 'env://',
                rank=self.rank,
                world_size=self.size,
            )
        self.device = device

    def share(self, batch):
        """This process's rows of a batch of arrays, and their part of the whole batch."""
        if self.size == 1:
            return batch, 1.0
        total = len(next(iter(batch.values())))
        if total < self.size:
            raise Problem(f'batchsize={int(total)}: too few for {int(self.size)} processes')
        rows = slice(total * self.rank // self.size, total * (self.rank + 1) // self.size)
        return {k: v[rows] for k, v in batch.items()}, (rows.stop - rows.start) / total

    def sum(self, tensor):
        """The sum of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, arrays: list[np.ndarray]) -> list[list[np.ndarray]]:
        """The arrays of all processes, a list for each, in the order of their ranks. Any shapes, sent as bytes without pickle."""
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
        for size, theirs in zip(sizes, everyone):
            with np.load(io.BytesIO(theirs[:size].cpu().numpy().tobytes()), allow_pickle=False) as f:
                gathered.append([f[name] for name in f.files])
        return gathered

    def leave(self):
        """Wait until all processes are done, and end their connections."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()
