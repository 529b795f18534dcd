"""How programs start and end. Every program imports this module first and ends with `program.run(main)`.

After this import, Ctrl-C, a missing package or too little memory end the program with a message of one line. This
module imports only fast modules, because Ctrl-C may come while numpy and torch are being imported.
"""

import contextlib
import errno
import mmap
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# parts of the messages of torch, Python and the dynamic linker when memory runs out
OUT_OF_MEMORY = ('allocate memory', 'out of memory', 'failed to map segment', "can't start new thread", 'bad_alloc')


def say(line: str) -> None:
    """Write a line to standard error, after the name of the program."""
    with contextlib.suppress(OSError):  # standard error may be closed
        os.write(2, f'{os.path.basename(sys.argv[0])}: {line}\n'.encode(errors='replace'))


def explain(error: BaseException) -> str | None:
    """A message of one line if the cause of the error is outside of the program, else None: a traceback is better."""
    words = ' '.join(str(error).split())
    if (
        isinstance(error, MemoryError)
        or isinstance(error, (RuntimeError, ImportError, OSError))
        and any(part in words.lower() for part in OUT_OF_MEMORY)
    ):
        return (
            f'not enough memory ({words or "MemoryError"}); free some, raise the limit (ulimit -v), '
            'or choose a smaller batchsize, a smaller len_max or fewer threads'
        )
    if isinstance(error, ModuleNotFoundError):
        return (
            f'the Python package {error.name} is missing; type: source {ROOT}/.venv/bin/activate'
            f' (or install all packages: pip install -r {ROOT}/requirements.txt)'
        )
    if isinstance(error, OSError):
        words = error.strerror or words
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            words += '; free some space on that disk and type the same command again'
        return f'{error.filename}: {words}' if error.filename else words
    return None


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run `main()` as a program and exit with its status; a `Problem` is printed as one line on standard error.

    The status is 1 for a `Problem`, 130 for Ctrl-C, 143 for SIGTERM and 141 for a closed pipe, all without a traceback.
    Both signals raise exceptions in `main`, so that it can remove unfinished files.
    """
    from birdsong.files import Problem

    name = os.path.basename(sys.argv[0])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if before[signal.SIGINT] == _end:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if before[signal.SIGTERM] == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        status = main()
        sys.stdout.flush()
    except Problem as e:
        sys.stdout.flush()
        status = f'{name}: {" ".join(str(e).split())}'
    except KeyboardInterrupt:
        sys.stderr.write(f'{name}: interrupted\n')
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except Exception as e:
        line = explain(e)
        if line is None:
            raise
        status = f'{name}: {line}'
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    sys.exit(status)


def _end(*_):
    """End the process at once, without a traceback. While modules are imported, there is nothing to clean up."""
    say('interrupted')
    os._exit(130)


def _unexpected(kind, error, traceback):
    line = explain(error)
    if line:
        say(line)
    else:
        sys.__excepthook__(kind, error, traceback)


def _nowhere_to_raise(unraisable):
    """Handle a signal that came where Python cannot raise an exception, such as in a destructor."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _end()
    elif issubclass(unraisable.exc_type, SystemExit):
        os._exit(143)
    sys.__unraisablehook__(unraisable)


def _open_closed_streams():
    """Open /dev/null for closed standard streams. Otherwise messages would go into the next file that is opened."""
    for number, name, mode in ((0, 'stdin', 'r'), (1, 'stdout', 'w'), (2, 'stderr', 'w')):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


# Only if one of our programs was started, not if a module is imported by something else.
if os.path.abspath(sys.argv[0]).startswith((os.path.join(ROOT, 'experiments', ''), os.path.join(ROOT, 'datasets', ''))):
    _open_closed_streams()
    if 'OMP_WAIT_POLICY' not in os.environ:
        # Threads of torch that wait for each other keep their cores busy for milliseconds by default, so that training
        # on cores that are shared with other programs takes five times as long. Read when torch is imported.
        os.environ.setdefault('GOMP_SPINCOUNT', '30000')
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    sys.excepthook, sys.unraisablehook = _unexpected, _nowhere_to_raise
    # Fails if there is less memory than numpy needs to be imported; OpenBLAS would wait for memory forever.
    mmap.mmap(-1, 1 << 27).close()
