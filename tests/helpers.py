"""Helpers for tests: paths, golden cases, copies of the project, projects with stand-ins for slow programs."""

import ast
import contextlib
import functools
import importlib
import io
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get('BIRDCLEF_SHARED', ROOT.parent / 'shared'))
GOLDEN_DIR = SHARED / 'golden'
# Each character has a special meaning in Bash, sed, awk, or the drivers.
ODD_NAME = 'a b&c|d{}\'"$(touch x)'
sys.path[:0] = [str(ROOT / 'experiments'), str(ROOT / 'datasets')]


@functools.lru_cache(None)
def condensed():
    """Golden case -> the fixture that contains it (see fixtures/make_golden.py)."""
    cases = {}
    for fixture in sorted((ROOT / 'tests' / 'fixtures').glob('golden_*.npz')):
        with np.load(fixture) as f:
            cases.update((name, fixture) for name in f.files if '|' not in name)
    return cases


def read_condensed(case):
    """(description, arrays) of a golden case or network in a fixture, or None.

    If a fixture contains only every n-th frame, n is in the description, `every`.
    """
    if case not in condensed():
        return None
    with np.load(condensed()[case]) as f:
        prefix = f'{case}|'
        return json.loads(f[case].tobytes()), {k[len(prefix) :]: f[k] for k in f.files if k.startswith(prefix)}


def read_golden(case):
    """(description, arrays) of a golden case, or None if it is not found."""
    path = GOLDEN_DIR / (f'{case}.json')
    if not path.exists():
        return read_condensed(case)
    arrays = {}
    if path.with_suffix('.npz').exists():
        with np.load(path.with_suffix('.npz')) as f:
            arrays = dict(f)
    return json.loads(path.read_text()), arrays


def covered():
    """Golden case -> names of the test modules that name it."""
    cases = {}
    for path in sorted((ROOT / 'tests').glob('test_*.py')):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == 'GOLDEN' for t in node.targets):
                for case in ast.literal_eval(node.value):
                    cases.setdefault(case, []).append(path.name)
    return cases


class Checkout:
    """A copy of the project's files in which drivers can run without changing this checkout."""

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
            # a file that another process is writing may disappear
            if name and os.path.isfile(ROOT / name):
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.path / name)

    def start(self, script, *arguments, cwd=None, start_new_session=False, **env):
        """Start a script of the copy, in Bash or Python. Returns a subprocess.Popen with its output in pipes."""
        python = [sys.executable] if script.endswith('.py') else []
        return subprocess.Popen(
            [*python, str(self.path / script), *map(str, arguments)],
            cwd=cwd or self.path,
            env=dict(self.env, **env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )

    def run(self, script, *arguments, timeout=120, **kwargs):
        """Run a script of the copy. Returns a subprocess.CompletedProcess; `.output` is stdout and stderr."""
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


# == Projects with stand-ins for slow programs ==

DRIVER_CLASSES = ['ant', 'bee', 'cat']
DRIVER_LISTS = {
    'train': [f'train/2014/LIFECLEF2014_RN{i}.wav' for i in range(1, 4)],
    'valid': ['train/2014/LIFECLEF2014_RN4.wav', 'train/2017/LIFECLEF2017_RN5.wav'],
    'test': ['test/2014/LIFECLEF2014_RN6.wav', 'test/2017/LIFECLEF2017_RN7.wav'],
    'soundscapes_val': ['soundscapes/val/SSW_RN8.wav'],
    'soundscapes_test': ['soundscapes/test/SSW_RN9.wav'],
}

TABLE = """# name\tpresets\tteachers
plain\tpublished dummy lme1
student\tpublished dummy lme1\tban=plain
meta\tpublished meta-256-512 metaonly
both\tpublished resnet1 lme1 meta-256-512 pretrained\tinit_from=plain:meta\tit has two
"""


def with_standins(checkout, table=TABLE):
    """Copy stand-ins for slow programs, a dataset called tiny, and table.tsv into a copy of the project."""
    for name in ('train.py', 'predict.py'):
        shutil.copy2(ROOT / 'tests' / 'standins' / name, checkout.experiments / name)
    validate = checkout.path / 'datasets' / 'validate.py'
    validate.write_text(
        '#!/usr/bin/env python3\nimport sys; open("CALLS", "a").write("validate %s\\n" % " ".join(sys.argv[1:]))\n'
    )
    (checkout.experiments / 'table.tsv').write_text(table)
    write_dataset(checkout.path / 'datasets' / 'tiny')
    return checkout


def write_dataset(folder):
    for part in ('filelists', 'labels', 'audio'):
        (folder / part).mkdir(parents=True)
    for name, keys in DRIVER_LISTS.items():
        (folder / 'filelists' / name).write_text(''.join(key + '\n' for key in keys))
    labelled = DRIVER_LISTS['train'] + DRIVER_LISTS['valid']
    (folder / 'labels' / 'labelset').write_text('\n'.join(DRIVER_CLASSES) + '\n')
    (folder / 'labels' / 'labelset_2014').write_text('ant\nbee\n')
    (folder / 'labels' / 'labelset_2015').write_text('ant\nbee\n')
    (folder / 'labels' / 'labelset_2017').write_text('\n'.join(DRIVER_CLASSES) + '\n')
    (folder / 'labels' / 'fg.tsv').write_text(''.join(f'{key}\t{i % 3}\n' for i, key in enumerate(labelled)))
    (folder / 'labels' / 'bg.tsv').write_text(''.join(f'{key}\t\n' for key in labelled))


def train_all(project, *arguments, **kwargs):
    return project.run(
        'experiments/train_all.sh',
        '--dataset',
        'tiny',
        '--models',
        'table.tsv',
        *arguments,
        cwd=project.experiments,
        **kwargs,
    )


def start_training(project, *arguments):
    return project.start(
        'experiments/train_all.sh',
        '--dataset',
        'tiny',
        '--models',
        'table.tsv',
        *arguments,
        cwd=project.experiments,
        TRAIN_ALL_POLL='0.1',
    )


def calls(project, *kinds):
    """Names of models in the order in which they were trained (or predicted with)."""
    try:
        lines = (project.experiments / 'CALLS').read_text().splitlines()
    except FileNotFoundError:
        return []
    return [line.split()[1] for line in lines if line.split()[0] in (kinds or ('train',))]


def gate(project, name):
    os.mkfifo(project.experiments / (name + '.gate'))


def open_gate(project, name):
    """Wait until the training has started, and let it continue."""
    (project.experiments / (name + '.gate')).write_text('go')
    (project.experiments / (name + '.gate')).unlink()


def wait_for(stream, words):
    """Read the messages of a driver until one contains `words`."""
    heard = ''
    for line in stream:
        heard += line
        if words in line:
            return heard
    raise AssertionError(f'{words!r} never came, but: {heard}')


def models_of(project):
    return sorted(p.name for p in (project.experiments / 'tiny').glob('*.npz') if not p.name.endswith('.pred.npz'))


def write_ensembles(project):
    folder = project.experiments / 'tiny' / 'ensembles'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'one.tsv').write_text('# plain alone\nplain\t1\n')
    (folder / 'two.tsv').write_text('# options: --birdclef-filter\nplain\t0.5\nmeta\t2\n')


# == Recordings and lists ==


def chunk(name, body):
    return name + struct.pack('<I', len(body)) + body + b'\0' * (len(body) % 2)


def wav_bytes(samples, rate=22050, channels=1, bits=16, tag=1, before=b'', after=b'', extra=b''):
    body = np.asarray(samples).tobytes()
    block = channels * bits // 8
    form = struct.pack('<HHIIHH', tag, channels, rate, rate * block, block, bits) + extra
    inside = b'WAVE' + chunk(b'fmt ', form) + before + chunk(b'data', body) + after
    return b'RIFF' + struct.pack('<I', len(inside)) + inside


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines))


def run_program(path, *args, cwd=None):
    """Run a program, given by its path below the project, in this process. Returns a CompletedProcess."""
    path = ROOT / path
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    main = importlib.import_module(path.stem).main
    argv, folder, out, err = sys.argv, os.getcwd(), io.StringIO(), io.StringIO()
    sys.argv = [str(path), *map(str, args)]
    os.chdir(cwd or folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            importlib.import_module('birdsong.program').run(main)
    finally:
        sys.argv = argv
        os.chdir(folder)
    status = end.value.code or 0
    if isinstance(status, str):
        err.write(f'{status}\n')
        status = 1
    return subprocess.CompletedProcess(path.name, status, out.getvalue(), err.getvalue())


def run_scores(dataset, *args, program='eval.py'):
    """Run a program of the scores in this process, in the folder of the dataset. Returns a CompletedProcess."""
    return run_program(f'experiments/{program}', '--dataset', dataset, *args, cwd=dataset.parent)


# == Scores ==

PREDICTED = ['train/2014/b_RN2.wav', 'train/2014/a_RN1.wav', 'test/ü_RN3.wav']


def some_rows(classes=5, counts=(2, 1, 4), seed=0):
    """Random scores for each recording in PREDICTED: a list of float32 arrays (count, classes)."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, classes)).astype(np.float32) for n in counts]


def assert_holds(loaded, files, rows):
    """The predictions `loaded` are those `rows` of `files`."""
    assert loaded.files == list(files)
    for key, expected in zip(files, rows, strict=True):
        np.testing.assert_array_equal(loaded[key], np.atleast_2d(expected))


def model_scores(models=4, recordings=80, classes=9, levels=None, seed=0):
    """Scores (models, recordings, classes), truth, background; later models are better. `levels` gives ties."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=recordings)
    background = [rng.choice(classes, rng.integers(4), replace=False).tolist() for _ in truth]
    scores = rng.normal(size=(models, recordings, classes))
    for m in range(models):
        scores[m, np.arange(recordings), truth] += 2.5 * (m + 1) / models
        for i, others in enumerate(background):
            scores[m, i, others] += 1
    if levels:
        scores = np.round(scores * levels / 5)
    return scores.astype(np.float32), truth, background


def plain_maps(scores, truth, background, weights):
    """The two MAPs according to metrics.evaluate, with the scores summed in the same order as in the ensemble."""
    from birdsong.scores import metrics

    total = np.zeros(scores.shape[1:], np.float32)
    for member, weight in zip(scores, np.float32(weights), strict=True):
        total += weight * member
    result = metrics.evaluate(total, truth, background)
    return result['MAP'], result.get('MAP-bg', result['MAP'])


# == Small networks ==

NETWORK_SETTINGS = ['frame_len=256', 'mel_bands=30', 'mel_max=8000', 'arch.output=linear', 'arch.pool=logmeanexp:1']
PLAIN = 'conv:4x3x3,conv:5x3x3,pool:3x3,conv:6x3x-Shift,pool:3xShift,Conv:8x3x-1,Conv:7x1x1'
RESIDUAL = 'resblock_start:2x4x3x3,pool:3x3,resblock_end:2x6x3x3,conv:7x3x-Shift,pool:3xShift,Conv:8x3x-1,Conv:7x1x1'
NETWORKS = {
    'plain': [f'arch={PLAIN}'],
    'residual': [f'arch={RESIDUAL}'],
    'wide': ['arch=conv:32x3x3,conv:33x3x3,pool:3x3,conv:34x3x-3,Conv:40x5x-1,Conv:33x1x1'],
    'wide_residual': [
        'arch=resblock_start:1x32x3x3,pool:2x2,resblock_dilated_end:2x36x3x3,Conv:40x3x-1',
        'arch.conv_groups=1',
    ],
    'grouped': ['arch=conv:64x3x3,conv:64x3x3,conv:64x3x3', 'arch.conv_groups=2'],
    'strided': ['arch=conv:4x5x3x2x1,avgpool:4x2x3x2,conv:5x2x2x3x2,lme2pool:2x2'],
    'sparse': ['arch=conv:4x1x3x4x1,pool:2x2x3x2,conv:5x2x2'],
    'strided_residual': ['arch=resblock:2x4x3x3x2x2,resblock_dilated:1x6x5x3x3x1,conv:5x2x-1'],
    'residual_pool': ['arch=resblock:2x4x3x3x2x2,resblock:1x6x3x3x3x2,conv:5x2x-1', 'resnet.shortcut=pool'],
    'residual_slice': ['arch=resblock:2x4x3x3x2x2,resblock:1x6x3x3x3x2,conv:5x2x-1', 'resnet.shortcut=slice'],
    'no_batch_norm': [f'arch={RESIDUAL}', 'arch.batch_norm=0', 'arch.nonlin=elu'],
    'reeu': ['arch=conv:4x3x3', 'arch.nonlin=reeu'],
    'dense': ['arch=conv:4x3x3,groupdrop:2:0.3,dense:6,full:5', 'arch.nonlin=elu', 'arch.firstconv_meanfree=params'],
    'pcen': [f'arch={PLAIN}', 'magscale=pcen', 'filterbank=mel_learn', 'arch.nonlin=relu'],
    'log1p': [f'arch={PLAIN}', 'magscale=log1p_learn:-3', 'arch.prepool=logsoftmax', 'arch.nonlin=linear'],
    'attention': [f'arch={PLAIN}', 'magscale=pow_learn', 'arch.pool=attention:3', 'arch.prepool=sigmoid'],
    'bins': [f'arch={PLAIN}', 'magscale=log1p', 'filterbank=none', 'frame_len=128'],
}


def randomise(net, seed=0):
    """Set parameters and running statistics to values like those of a trained network. Returns it in eval mode."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            noise = torch.rand(tensor.shape, generator=generator)
            if name.endswith('inv_std') and 'front' not in name:
                tensor.copy_(0.5 + noise)
            elif name.endswith(('beta', 'bias', 'mean')) and 'front' not in name:
                tensor.copy_(noise - 0.5)
            elif name.endswith('gamma'):
                tensor.copy_(0.5 + noise)
            elif 'log_' in name or name.endswith('exponent'):
                tensor.add_(0.2 * noise)
        if net.audio:
            net.train()(random_spectrogram(net, 150, 4, seed), torch.zeros(4, net.num_meta))
            front = net.audio.front.standardise
            front.mean.mul_(10)
            front.inv_std.sub_(0.9).mul_(10)
    return net.eval()


def random_spectrogram(net, frames, batch=1, seed=0):
    """Uniform noise from 0 to 1000, (batch, frames, bins)."""
    import torch

    return torch.rand(batch, frames, net.audio.front.bins, generator=torch.Generator().manual_seed(seed)) * 1e3


def build_network(name, *settings, num_meta=0):
    """The network NETWORKS[name] with 3 classes and values like those of a trained one; `settings` override its own."""
    from birdsong import config
    from birdsong.networks import model

    return randomise(model.build(config.load([], NETWORK_SETTINGS + NETWORKS[name] + list(settings)), 3, num_meta))


# == Training ==

# a network that trains in a second
SMALL_TRAINING = dict(
    arch='conv:4x3x3x2x2,pool:3x3,Conv:8x3x-1,Conv:8x1x1',
    mel_bands=20,
    epochs=3,
    epochsize=3,
    batchsize=4,
    len_min=1,
    len_max=2,
    bg_threads=1,
    cost='softmax',
    magscale='pow_learn',
    first_params_log=2,
)
SMALL_TRAINING.update({'arch.pool': 'logmeanexp:1', 'arch.output': 'softmax'})
FULL_TRAINING = '--validate', '--save-errors', '--keep-state'


def training_arguments(dataset, out, *flags, **settings):
    """Arguments of train.py for a small network; the keyword `a__b` is the setting a.b."""
    merged = dict(SMALL_TRAINING, **{k.replace('__', '.'): v for k, v in settings.items()})
    return [
        '--dataset',
        str(dataset),
        '--device',
        'cpu',
        *flags,
        *(x for k, v in merged.items() for x in ('--var', f'{k}={v}')),
        str(out),
    ]


# == Datasets for file lists ==


def make_listed(folder, records, others=(), archives=False):
    """A dataset with recordings.tsv, labels, and empty audio files. Returns its folder.

    `records`: dict of key -> fields of Recording, where classes are class indices; `others`: keys of audio files that
    are not in the table; `archives`: whether it looks as if it came from the archives of 2018.
    """
    for key in [*records, *others]:
        (folder / 'audio' / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / 'audio' / key).touch()
    write_recording_tables(folder, records)
    if archives:
        (folder / 'xml').mkdir()
        (folder / 'xml' / 'recordings.tsv').touch()
    return folder


def write_recording_tables(folder, records):
    """Write recordings.tsv and labels/fg.tsv for `make_listed`."""
    from shared.recordings import Recording, write_recordings

    write_recordings(str(folder), [Recording(key=key, **fields) for key, fields in records.items()])
    labelled = {key: fields['class_id'] for key, fields in records.items() if fields.get('class_id')}
    (folder / 'labels').mkdir(exist_ok=True)
    (folder / 'labels' / 'fg.tsv').write_text(''.join(f'{key}\t{label}\n' for key, label in labelled.items()))


def lists_of(folder):
    """File lists of a dataset by name, as lists of lines; also groups.tsv."""
    return {path.name: path.read_text().splitlines() for path in (folder / 'filelists').iterdir()}
