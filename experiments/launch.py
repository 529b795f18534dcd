#!/usr/bin/env python3
"""Run a command N times at once, as processes that work together: launch.py N COMMAND...

They find each other through a file in memory and talk over the loopback interface, so that nothing listens on the
network; `Team` in device.py is their side of it. If one of them fails, or this program gets a signal, all of them
end. The exit status is that of the first failure (one that is lost without another doesn't count), 128 + N for signal N.
"""

import contextlib
import os
import signal
import sys

# seconds from SIGTERM to SIGKILL
GRACE = 5
# exit status of a process that ends because another is gone, or for no fault of its input: worth another try
LOST = 70


def main() -> int:
    if len(sys.argv) < 3 or not sys.argv[1].isdecimal() or not int(sys.argv[1]):
        sys.exit('Usage: launch.py N COMMAND...')
    size, command = int(sys.argv[1]), sys.argv[2:]
    # Without a name, it is readable by this user alone and leaves nothing behind, whatever ends the processes.
    store = os.memfd_create('store', 0)
    environment = dict(
        os.environ,
        WORLD_SIZE=str(size),
        TEAM_STORE=f'/proc/self/fd/{store}',
        GLOO_SOCKET_IFNAME='lo',
        NCCL_SOCKET_IFNAME='=lo',
        NCCL_RAS_ENABLE='0',
    )
    environment.setdefault('OMP_NUM_THREADS', '1')
    running, status = set(), 0

    def send(number):
        for pid in tuple(running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(why):
        nonlocal status
        if status in (0, LOST):
            status = why
        send(signal.SIGTERM)
        signal.alarm(GRACE)

    signal.signal(signal.SIGALRM, lambda *_: send(signal.SIGKILL))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _: end(128 + number))
    for rank in range(size):
        running.add(
            os.posix_spawnp(
                'setpriv',
                ['setpriv', '--pdeathsig', 'KILL', *command],
                dict(environment, RANK=str(rank), LOCAL_RANK=str(rank)),
            )
        )
    if status:  # the signal came before all of them were there
        end(status)
    while running:
        pid, code = os.wait()
        running.discard(pid)
        if code:
            code = os.waitstatus_to_exitcode(code)
            end(code if code > 0 else 128 - code)
    return status


if __name__ == '__main__':
    sys.exit(main())
