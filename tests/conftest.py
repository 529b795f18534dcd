"""Fixtures for all tests: golden cases, copies of the project, small datasets.

A test module names the golden cases that it covers in a literal tuple GOLDEN; its tests read them by
`golden('layers/arch_conv')` -> (description dict, dict of arrays). The cases are read from ../shared/golden if it
exists, else from tests/fixtures/*.npz, which contain all of them.
"""

import signal

import golden_dataset as generated
import numpy as np
import pytest

from helpers import GOLDEN_DIR, ODD_NAME, Checkout, read_condensed, read_golden, run_program, with_standins


def pytest_addoption(parser):
    parser.addoption('--all', action='store_true', help='also run slow tests')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes more than a few seconds; only with --all')
    # A process that a shell starts in the background ignores Ctrl-C, and so do the processes that it starts.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The same is true for SIGHUP under nohup. With a handler, only pytest itself ignores it.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_collection_modifyitems(config, items):
    if not config.getoption('--all'):
        for item in items:
            if 'slow' in item.keywords:
                item.add_marker(pytest.mark.skip(reason='slow: tests/run.sh --all'))


@pytest.fixture
def golden(request):
    def get(case):
        assert case in request.module.GOLDEN, f'{case} is missing in GOLDEN of {request.module.__name__}'
        found = read_golden(case)
        if found is None:
            pytest.skip(f'golden case {case} is neither in {GOLDEN_DIR} nor in tests/fixtures')
        return found

    return get


@pytest.fixture
def golden_net(tmp_path):
    """Name of a network of the original -> its file; its settings are in the same folder."""

    def get(name):
        path = GOLDEN_DIR / (f'{name}.npz')
        if path.exists():
            return str(path)
        found = read_condensed(name)
        if found is None:
            pytest.skip(f'golden network {name} is neither in {GOLDEN_DIR} nor in tests/fixtures')
        path = tmp_path / (f'{name.replace("/", "_")}.npz')
        np.savez(path, **found[1])
        path.with_name(f'{path.name}.vars').write_text(found[0])
        return str(path)

    return get


@pytest.fixture(scope='session')
def golden_dataset(tmp_path_factory):
    """Folder of the dataset on which golden cases were recorded. Tests must not change it."""
    folder = tmp_path_factory.mktemp('golden') / 'dataset'
    generated.write(folder)
    return folder


@pytest.fixture
def golden_dir():
    if not GOLDEN_DIR.is_dir():
        pytest.skip(f'needs {GOLDEN_DIR}')
    return GOLDEN_DIR


@pytest.fixture
def checkout(tmp_path):
    """A copy of the files of datasets/ and experiments/ that runs in the environment of the tests."""
    copy = Checkout(tmp_path / ODD_NAME)
    copy.copy()
    return copy


@pytest.fixture(scope='session')
def tiny_source(tmp_path_factory):
    """A generated source folder: 4 species, 28 short recordings, 2 soundscapes, known faults. Not to be changed."""
    source = tmp_path_factory.mktemp('tiny') / 'source'
    sizes = '--species=4 --recordings=28 --shortest=1 --longest=4 --long=20 --soundscapes=1 --soundscape-seconds=15'
    assert run_program('datasets/demo/generate.py', source, *sizes.split()).returncode == 0
    return source


@pytest.fixture(scope='session')
def tiny_dataset(tiny_source, tmp_path_factory):
    """Folder of the dataset tiny_demo, created from `tiny_source`. Tests that change it must copy it."""
    dataset = tmp_path_factory.mktemp('tiny_datasets') / 'tiny_demo'
    for script, *arguments in (
        ('../collect.py', tiny_source),
        ('labels/recreate.py',),
        ('audio/convert.py', tiny_source),
        ('filelists/split.py', '--valid-list', tiny_source / 'valid_list'),
    ):
        assert run_program(f'datasets/birdclef/{script}', '--dataset', dataset, *arguments).returncode == 0
    return dataset


@pytest.fixture
def project(checkout):
    return with_standins(checkout)
