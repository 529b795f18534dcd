"""What all tests share: the way to the scripts, and the golden cases.

A test module names the golden cases that it covers in a literal tuple GOLDEN; its tests get them by
`golden('layers/arch_conv')` -> (description dict, dict of arrays). The cases are read from ../shared/golden
where that exists, else from tests/fixtures/*.npz, else the test skips with a reason.
"""
import json
import os
import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get('BIRDCLEF_SHARED', ROOT.parent / 'shared'))
GOLDEN_DIR = SHARED / 'golden'
sys.path[:0] = [str(ROOT / 'experiments'), str(ROOT / 'datasets')]


def pytest_addoption(parser):
    parser.addoption('--all', action='store_true', help='slow tests, too')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes more than a few seconds; only with --all')


def pytest_collection_modifyitems(config, items):
    if not config.getoption('--all'):
        for item in items:
            if 'slow' in item.keywords:
                item.add_marker(pytest.mark.skip(reason='slow: tests/run.sh --all'))


def read_golden(case):
    """(description, arrays) of a golden case, or None if it is nowhere to be found."""
    path = GOLDEN_DIR / (case + '.json')
    if path.exists():
        arrays = {}
        if path.with_suffix('.npz').exists():
            with np.load(path.with_suffix('.npz')) as f:
                arrays = dict(f)
        return json.loads(path.read_text()), arrays
    for fixture in sorted((ROOT / 'tests' / 'fixtures').glob('golden_*.npz')):
        with np.load(fixture) as f:
            if case in f.files:
                prefix = case + '|'
                return json.loads(f[case].tobytes()), {k[len(prefix):]: f[k] for k in f.files if k.startswith(prefix)}
    return None


@pytest.fixture
def golden(request):
    def get(case):
        assert case in request.module.GOLDEN, '%s is missing in GOLDEN of %s' % (case, request.module.__name__)
        found = read_golden(case)
        if found is None:
            pytest.skip('golden case %s is neither in %s nor in tests/fixtures' % (case, GOLDEN_DIR))
        return found
    return get


@pytest.fixture
def golden_dir():
    if not GOLDEN_DIR.is_dir():
        pytest.skip('needs %s' % GOLDEN_DIR)
    return GOLDEN_DIR
