"""submit_csv.py: the same text as the original, and rows for every recording."""

import csv
import pickle

import numpy as np
import pytest

from birdsong.files import Problem
from birdsong.scores import predictions
from helpers import run_scores as run
from helpers import write_lines
from submit_csv import clock, media_ids

GOLDEN = ('eval/submit_csv',)

CLASSES = [f'sp{i:05}' for i in range(6)]
KEYS = ['test/LIFECLEF2018_XC_WAV_RN7.wav', 'test/LIFECLEF2018_XC_WAV_RN12.wav', 'soundscapes/a_RN_RN345.wav']


@pytest.fixture
def dataset(tmp_path):
    write_lines(tmp_path / 'set/filelists/test', KEYS)
    write_lines(tmp_path / 'set/labels/labelset', CLASSES)
    return tmp_path / 'set'


def submit(dataset, *args):
    return run(dataset, *args, program='submit_csv.py')


def written(dataset, rows, *options, keys=KEYS):
    """Fields of the lines for predictions `rows`, one array (rows, classes) per recording."""
    predictions.save(dataset.parent / 'in.npz', keys, rows)
    done = submit(dataset, 'in.npz', 'out.csv', *options)
    assert done.returncode == 0, done.stderr
    return [line.split(';') for line in (dataset.parent / 'out.csv').read_text().splitlines()]


def test_the_text_agrees_with_the_original(golden, dataset, tmp_path):
    description, arrays = golden('eval/submit_csv')
    assert description['filelist'] == KEYS and description['labelset'] == CLASSES
    for case in description['cases'][:-1]:
        scores = {k.split('|')[1]: v for k, v in arrays.items() if k.startswith(f'{case["preds"]}|')}
        (tmp_path / 'in.pkl').write_bytes(pickle.dumps(scores, 2))
        # The original always applies a sigmoid.
        done = submit(dataset, 'in.pkl', 'out.csv', *case['options'], '--sigmoid')
        assert done.returncode == 0, done.stderr
        assert (tmp_path / 'out.csv').read_bytes() == case['csv'].encode(), case['options']
    for seconds, parts in description['cases'][-1]['hour_min_sec'].items():
        assert clock(int(seconds)) == ':'.join(f'{part:02}' for part in parts)


def test_probabilities_are_a_softmax_without_sigmoid_and_ranked(dataset):
    scores = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    lines = written(dataset, list(scores))
    assert [line[0] for line in lines] == ['7'] * 6 + ['12'] * 6 + ['345'] * 6
    for i in range(3):
        expected = np.exp(scores[i]) / np.exp(scores[i]).sum()
        mine = lines[6 * i : 6 * i + 6]
        assert [line[3] for line in mine] == ['1', '2', '3', '4', '5', '6']
        assert [line[1] for line in mine] == [CLASSES[c] for c in np.argsort(-expected)]
        np.testing.assert_allclose([float(line[2]) for line in mine], np.sort(expected)[::-1], atol=1e-6)
        assert all(len(line[2].split('.')[1]) == 10 for line in mine)


def test_mono_pools_rows_and_breaks_ties_by_class(dataset):
    rows = [np.array([[0.1, 0.2, 0, 0.9, 0.1, 0], [0.7, 0.2, 0, 0, 0.1, 0]])] + [np.full((1, 6), 0.5)] * 2
    lines = written(dataset, rows, '--no-softmax', '--max-classes=3')
    assert [line[1:] for line in lines[:3]] == [
        [CLASSES[3], '0.8999999762', '1'],
        [CLASSES[0], '0.6999999881', '2'],
        [CLASSES[1], '0.2000000030', '3'],
    ]
    assert [line[1] for line in lines[3:6]] == CLASSES[:3]


def test_at_most_100_classes_per_recording(dataset):
    write_lines(dataset / 'labels/labelset', [f'sp{i:05}' for i in range(150)])
    rows = list(np.random.default_rng(0).normal(size=(3, 1, 150)))
    assert len(written(dataset, rows)) == 300
    assert len(written(dataset, rows, '--mode=soundscape')) == 300
    assert len(written(dataset, rows, '--max-classes=1000')) == 450
    alike = written(dataset, list(np.zeros((3, 1, 150))))
    assert [line[1] for line in alike[:100]] == [f'sp{i:05}' for i in range(100)]


def test_soundscape_lines_with_probability_0_are_left_out(dataset):
    rows = [np.array([[1, 0, 0, 0, 0, 0], [0.5, 0, 0.5, 1e-12, 0, 0]])] + [np.eye(6)[:1]] * 2
    lines = written(dataset, rows, '--mode=soundscape', '--no-softmax')
    assert lines == [
        ['7', '00:00:00-00:00:05', CLASSES[0], '1.0000000000'],
        ['7', '00:00:05-00:00:10', CLASSES[0], '0.5000000000'],
        ['7', '00:00:05-00:00:10', CLASSES[2], '0.5000000000'],
        ['12', '00:00:00-00:00:05', CLASSES[0], '1.0000000000'],
        ['345', '00:00:00-00:00:05', CLASSES[0], '1.0000000000'],
    ]
    assert len(written(dataset, rows, '--no-softmax')) == 18


def test_impossible_classes_get_probability_0(dataset):
    rows = [np.array([[1, -1e30, 2, -1e30, 0, 0]])] * 3
    assert [line[2] for line in written(dataset, rows)][4:6] == ['0.0000000000'] * 2


@pytest.mark.parametrize(
    'keys, rows, options, message',
    [
        (KEYS[:2], 2, (), f'1 of 3 recordings are missing, such as {KEYS[2]}'),
        (KEYS, 3, ('--no-softmax',), 'no probabilities'),
        (KEYS, 3, ('--max-classes=0',), '--max-classes=0'),
        (KEYS, 3, ('--filelist=other',), 'filelists/other'),
    ],
)
def test_predictions_that_would_give_a_wrong_submission_are_refused(dataset, keys, rows, options, message):
    predictions.save(dataset.parent / 'in.npz', keys, list(np.full((rows, 1, 6), 3.0)))
    done = submit(dataset, 'in.npz', 'out.csv', *options)
    assert done.returncode == 1 and done.stderr.startswith('submit_csv.py: ') and done.stderr.count('\n') == 1
    assert message in done.stderr
    assert not (dataset.parent / 'out.csv').exists()


@pytest.mark.parametrize(
    'names, ids',
    [
        (['x/a_RN1.wav', 'x/b.wav', 'y/c.d.wav'], ['1', 'b', 'c.d']),
        (['x/a.wav', 'y/a.wav', 'y/b.wav', 'y/b_RN2.wav'], ['x/a', 'y/a', 'y/b', '2']),
    ],
)
def test_recordings_without_a_number_are_named_by_their_file_name_or_path(dataset, names, ids):
    write_lines(dataset / 'filelists/test', names)
    lines = written(dataset, [np.zeros((1, 6))] * len(names), '--max-classes=1', keys=names)
    assert [line[0] for line in lines] == ids


@pytest.mark.parametrize('names', [['x/a_RN1.wav', 'b_RN1.wav'], ['a_RN1.wav', 'x/1.wav'], ['x/a.wav', 'x/a.flac']])
def test_media_ids_that_are_equal_are_refused(names):
    with pytest.raises(Problem, match=f'{names[0]} and {names[1]} have the same media id'):
        media_ids(names)


# == Matrices of Kaggle ==

SITES = ['a/BC2026_S05_20250227_010002.wav', 'b/x,y.wav']


def matrix(dataset, scores, *options, seconds=5.0):
    """Header and rows of the matrix for predictions of SITES, read by the module csv."""
    write_lines(dataset / 'filelists/test', SITES)
    starts = np.concatenate([np.arange(len(rows)) * seconds for rows in scores])
    offsets = np.cumsum([0, *map(len, scores)])
    predictions.save(dataset.parent / 'in.npz', SITES, np.concatenate(scores), offsets, starts, starts + seconds)
    done = submit(dataset, 'in.npz', 'out.csv', '--format=kaggle', *options)
    assert done.returncode == 0, done.stderr
    with open(dataset.parent / 'out.csv', newline='') as f:
        return list(csv.reader(f))


def test_kaggle_has_a_row_per_segment_named_by_its_end_and_a_column_per_class(dataset):
    scores = [np.random.default_rng(0).normal(size=(n, 6)) for n in (3, 1)]
    header, *lines = matrix(dataset, scores)
    assert header == ['row_id', *CLASSES]
    name = 'BC2026_S05_20250227_010002'
    assert [line[0] for line in lines] == [f'{name}_5', f'{name}_10', f'{name}_15', 'x,y_5']
    expected = np.exp(np.concatenate(scores))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose([list(map(float, line[1:])) for line in lines], expected, rtol=1e-5)


def test_kaggle_segments_have_the_maximum_of_their_rows(dataset):
    scores = [np.tile(np.linspace(0.1, 0.4, 4)[:, None], 6), np.full((1, 6), 0.5)]
    _, *lines = matrix(dataset, scores, '--no-softmax', seconds=2.5)
    assert [(line[0].rsplit('_')[-1], float(line[3])) for line in lines] == [('5', 0.2), ('10', 0.4), ('5', 0.5)]


def test_kaggle_row_ids_are_unique_and_whole_recordings_refused(dataset):
    predictions.save(dataset.parent / 'in.npz', ['x/a.wav', 'y/a.wav'], list(np.zeros((2, 1, 6))))
    write_lines(dataset / 'filelists/test', ['x/a.wav', 'y/a.wav'])
    done = submit(dataset, 'in.npz', 'out.csv', '--format=kaggle')
    assert done.returncode == 1 and 'x/a.wav and y/a.wav would have the same row_id' in done.stderr
    done = submit(dataset, 'in.npz', 'out.csv', '--format=kaggle', '--mode=mono')
    assert done.returncode == 1 and '--format kaggle has segments only' in done.stderr
    assert not (dataset.parent / 'out.csv').exists()


def test_names_with_separators_are_refused():
    with pytest.raises(Problem, match='a;b.wav: .*semicolon'):
        media_ids(['x/a;b.wav'])


def test_a_submission_says_that_it_needs_the_class_ids(dataset):
    (dataset / 'labels/labelset').unlink()
    done = submit(dataset, 'in.npz', 'out.csv')
    assert done.returncode == 1 and 'labels/labelset: no such file; a submission needs the class ids' in done.stderr


def test_a_segment_list_whose_recording_would_get_no_row_is_refused(dataset):
    predictions.save(dataset.parent / 'in.npz', KEYS, [np.eye(6)[:1], np.zeros((2, 6)), np.eye(6)[:1]])
    done = submit(dataset, 'in.npz', 'out.csv', '--mode=soundscape', '--no-softmax')
    assert done.returncode == 1 and f'{KEYS[1]} has no line' in done.stderr


# == Times of the rows ==


def segments_written(dataset, starts, stops, scores, *options):
    """(segment, class id, probability) of the lines for the last recording of the list, whose rows have these times."""
    counts = [1, 1, len(starts)]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    rows = np.concatenate([np.eye(6)[:2], scores])
    times = {'starts': [0, 0, *starts], 'stops': [5, 5, *stops]}
    predictions.save(dataset.parent / 'in.npz', KEYS, rows, offsets, **times)
    done = submit(dataset, 'in.npz', 'out.csv', '--mode=soundscape', '--no-softmax', *options)
    assert done.returncode == 0, done.stderr
    lines = [line.split(';') for line in (dataset.parent / 'out.csv').read_text().splitlines()]
    return [(line[1], line[2], float(line[3])) for line in lines if line[0] == '345']


def test_blocks_of_5_seconds_with_times_give_the_same_lines_as_without(dataset):
    rows = list(np.random.default_rng(0).normal(size=(3, 4, 6)))
    written(dataset, rows, '--mode=soundscape')
    expected = (dataset.parent / 'out.csv').read_bytes()
    starts = np.tile([0, 5, 10, 15.0], 3)
    # The last block may be short, and may contain the few samples after the last frame; rounding adds up.
    for stops, drift in (
        (starts + 5, 1),
        (np.minimum(starts + 5, 15.02), 1),
        (np.minimum(starts + 5, 17.3), 0.996),
        (starts + 5.02, 1.004),
    ):
        times = {'starts': starts * drift, 'stops': stops * drift}
        predictions.save(dataset.parent / 'in.npz', KEYS, np.concatenate(rows), [0, 4, 8, 12], **times)
        assert submit(dataset, 'in.npz', 'out.csv', '--mode=soundscape').returncode == 0
        assert (dataset.parent / 'out.csv').read_bytes() == expected


def test_lines_have_the_times_of_the_rows(dataset):
    assert segments_written(dataset, [3595, 3600], [3600, 3605], np.eye(6)[[2, 4]]) == [
        ('00:59:55-01:00:00', CLASSES[2], 1),
        ('01:00:00-01:00:05', CLASSES[4], 1),
    ]


def test_segments_have_the_maximum_of_the_rows_in_their_middle(dataset):
    scores = np.array([[0.5, 0, 0, 0, 0, 0], [0.25, 0.5, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]])
    assert segments_written(dataset, [0, 2, 6], [4, 6, 9], scores) == [
        ('00:00:00-00:00:05', CLASSES[0], 0.5),
        ('00:00:00-00:00:05', CLASSES[1], 0.5),
        ('00:00:05-00:00:10', CLASSES[2], 1),
    ]


def test_rows_longer_than_a_segment_count_for_all_segments_that_they_cover(dataset):
    assert segments_written(dataset, [0, 15], [15, 24], np.eye(6)[:2]) == [
        ('00:00:00-00:00:05', CLASSES[0], 1),
        ('00:00:05-00:00:10', CLASSES[0], 1),
        ('00:00:10-00:00:15', CLASSES[0], 1),
        ('00:00:15-00:00:20', CLASSES[1], 1),
        ('00:00:20-00:00:25', CLASSES[1], 1),
    ]


def test_times_do_not_change_a_monophone_submission(dataset):
    rows = list(np.random.default_rng(0).normal(size=(3, 2, 6)))
    written(dataset, rows)
    expected = (dataset.parent / 'out.csv').read_bytes()
    starts = np.array([0, 5.0] * 3)
    predictions.save(
        dataset.parent / 'in.npz', KEYS, np.concatenate(rows), [0, 2, 4, 6], starts=starts, stops=starts + 5
    )
    assert submit(dataset, 'in.npz', 'out.csv').returncode == 0
    assert (dataset.parent / 'out.csv').read_bytes() == expected


def test_classes_that_the_model_does_not_know_come_last(dataset):
    predictions.save(dataset.parent / 'in.npz', KEYS, list(np.random.default_rng(0).random((3, 1, 4))))
    done = submit(dataset, 'in.npz', 'out.csv')
    assert done.returncode == 0 and 'predictions of 4 classes, but the dataset has 6' in done.stderr
    lines = [line.split(';') for line in (dataset.parent / 'out.csv').read_text().splitlines()]
    assert [line[1] for line in lines if line[3] in '56'] == [CLASSES[4], CLASSES[5]] * 3
