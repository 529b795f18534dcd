"""filterbank=none: networks on the bins up to mel_max, as in 2018, and older files with networks on all bins.

fixtures/all_bins.npz was trained by an earlier version, in which filterbank=none meant all bins. The other files
all_bins.* are its predictions and its fully convolutional network, written by the same version.
"""

import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch

import predict
import train
from birdsong import config
from birdsong.data.dataset import Dataset
from birdsong.files import Problem, load_npz
from birdsong.networks import fcn, model
from birdsong.prediction.predictor import load_model
from birdsong.scores.predictions import load
from helpers import ROOT

OLD = ROOT / 'tests/fixtures/all_bins.npz'
BINS, ALL_BINS = 23, 33


@pytest.fixture
def dataset(tmp_path):
    """The three recordings on which the fixture was trained, all of them in both lists."""
    folder = tmp_path / 'three'
    for name in ('audio', 'filelists', 'labels'):
        (folder / name).mkdir(parents=True)
    for k in range(3):
        samples = (np.arange(22050, dtype=np.int64) ** 2 * (7919 + k) % 20001 - 10000).astype(np.int16)
        soundfile.write(folder / 'audio' / f'{k}.wav', samples, 22050)
    (folder / 'labels/labelset').write_text('x\ny\nz\n')
    (folder / 'labels/fg.tsv').write_text('0.wav\t0\n1.wav\t1\n2.wav\t2\n')
    for name in ('train', 'valid'):
        (folder / 'filelists' / name).write_text('0.wav\n1.wav\n2.wav\n')
    return folder


@pytest.fixture
def call(dataset, monkeypatch):
    """Runs the main function of train.py or predict.py on the dataset."""

    def run_main(program, *args):
        monkeypatch.setattr(
            sys, 'argv', [program.__file__, *map(str, args), '--dataset', str(dataset), '--device', 'cpu']
        )
        program.main()

    return run_main


def same_scores(one, other):
    assert load(one).files == load(other).files
    for file in load(one).files:
        np.testing.assert_allclose(load(one)[file], load(other)[file], atol=1e-5)


@pytest.mark.parametrize('where', ['cpu', 'device'])
def test_a_network_on_all_bins_predicts_as_before(where, call, tmp_path):
    call(predict, OLD, tmp_path / 'out.npz', '--var', f'spectrogram={where}', '--saliency', 1)
    same_scores(tmp_path / 'out.npz', ROOT / 'tests/fixtures/all_bins.pred.npz')
    assert load(tmp_path / 'out.saliency.npz').num_classes == ALL_BINS


def test_a_network_on_all_bins_can_be_the_start_of_training_or_the_teacher(call, tmp_path):
    settings = ['--vars', f'{OLD!s}.vars', '--var', 'epochs=0']
    call(train, tmp_path / 'm.npz', *settings, '--var', f'init_from={OLD}', '--var', f'ban={OLD}')
    call(predict, tmp_path / 'm.npz', tmp_path / 'out.npz')
    same_scores(tmp_path / 'out.npz', ROOT / 'tests/fixtures/all_bins.pred.npz')
    with pytest.raises(Problem, match='teacher takes 33 frequency bins, the student 23.*bins=33'):
        call(train, tmp_path / 's.npz', *settings, '--var', f'ban={OLD}')


def test_interrupted_training_on_all_bins_can_be_continued(call, tmp_path):
    settings = ['--keep-state', '--vars', f'{OLD!s}.vars', '--var', 'epochsize=1']
    call(train, tmp_path / 'm.npz', *settings, '--var', 'bins=33', '--var', 'epochs=1')
    (tmp_path / 'm.npz').unlink()
    call(train, tmp_path / 'm.npz', *settings, '--var', 'epochs=1')
    assert load_npz(tmp_path / 'm.npz')['audio.front.standardise.mean'].shape == (ALL_BINS,)


def test_a_converted_network_on_all_bins_gives_the_same_scores(dataset):
    cfg = config.load([f'{OLD!s}.vars'])
    model.note_bins(cfg, str(OLD))
    net = load_model(str(OLD), cfg, 0)
    samples = soundfile.read(Dataset(dataset).audio_path('0.wav'), dtype='int16')[0]
    old, new = (
        np.concatenate([scores['output'] for _, scores in converted.recording(samples)])
        for converted in (fcn.load(ROOT / 'tests/fixtures/all_bins.fcn.npz'), fcn.to_fcn(net, 0.5))
    )
    np.testing.assert_allclose(old, new, atol=1e-5)


def test_a_file_of_the_original_with_the_bins_up_to_mel_max_predicts_the_same_as_ours(call, tmp_path):
    settings = ['--vars', f'{OLD!s}.vars', '--var', 'epochs=0']
    call(train, tmp_path / 'ours.npz', *settings)
    call(predict, tmp_path / 'ours.npz', tmp_path / 'ours.pred.npz')
    net = load_model(str(tmp_path / 'ours.npz'), config.load([str(tmp_path / 'ours.npz.vars')]), 0)
    model.save_original(net, tmp_path / 'theirs.npz')
    assert load_npz(tmp_path / 'theirs.npz')['param0'].shape == (1, BINS)
    shutil.copy(tmp_path / 'ours.npz.vars', tmp_path / 'theirs.npz.vars')
    call(predict, tmp_path / 'theirs.npz', tmp_path / 'theirs.pred.npz')
    assert (tmp_path / 'ours.pred.npz').read_bytes() == (tmp_path / 'theirs.pred.npz').read_bytes()


def test_files_of_the_original_with_all_bins_are_recognised_by_each_magscale(tmp_path):
    for magscale in ('none', 'log1p_learn', 'pow_learn', 'pcen'):
        cfg = config.load([], ['filterbank=none', f'magscale={magscale}', 'arch=conv:2x3x3', 'frame_len=64'])
        net = model.build(dict(cfg, bins=ALL_BINS), 3)
        model.save_original(net, tmp_path / 'm.npz')
        model.note_bins(cfg, str(tmp_path / 'm.npz'))
        again = model.build(cfg, 3)
        model.load(again, str(tmp_path / 'm.npz'))
        assert again(torch.ones(1, again.min_frames, ALL_BINS))['output'].shape == (1, 3)
