"""Prediction files: what is written is read, and damaged or foreign files are refused."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdsong.files import Problem
from birdsong.scores.predictions import load, save
from helpers import PREDICTED, ROOT, assert_holds, some_rows


def test_written_predictions_are_read(tmp_path):
    rows = some_rows()
    save(tmp_path / 'p.npz', PREDICTED, rows)
    loaded = load(tmp_path / 'p.npz', num_classes=5)
    assert_holds(loaded, PREDICTED, rows)
    assert loaded.scores.dtype == np.float32
    np.testing.assert_array_equal(loaded.max(), [r.max(0) for r in rows])


def test_the_file_is_three_plain_arrays(tmp_path):
    rows = some_rows()
    save(tmp_path / 'p.npz', PREDICTED, np.concatenate(rows), offsets=[0, 2, 3, 7])
    with np.load(tmp_path / 'p.npz', allow_pickle=False) as f:
        assert f.files == ['files', 'offsets', 'scores']
        assert f['files'].tolist() == PREDICTED
        assert f['offsets'].tolist() == [0, 2, 3, 7] and f['offsets'].dtype == np.int64
        np.testing.assert_array_equal(f['scores'], np.concatenate(rows))
    assert zipfile.ZipFile(tmp_path / 'p.npz').testzip() is None


def test_files_that_numpy_wrote_are_read(tmp_path):
    rows = some_rows()
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / 'p.npz', files=PREDICTED, offsets=[0, 2, 3, 7], scores=np.concatenate(rows))
        assert_holds(load(tmp_path / 'p.npz'), PREDICTED, rows)
    np.savez(tmp_path / 'p.npz', files=PREDICTED, offsets=[0, 2, 3, 7], scores=np.asfortranarray(np.concatenate(rows)))
    assert_holds(load(tmp_path / 'p.npz'), PREDICTED, rows)
    np.savez(tmp_path / 'p.npz', **dict(zip(PREDICTED, rows, strict=True)))
    assert_holds(load(tmp_path / 'p.npz'), PREDICTED, rows)


def test_a_file_with_an_array_per_recording_is_read_without_searching_its_names_for_each(tmp_path, monkeypatch):
    class Names(list):
        def __contains__(self, name):
            raise AssertionError('searched the names')

    namelist = zipfile.ZipFile.namelist
    monkeypatch.setattr(zipfile.ZipFile, 'namelist', lambda self: Names(namelist(self)))
    np.savez(tmp_path / 'p.npz', **dict(zip(PREDICTED, some_rows(), strict=True)))
    assert_holds(load(tmp_path / 'p.npz'), PREDICTED, some_rows())


@settings(deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=('Cs',), exclude_characters='\0'), min_size=1),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    st.integers(1, 6),
    st.randoms(),
)
def test_any_names_and_shapes_are_read_as_written(tmp_path_factory, files, classes, random):
    counts = [random.randint(1, 4) for _ in files]
    rows, starts = some_rows(classes, counts), np.array([random.uniform(0, 1e5) for _ in range(sum(counts))])
    stops = starts + random.uniform(0.001, 60)
    filename = tmp_path_factory.mktemp('any') / 'p.npz'
    save(filename, files, rows)
    assert_holds(load(filename), files, rows)
    save(filename, files, rows, starts=starts, stops=stops)
    assert_holds(load(filename), files, rows)
    chosen = random.sample(range(len(files)), random.randint(1, len(files)))
    selected, bounds = load(filename).select([files[i] for i in chosen]), np.cumsum([0, *counts])
    assert_holds(selected, [files[i] for i in chosen], [rows[i] for i in chosen])
    for name, times in (('starts', starts), ('stops', stops)):
        expected = np.concatenate([times[bounds[i] : bounds[i + 1]] for i in chosen])
        np.testing.assert_array_equal(getattr(selected, name), expected)


def test_select_follows_the_order_of_the_list(tmp_path):
    rows = some_rows()
    save(tmp_path / 'p.npz', PREDICTED, rows)
    loaded = load(tmp_path / 'p.npz')
    assert_holds(loaded.select(PREDICTED[::-1]), PREDICTED[::-1], rows[::-1])
    assert_holds(loaded.select(PREDICTED[1:2]), PREDICTED[1:2], rows[1:2])
    with pytest.raises(Problem, match='1 of 2 recordings are missing, such as x.wav'):
        loaded.select([PREDICTED[0], 'x.wav'])
    with pytest.raises(Problem, match='p.npz: .*another dataset'):
        loaded.select(['x.wav', 'y.wav'])


def write_arrays(filename, **changes):
    arrays = {'files': PREDICTED, 'offsets': [0, 2, 3, 7], 'scores': np.concatenate(some_rows()), **changes}
    np.savez(filename, **{k: v for k, v in arrays.items() if v is not None})


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'offsets': [0, 2, 3, 8]}, 'do not divide 7 rows'),
        ({'offsets': [0, 3, 3, 7]}, 'do not divide 7 rows'),
        ({'offsets': [0, 2, 7]}, 'not predictions'),
        ({'files': [PREDICTED[0], PREDICTED[1], PREDICTED[0]]}, 'twice'),
        ({'files': [1, 2, 3]}, 'not a list of paths'),
        ({'scores': np.zeros(7, np.float32)}, 'not predictions'),
        ({'scores': np.zeros((7, 5), np.int32)}, 'not predictions'),
        ({'scores': np.array([[None] * 5] * 7)}, 'p.npz'),
        ({'scores': np.full((7, 5), np.nan, np.float32)}, f'scores of {PREDICTED[0]} are not finite'),
    ],
)
def test_arrays_that_are_not_predictions_are_refused(tmp_path, changes, message):
    write_arrays(tmp_path / 'p.npz', **changes)
    with pytest.raises(Problem, match=message):
        load(tmp_path / 'p.npz')


@pytest.mark.parametrize('bad', (np.nan, np.inf, -np.inf))
def test_the_message_names_the_recording_with_a_score_that_is_not_finite(tmp_path, bad):
    scores = np.concatenate(some_rows())
    scores[2, 4] = bad
    write_arrays(tmp_path / 'p.npz', scores=scores)
    with pytest.raises(Problem, match=f'scores of {PREDICTED[1]} are not finite'):
        load(tmp_path / 'p.npz')


def test_more_classes_than_the_dataset_are_refused(tmp_path):
    save(tmp_path / 'p.npz', PREDICTED, some_rows())
    with pytest.raises(Problem, match='5 classes, but the dataset has 4'):
        load(tmp_path / 'p.npz', num_classes=4)


def test_classes_that_the_model_does_not_know_rank_last_with_one_warning(tmp_path, capsys):
    rows = some_rows()
    save(tmp_path / 'p.npz', PREDICTED, rows)
    for _ in range(2):
        found = load(tmp_path / 'p.npz', num_classes=7)
    assert_holds(found, PREDICTED, [np.hstack([r, r.min(1, keepdims=True), r.min(1, keepdims=True)]) for r in rows])
    assert (np.argsort(-found.scores, axis=1, kind='stable')[:, 5:] == [5, 6]).all()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and 'p.npz: predictions of 5 classes, but the dataset has 7' in lines[0]


# == Times of the rows ==

STARTS, STOPS = np.array([0, 5, 0, 0, 5, 10, 15.0]), np.array([5, 8.25, 1 / 3, 5, 10, 15, 17.5])


def test_times_of_the_rows_are_read_as_written(tmp_path):
    rows = some_rows()
    save(tmp_path / 'p.npz', PREDICTED, rows, starts=STARTS, stops=STOPS)
    found = load(tmp_path / 'p.npz')
    assert_holds(found, PREDICTED, rows)
    assert found.starts.dtype == found.stops.dtype == np.float64
    assert found.starts.tolist() == STARTS.tolist() and found.stops.tolist() == STOPS.tolist()
    assert [t.tolist() for t in found.times(PREDICTED[0])] == [[0, 5], [5, 8.25]]
    with np.load(tmp_path / 'p.npz') as f:
        assert f.files == ['files', 'offsets', 'starts', 'stops', 'scores']
    np.savez_compressed(tmp_path / 'q.npz', **dict(np.load(tmp_path / 'p.npz')))
    assert load(tmp_path / 'q.npz').stops.tolist() == STOPS.tolist()


def test_predictions_without_times_have_none(tmp_path):
    save(tmp_path / 'p.npz', PREDICTED, some_rows())
    found = load(tmp_path / 'p.npz')
    assert found.starts is found.stops is found.times(PREDICTED[0]) is found.select(PREDICTED[:2]).starts is None


def test_selected_recordings_keep_their_times(tmp_path):
    save(tmp_path / 'p.npz', PREDICTED, some_rows(), starts=STARTS, stops=STOPS)
    found = load(tmp_path / 'p.npz', num_classes=6).select(PREDICTED[::-1])
    assert found.starts.tolist() == [0, 5, 10, 15, 0, 0, 5] and found.stops.tolist() == [
        5,
        10,
        15,
        17.5,
        1 / 3,
        5,
        8.25,
    ]


@pytest.mark.parametrize(
    'starts, stops, message',
    [
        (STARTS, None, 'its starts and stops .*none'),
        (None, STOPS, 'its starts and stops .none'),
        (STARTS[:6], STOPS[:6], 'for each of 7 rows'),
        (STARTS[None], STOPS[None], 'for each of 7 rows'),
        (STARTS, STOPS.astype(str), 'for each of 7 rows'),
        (STARTS, STARTS, f'{PREDICTED[0]} lasts from 0 to 0 s'),
        (STARTS, np.where(STOPS == 1 / 3, np.nan, STOPS), f'{PREDICTED[1]} lasts from 0 to nan s'),
        (STARTS, np.where(STOPS == 17.5, np.inf, STOPS), f'{PREDICTED[2]} lasts from 15 to inf s'),
        (STARTS - 0.5, STOPS, f'{PREDICTED[0]} lasts from -0.5 to 5 s'),
    ],
)
def test_times_that_are_not_possible_are_refused(tmp_path, starts, stops, message):
    write_arrays(tmp_path / 'p.npz', starts=starts, stops=stops)
    with pytest.raises(Problem, match=f'p.npz: .*{message}'):
        load(tmp_path / 'p.npz')
    with pytest.raises(Problem, match=message):
        save(tmp_path / 'q.npz', PREDICTED, some_rows(), starts=starts, stops=stops)
    assert not (tmp_path / 'q.npz').exists()


def test_damaged_files_are_refused(tmp_path):
    save(tmp_path / 'whole.npz', PREDICTED, some_rows(classes=200))
    content = (tmp_path / 'whole.npz').read_bytes()
    damaged = tmp_path / 'p.npz'
    for length in (0, 1, 2, 100, len(content) // 2, len(content) - 1):
        damaged.write_bytes(content[:length])
        with pytest.raises(Problem, match='p.npz'):
            load(damaged)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    damaged.write_bytes(flipped)
    with pytest.raises(Problem, match='checksum'):
        load(damaged)
    with pytest.raises(Problem, match='no such file'):
        load(tmp_path / 'none.npz')
    with pytest.raises(Problem, match='folder'):
        load(tmp_path)


def test_a_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'p.npz', 'w', zipfile.ZIP_DEFLATED) as z:
        for name, value in (('files', np.array(['a'])), ('offsets', np.array([0, 1]))):
            with z.open(f'{name}.npy', 'w') as f:
                np.save(f, value)
        with z.open('scores.npy', 'w') as f:
            np.lib.format.write_array_header_1_0(f, {'descr': '<f4', 'fortran_order': False, 'shape': (1, 50 << 20)})
            for _ in range(200):
                f.write(bytes(1 << 20))
    with pytest.raises(Problem, match='refused'):
        load(tmp_path / 'p.npz')


def test_scores_that_are_not_finite_are_not_saved(tmp_path):
    rows = some_rows()
    rows[1][0, 0] = np.nan
    with pytest.raises(Problem, match=PREDICTED[1]):
        save(tmp_path / 'p.npz', PREDICTED, rows)
    assert not list(tmp_path.iterdir())
    with pytest.raises(Problem, match='3 files, but scores of 2'):
        save(tmp_path / 'p.npz', PREDICTED, rows[:2])


def test_doubles_beyond_single_precision_stay_finite(tmp_path):
    save(tmp_path / 'p.npz', ['a'], [np.array([1.0, -1e100])])
    assert np.isfinite(load(tmp_path / 'p.npz').scores).all()


def test_the_package_scores_needs_no_torch():
    modules = 'predictions, journal, combination, metrics, search, selection, ensemble'
    code = (
        f'import sys; sys.path.insert(0, {str(ROOT / "experiments")!r}); from birdsong.scores import {modules}\n'
        'print("torch" in sys.modules)'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.stdout == 'False\n', out.stderr
