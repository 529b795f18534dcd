"""Devices (CPU or GPU) that networks and spectrograms are computed on, and their precision."""

import contextlib
import ctypes
import os
import sys
from typing import Any

import numpy as np
import torch
import torch.utils.deterministic

from birdsong.files import Problem

# With mixed precision, oneDNN's kernels for AMX crash in some virtual machines ("illegal instruction"), so AVX-512 is
# the default. Set the variable to ALL to use AMX.
os.environ.setdefault('ONEDNN_MAX_CPU_ISA', 'AVX512_CORE_FP16')


def pick(name: str | None = None) -> torch.device:
    """The device `name`; if None, CUDA, MPS or the CPU, the first that is available.

    Each of several processes gets the CUDA device of its local rank. Raises Problem if the device is not available.
    """
    if not name:
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    if name.startswith('cuda') and 'LOCAL_RANK' in os.environ:
        if name != 'cuda':
            raise Problem(
                f'--device {name}: each process gets a GPU of its own; type --device cuda, '
                'and choose the GPUs with CUDA_VISIBLE_DEVICES'
            )
        name = f'cuda:{os.environ["LOCAL_RANK"]}'
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as e:
        reason = str(e).split('\n')[0]
        raise Problem(f'--device {name}: not available here ({reason}); try --device cpu') from None
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    return device


def deterministic() -> None:
    """Make torch choose kernels that give the same result every time, also on a GPU."""
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.backends.cudnn.benchmark = False
    # torch.use_deterministic_algorithms does the same, but it also imports torch's compiler, which takes a second.
    torch.set_deterministic_debug_mode('warn')
    # otherwise, each new tensor is filled with NaN first
    torch.utils.deterministic.fill_uninitialized_memory = False


def keep_memory() -> None:
    """Make the C library keep freed memory for the next tensors instead of returning it to the system (glibc only).

    Otherwise, a training step on a CPU spends a quarter of its time on getting memory that it has just returned. With
    excerpts of 5 to 30 s, a training takes about 30 % more memory.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def computes_spectrograms(cfg: dict[str, Any], device: torch.device) -> bool:
    """Whether the device computes spectrograms, according to the setting `spectrogram`; otherwise the feed does."""
    return cfg['spectrogram'] == 'device' or cfg['spectrogram'] == 'auto' and device.type == 'cuda'


def describe(device: torch.device) -> str:
    """Name of a GPU, or kind of another device."""
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type


def to_device(batch: dict[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """The arrays of a batch as tensors on `device`, copied asynchronously."""
    tensors = {}
    for key, value in batch.items():
        tensor = torch.from_numpy(value)
        if device.type == 'cuda':
            tensor = tensor.pin_memory()
        tensors[key] = tensor.to(device, non_blocking=True)
    return tensors


def cpu_has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16 (AVX-512 or ARM); without them, it is emulated slowly."""
    found = torch.cpu.get_capabilities()
    return bool(found.get('avx512_bf16') or found.get('bf16'))


def mixed_precision(wanted: bool, device: torch.device) -> bool:
    """Whether to use mixed precision: if `wanted`, unless the processor would only emulate it; then a line says so."""
    if wanted and device.type == 'cpu' and not cpu_has_bfloat16():
        print('--amp: this processor has no instructions for bfloat16; computing in float32', file=sys.stderr)
        return False
    return wanted


def amp_type(device: torch.device) -> torch.dtype:
    """The number format of mixed precision on `device`: bfloat16, or float16 on GPUs without bfloat16."""
    if device.type == 'cuda' and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16
