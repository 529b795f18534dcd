#!/usr/bin/env python3
"""Run a command N times at once, as processes that train one network together: launch.py N COMMAND...

If one process fails, or this program gets a signal, all processes are ended. The exit status is that of the first
process that failed, or 128 + S for signal S. A process that ended because it lost the connection to another one (exit
status 70) counts only if no other failed.
"""

import contextlib
import os
import signal
import sys

from birdsong.training.processes import LOST, environment

# seconds from SIGTERM to SIGKILL
GRACE = 5


def main() -> int:
    if len(sys.argv) < 3 or not sys.argv[1].isdecimal() or not int(sys.argv[1]):
        sys.exit('Usage: launch.py N COMMAND...')
    size = int(sys.argv[1])
    # A file in memory can be read by these processes only, and disappears when they end.
    store = os.memfd_create('store', 0)
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
        command = ['setpriv', '--pdeathsig', 'KILL', *sys.argv[2:]]
        running.add(os.posix_spawnp(command[0], command, environment(size, rank, store)))
    if status:  # a signal came while the processes were being started
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
