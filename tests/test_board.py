"""train.py --tensorboard: the metrics of a training can be watched with TensorBoard."""

import sys

import numpy as np
import pytest

import train
from birdsong.files import Problem, load_npz
from helpers import FULL_TRAINING, training_arguments


def run_train(monkeypatch, dataset, out, *flags, **settings):
    monkeypatch.setattr(sys, 'argv', ['train.py', *training_arguments(dataset, out, *flags, **settings)])
    train.main()


def test_metrics_are_written_for_tensorboard_also_after_an_interruption(tiny_dataset, tmp_path, monkeypatch):
    reader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator', reason='needs tensorboard')
    flags = [*FULL_TRAINING, '--tensorboard', str(tmp_path / 'board')]
    for epochs in 2, 3:
        run_train(monkeypatch, tiny_dataset, tmp_path / 'm.npz', *flags, epochs=epochs)
    events = reader.EventAccumulator(str(tmp_path / 'board' / 'm'))
    events.Reload()
    stored = load_npz(tmp_path / 'm.err.npz')
    for name, values in zip(stored['columns'].tolist(), stored['errors'].T, strict=True):
        found = events.Scalars(name)
        assert [one.step for one in found] == [1, 2, 3]
        np.testing.assert_allclose([one.value for one in found], values, rtol=1e-6)
    assert len(events.Scalars('learning_rate')) == 3


def test_without_the_package_one_line_says_how_to_install_it(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(Problem, match='pip install tensorboard'):
        run_train(monkeypatch, tiny_dataset, tmp_path / 'm.npz', '--tensorboard', str(tmp_path))
