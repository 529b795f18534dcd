"""The state that a training run continues from."""

import numpy as np
import pytest

from birdsong.files import Problem
from birdsong.training import checkpoint


def test_a_state_is_read_as_it_was_written(tmp_path):
    file = str(tmp_path / 'm.state')
    checkpoint.save(
        file,
        {'net': {'a.b': np.arange(3.0)}, 'run': {'errors': np.zeros((0, 4))}},
        settings={'epochs': 3, 'bg_threads': 6},
        data='x',
    )
    arrays, _, differing = checkpoint.load(file, settings={'epochs': 3, 'bg_threads': 0}, data='x')
    assert not differing and arrays['net']['a.b'].tolist() == [0, 1, 2] and arrays['run']['errors'].shape == (0, 4)


@pytest.mark.parametrize(
    'now, words',
    [(dict(settings={'fps': 4}, data='x'), 'fps=3, now 4'), (dict(settings={'fps': 3}, data='y'), 'data was x, now y')],
)
def test_a_state_that_does_not_fit_names_what_differs(tmp_path, now, words):
    file = str(tmp_path / 'm.state')
    checkpoint.save(file, {}, settings={'fps': 3}, data='x')
    with pytest.raises(Problem, match=words):
        checkpoint.load(file, **now)


def test_a_setting_that_was_added_since_the_state_was_written_has_its_default(tmp_path):
    file = str(tmp_path / 'm.state')
    checkpoint.save(file, {}, settings={'fps': 3})
    assert checkpoint.load(file, settings={'fps': 3, 'clip_grad': 0})[2] == []
    with pytest.raises(Problem, match='clip_grad=0, now 1'):
        checkpoint.load(file, settings={'fps': 3, 'clip_grad': 1})


def test_a_state_cut_in_half_is_refused(tmp_path):
    file = tmp_path / 'm.state'
    checkpoint.save(str(file), {'net': {'a': np.zeros(1000)}}, settings={})
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(Problem, match='m.state'):
        checkpoint.load(str(file), settings={})


def test_under_a_claim_the_message_about_a_state_names_the_folder_to_delete(tmp_path, monkeypatch):
    file = tmp_path / 'm.state'
    monkeypatch.setenv('CLAIM_WORK', str(tmp_path))
    checkpoint.save(str(file), {}, settings={'fps': 3})
    with pytest.raises(Problem, match=f'delete {tmp_path}/m.npz.lock to train from scratch'):
        checkpoint.load(str(file), settings={'fps': 4})
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(Problem, match=f'delete {tmp_path}/m.npz.lock to train from scratch'):
        checkpoint.load(str(file), settings={'fps': 3})
