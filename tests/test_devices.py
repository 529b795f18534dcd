"""devices: how torch is set up for training and prediction."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from birdsong import config, devices

COUNT_FAULTS = """
import resource, torch
from birdsong import devices
{prepare}
for _ in range(6):  # the heap grows in the first rounds
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(1 << 24) for _ in range(4)]  # 64 MiB each
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_new_tensors_are_not_filled_in_deterministic_mode():
    mode = torch.get_deterministic_debug_mode()
    devices.deterministic()
    try:
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.empty(10000).isnan().all()
    finally:
        torch.set_deterministic_debug_mode(mode)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='another C library manages memory in its own way')
@pytest.mark.parametrize('prepare, kept', [('', False), ('devices.keep_memory()', True)])
def test_freed_memory_is_kept_for_the_next_tensor(prepare, kept):
    done = subprocess.run(
        [sys.executable, '-c', COUNT_FAULTS.format(prepare=prepare)],
        cwd=config.EXPERIMENTS,
        capture_output=True,
        text=True,
        check=True,
    )
    pages = 4 * (1 << 26) // os.sysconf('SC_PAGE_SIZE')
    assert (int(done.stdout) < pages / 2) == kept
