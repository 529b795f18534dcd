"""Files of the version before the package birdsong (revision a83d14b) are read: a model, predictions, a training state.

They were written with the dataset of the golden cases and the settings in model.npz.vars; interrupted.state is the
state after the first of two epochs.
"""

import shutil
import sys

import numpy as np
import pytest

import predict
import train
from birdsong import config
from birdsong.files import load_npz
from birdsong.scores import predictions
from birdsong.scores.journal import Writer
from helpers import ROOT

EARLIER = ROOT / 'tests' / 'fixtures' / 'earlier_version'


@pytest.fixture
def run(monkeypatch, golden_dataset):
    def run_main(program, *arguments):
        options = ['--dataset', str(golden_dataset), '--device', 'cpu']
        monkeypatch.setattr(sys, 'argv', [program.__file__, *options, *map(str, arguments)])
        program.main()

    return run_main


def test_a_model_predicts_as_it_did(run, tmp_path):
    run(predict, EARLIER / 'model.npz', tmp_path / 'out.npz', '--var', 'arch.output=linear')
    expected, found = (predictions.load(path) for path in (EARLIER / 'model.pred.npz', tmp_path / 'out.npz'))
    assert found.files == expected.files
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_predictions_without_times_are_written_as_they_were(tmp_path):
    earlier = predictions.load(EARLIER / 'model.pred.npz')
    predictions.save(tmp_path / 'saved.npz', earlier.files, earlier.scores, earlier.offsets)
    with Writer(tmp_path / 'added.npz', earlier.files, earlier.num_classes) as writer:
        for key in earlier.files:
            writer.add(key, earlier[key])
        writer.finish()
    for name in ('saved.npz', 'added.npz'):
        assert (tmp_path / name).read_bytes() == (EARLIER / 'model.pred.npz').read_bytes()


def test_an_interrupted_training_continues_from_its_state(run, tmp_path, capsys):
    shutil.copy(EARLIER / 'interrupted.state', tmp_path / 'model.state')
    settings = config.read_vars(EARLIER / 'model.npz.vars')
    run(
        train,
        *('--validate', '--save-errors', '--keep-state'),
        *(word for key, value in settings.items() if key != 'classes' for word in ('--var', f'{key}={value}')),
        tmp_path / 'model.npz',
    )
    assert 'after epoch 1' in capsys.readouterr().out
    errors, expected = (load_npz(path)['errors'] for path in (tmp_path / 'model.err.npz', EARLIER / 'model.err.npz'))
    np.testing.assert_allclose(errors, expected, rtol=1e-3)
    model, expected = (load_npz(path) for path in (tmp_path / 'model.npz', EARLIER / 'model.npz'))
    assert list(model) == list(expected)
    for name in expected:
        np.testing.assert_allclose(model[name], expected[name], rtol=1e-3, atol=1e-3)
