"""What all tests share: the way to the scripts, and the golden cases.

A test module names the golden cases that it covers in a literal tuple GOLDEN; its tests get them by
`golden('layers/arch_conv')` -> (description dict, dict of arrays). The cases are read from ../shared/golden
where that exists, else from tests/fixtures/*.npz, which hold all of them.
"""

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import golden_dataset as generated
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get('BIRDCLEF_SHARED', ROOT.parent / 'shared'))
GOLDEN_DIR = SHARED / 'golden'
sys.path[:0] = [str(ROOT / 'experiments'), str(ROOT / 'datasets')]

# Each character means something to Bash, sed, awk, or the drivers themselves.
ODD_NAME = 'a b&c|d{}\'"$(touch x)'


def pytest_addoption(parser):
    parser.addoption('--all', action='store_true', help='slow tests, too')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes more than a few seconds; only with --all')
    # What a shell runs in the background ignores Ctrl-C, and so would all that the tests start.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What nohup starts ignores the end of the terminal, and so would all that the tests start; these tests go on.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_collection_modifyitems(config, items):
    if not config.getoption('--all'):
        for item in items:
            if 'slow' in item.keywords:
                item.add_marker(pytest.mark.skip(reason='slow: tests/run.sh --all'))


@functools.lru_cache(None)
def condensed():
    """Golden case -> the fixture that holds it, for where ../shared isn't there (fixtures/make_golden.py)."""
    cases = {}
    for fixture in sorted((ROOT / 'tests' / 'fixtures').glob('golden_*.npz')):
        with np.load(fixture) as f:
            cases.update((name, fixture) for name in f.files if '|' not in name)
    return cases


def read_condensed(case):
    """(description, arrays) of what a fixture holds of a golden case or network, or None.

    Where only every n-th frame is kept, the description tells n as `every`.
    """
    if case not in condensed():
        return None
    with np.load(condensed()[case]) as f:
        prefix = f'{case}|'
        return json.loads(f[case].tobytes()), {k[len(prefix) :]: f[k] for k in f.files if k.startswith(prefix)}


def read_golden(case):
    """(description, arrays) of a golden case, or None if it is nowhere to be found."""
    path = GOLDEN_DIR / (f'{case}.json')
    if not path.exists():
        return read_condensed(case)
    arrays = {}
    if path.with_suffix('.npz').exists():
        with np.load(path.with_suffix('.npz')) as f:
            arrays = dict(f)
    return json.loads(path.read_text()), arrays


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
    """Name of a network of the original's -> its file, with its settings beside it."""

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
    """Folder of the dataset that golden cases were recorded on. Not to be changed."""
    folder = tmp_path_factory.mktemp('golden') / 'dataset'
    generated.write(folder)
    return folder


@pytest.fixture
def golden_dir():
    if not GOLDEN_DIR.is_dir():
        pytest.skip(f'needs {GOLDEN_DIR}')
    return GOLDEN_DIR


class Checkout:
    """A copy of the project's files to run drivers in, away from what this checkout holds."""

    def __init__(self, path):
        self.path = path
        self.experiments = path / 'experiments'
        self.env = dict(os.environ, VIRTUAL_ENV=sys.prefix)
        self.env.pop('CONDA_PREFIX', None)

    def copy(self):
        listing = subprocess.run(
            [
                'git',
                'ls-files',
                '-z',
                '--cached',
                '--others',
                '--exclude-standard',
                'datasets',
                'experiments',
                'prepare_birdclef.sh',
                'requirements.txt',
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        if listing.returncode:
            pytest.skip('needs a checkout of git')
        for name in listing.stdout.decode().split('\0'):
            # a file that somebody is just writing may go away
            if name and os.path.isfile(ROOT / name):
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.path / name)

    def start(self, script, *arguments, cwd=None, start_new_session=False, **env):
        """A running script of the copy, as subprocess.Popen with its output in pipes."""
        return subprocess.Popen(
            [str(self.path / script), *map(str, arguments)],
            cwd=cwd or self.path,
            env=dict(self.env, **env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )

    def run(self, script, *arguments, timeout=120, **kwargs):
        """A finished script of the copy, as subprocess.CompletedProcess; `.output` is stdout and stderr."""
        process = self.start(script, *arguments, **kwargs)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        result = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
        result.output = stdout + stderr
        return result


@pytest.fixture
def checkout(tmp_path):
    """A copy of the files of datasets/ and experiments/ that runs in the environment of the tests."""
    copy = Checkout(tmp_path / ODD_NAME)
    copy.copy()
    return copy


@pytest.fixture(scope='session')
def tiny_source(tmp_path_factory):
    """A generated source folder: 4 species, 28 short recordings, 2 soundscapes, the known dirt. Not to be changed."""
    source = tmp_path_factory.mktemp('tiny') / 'source'
    subprocess.run(
        [
            sys.executable,
            str(ROOT / 'datasets' / 'demo' / 'generate.py'),
            str(source),
            '--species=4',
            '--recordings=28',
            '--shortest=1',
            '--longest=4',
            '--long=20',
            '--soundscapes=1',
            '--soundscape-seconds=15',
        ],
        check=True,
    )
    return source


@pytest.fixture(scope='session')
def tiny_dataset(tiny_source, tmp_path_factory):
    """Folder of the dataset made from `tiny_source`, named tiny_demo. Not to be changed: copy it for that."""
    dataset = tmp_path_factory.mktemp('tiny_datasets') / 'tiny_demo'
    scripts = ROOT / 'datasets' / 'birdclef'
    for script, arguments in (
        ('xml/collect.py', [tiny_source]),
        ('labels/recreate.py', []),
        ('audio/convert.py', [tiny_source]),
        ('filelists/split.py', ['--valid-list', tiny_source / 'valid_list']),
    ):
        subprocess.run(
            [sys.executable, str(scripts / script), '--dataset', str(dataset), *map(str, arguments)], check=True
        )
    return dataset
