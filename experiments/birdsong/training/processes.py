"""Conventions of launch.py and the processes that it starts. Needs no torch, so that launch.py starts fast."""

import os

# Exit status of a process that ended because another process or a GPU failed; a retry may succeed.
LOST = 70


def environment(size: int, rank: int, store: int) -> dict[str, str]:
    """Environment of process `rank` of `size`; `store` is a file descriptor that all of them inherit.

    The processes find each other through that file and communicate over the loopback interface, so that no port is open
    to the network.
    """
    return {
        'OMP_NUM_THREADS': '1',
        **os.environ,
        'WORLD_SIZE': str(size),
        'RANK': str(rank),
        'LOCAL_RANK': str(rank),
        'TEAM_STORE': f'/proc/self/fd/{store}',
        'GLOO_SOCKET_IFNAME': 'lo',
        'NCCL_SOCKET_IFNAME': '=lo',
        'NCCL_RAS_ENABLE': '0',
    }
