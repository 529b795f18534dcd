"""eval.py: the same metrics and combinations as the original's command line, and what it prints, writes and refuses."""

import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from birdsong.scores import metrics, predictions
from helpers import ROOT, write_lines
from helpers import run_scores as run

GOLDEN = ('eval/eval_main',)

# The dataset on which the golden case was recorded, in the order of its list: key, foreground, background.
RECORDINGS = [
    ('2017_BIRDAMAZON_XC_WAV_RN30001', 6, '0,1,3'),
    ('2014_BIRDAMAZON_XC_WAV_RN11', 0, ''),
    ('2017_BIRDAMAZON_XC_WAV_RN30004', 3, '5,1'),
    ('2015_BIRDAMAZON_XC_WAV_RN2101', 0, '2,5'),
    ('2014_BIRDAMAZON_XC_WAV_RN12', 1, '3'),
    ('2017_BIRDAMAZON_XC_WAV_RN30003', 2, ''),
    ('2015_BIRDAMAZON_XC_WAV_RN2102', 3, ''),
    ('2017_BIRDAMAZON_XC_WAV_RN30002', 3, '6'),
]
KEYS = [f'train/LIFECLEF{name}.wav' for name, _, _ in RECORDINGS]
CLASSES = ['aabbcc', 'bbccdd', 'ccddee', 'ddeeff', 'eeffgg', 'ffgghh', 'gghhii']
EDITIONS = {2014: (0, 1, 3), 2015: (0, 1, 2, 3, 5), 2017: (2, 3, 5, 6)}


@pytest.fixture
def dataset(tmp_path):
    """The lists and labels of a dataset; no audio is needed here."""
    folder = tmp_path / 'set'
    write_lines(folder / 'filelists/valid', KEYS)
    write_lines(folder / 'labels/labelset', CLASSES)
    write_lines(folder / 'labels/labelset_latin', [f'Avis {c}' for c in CLASSES])
    write_lines(folder / 'labels/fg.tsv', [f'{key}\t{int(r[1])}' for key, r in zip(KEYS, RECORDINGS, strict=True)])
    write_lines(folder / 'labels/bg.tsv', [f'{key}\t{r[2]}' for key, r in zip(KEYS, RECORDINGS, strict=True)])
    for year, classes in EDITIONS.items():
        write_lines(folder / (f'labels/labelset_{year}'), [CLASSES[c] for c in classes])
    return folder


def output(dataset, *args):
    done = run(dataset, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_label_file_with_more_classes_than_labelset_is_evaluated(dataset):
    classes = [9 if i else 8 for i in range(len(KEYS))]
    write_lines(dataset / 'labels/calls.tsv', [f'{key}\t{c}' for key, c in zip(KEYS, classes, strict=True)])
    predictions.save(dataset.parent / 'calls.npz', KEYS, [np.eye(10, dtype=np.float32)[[c]] for c in classes])
    assert 'MAP: 1.000' in output(dataset, 'calls.npz', '--labelfile=calls.tsv', '--per-class=classes.tsv')
    assert [line.split('\t')[:3] for line in (dataset.parent / 'classes.tsv').read_text().splitlines()[1:]] == [
        ['8', '8', '1'],
        ['9', '9', '7'],
    ]


def problem(dataset, *args):
    done = run(dataset, *args)
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr.startswith('eval.py: ') and done.stderr.count('\n') == 1
    return done.stderr


def some_scores(classes=7, seed=0, keys=KEYS, rows=1):
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=(rows, classes)).astype(np.float32) for key in keys}


def save(folder, name, scores):
    predictions.save(folder / name, list(scores), list(scores.values()))
    return folder / name


def test_metrics_and_saved_combinations_agree_with_the_original(golden, dataset, tmp_path):
    description, arrays = golden('eval/eval_main')
    for name in ('p1', 'p2', 'p3'):
        scores = {k.split('|')[1]: v for k, v in arrays.items() if k.startswith(f'{name}|')}
        assert sorted(scores) == sorted(KEYS)
        (tmp_path / (f'{name}.pkl')).write_bytes(pickle.dumps(scores, 2))
        np.savez(tmp_path / (f'{name}npz.npz'), **scores)
    for i, case in enumerate(description['cases']):
        printed = output(dataset, *case['infiles'], *case['options'])
        if '--birdclef-filter' in case['options']:
            # Background species of other editions have equal scores, and the original breaks ties at random.
            ours, theirs = (re.sub('MAP-bg: 0.55., ', '', text) for text in (printed, case['stdout']))
            assert ours == theirs
        elif case['rc'] == 0:
            assert printed == case['stdout'], case
        else:
            # Where the original fails, rows are evaluated one by one.
            assert '--no-maxpool' in case['options'] and printed.startswith('MAP: ')
        assert output(dataset, *case['infiles'], *case['options'], '--save-predictions', 'out.npz') == ''
        saved = predictions.load(tmp_path / 'out.npz')
        assert sorted(saved.files) == sorted(case['saved_keys'])
        for key in saved.files:
            expected = np.atleast_2d(arrays[f'out{i}|{key}'])
            possible = expected > -1e38
            np.testing.assert_allclose(saved[key][possible], expected[possible], rtol=1e-6, atol=1e-7)
            assert (saved[key][~possible] <= -1e30).all()


def test_without_maxpool_rows_are_evaluated_like_recordings(dataset, tmp_path):
    scores = some_scores(rows=3)
    printed = output(dataset, save(tmp_path, 'p.npz', scores), '--no-maxpool')
    expected = metrics.evaluate(np.concatenate([scores[k] for k in KEYS]), np.repeat([r[1] for r in RECORDINGS], 3))
    assert printed == f'{metrics.line(expected)}\n'


def test_a_single_row_per_recording_is_added_to_every_row_of_the_others(dataset, tmp_path):
    audio, meta = some_scores(rows=3), some_scores(seed=1)
    for order in (1, -1):
        names = [f'{save(tmp_path, "audio.npz", audio)}:2', f'{save(tmp_path, "meta.npz", meta)}:0.5'][::order]
        output(dataset, *names, '--no-maxpool', '--save-predictions', 'out.npz')
        saved = predictions.load(tmp_path / 'out.npz')
        for key in KEYS:
            np.testing.assert_allclose(saved[key], (2 * audio[key] + 0.5 * meta[key]) / 2, rtol=1e-6)
    done = problem(
        dataset, save(tmp_path, 'a.npz', audio), save(tmp_path, 'b.npz', some_scores(rows=2)), '--no-maxpool'
    )
    assert 'a.npz has 3 rows' in done and 'b.npz has 2' in done


def test_the_filter_keeps_all_classes_of_recordings_without_an_edition(dataset, tmp_path):
    keys = ['test/LIFECLEF2018_X_RN1.wav', 'test/other_RN2.wav', 'test/LIFECLEF2014_X_RN3.wav']
    write_lines(dataset / 'filelists/test', keys)
    scores = some_scores(keys=keys)
    output(
        dataset, save(tmp_path, 'p.npz', scores), '--birdclef-filter', '--filelist=test', '--save-predictions=out.npz'
    )
    saved = predictions.load(tmp_path / 'out.npz')
    np.testing.assert_array_equal(saved[keys[0]], scores[keys[0]])
    np.testing.assert_array_equal(saved[keys[1]], scores[keys[1]])
    assert np.flatnonzero(saved[keys[2]][0] > -1e20).tolist() == list(EDITIONS[2014])


def test_a_subset_is_repeatable_and_changes_with_its_seed(dataset, tmp_path):
    name = save(tmp_path, 'p.npz', some_scores())
    results = [output(dataset, name, '--subset=0.6', f'--subset-seed={seed}') for seed in (1, 1, 2, 3, 4)]
    assert results[0] == results[1] and len(set(results)) > 1
    assert '--subset=0.1 of 8 leaves nothing' in problem(dataset, name, '--subset=0.1')
    assert '--subset=1.5' in problem(dataset, name, '--subset=1.5')


def test_constant_scores_are_not_better_than_guessing(dataset, tmp_path):
    name = save(tmp_path, 'p.npz', {key: np.zeros(len(CLASSES)) for key in KEYS})
    truth = np.array([r[1] for r in RECORDINGS])
    assert output(dataset, name).startswith(f'MAP: {np.mean(1 / (truth + 1)):.3f}, top-1: {np.mean(truth == 0):.2f}')


def test_text_after_a_colon_that_is_not_a_number_belongs_to_the_file_name(dataset, tmp_path):
    save(tmp_path, 'p:a.npz', some_scores())
    plain = output(dataset, 'p:a.npz')
    assert plain == output(dataset, 'p:a.npz:0.5') != output(dataset, 'p:a.npz:-1')
    assert 'p:a.npz:nan: the weight' in problem(dataset, 'p:a.npz:nan')


def test_json_contains_all_metrics(dataset, tmp_path):
    name = save(tmp_path, 'p.npz', some_scores())
    printed = output(
        dataset, f'{name}:0.5', '--labelfile-background=bg.tsv', '--json=f.json', '--more', '--intervals=200'
    )
    report = json.loads((tmp_path / 'f.json').read_text())
    first, second, third = printed.splitlines()
    found = {k: v for k, v in report.items() if k.startswith(('MAP', 'top'))}
    assert metrics.line(found) == first
    assert (
        second
        == f'cmAP: {report["cmAP"]:.3f}, cmAP-padded: {report["cmAP-padded"]:.3f}, ROC-AUC: {report["ROC-AUC"]:.3f}'
    )
    assert third.startswith('95 % intervals of 200 bootstrap samples: MAP: ')
    assert report['members'] == [[str(name), 0.5]] and report['recordings'] == 8
    for key, value in found.items():
        low, high = report['intervals'][key]
        assert 0 <= low <= value <= high <= 1


def test_the_table_of_classes_names_the_most_frequent_confusion(dataset, tmp_path):
    scores = {key: np.zeros(len(CLASSES)) for key in KEYS}
    for key, best in zip(KEYS, (6, 0, 2, 0, 1, 2, 3, 2), strict=True):
        scores[key][best] = 1
    output(dataset, save(tmp_path, 'p.npz', scores), '--per-class=c.tsv')
    rows = [line.split('\t') for line in (tmp_path / 'c.tsv').read_text().splitlines()]
    assert rows[0] == ['class', 'species', 'recordings', 'AP', 'mean rank', 'top-1', 'confused with', 'times']
    table = {row[0]: row[1:] for row in rows[1:]}
    assert sorted(table) == [CLASSES[c] for c in (0, 1, 2, 3, 6)]
    assert table['ddeeff'][:2] == ['Avis ddeeff', '3'] and table['ddeeff'][3:] == ['3.0', '0.33', 'ccddee', '2']
    assert table['aabbcc'] == ['Avis aabbcc', '2', '1.000', '1.0', '1.00', '', '0']


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda s: s.pop(KEYS[3]), f'1 of 8 recordings are missing, such as {KEYS[3]}'),
        (lambda s: s.update({KEYS[2]: np.full(7, np.nan)}), f'scores of {KEYS[2]} are not finite'),
        (lambda s: s.update({k: v[..., [*range(7), 0]] for k, v in s.items()}), '8 classes, but the dataset has 7'),
    ],
)
def test_wrong_predictions_are_refused_in_one_line(dataset, tmp_path, change, message):
    scores = some_scores()
    change(scores)
    (tmp_path / 'p.pkl').write_bytes(pickle.dumps(scores, 2))
    assert message in problem(dataset, tmp_path / 'p.pkl', '--save-predictions=out.npz')
    assert not (tmp_path / 'out.npz').exists()


def test_missing_labels_and_files_are_refused_in_one_line(dataset, tmp_path):
    name = save(tmp_path, 'p.npz', some_scores())
    assert 'none.npz: no such file' in problem(dataset, 'none.npz')
    assert 'none' in problem(tmp_path / 'none', name)
    assert 'filelists/other' in problem(dataset, name, '--filelist=other')
    assert 'labels/other.tsv' in problem(dataset, name, '--labelfile=other.tsv')
    write_lines(dataset / 'labels/fg.tsv', [f'{KEYS[0]}\t0'])
    assert '7 of 8 recordings' in problem(dataset, name)


def test_metrics_need_labels_but_combinations_do_not(dataset, tmp_path):
    names = [save(tmp_path, f'{seed}.npz', some_scores(seed=seed)) for seed in range(2)]
    output(dataset, *names, '--save-predictions=labelled.npz')
    for path in (dataset / 'labels').iterdir():
        path.unlink()
    assert 'labels/labelset: no such file; metrics need labels (predict.py does not)' in problem(dataset, *names)
    output(dataset, *names, '--save-predictions=unlabelled.npz')
    assert (tmp_path / 'unlabelled.npz').read_bytes() == (tmp_path / 'labelled.npz').read_bytes()
    other = save(tmp_path, 'other.npz', some_scores(classes=3))
    assert f'7 classes, but {other} has 3' in problem(dataset, names[0], other, '--save-predictions=x.npz')


@pytest.mark.parametrize(
    'arguments, samples',
    [
        (('--intervals', 'FILE'), 1000),
        (('FILE', '--intervals'), 1000),
        (('--intervals', '50', 'FILE'), 50),
        (('--intervals=50', 'FILE'), 50),
    ],
)
def test_a_file_name_after_the_option_intervals_is_a_file_name(arguments, samples, dataset, tmp_path):
    name = str(save(tmp_path, 'p.npz', some_scores()))
    arguments = [name if argument == 'FILE' else argument for argument in arguments]
    assert f'95 % intervals of {samples} bootstrap samples: ' in output(dataset, *arguments)


def test_evaluating_loads_no_large_packages_and_neither_does_the_start_of_the_others(dataset, tmp_path):
    name = save(tmp_path, 'p.npz', some_scores())
    code = (
        f'import sys; sys.argv = ["eval.py", "--dataset", {str(dataset)!r}, {str(name)!r}]\n'
        'import blender, submit_csv, eval as program; program.main()\n'
        'print(sorted({"torch", "scipy", "numba", "hyperopt"} & set(sys.modules)))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT / 'experiments')
    assert done.stdout.splitlines()[-1] == '[]', done.stderr


def test_confusions_count_the_class_with_the_highest_score(dataset, tmp_path):
    scores = some_scores(seed=3)
    output(dataset, save(tmp_path, 'p.npz', scores), '--confusions=c.tsv')
    header, *rows = [line.split('\t') for line in (tmp_path / 'c.tsv').read_text().splitlines()]
    table = {row[0]: dict(zip(header[1:], map(int, row[1:]), strict=True)) for row in rows}
    expected = {}
    for key, (_, truth, _) in zip(KEYS, RECORDINGS, strict=True):
        pair = CLASSES[truth], CLASSES[int(scores[key].argmax())]
        expected[pair] = expected.get(pair, 0) + 1
    found = {(true, best): n for true, row in table.items() for best, n in row.items() if n}
    assert found == expected and sorted(table) == sorted({true for true, _ in expected})


def test_metrics_by_a_column_are_those_of_its_recordings(dataset, tmp_path):
    recordists = ['Ann', 'Bob', '', 'Ann', 'Bob', 'Ann', '', 'Ann']
    dates = ['2014-05-01', '2014-06-01', '', '2015-05-07', '', '', '', '2014-05-09']
    rows = [f'{key}\t{who}\t{date}' for key, who, date in zip(KEYS, recordists, dates, strict=True)]
    write_lines(dataset / 'recordings.tsv', ['key\trecordist\tdate', *rows])
    scores = some_scores(seed=4)
    name = save(tmp_path, 'p.npz', scores)
    lines = output(dataset, name, '--by=recordist', '--json=r.json').splitlines()[1:]
    assert [line.split(': ')[0] for line in lines] == [
        'recordist Ann (4)',
        'recordist unknown (2)',
        'recordist Bob (2)',
    ]
    those = [i for i, who in enumerate(recordists) if who == 'Ann']
    part = np.concatenate([scores[KEYS[i]] for i in those])
    expected = metrics.evaluate(part, [RECORDINGS[i][1] for i in those])
    found = json.loads((tmp_path / 'r.json').read_text())['by']['recordist']['Ann']
    assert found == expected | {'recordings': 4}
    months = output(dataset, name, '--by=month').splitlines()[1:]
    assert [line.split(': ')[0] for line in months] == ['month unknown (4)', 'month 05 (3)', 'month 06 (1)']
    assert 'no column site; its columns are recordist, date, year, month' in problem(dataset, name, '--by=site')
    assert 'leave out one' in problem(dataset, name, '--by=date', '--subset-class=0.5')


def test_metrics_by_a_column_need_a_table_of_recordings(dataset, tmp_path):
    assert 'recordings.tsv: no column site' in problem(dataset, save(tmp_path, 'p.npz', some_scores()), '--by=site')
