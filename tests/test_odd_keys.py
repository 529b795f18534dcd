"""Every program copes with keys that contain folders and any characters that lists may contain."""

import csv

import numpy as np
import pytest

from birdsong.files import load_npz
from birdsong.scores import predictions
from helpers import SMALL_TRAINING, run_program, run_scores, wav_bytes, write_lines

KEYS = [
    "Häher & Co/it's here.wav",
    'train/song.wav',
    'test/song.wav',
    '-x/--file.wav',
    'a, b/$(touch x) `y` $\\frac$ *?[z].wav',
    'a_b/c.wav',
    'a/b_c.wav',
    ' leading/and trailing /100%.wav',
    '#5/~user/鳥の声.wav',
    '..hidden/back\\slash{0}.wav',
    'RN7/no number.wav',
    'e\u0301.wav',  # not normalised: an e and a combining accent
    'very/' + 'long/' * 10 + 'x' * 200 + '.wav',
    'nan.wav',
]
QUOTED = 'a "quoted" name; with a semicolon.wav'


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """Recordings of 1.5 s with odd names, of two classes."""
    folder = tmp_path_factory.mktemp('odd names') / 'odd'
    rng = np.random.default_rng(0)
    keys = [*KEYS, QUOTED]
    for key in keys:
        path = folder / 'audio' / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav_bytes(rng.integers(-9000, 9000, 33000).astype('<i2')))
    for name, listed in (('train', KEYS[:8]), ('valid', KEYS[8:]), ('test', KEYS), ('unlabelled', [QUOTED])):
        write_lines(folder / 'filelists' / name, listed)
    write_lines(folder / 'labels' / 'labelset', ['it\'s "a"', 'ü $\\b$'])
    write_lines(folder / 'labels' / 'fg.tsv', [f'{key}\t{i % 2}' for i, key in enumerate(KEYS)])
    write_lines(folder / 'labels' / 'bg.tsv', [f'{key}\t{1 - i % 2 if i % 3 else ""}' for i, key in enumerate(KEYS)])
    write_lines(folder / 'labels' / 'meta.tsv', [f'{key}\t2010-05-07\t06:30:00\t{i}\t\t' for i, key in enumerate(KEYS)])
    return folder


def run(program, *args):
    done = run_program(f'experiments/{program}', *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def trained(dataset, tmp_path_factory):
    """A network on audio and metadata with its predictions of the test list in the same folder."""
    model = tmp_path_factory.mktemp('models') / 'm.npz'
    settings = {**SMALL_TRAINING, 'epochs': 1, 'len_max': 1, 'input_meta': 'time,latitude', 'arch_meta': 'full:4'}
    words = [word for key, value in settings.items() for word in ('--var', f'{key}={value}')]
    run('train.py', '--dataset', dataset, '--validate', *words, model)
    run('predict.py', '--dataset', dataset, '--split-pool', '--filelists', 'test', *PREDICT, model, predicted(model))
    return model


PREDICT = ['--var', 'len_min=0', '--var', 'arch.output=linear']


def predicted(model):
    return model.with_name('m.pred.npz')


def test_predictions_keep_the_keys(trained, dataset):
    assert predictions.load(predicted(trained)).files == KEYS
    assert set(load_npz(dataset / 'index.npz')['files'].tobytes().decode().split('\n')) == set(KEYS)


def test_recordings_can_be_named_on_the_command_line(trained, dataset, tmp_path):
    files = [f'--file={key}' for key in KEYS[3:8]] + [f'--file={dataset}/audio/{KEYS[0]}']
    run('predict.py', '--dataset', dataset, '--split-pool', *PREDICT, *files, trained, tmp_path / 'p.npz')
    found, expected = predictions.load(tmp_path / 'p.npz'), predictions.load(predicted(trained))
    assert found.files == KEYS[3:8] + KEYS[:1]
    for key in found.files:
        np.testing.assert_array_equal(found[key], expected[key])


def test_an_unlabelled_list_is_predicted(trained, dataset, tmp_path):
    run('predict.py', '--dataset', dataset, '--filelists', 'unlabelled', *PREDICT, trained, tmp_path / 'p.npz')
    assert predictions.load(tmp_path / 'p.npz').files == [QUOTED]


def test_predictions_are_evaluated_and_combined(trained, dataset, tmp_path):
    options = ['--filelist', 'test', '--labelfile-background', 'bg.tsv']
    done = run_scores(dataset, *options, predicted(trained))
    assert done.returncode == 0 and 'MAP' in done.stdout, done.stderr
    out = tmp_path / 'ensemble.tsv'
    both = [predicted(trained), predicted(trained)]
    done = run_scores(dataset, *options, '--strategy', 'greedy', '--output', out, *both[:1], program='blender.py')
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings('ignore:Glyph')
def test_each_recording_has_its_own_plot(trained, dataset, tmp_path):
    options = ['--dataset', dataset, '--filelists', 'test', '--plot', tmp_path / 'plots']
    run('predict.py', *options, *PREDICT, trained, tmp_path / 'p.npz')
    plots = [path for path in (tmp_path / 'plots').rglob('*') if path.is_file()]
    assert len(plots) == len(KEYS) and all(path.read_bytes().startswith(b'\x89PNG') for path in plots)


def test_scores_at_full_resolution_are_written(trained, dataset, tmp_path):
    options = ['--dataset', dataset, '--filelists', 'test', '--full-resolution', '--window', '1']
    run('predict.py', *options, *PREDICT, trained, tmp_path / 'p.npz')
    assert predictions.load(tmp_path / 'p.npz').files == KEYS


def test_a_submission_names_each_recording(trained, dataset, tmp_path):
    run('submit_csv.py', '--dataset', dataset, predicted(trained), tmp_path / 'out.csv')
    with open(tmp_path / 'out.csv', encoding='utf-8', newline='') as f:
        rows = list(csv.reader(f, delimiter=';', quoting=csv.QUOTE_NONE))
    # Two recordings are called song.wav, so the names contain the folders.
    assert list(dict.fromkeys(row[0] for row in rows)) == [key.removesuffix('.wav') for key in KEYS]
    assert {row[1] for row in rows} == {'it\'s "a"', 'ü $\\b$'}


def test_findings_name_each_recording_and_have_a_table_of_each(trained, dataset, tmp_path):
    options = ['--dataset', dataset, '--format=csv,raven,audacity,kaleidoscope', '--softmax', '--threshold=0']
    run('findings.py', *options, '--output', tmp_path / 'found', predicted(trained))
    with open(tmp_path / 'found/findings.csv', encoding='utf-8', newline='') as f:
        rows = list(csv.DictReader(f))
    assert {row['File'].removeprefix('./') for row in rows} == set(KEYS)
    assert {row['Class'].removeprefix("'") for row in rows} == {'it\'s "a"', 'ü $\\b$'}
    for kind in 'raven', 'audacity':
        tables = [path for path in (tmp_path / 'found' / kind).rglob('*') if path.is_file()]
        assert len(tables) == len(KEYS) and all(len(path.read_text().splitlines()) >= 2 for path in tables)


def test_missing_recordings_are_found(trained, dataset, tmp_path):
    assert run('incomplete.py', f'{dataset}/filelists/test', predicted(trained)) == ''
    run('predict.py', '--dataset', dataset, '--filelists', 'valid', *PREDICT, trained, tmp_path / 'p.npz')
    assert str(tmp_path / 'p.npz') in run('incomplete.py', f'{dataset}/filelists/test,valid', tmp_path / 'p.npz')
