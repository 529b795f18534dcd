"""Preparing things ahead of their use, in background threads or processes."""

import collections
import concurrent.futures
import contextlib
import io
import mmap
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
import tempfile
import threading
import warnings

import numpy as np

from birdsong.files import Problem

_local = threading.local()


def run_ahead(function, items, threads=0, processes=0, ahead=None):
    """Yields function(item) for each of `items`, in their order, computed ahead in the background.

    `processes` background processes do it if there are any, else `threads` threads, else the caller itself. At
    most `ahead` results (default: workers + 2, at least as many as workers) exist beside the one that was yielded
    last. Whatever exception a call raises is raised here, in its turn; a process that dies is a Problem. When
    the generator is closed or left, the workers end. Processes are forked, so that nothing needs to be pickled but
    results: arrays and plain values, all else is refused; arrays that `function` gets from `feed.empty` are handed over without a copy.
    """
    workers = processes or threads
    ahead = max(workers, workers + 2 if ahead is None else ahead)
    if processes:
        return _run_processes(function, items, processes, ahead)
    if threads:
        return _run_threads(function, items, threads, ahead)
    return map(function, items)


def empty(shape, dtype):
    """As numpy.empty; in a background process, memory that can be shared with the consumer."""
    blocks = getattr(_local, 'blocks', None)
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    if blocks is None or count * dtype.itemsize < 1 << 16:
        return np.empty(shape, dtype)
    size = count * dtype.itemsize
    fd = _anonymous_file(size)
    array = np.frombuffer(mmap.mmap(fd, size), dtype, count).reshape(shape)
    blocks[array.__array_interface__['data'][0]] = fd, size
    return array


# == Threads ==


def _run_threads(function, items, threads, ahead):
    pool = concurrent.futures.ThreadPoolExecutor(threads, 'feed')
    waiting = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# == Processes ==


def _run_processes(function, items, processes, ahead):
    context = multiprocessing.get_context('fork')
    links, workers = [], []
    try:
        for _ in range(processes):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            links.append(ours)
            worker = context.Process(target=_work, args=(function, theirs, list(links)), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of forks beside threads; the children use none of what those hold.
                warnings.simplefilter('ignore', DeprecationWarning)
                worker.start()
            theirs.close()
            workers.append(worker)
        sent = received = 0
        for item in items:
            _send(links[sent % processes], item)
            sent += 1
            if sent - received >= ahead:
                yield _result(links, workers, received)
                received += 1
        while received < sent:
            yield _result(links, workers, received)
            received += 1
    finally:
        for link in links:
            link.close()
        for worker in workers:
            worker.join()


def _result(links, workers, number):
    link, worker = links[number % len(links)], workers[number % len(links)]
    try:
        good, value = _receive(link)
    except EOFError:
        worker.join()
        raise Problem(
            f'a background process died (exit status {worker.exitcode}); is there enough memory? Try fewer bg_processes, or bg_threads'
        ) from None
    if not good:
        raise value
    return value


def _work(function, link, others):
    # Ctrl-C reaches all of the group; the consumer decides when this ends, by closing the link.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    with contextlib.suppress(EOFError, OSError):
        while True:
            item = _receive(link)
            _local.blocks = {}
            try:
                message = True, function(item)
            except BaseException as e:
                message = False, _portable(e)
            _send(link, message)
            # The consumer has its own descriptors now.
            for fd, _ in _local.blocks.values():
                os.close(fd)
            message = None
    os._exit(0)


def _portable(error):
    """The exception, or one in words if the consumer could not read it."""
    try:
        _Unpickler(io.BytesIO(pickle.dumps(error)), ()).load()
        return error
    except Exception:
        return RuntimeError(f'{type(error).__name__}: {error}')


def _anonymous_file(size):
    if hasattr(os, 'memfd_create'):
        fd = os.memfd_create('feed')
    else:
        with tempfile.TemporaryFile() as f:
            fd = os.dup(f.fileno())
    os.ftruncate(fd, size)
    return fd


class _Pickler(pickle.Pickler):
    """Pickles big arrays from `empty` as numbers of descriptors, collected in `.fds`."""

    def __init__(self, file):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.fds = []

    def persistent_id(self, value):
        if type(value) is np.ndarray and getattr(_local, 'blocks', None) and value.flags.c_contiguous:
            block = _local.blocks.get(value.__array_interface__['data'][0])
            if block and value.nbytes == block[1]:
                self.fds.append(block[0])
                return len(self.fds) - 1, value.shape, value.dtype.str
        return None


# what numpy makes arrays and scalars of
_ADMITTED = {
    (f.__module__, f.__qualname__): f
    for f in (
        np.ndarray,
        np.dtype,
        np.empty(0).__reduce__()[0],
        np.empty(0).__reduce_ex__(5)[0],
        np.float32().__reduce__()[0],
    )
}


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` wrote: plain values, arrays, and exceptions whose class is known here. Nothing else is looked up or called."""

    def __init__(self, file, fds):
        super().__init__(file)
        self.fds = fds

    def find_class(self, module, name):
        found = _ADMITTED.get((module, name)) or getattr(sys.modules.get(module), name, None)
        if (module, name) in _ADMITTED or isinstance(found, type) and issubclass(found, BaseException):
            return found
        raise pickle.UnpicklingError(
            f'refused: a background process sent {module}.{name}; only arrays and plain values pass'
        )

    def persistent_load(self, key):
        number, shape, dtype = key
        count = int(np.prod(shape, dtype=np.int64))
        mapped = mmap.mmap(self.fds[number], count * np.dtype(dtype).itemsize)
        return np.frombuffer(mapped, dtype, count).reshape(shape)


def _send(link, value):
    body = io.BytesIO()
    pickler = _Pickler(body)
    pickler.dump(value)
    data = body.getbuffer()
    try:
        socket.send_fds(link, [struct.pack('<QQ', len(data), len(pickler.fds))], pickler.fds)
        link.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        # The one at the other end is gone: the receiving side says so.
        pass


def _receive(link):
    fds = []
    try:
        head, fds, _, _ = socket.recv_fds(link, 16, 64)
        head += _read(link, 16 - len(head)) if head else b''
        if not head:
            raise EOFError
        size, _ = struct.unpack('<QQ', head)
        return _Unpickler(io.BytesIO(_read(link, size)), fds).load()
    except ConnectionResetError:
        raise EOFError from None
    finally:
        for fd in fds:
            os.close(fd)


def _read(link, size):
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = link.recv_into(view[done:])
        if not count:
            raise EOFError
        done += count
    return bytes(data)
