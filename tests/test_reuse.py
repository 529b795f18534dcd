"""The files that birdsong/README.md names for reuse work when they alone are copied into an empty folder."""

import re
import shutil
import subprocess
import sys

import pytest

from birdsong.data.dataset import Dataset
from birdsong.scores import predictions
from helpers import ROOT

SPECTROGRAMS = """
import numpy as np, soundfile
from birdsong.data import audio, augment, stft
soundfile.write('a.wav', np.random.default_rng(0).normal(0, 0.1, 22050), 22050)
wav = audio.WavFile('a.wav')
excerpts, labels = next(augment.grab_random_excerpts([wav, wav], [0, 1], 4, 11025))
assert excerpts.shape == (4, 11025) and labels.shape == (4,)
assert stft.spectrogram(wav[:], 22050, 1024, 70).shape[1] == 513
"""
NETWORKS = """
import torch
from birdsong import config
from birdsong.networks import model
cfg = config.load([], ['arch=conv:4x3x3,pool:3x3,Conv:8x3x-1', 'len_max=2'])
net = model.build(cfg, 3).eval()
model.save(net, 'net.npz')
model.load(model.build(cfg, 3), 'net.npz')
assert net(torch.rand(1, 100, net.audio.front.bins))['output'].shape == (1, 3)
"""


def copied(subject, folder):
    """Copy the files that birdsong/README.md names for a subject into a folder."""
    section = (ROOT / 'experiments/birdsong/README.md').read_text().split('\n## Reusing parts\n')[1].split('\n## ')[0]
    item = re.search(rf'^- {subject}: (.*?)(?=^- |^$|\Z)', section, re.DOTALL | re.MULTILINE)[1]
    for braces in re.findall(r'`([\w./{},]+)`', item):
        before, names, after = re.fullmatch(r'([^{]*)(?:{(.*)})?(.*?)', braces).groups()
        for name in (names or '').split(','):
            source = ROOT / 'experiments' / f'{before}{name}{after}'
            target = folder / source.relative_to(ROOT / 'experiments')
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy(source, target)


def run(*command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('subject, code', [('Spectrograms and excerpts', SPECTROGRAMS), ('Networks', NETWORKS)])
def test_modules_work_without_the_rest_of_the_project(subject, code, tmp_path):
    copied(subject, tmp_path)
    run(sys.executable, '-c', code, folder=tmp_path)


def test_a_claim_needs_one_file(tmp_path):
    copied('Claims', tmp_path)
    for content in 'first', 'second':
        command = f'echo {content} > "$CLAIM_WORK/result"'
        run('./claim.sh', 'result.lock', '--', 'sh', '-c', command, folder=tmp_path)
    assert (tmp_path / 'result').read_text() == 'first\n'


def test_evaluation_needs_no_torch(tiny_dataset, tmp_path):
    copied('Evaluation, ensembles and submissions', tmp_path)
    (tmp_path / 'torch.py').write_text('raise ImportError("torch must not be imported")')
    dataset = Dataset(str(tiny_dataset))
    files = dataset.filelist('valid')
    predictions.save(tmp_path / 'a.pred.npz', files, [[0.4, 0.3, 0.2, 0.1]] * len(files), list(range(len(files) + 1)))
    assert 'MAP: ' in run(sys.executable, 'eval.py', '--dataset', tiny_dataset, 'a.pred.npz', folder=tmp_path)
    for program in 'blender.py', 'submit_csv.py':
        assert 'usage' in run(sys.executable, program, '--help', folder=tmp_path)


def test_the_readmes_name_every_module_and_program():
    experiments = ROOT / 'experiments'
    modules = [path for path in (experiments / 'birdsong').rglob('*.py') if path.name != '__init__.py']
    named = (
        (experiments / 'birdsong/README.md').read_text().split('\n## Modules, in reading order\n')[1].split('\n## ')[0]
    )
    assert [str(path) for path in modules if f'`{path.stem}`' not in named] == []
    readme = (ROOT / 'README.md').read_text()
    assert [path.name for path in experiments.glob('*.[ps][yh]') if f'`{path.name}`' not in readme] == []
