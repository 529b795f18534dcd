"""import_scores.py: tables of other programs become predictions that our programs evaluate and combine."""

import csv

import numpy as np
import pytest

from birdsong.findings import alignment, formats
from birdsong.scores import predictions
from helpers import run_program, run_scores, write_lines

CLASSES = ['amered', 'norcar', 'eurbla']
LATIN = ['Setophaga ruticilla', 'Cardinalis cardinalis', 'Turdus merula']
COMMON = ['American Redstart', 'Northern Cardinal', 'Eurasian Blackbird']
NIGHT, DAY, ÜBER = FILES = ['siteA/night.wav', 'siteB/day.wav', 'siteB/über.wav']
BIRDNET = 'Start (s),End (s),Scientific name,Common name,Confidence,File'
# Windows of 5 s; the recordings have 3, 2 and 1.
STARTS = np.array([0, 5, 10, 0, 5, 0.0])
OFFSETS = [0, 3, 5, 6]


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / 'set'
    write_lines(folder / 'filelists/valid', FILES)
    write_lines(folder / 'labels/labelset', CLASSES)
    write_lines(folder / 'labels/labelset_latin', LATIN)
    write_lines(folder / 'labels/labelset_common', COMMON)
    write_lines(folder / 'labels/fg.tsv', [f'{key}\t{i}' for i, key in enumerate(FILES)])
    write_lines(folder / 'labels/bg.tsv', [f'{key}\t' for key in FILES])
    write_lines(folder / 'labels/segments.tsv', [f'{NIGHT}\t5\t10\t0', f'{DAY}\t0\t5\t1', f'{ÜBER}\t0\t5\t2'])
    scores = np.random.default_rng(0).normal(size=(6, 3))
    predictions.save(tmp_path / 'ours.pred.npz', FILES, scores, OFFSETS, STARTS, STARTS + 5)
    return folder


def run(dataset, *args, tables=('table.csv',)):
    return run_program(
        'experiments/import_scores.py',
        *tables,
        *('--dataset', dataset, '--output', 'out.pred.npz'),
        *args,
        cwd=dataset.parent,
    )


def imported(dataset, *args, tables=('table.csv',)):
    done = run(dataset, *args, tables=tables)
    assert done.returncode == 0, done.stderr
    return predictions.load(dataset.parent / 'out.pred.npz'), done.stderr


def table(dataset, *lines, name='table.csv', encoding='utf-8'):
    (dataset.parent / name).write_text('\n'.join(lines) + '\n', encoding=encoding)


def logit(p):
    return np.log(p / (1 - p))


def refused(dataset, message, *args, **kwargs):
    done = run(dataset, *args, **kwargs)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith('import_scores.py: '), done.stderr
    assert message in done.stderr and not (dataset.parent / 'out.pred.npz').exists(), done.stderr


AS_THEY_ARE = '--as', 'probabilities'


# == Windows ==


def test_a_window_has_the_maximum_of_the_detections_that_are_half_in_it(dataset):
    table(
        dataset,
        BIRDNET,
        f'0.0,3.0,Setophaga ruticilla,American Redstart,0.5,/audio/{NIGHT}',
        f'3.0,6.0,Setophaga ruticilla,American Redstart,0.9,/audio/{NIGHT}',
        f'6.0,9.0,Setophaga ruticilla,American Redstart,0.7,/audio/{NIGHT}',
        f'3.5,6.5,Turdus merula,Eurasian Blackbird,0.8,/audio/{NIGHT}',
        f'0.0,3.0,Cardinalis cardinalis,Northern Cardinal,0.2,/audio/{DAY}',
    )
    found, _ = imported(dataset, '--windows', 'ours.pred.npz', *AS_THEY_ARE)
    assert found.files == FILES
    np.testing.assert_array_equal(found.starts, STARTS)
    np.testing.assert_array_equal(found.stops, STARTS + 5)
    # 3 to 6 s is in the first window for 2 s, in the second one for 1 s; 3.5 to 6.5 s is half in both
    np.testing.assert_allclose(found[NIGHT], [[0.9, 0.2, 0.8], [0.7, 0.2, 0.8], [0.2, 0.2, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(found[DAY], np.full((2, 3), 0.2), rtol=1e-6)
    np.testing.assert_allclose(found[ÜBER], np.full((1, 3), 0.2), rtol=1e-6)


@pytest.mark.parametrize('overlapping', [False, True])
def test_windows_agree_with_a_comparison_of_all_pairs(overlapping):
    rng = np.random.default_rng(1)
    begins = np.arange(30.0) * (2 if overlapping else 5)
    rng.shuffle(begins)
    ends = begins + (5 if overlapping else rng.uniform(1, 5, 30))
    starts = rng.uniform(0, 150, 200)
    stops = starts + rng.choice([0.5, 3, 20, np.inf], 200)
    classes, scores = rng.integers(4, size=200), rng.random(200)
    result = np.zeros((30, 4))
    placed = alignment.into_windows(result, (begins, ends), (starts, stops), classes, scores)
    expected, expected_placed = np.zeros((30, 4)), np.zeros(200, bool)
    for w in range(30):
        for d in range(200):
            overlap = min(ends[w], stops[d]) - max(begins[w], starts[d])
            if overlap > 0 and overlap >= min(ends[w] - begins[w], stops[d] - starts[d]) / 2:
                expected[w, classes[d]] = max(expected[w, classes[d]], scores[d])
                expected_placed[d] = True
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(placed, expected_placed)


def test_detections_in_no_window_are_counted(dataset):
    table(dataset, 'file,start,end,class,score', f'{DAY},2,3,norcar,0.5', f'{DAY},20,23,norcar,0.5')
    assert '1 of 2 detections are in no window of ours.pred.npz' in imported(dataset, '--windows', 'ours.pred.npz')[1]


def test_without_windows_a_recording_has_one_row(dataset):
    table(dataset, BIRDNET, f'0,3,,American Redstart,0.5,{NIGHT}', f'9,12,,American Redstart,0.75,{NIGHT}')
    found, said = imported(dataset)
    assert found.starts is None and found.scores.shape == (3, 3)
    np.testing.assert_allclose(found.scores, logit(np.array([[0.75, 0.5, 0.5], [0.5] * 3, [0.5] * 3])), rtol=1e-6)
    assert f'2 of 3 recordings of list valid have no scores: {DAY}, {ÜBER}' in said
    # as with a file of ours that has one row per recording, without times
    predictions.save(dataset.parent / 'single.pred.npz', FILES, list(np.zeros((3, 3))))
    again, _ = imported(dataset, '--windows', 'single.pred.npz')
    np.testing.assert_array_equal(again.scores, found.scores)


# == Scores ==


@pytest.mark.parametrize(
    'args, expected',
    [
        ([], [logit(1 - 1e-5), logit(0.25), logit(1e-5)]),
        (AS_THEY_ARE, [1, 0.25, 0]),
        (['--floor', '0.1'], [logit(1 - 1e-5), logit(0.25), logit(0.1)]),
    ],
)
def test_probabilities_become_limited_logits(args, expected, dataset):
    table(dataset, 'file,class,score', f'{DAY},amered,1', f'{DAY},norcar,0.25', f'{DAY},eurbla,0')
    found, _ = imported(dataset, *args)
    np.testing.assert_allclose(found[DAY], [expected], rtol=1e-6)
    np.testing.assert_allclose(found[NIGHT], [[expected[2]] * 3], rtol=1e-6)


def test_logits_are_kept_or_become_probabilities(dataset):
    table(dataset, 'filename,timestamp_s,label,logits', f'{DAY},0.0,amered,8.5', f'{DAY},5.0,norcar,-3')
    args = '--logits', '--seconds', '5', '--windows', 'ours.pred.npz', '--floor', '-20'
    found, _ = imported(dataset, *args)
    np.testing.assert_allclose(found[DAY], [[8.5, -20, -20], [-20, -3, -20]])
    found, _ = imported(dataset, *args, *AS_THEY_ARE)
    np.testing.assert_allclose(found[DAY][:, 0], 1 / (1 + np.exp([-8.5, 20])), rtol=1e-5)


# == Tables ==


def test_raven_tables_of_birdnet_are_read(dataset):
    header = '\t'.join(formats.RAVEN_COLUMNS)
    table(
        dataset,
        header,
        f'1\tSpectrogram 1\t1\t0\t3.0\t0\t15000\tEuropean "Blackbird\t\teurbla\t0.5\tC:\\audio\\{NIGHT}\t0',
        f'2\tSpectrogram 1\t1\t27\t30\t0\t15000\tnocall\tnocall\tnocall\t1.0\tC:\\audio\\{DAY}\t0',
        f'3\tSpectrogram 1\t1\t27\t30\t0\t15000\tNorthern Cardinal\t\t?\t0.75\tC:\\audio\\{DAY}\t5',
        name='table.txt',
    )
    found, said = imported(dataset, '--windows', 'ours.pred.npz', *AS_THEY_ARE, tables=['table.txt'])
    np.testing.assert_array_equal(found[NIGHT], [[0.5] * 3] * 3)
    np.testing.assert_array_equal(found[DAY], [[0.5] * 3, [0.5, 0.75, 0.5]])
    assert 'no class' not in said


@pytest.mark.parametrize('kind', ['csv', 'parquet'])
def test_the_tables_of_findings_py_are_read(kind, dataset):
    if kind == 'parquet':
        pytest.importorskip('pyarrow')
    predictions.save(dataset.parent / 'p.npz', FILES, np.full((6, 3), 0.75), OFFSETS, STARTS, STARTS + 5)
    args = '--filelist', 'valid', '--output', 'out', '--format', kind
    done = run_scores(dataset, 'p.npz', *args, program='findings.py')
    assert done.returncode == 0, done.stderr
    found, _ = imported(dataset, '--windows', 'ours.pred.npz', *AS_THEY_ARE, tables=[f'out/findings.{kind}'])
    np.testing.assert_array_equal(found.scores, np.full((6, 3), 0.75))


def test_the_kaggle_matrix_is_read(dataset):
    scores = np.random.default_rng(2).random((6, 3))
    predictions.save(dataset.parent / 'p.npz', FILES, scores, OFFSETS, STARTS, STARTS + 5)
    args = '--format', 'kaggle', '--no-softmax', '--filelist', 'valid'
    done = run_scores(dataset, 'p.npz', 'table.csv', *args, program='submit_csv.py')
    assert done.returncode == 0, done.stderr
    found, _ = imported(dataset, '--windows', 'ours.pred.npz', *AS_THEY_ARE)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)


def test_a_table_with_a_column_per_class_is_read(dataset):
    table(dataset, 'file;start_time;end_time;TURDUS MERULA;Human', f'{DAY};0;3;0,5;0,1', f'{DAY};5;8;;0,2')
    found, said = imported(dataset, '--windows', 'ours.pred.npz', '--floor', '0', *AS_THEY_ARE)
    np.testing.assert_array_equal(found[DAY], [[0, 0, 0.5], [0, 0, 0]])
    assert '1 names are no class of the dataset, 2 of 3 scores: Human (2)' in said


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'cp1252'])
def test_names_in_other_encodings_are_found(encoding, dataset):
    table(dataset, 'file,class,score', 'über.mp3,amered,0.5', encoding=encoding)
    assert 'in 1 recordings' in imported(dataset)[1]


def test_a_table_without_files_is_about_the_recording_it_is_named_after(dataset):
    table(dataset, 'sep=;', 'Start (s);End (s);Common name;Confidence', '0;3;American redstart;0.5', name='x')
    for name in 'night.BirdNET.results.csv', 'day.selections.txt':
        (dataset.parent / 'x').rename(dataset.parent / name)
        found, _ = imported(dataset, '--floor', '0', *AS_THEY_ARE, tables=[name])
        assert FILES[np.argmax(found.scores[:, 0])].endswith(f'{name.split(".")[0]}.wav')
        (dataset.parent / name).rename(dataset.parent / 'x')


def test_columns_can_be_named(dataset):
    table(dataset, 'wav,bird,p', f'{DAY},amered,0.5')
    columns = 'file=wav', 'class=bird', 'score=p'
    found, _ = imported(dataset, *(word for text in columns for word in ('--column', text)), *AS_THEY_ARE)
    assert found[DAY][0, 0] == 0.5
    refused_columns = ['--column', 'file=none']
    (dataset.parent / 'out.pred.npz').unlink()
    refused(dataset, "table.csv: no column 'none'; its columns are wav, bird, p", *refused_columns)


# == Names ==


def test_classes_are_found_by_any_name_in_any_case(dataset):
    names = ['AMERED', 'setophaga RUTICILLA', 'american redstart', 'Setophaga ruticilla_American Redstart']
    table(dataset, 'file,class,score', *(f'{DAY},{name},0.5' for name in names), f'{DAY},Homo sapiens,0.9')
    found, said = imported(dataset, '--floor', '0', *AS_THEY_ARE)
    np.testing.assert_array_equal(found[DAY], [[0.5, 0, 0]])
    assert '1 names are no class of the dataset, 1 of 5 scores: Homo sapiens (1)' in said


def test_a_name_of_several_classes_is_none_of_them(dataset):
    write_lines(dataset / 'labels/labelset_common', ['Bird', 'Bird', 'Blackbird'])
    table(dataset, 'file,class,score', f'{DAY},Bird,0.5', f'{DAY},Blackbird,0.5')
    assert '1 of 2 scores: Bird (1)' in imported(dataset)[1]


@pytest.mark.parametrize(
    'paths, expected',
    [
        (['a/x.wav', 'b/x.wav', 'c/y.wav'], [0, 1, 2]),
        (['/data/a/x.ogg', 'C:\\b\\x.flac', './c/y'], [0, 1, 2]),
        (['y.mp3', 'x.wav'], [2, -1]),  # x is in two folders
        (['other/y.wav', 'c/y.wav'], [-1, 2]),
        (['d/y.wav', 'e/y.wav'], [-1, -1]),
        (['c/y.wav', './c/y.wav'], [2, 2]),
        (['c/y.wav', 'c/y.mp3'], [2, -1]),
        (['raw/Z 1.MP3', 'v1.2', 'none', ''], [3, 4, -1, -1]),
    ],
)
def test_files_are_found_by_the_end_of_their_paths(paths, expected):
    names = [['a/x.wav'], ['b/x.wav'], ['c/y.wav'], ['z_1.wav', 'raw/Z 1.MP3'], ['v1.2.wav']]
    assert alignment.recordings_of(paths, names).tolist() == expected


def test_files_that_are_not_in_the_list_are_reported(dataset):
    table(dataset, 'file,class,score', f'{DAY},amered,0.5', 'other/evening.wav,amered,0.9')
    found, said = imported(dataset, *AS_THEY_ARE)
    assert found.scores.max() == 0.5
    assert '1 of 2 files are not one recording of list valid: other/evening.wav' in said


# == Our programs ==


def test_imported_scores_are_evaluated_and_get_a_weight(dataset):
    table(
        dataset,
        BIRDNET,
        f'6,9,,{COMMON[0]},0.9,{NIGHT}',
        f'0,3,,{COMMON[1]},0.9,{DAY}',
        f'0,3,,{COMMON[2]},0.9,{ÜBER}',
        f'0,3,,{COMMON[2]},0.1,{NIGHT}',
    )
    imported(dataset, '--windows', 'ours.pred.npz')
    done = run_scores(dataset, 'out.pred.npz')
    assert 'MAP: 1.000' in done.stdout, done.stderr
    done = run_scores(dataset, 'out.pred.npz', '--segments', '5', '--threshold', '0')
    assert 'F1-micro: 1.000' in done.stdout, done.stderr
    # the windows are ours, so that both can be added
    done = run_scores(dataset, 'out.pred.npz:9', 'ours.pred.npz:0.1', '--segments', '5', '--threshold', '0')
    assert 'ROC-AUC: 1.000' in done.stdout, done.stderr
    done = run_scores(
        dataset, 'ours.pred.npz', 'out.pred.npz', '--criterion', 'fg', '--output', 'e.tsv', program='blender.py'
    )
    assert done.returncode == 0, done.stderr
    with open(dataset.parent / 'e.tsv', newline='') as f:
        weights = {row[0]: float(row[1]) for row in csv.reader(f, delimiter='\t') if not row[0].startswith('#')}
    assert next(weight for name, weight in weights.items() if 'out' in name) > 0


# == Bad input ==


HEADER = 'file,start,end,class,score'


@pytest.mark.parametrize(
    'lines, message',
    [
        ([''], "no column for the score, such as 'Confidence'; its columns are missing"),
        ([HEADER], 'table.csv: no scores; expected a table with at least one row'),
        ([HEADER, f'{DAY},0,3,amered,high'], "table.csv, line 2: the score is 'high', not a number"),
        ([HEADER, f'{DAY},0,3,amered,nan'], "table.csv, line 2: the score is 'nan', not a number"),
        ([HEADER, f'{DAY},0,3,amered,'], "table.csv, line 2: the score is '', not a number"),
        ([HEADER, f'{DAY},0,3,amered,0.5', '', f'{DAY},3,0,amered,0.5'], 'line 4: a detection from 3 to 0 s is not'),
        ([HEADER, ',0,3,amered,0.5'], 'table.csv, line 2: no file'),
        ([HEADER, f'{DAY},0,3,a,b,c,0.5'], 'table.csv, line 2: more fields than columns'),
        ([HEADER, f'{DAY},0,3,amered,7'], 'table.csv, line 2: the score 7 is no probability; give --logits if'),
        ([HEADER, f'{DAY},0,3,Human,0.5'], 'table.csv: no name is a class of the dataset: Human (1)'),
        ([HEADER, 'none.wav,0,3,amered,0.5'], 'none of 1 files, such as none.wav, is a recording of list valid'),
        ([HEADER, f'none.wav,0,3,amered,0.5\n{DAY},0,3,Human,1'], 'no score is of a class of the dataset and a rec'),
        (['file,start,class,score', f'{DAY},0,amered,0.5'], 'or give the duration of its windows with --seconds'),
        (['file,start,end,class'], 'table.csv: no column for the score'),
        (['amered,norcar', '1,2'], 'table.csv: neither a table of detections nor one with a column per class'),
        (['row_id,amered', f'{DAY},0.5'], "table.csv, line 2: the end in row_id is 'siteB/day.wav', not a number"),
        (['file,class,score', f'{DAY},"' + 'x' * 200_000], 'table.csv, line '),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(lines, message, dataset):
    table(dataset, *lines)
    refused(dataset, message)


@pytest.mark.parametrize(
    'args, message',
    [
        (['--column', 'class'], '--column class=: expected ROLE=NAME; roles: file, start, end, class, score'),
        (['--column', 'bird=x'], '--column bird=x: expected ROLE=NAME'),
        (['--seconds', '0'], '--seconds=0: expected the length of windows'),
        (['--floor', '2'], '--floor=2: expected a probability'),
        (['--floor', 'nan', '--logits'], '--floor=nan: expected a number'),
        (['--windows', 'untimed.pred.npz'], 'untimed.pred.npz: several rows of a recording, but without times'),
        (['--windows', 'none.pred.npz'], 'none.pred.npz: no such file'),
        (['--filelist', 'none'], 'none: no such file'),
    ],
)
def test_options_that_are_not_possible_are_refused(args, message, dataset):
    table(dataset, HEADER, f'{DAY},0,3,amered,0.5')
    predictions.save(dataset.parent / 'untimed.pred.npz', FILES, np.zeros((6, 3)), OFFSETS)
    refused(dataset, message, *args)


@pytest.mark.parametrize('name', ['none.csv', 'none.parquet'])
def test_a_missing_table_is_refused(name, dataset):
    if name.endswith('.parquet'):
        pytest.importorskip('pyarrow')
    refused(dataset, f'{name}: no such file', tables=[name])


def test_a_damaged_parquet_table_is_refused(dataset):
    pytest.importorskip('pyarrow')
    table(dataset, 'PAR1', name='x.parquet')
    refused(dataset, 'x.parquet: not a Parquet table', tables=['x.parquet'])
