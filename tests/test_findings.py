"""findings.py: tables of detections, read back by independent code, and the summary per species and day."""

import collections
import csv
import datetime
import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from birdsong.files import Problem
from birdsong.findings import calibration, formats
from birdsong.findings.circumstances import Circumstances, time_zone
from birdsong.findings.summary import Summary
from birdsong.scores import predictions
from helpers import ROOT, run_scores, wav_bytes, write_lines
from shared import selections
from shared.report import Report

CLASSES = ['amered', 'norcar', '=sum;1']
LATIN = ['Setophaga ruticilla', 'Cardinalis "cardinalis"', '']
COMMON = ['American Redstart', 'Northern; Cardinal, red', '']
# A recording over midnight, one with odd characters in its name, and one about which nothing is known.
NIGHT, ODD, PLAIN = 'x/night.wav', '=a,b;"c"\'d.wav', 'y/plain.wav'
FILES = [NIGHT, ODD, PLAIN]
META = [
    f'{NIGHT}\t2024-12-31\t23:59:57\t45.5\t-73.25\t10',
    f'{ODD}\t2024-12-31\t06:00:00\t\t\t',
]
SCORES = {
    NIGHT: [[0.9, 0.1, 0.2], [0.6, 0.7, 0.2]],
    ODD: [[0.125, 0.25, 0.75]],
    PLAIN: [[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]],
}
BIRDNET = ['Start (s)', 'End (s)', 'Scientific name', 'Common name', 'Confidence', 'File']
OWN = ['Class', 'Score', 'Probability', 'Date', 'Time', 'Time zone', 'lat', 'lon', 'Model']


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / 'set'
    write_lines(folder / 'filelists/test', FILES)
    write_lines(folder / 'labels/labelset', CLASSES)
    write_lines(folder / 'labels/labelset_latin', LATIN)
    write_lines(folder / 'labels/labelset_common', COMMON)
    write_lines(folder / 'labels/meta.tsv', META)
    save(folder)
    return folder


def save(dataset, scores=None, name='net.pred.npz', seconds=5.0, times=True):
    scores = SCORES if scores is None else scores
    starts = np.concatenate([np.arange(len(rows)) * seconds for rows in scores.values()])
    both = (starts, starts + seconds) if times else (None, None)
    rows = [np.array(rows, np.float32) for rows in scores.values()]
    offsets = np.concatenate([[0], np.cumsum(list(map(len, rows)))])
    predictions.save(dataset.parent / name, list(scores), np.concatenate(rows), offsets, *both)


def run(dataset, *args, infiles=('net.pred.npz',)):
    return run_scores(dataset, *infiles, *args, program='findings.py')


def written(dataset, *args, infiles=('net.pred.npz',)):
    """Rows of the CSV table, read by the module csv."""
    done = run(dataset, '--output', 'out.csv', *args, infiles=infiles)
    assert done.returncode == 0, done.stderr
    with open(dataset.parent / 'out.csv', encoding='utf-8', newline='') as f:
        return list(csv.DictReader(f))


def brief(rows):
    return [(row['File'], float(row['Start (s)']), row['Class'], float(row['Confidence'])) for row in rows]


def refused(dataset, message, *args, infiles=('net.pred.npz',), output='out'):
    done = run(dataset, '--output', output, *args, infiles=infiles)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith('findings.py: '), done.stderr
    assert message in done.stderr
    assert not list(dataset.parent.glob('out*/*')) and not (dataset.parent / 'out.csv').exists()


# == Formats ==


def test_the_csv_has_the_columns_of_birdnet_analyzer_and_provenance(dataset):
    rows = written(dataset)
    assert list(rows[0]) == BIRDNET + OWN
    assert rows[0] == {
        'Start (s)': '0.0',
        'End (s)': '5.0',
        'Scientific name': 'Setophaga ruticilla',
        'Common name': 'American Redstart',
        'Confidence': '0.9000',
        'File': NIGHT,
        'Class': 'amered',
        'Score': '0.9',
        'Probability': '',
        'Date': '2024-12-31',
        'Time': '23:59:57',
        'Time zone': '',
        'lat': '45.5',
        'lon': '-73.25',
        'Model': 'net',
    }
    assert brief(rows)[1:] == [(NIGHT, 5, 'norcar', 0.7), (NIGHT, 5, 'amered', 0.6), ('./' + ODD, 0, "'=sum;1", 0.75)]
    assert (rows[1]['Date'], rows[1]['Time']) == ('2025-01-01', '00:00:02')
    assert rows[1]['Scientific name'] == LATIN[1] and rows[1]['Common name'] == COMMON[1]


def test_a_script_for_birdnet_results_reads_the_csv(dataset):
    """As in scripts that pool the results of a folder: species with a confidence of at least 0.65, per file."""
    written(dataset)
    species = collections.Counter()
    lines = (dataset.parent / 'out.csv').read_text().splitlines()
    header = lines[0].split(',')
    places = [header.index(name) for name in ('Common name', 'Confidence', 'File')]
    for fields in csv.reader(lines[1:]):
        name, confidence, file = (fields[i] for i in places)
        if float(confidence) >= 0.65:
            species[file.rsplit('/', 1)[-1], name] += 1
    assert sorted(species.values()) == [1, 1, 1] and ('night.wav', 'American Redstart') in species


def test_no_cell_of_a_csv_is_a_formula_and_our_reader_returns_the_names(dataset):
    done = run(dataset, '--output', 'out', '--format', 'csv,kaleidoscope', '--threshold', '0')
    assert done.returncode == 0, done.stderr
    for name in 'findings.csv', 'kaleidoscope.csv', 'summary.csv':
        with open(dataset.parent / 'out' / name, newline='') as f:
            cells = [cell for row in csv.reader(f) for cell in row]
        assert not [cell for cell in cells if cell[:1] in tuple('=+@\t\r') or cell[:1] == '-' and not number(cell)]
    rows = list(formats.read(str(dataset.parent / 'out/findings.csv')))
    assert {row.file for row in rows} == set(FILES) and {row.class_id for row in rows} == set(CLASSES)
    assert {row.scientific_name for row in rows} == {*LATIN[:2], CLASSES[2]}


def number(text):
    try:
        return float(text) is not None
    except ValueError:
        return False


def test_raven_tables_contain_one_recording_each(dataset):
    done = run(dataset, '--output', 'out', '--format', 'raven')
    assert done.returncode == 0, done.stderr
    folder = dataset.parent / 'out/raven'
    text = (folder / 'x/night.selections.txt').read_text()
    assert text.splitlines()[0] == (
        'Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tCommon Name\t'
        'Scientific Name\tSpecies Code\tConfidence\tBegin Path\tFile Offset (s)'
    )
    rows = list(csv.DictReader(io.StringIO(text), delimiter='\t', quoting=csv.QUOTE_NONE))
    assert [(r['Selection'], r['Begin Time (s)'], r['File Offset (s)'], r['End Time (s)']) for r in rows] == [
        ('1', '0.0', '0.0', '5.0'),
        ('2', '5.0', '5.0', '10.0'),
        ('3', '5.0', '5.0', '10.0'),
    ]
    assert rows[1]['Scientific Name'] == LATIN[1] and rows[1]['Species Code'] == 'norcar'
    assert rows[0]['Begin Path'] == str(dataset / 'audio' / NIGHT) and rows[0]['High Freq (Hz)'] == '11025'
    assert len((folder / 'y/plain.selections.txt').read_text().splitlines()) == 1


def test_tables_of_raven_and_audacity_can_be_read_as_annotations(dataset):
    """By the module with which annotations beside recordings become a dataset."""
    assert run(dataset, '--output', 'out', '--format', 'raven,audacity').returncode == 0
    table, track = (dataset.parent / 'out' / name for name in ('raven/x/night.selections.txt', 'audacity/x/night.txt'))
    assert selections.kind_of(str(table)) == selections.SELECTIONS
    assert selections.kind_of(str(track)) == selections.LABEL_TRACK
    found, complete = selections.read_selections(str(table), 'night', Report())
    assert complete
    assert [(s.start, s.end, s.label) for s in found] == [(0, 5, 'amered'), (5, 10, 'norcar'), (5, 10, 'amered')]
    assert found[0].names == ('Setophaga ruticilla', 'American Redstart')


def test_audacity_labels_have_a_time_names_and_confidence(dataset):
    assert run(dataset, '--output', 'out', '--format', 'audacity').returncode == 0
    rows = [line.split('\t') for line in (dataset.parent / 'out/audacity/x/night.txt').read_text().splitlines()]
    assert rows[0] == ['0.0', '5.0', 'Setophaga ruticilla, American Redstart', '0.9000'] and len(rows) == 3
    odd = (dataset.parent / 'out/audacity' / ODD.replace('.wav', '.txt')).read_text()
    assert odd == '0.0\t5.0\t=sum;1\t0.7500\n'
    assert (dataset.parent / 'out/audacity/y/plain.txt').read_text() == ''


def test_kaleidoscope_has_a_row_per_detection(dataset):
    assert run(dataset, '--output', 'out.csv', '--format', 'kaleidoscope', '--merge', '0').returncode == 0
    text = (dataset.parent / 'out.csv').read_text()
    assert text.splitlines()[0] == 'INDIR,FOLDER,IN FILE,OFFSET,DURATION,TOP1MATCH'
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[0] == {
        'INDIR': str(dataset / 'audio'),
        'FOLDER': 'x',
        'IN FILE': 'night.wav',
        'OFFSET': '0.0',
        'DURATION': '10.0',
        'TOP1MATCH': 'Setophaga ruticilla',
    }
    assert (rows[1]['OFFSET'], rows[1]['DURATION']) == ('5.0', '5.0')
    assert len(rows) == 3 and rows[2]['IN FILE'] == './' + ODD


def test_parquet_has_the_columns_of_the_csv_with_types(dataset):
    parquet = pytest.importorskip('pyarrow.parquet')
    done = run(dataset, '--output', 'out', '--format', 'csv,parquet')
    assert done.returncode == 0, done.stderr
    table = parquet.read_table(dataset.parent / 'out/findings.parquet')
    assert table.column_names == BIRDNET + OWN
    rows = table.to_pylist()
    assert rows[0]['lat'] == 45.5 and rows[0]['Probability'] is None and rows[0]['Time zone'] is None
    assert rows[3]['File'] == ODD and rows[3]['Class'] == '=sum;1' and rows[3]['lat'] is None
    for one, two in zip(
        *(formats.read(str(dataset.parent / f'out/findings.{s}')) for s in ('csv', 'parquet')), strict=True
    ):
        assert one._replace(confidence=0, score=0) == two._replace(confidence=0, score=0)
        assert one.score == pytest.approx(two.score, rel=1e-6)


def test_a_parquet_table_without_detections_can_be_read(dataset):
    pytest.importorskip('pyarrow')
    assert run(dataset, '--output', 'out.parquet', '--format', 'parquet', '--threshold', '2').returncode == 0
    assert list(formats.read(str(dataset.parent / 'out.parquet'))) == []


def test_without_pyarrow_parquet_names_the_command_to_install_it(dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    refused(dataset, 'type: pip install pyarrow', '--format', 'csv,parquet')


# Names are lines of text files.
texts = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\r\n'), max_size=8)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=4), path=texts)
def test_the_csv_keeps_any_name(tmp_path, names, path):
    found = [
        formats.Finding(0, 1.5, s, c, 0.5, 'a/' + path, i, 0.25, None, '', '', '', None, 0, c) for i, s, c in names
    ]
    with formats.writer('csv', str(tmp_path / 'a.csv'), '/x', 1) as add:
        add('a/' + path, found)
    assert list(formats.read(str(tmp_path / 'a.csv'))) == found


@given(texts, st.sampled_from(["'", './']))
def test_guarding_is_undone(text, prefix):
    guarded = formats.guarded(text, prefix)
    assert guarded[:1] not in ('=', '+', '-', '@', '\t', '\r') or not guarded
    assert formats.unguarded(guarded, prefix) == text


@pytest.mark.parametrize(
    'text, message',
    [
        ('', "no column 'Start (s)'"),
        ('Start (s),End (s)\n0,5\n', "no column 'Scientific name'"),
        (','.join(BIRDNET + OWN) + '\n0,x,a,b,1,f,c,1,,,,,,,m\n', "row 2: 'x' is no number"),
        (','.join(BIRDNET + OWN) + '\n0\n', "row 2: '' is no number"),
        (','.join(BIRDNET + OWN) + '\n0,inf,a,b,1,f,c,1,,,,,,,m\n', "row 2: 'inf' is no number"),
        ('"', 'not a CSV file'),
    ],
)
def test_tables_of_others_are_refused(tmp_path, text, message):
    (tmp_path / 'a.csv').write_text(text)
    with pytest.raises(Problem, match='a.csv.*') as error:
        list(formats.read(str(tmp_path / 'a.csv')))
    assert message in str(error.value)


def test_tables_change_only_when_all_are_complete(dataset):
    save(dataset, SCORES | {'../evil.wav': [[0.9, 0, 0]]}, 'evil.pred.npz')
    assert run(dataset, '--output', 'out', '--format', 'csv,raven').returncode == 0
    before = {path: path.read_bytes() for path in (dataset.parent / 'out').rglob('*.*') if path.is_file()}
    done = run(dataset, '--output', 'out', '--format', 'csv,raven', '--threshold=0', infiles=['evil.pred.npz'])
    assert done.returncode == 1 and '../evil.wav: no path below a folder' in done.stderr
    assert {path: path.read_bytes() for path in (dataset.parent / 'out').rglob('*.*') if path.is_file()} == before
    assert not list(dataset.parent.rglob('*.part')) and not list(dataset.parent.rglob('evil*.txt'))


# == What counts as a detection ==


def test_a_table_of_thresholds(dataset):
    rows = ['class,note,threshold', 'Setophaga ruticilla,,0.8', '*,"rest",0.65']
    write_lines(dataset.parent / 'limits.csv', rows)
    assert brief(written(dataset, '--threshold', 'limits.csv')) == [
        (NIGHT, 0, 'amered', 0.9),
        (NIGHT, 5, 'norcar', 0.7),
        ('./' + ODD, 0, "'=sum;1", 0.75),
    ]
    write_lines(dataset.parent / 'limits.csv', [*rows[:2], 'norcar,,'])
    done = run(dataset, '--output', 'out.csv', '--threshold', 'limits.csv')
    assert 'note: limits.csv: no threshold for 2 of 3 classes, which are not reported' in done.stderr
    assert '1 detections of 1 classes in 1 of 3 recordings' in done.stderr


@pytest.mark.parametrize(
    'rows, message',
    [
        (['class,threshold', 'amerde,0.5'], "limits.csv, row 2: 'amerde' is no class of the dataset; did you mean"),
        (['class,threshold', 'amered,high'], "limits.csv, row 2: 'high' is no number"),
        (['class,threshold', 'amered,1', 'American Redstart,1'], 'row 3: American Redstart has an earlier row'),
        (['species,threshold'], 'limits.csv: no columns class,threshold in its first row'),
        ([], 'limits.csv: no columns'),
    ],
)
def test_wrong_tables_of_thresholds(dataset, rows, message):
    write_lines(dataset.parent / 'limits.csv', rows)
    refused(dataset, message, '--threshold', 'limits.csv')


def test_only_some_classes_by_any_of_their_names(dataset):
    assert {row['Class'] for row in written(dataset, '--classes', 'NORCAR,=sum;1')} == {'norcar', "'=sum;1"}
    write_lines(dataset.parent / 'wanted', ['# of the survey', COMMON[1], ''])
    assert {row['Class'] for row in written(dataset, '--classes', 'wanted')} == {'norcar'}


def test_a_name_that_several_classes_have_is_refused(dataset):
    write_lines(dataset / 'labels/labelset_common', ['Robin', 'robin', 'Wren'])
    refused(dataset, "'ROBIN' is the name of several classes; give one of their ids: amered, norcar", '--classes=ROBIN')


def test_top_and_merging_and_duration_and_smoothing(dataset):
    assert len(written(dataset, '--threshold=0', '--top=2')) == 6
    assert brief(written(dataset, '--merge=0', '--min-duration=6')) == [(NIGHT, 0, 'amered', 0.9)]
    assert brief(written(dataset, '--smooth=3', '--classes=amered')) == [
        (NIGHT, 0, 'amered', 0.75),
        (NIGHT, 5, 'amered', 0.75),
    ]


def test_only_recordings_of_a_list(dataset):
    write_lines(dataset / 'filelists/odd', [ODD])
    assert {row['File'] for row in written(dataset, '--filelist=odd')} == {'./' + ODD}


def test_several_predictions_are_combined_as_by_eval(dataset):
    save(dataset, {key: 1 - np.array(rows) for key, rows in SCORES.items()}, 'other.pred.npz')
    rows = written(dataset, '--threshold=-1', infiles=['net.pred.npz:1.5', 'other.pred.npz:0.5'])
    first = [float(row['Score']) for row in rows if row['File'] == NIGHT and row['Start (s)'] == '0.0']
    assert sorted(first) == pytest.approx(sorted(np.array(SCORES[NIGHT][0]) / 2 + 0.25))
    assert rows[0]['Model'] == 'net:1.5+other:0.5'


def test_one_row_of_metadata_networks_counts_for_all_windows(dataset):
    save(dataset, {key: np.zeros((1, 3)) for key in reversed(FILES)}, 'meta.pred.npz', times=False)
    rows = written(dataset, '--threshold=0.34', infiles=['net.pred.npz', 'meta.pred.npz'])
    assert brief(rows) == [(NIGHT, 0, 'amered', 0.45), (NIGHT, 5, 'norcar', 0.35), ('./' + ODD, 0, "'=sum;1", 0.375)]


def test_logits_become_outputs_first(dataset):
    logits = {NIGHT: [[2.0, 1.0, -4.0], [0.0, 0.0, 0.0]]}
    save(dataset, logits, 'logits.pred.npz')
    outputs = np.exp(logits[NIGHT]) / np.exp(logits[NIGHT]).sum(axis=1, keepdims=True)
    found = [row['Score'] for row in written(dataset, '--softmax', '--threshold=-1', infiles=['logits.pred.npz'])]
    assert list(map(float, found)) == pytest.approx(-np.sort(-outputs, axis=1).ravel(), abs=1e-6)
    rows = written(dataset, '--sigmoid', infiles=['logits.pred.npz'])
    assert [float(row['Score']) for row in rows[:2]] == pytest.approx([0.8807971, 0.7310586], abs=1e-6)


def test_calibrated_predictions_have_probabilities_and_their_thresholds(dataset):
    ids = CLASSES
    curves = calibration.Calibration(ids, np.ones(3), np.array([0, np.log(3), 0]), calibration.OUTPUTS)
    curves.save(dataset.parent / 'curves.json')
    rows = written(dataset, '--calibration=curves.json', '--threshold=0.7')
    assert [(row['Score'], row['Probability'], row['Confidence']) for row in rows] == [
        ('0.9', '0.9', '0.9000'),
        ('0.7', '0.875', '0.8750'),
        ('0.75', '0.75', '0.7500'),
    ]
    # those of calibrate.py are outputs, of which the second one is lower than its probability
    curves.thresholds = np.array([0.65, 0.8, np.nan])
    curves.save(dataset.parent / 'curves.json')
    done = run(dataset, '--output', 'out.csv', '--calibration=curves.json')
    assert 'note: curves.json: no threshold for 1 of 3 classes' in done.stderr
    assert '1 detections of 1 classes' in done.stderr
    done = run(dataset, '--output', 'new', '--calibration=curves.json', '--softmax')
    assert done.returncode == 1 and 'curves.json: fitted to scores of another kind' in done.stderr


# == Times and places ==


def test_times_with_a_zone_are_used_and_converted(dataset):
    head = 'key\tsource\tpart\tdate\ttime\n'
    rows = [f'{NIGHT}\tin/night.flac\ttest\t20250330\t00:59:57Z', f'{ODD}\t\ttest\t2024-07-01T01:00:00+02:00\t']
    (dataset / 'recordings.tsv').write_text(head + '\n'.join(rows) + '\n')
    found = [(row['Date'], row['Time'], row['Time zone']) for row in written(dataset)]
    assert found[0] == ('2025-03-30', '00:59:57', 'UTC') and found[3] == ('2024-07-01', '01:00:00', '+02:00')
    # the clocks are set forward in the second window
    found = [(row['Date'], row['Time'], row['Time zone']) for row in written(dataset, '--timezone', 'Europe/Berlin')]
    assert found[0] == ('2025-03-30', '01:59:57', '+01:00') and found[1] == ('2025-03-30', '03:00:02', '+02:00')


def test_a_given_zone_is_that_of_local_times(dataset):
    rows = written(dataset, '--timezone=-05:00')
    assert [row['Time zone'] for row in rows] == ['-05:00'] * 4 and rows[0]['Time'] == '23:59:57'


def test_what_is_known_of_date_and_time_is_written(dataset):
    write_lines(dataset / 'labels/meta.tsv', [f'{NIGHT}\t\t23:59:58\t\t\t', f'{ODD}\t2024-02-30\t\t91.5\tx\t'])
    rows = written(dataset)
    assert {(row['lat'], row['lon']) for row in rows} == {('', '')}
    assert [(row['Date'], row['Time']) for row in rows] == [
        ('', '23:59:58'),
        ('', '00:00:03'),
        ('', '00:00:03'),
        ('', ''),
    ]


def test_files_can_be_named_as_in_the_source(dataset):
    (dataset / 'recordings.tsv').write_text(f'key\tsource\tpart\n{NIGHT}\tin/night.flac\ttest\n')
    done = run(dataset, '--output', 'out', '--format=csv,raven', '--source=/data')
    assert done.returncode == 0, done.stderr
    with open(dataset.parent / 'out/findings.csv', newline='') as f:
        assert next(csv.DictReader(f))['File'] == 'in/night.flac'
    table = (dataset.parent / 'out/raven/in/night.flac.selections.txt').read_text()
    assert '\t/data/in/night.flac\t' in table


def test_recordings_of_one_row_without_times_last_as_long_as_their_file(dataset):
    (dataset / 'audio/x').mkdir(parents=True)
    (dataset / 'audio' / NIGHT).write_bytes(wav_bytes(np.zeros(22050 * 2, '<i2')))
    save(dataset, {NIGHT: [[0.9, 0, 0]]}, 'single.pred.npz', times=False)
    rows = written(dataset, infiles=['single.pred.npz'])
    assert [(row['Start (s)'], row['End (s)']) for row in rows] == [('0.0', '2.0')]


# == Summary ==


def summary(dataset, *args, scores=None, **kwargs):
    save(dataset, scores, 'sum.pred.npz', **kwargs)
    done = run(dataset, '--output', 'out', *args, infiles=['sum.pred.npz'])
    assert done.returncode == 0, done.stderr
    with open(dataset.parent / 'out/summary.csv', newline='') as f:
        rows = list(csv.DictReader(f))
    return {(row['Date'], row['Class']): (row['Detections'], row['First'], row['Last'], row['Hours']) for row in rows}


def test_the_summary_counts_per_species_and_day_with_the_hours_of_the_day(dataset):
    found = summary(dataset, seconds=3600.0)
    # the first recording lasts 3 s of one day and 1:59:57 of the next, the second and the third one and two hours
    assert found == {
        ('', 'amered'): ('0', '', '', '2.000000'),
        ('', 'norcar'): ('0', '', '', '2.000000'),
        ('', "'=sum;1"): ('0', '', '', '2.000000'),
        ('2024-12-31', 'amered'): ('1', '23:59:57', '23:59:57', '1.000833'),
        ('2024-12-31', 'norcar'): ('0', '', '', '1.000833'),
        ('2024-12-31', "'=sum;1"): ('1', '06:00:00', '06:00:00', '1.000833'),
        ('2025-01-01', 'amered'): ('1', '00:59:57', '00:59:57', '1.999167'),
        ('2025-01-01', 'norcar'): ('1', '00:59:57', '00:59:57', '1.999167'),
        ('2025-01-01', "'=sum;1"): ('0', '', '', '1.999167'),
    }


def test_the_first_and_last_time_of_a_day_are_those_of_all_recordings(dataset):
    write_lines(
        dataset / 'labels/meta.tsv',
        [f'{key}\t2024-05-01\t0{t}:00:00\t\t\t' for key, t in zip(FILES, '726', strict=True)],
    )
    found = summary(dataset, scores={key: [[0.9, 0, 0]] for key in FILES})
    assert found == {('2024-05-01', 'amered'): ('3', '02:00:00', '07:00:00', '0.004167')}


def test_days_without_any_detection_keep_their_hours(dataset):
    found = summary(dataset, '--threshold=2', scores={NIGHT: SCORES[NIGHT]}, seconds=1800.0)
    assert found == {('2024-12-31', ''): ('0', '', '', '0.000833'), ('2025-01-01', ''): ('0', '', '', '0.999167')}


def test_tables_and_summaries_of_parts_can_be_put_together(dataset):
    for part in FILES:
        write_lines(dataset / 'filelists/part', [part])
        assert run(dataset, '--output', f'out{FILES.index(part)}', '--filelist=part').returncode == 0
    assert run(dataset, '--output', 'out').returncode == 0
    total = Summary()
    with formats.writer('csv', str(dataset.parent / 'all.csv'), '', 0) as add:
        for i in range(3):
            total.add_file(str(dataset.parent / f'out{i}/summary.csv'))
            for file, found in formats.read_recordings(str(dataset.parent / f'out{i}/findings.csv')):
                add(file, found)
    total.write(str(dataset.parent / 'sum.csv'))
    assert (dataset.parent / 'all.csv').read_text() == (dataset.parent / 'out/findings.csv').read_text()
    assert (dataset.parent / 'sum.csv').read_text() == (dataset.parent / 'out/summary.csv').read_text()


def test_other_tables_are_no_summaries(dataset):
    with pytest.raises(Problem, match='labelset: not a summary'):
        Summary().add_file(str(dataset / 'labels/labelset'))


def test_overlapping_windows_are_listened_to_once(dataset):
    rows = {NIGHT: [[0.9, 0, 0]] * 7}
    starts = np.arange(7) * 100.0
    predictions.save(dataset.parent / 'o.pred.npz', [NIGHT], np.array(rows[NIGHT]), [0, 7], starts, starts + 120)
    assert run(dataset, '--output', 'out', infiles=['o.pred.npz']).returncode == 0
    with open(dataset.parent / 'out/summary.csv', newline='') as f:
        hours = {row['Date']: float(row['Hours']) for row in csv.DictReader(f)}
    assert hours == pytest.approx({'2024-12-31': 3 / 3600, '2025-01-01': 717 / 3600}, abs=1e-4)


def test_a_day_on_which_clocks_change_has_the_hours_that_it_has(dataset):
    write_lines(dataset / 'labels/meta.tsv', [f'{NIGHT}\t2025-03-30\t00:00:00\t\t\t'])
    found = summary(dataset, '--timezone=Europe/Berlin', scores={NIGHT: [[0.9, 0, 0]] * 24}, seconds=3600.0)
    assert {key[0]: value[3] for key, value in found.items()} == {'2025-03-30': '23.000000', '2025-03-31': '1.000000'}


@settings(deadline=None, max_examples=40)
@given(
    st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2030, 1, 1)),
    st.floats(1, 3e5),
    st.sampled_from([None, 'UTC', '+05:30', 'America/New_York', 'Australia/Lord_Howe']),
)
def test_the_hours_of_all_days_add_up(start, seconds, zone):
    summary = Summary()
    when = Circumstances(start.date(), start.time(), time_zone(zone) if zone else None)
    summary.add([], [(0.0, seconds)], when)
    assert sum(summary.hours.values()) * 3600 == pytest.approx(seconds, abs=2e-3)
    assert all(0 < hours <= 25 for hours in summary.hours.values())


# == Bad input ==


def test_findings_need_no_torch():
    code = "import sys; sys.modules['torch'] = None; import findings"
    subprocess.run([sys.executable, '-c', code], cwd=ROOT / 'experiments', check=True)


@pytest.mark.parametrize(
    'args, message',
    [
        (['--smooth=2'], '--smooth=2: give an odd number'),
        (['--merge=-1'], '--merge=-1: give a gap'),
        (['--merge=nan'], '--merge=nan'),
        (['--min-duration=inf'], '--min-duration=inf'),
        (['--top=0'], '--top=0: at least 1'),
        (['--format=csv,excel'], '--format=excel: not one of csv, raven'),
        (['--timezone=Mars/Base'], '--timezone=Mars/Base: no such time zone'),
        (['--timezone=../../etc/passwd'], 'no such time zone'),
        (['--classes=amered,robin'], "--classes=amered,robin: 'robin' is no class"),
        (['--classes=,'], '--classes=,: no class'),
        (['--threshold=none'], '--threshold=none: neither a number nor a file'),
        (['--threshold=nan'], '--threshold=nan: give a number'),
        (['--calibration=none.json'], 'none.json: no such file'),
        (['--filelist=none'], 'filelists/none: no such file'),
        (['--format=csv,raven', '--output=out.csv'], 'a file for csv or kaleidoscope only'),
    ],
)
def test_options_that_are_not_possible(dataset, args, message):
    refused(dataset, message, *args)


def test_predictions_that_are_not_possible(dataset):
    save(dataset, {NIGHT: [[3.0, -1, 0]]}, 'logits.pred.npz')
    refused(dataset, 'no probabilities', infiles=['logits.pred.npz'])
    save(dataset, {NIGHT: [[0.9, 0.1, 0]] * 2}, 'untimed.pred.npz', times=False)
    refused(dataset, '2 rows without times', infiles=['untimed.pred.npz'])
    save(dataset, {NIGHT: [[0.9, 0.1, 0]]}, 'single.pred.npz', times=False)
    refused(dataset, 'no recordings that tell how long', infiles=['single.pred.npz'])
    save(dataset, {NIGHT: [[0.9, 0.1, 0]]}, 'few.pred.npz')
    refused(dataset, '2 of 3 recordings are missing', infiles=['net.pred.npz', 'few.pred.npz'])
    refused(dataset, 'none.pred.npz: no such file', infiles=['none.pred.npz'])
