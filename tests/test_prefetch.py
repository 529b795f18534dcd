"""Computation ahead of time in threads and processes."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from birdsong.data import prefetch
from birdsong.files import Problem
from helpers import ROOT

WAYS = [{}, {'threads': 1}, {'threads': 3}, {'processes': 1}, {'processes': 3}]
BACKGROUND = WAYS[1:]


def make(k):
    big = np.full((50, 1000), k, np.float32)
    return {'big': big, 'small': np.arange(k), 'none': np.empty((2, 0)), 'also big': big[:25], 'name': str(k)}


@pytest.mark.parametrize('way', WAYS)
def test_results_come_in_order_however_they_are_made(way):
    results = list(prefetch.run_ahead(make, range(20), **way))
    for k, result in enumerate(results):
        expected = make(k)
        assert list(result) == list(expected)
        for name in ('big', 'small', 'none', 'also big'):
            np.testing.assert_array_equal(result[name], expected[name])
            assert result[name].dtype == expected[name].dtype
        assert result['name'] == str(k)
        # Batches may be changed in place.
        result['big'] += 1


@pytest.mark.parametrize('way', WAYS)
def test_nothing_to_do(way):
    assert list(prefetch.run_ahead(make, [], **way)) == []


class Silent(Exception):
    pass


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize(
    'error',
    [
        ValueError('oops'),
        Silent(),
        KeyboardInterrupt(),
        SystemExit(3),
        Problem('a file: broken; fix it'),
        GeneratorExit(),
    ],
)
def test_exception_reaches_the_consumer_in_order(way, error):
    def function(k):
        if k == 5:
            raise error
        return k

    got = []
    with pytest.raises(type(error)) as caught:
        for k in prefetch.run_ahead(function, range(100), **way):
            got.append(k)
    assert got == [0, 1, 2, 3, 4]
    assert caught.value.args == error.args


@pytest.mark.parametrize('way', BACKGROUND)
def test_error_of_the_items_reaches_the_consumer(way):
    def items():
        yield 1
        raise ValueError('no more')

    with pytest.raises(ValueError, match='no more'):
        list(prefetch.run_ahead(make, items(), **way))


def test_processes_and_consumer_keep_nothing_open():
    def function(k):
        return dict(make(k), open=len(os.listdir('/proc/self/fd')))

    gc.collect()
    before = len(os.listdir('/proc/self/fd'))
    counts = []
    for result in prefetch.run_ahead(function, range(12), processes=1):
        counts.append((result['open'], len(os.listdir('/proc/self/fd'))))
    result = None
    assert len(set(counts[2:])) == 1
    gc.collect()
    assert len(os.listdir('/proc/self/fd')) == before


class Unpicklable:
    def __reduce__(self):
        raise TypeError('not to be pickled')


def test_a_result_that_cannot_be_pickled_is_an_error():
    with pytest.raises(TypeError, match='not to be pickled'):
        list(prefetch.run_ahead(lambda k: Unpicklable(), [1], processes=1))


def test_an_exception_that_cannot_be_pickled_is_an_error():
    class Local(Exception):
        pass

    def function(k):
        raise Local('within')

    with pytest.raises((AttributeError, pickle.PicklingError), match='Local'):
        list(prefetch.run_ahead(function, [1], processes=1))


@pytest.mark.parametrize('way', WAYS[1:3])
def test_memory_is_bounded(way):
    made = []
    lock = threading.Lock()

    def function(k):
        with lock:
            made.append(k)
        return k

    for k in prefetch.run_ahead(function, range(60), ahead=4, **way):
        with lock:
            assert len(made) <= k + 1 + 4
    assert len(made) == 60


@pytest.mark.parametrize('way', [{'processes': 1}, {'processes': 2}])
def test_memory_of_processes_is_bounded(way, tmp_path):
    def function(k):
        with open(tmp_path / 'made', 'ab') as f:
            f.write(b'.')
        return k

    for k in prefetch.run_ahead(function, range(30), ahead=4, **way):
        assert os.path.getsize(tmp_path / 'made') <= k + 1 + 4


@pytest.mark.parametrize('way', BACKGROUND)
def test_early_exit_leaves_no_threads_or_processes(way):
    gc.collect()
    threads, fds = threading.active_count(), len(os.listdir('/proc/self/fd'))
    for k in prefetch.run_ahead(make, range(1000), **way):
        if k['name'] == '3':
            break
    k = None
    gc.collect()
    assert threading.active_count() == threads
    assert len(os.listdir('/proc/self/fd')) == fds
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize('way', [{'processes': 1}, {'processes': 2}])
def test_killed_process_is_reported(way):
    def function(k):
        if k == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return k

    with pytest.raises(Problem, match='a background process died'):
        list(prefetch.run_ahead(function, range(50), **way))


SCRIPT = """
import sys
sys.path.insert(0, %r)
import itertools, os, time
from birdsong.data import prefetch
def function(k):
    return os.getpid()
for k, pid in enumerate(prefetch.run_ahead(function, itertools.count(), %s=2)):
    if k < 2:
        print(pid, flush=True)
    time.sleep(.001)
"""


@pytest.mark.parametrize('kind', ['threads', 'processes'])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_consumer_ends_its_workers(kind, number):
    run = subprocess.Popen(
        [sys.executable, '-c', SCRIPT % (str(ROOT / 'experiments'), kind)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(2):
        run.stdout.readline()
    # Ctrl-C is sent to the process group, as in a terminal.
    os.killpg(run.pid, number) if number == signal.SIGINT else run.kill()
    # The pipes are closed when the last worker has ended.
    _, error = run.communicate(timeout=60)
    assert run.returncode == -number or run.returncode == 1
    assert error.count('Traceback') <= 1
