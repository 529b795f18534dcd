"""The layout of BirdCLEF on Kaggle: recordings, classes, metadata and labels with times, from 2021 to 2026."""

import datetime
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kaggle_trees
import layouts
from birdsong.files import Problem
from helpers import SHARED
from kaggle_trees import Clip, Soundscape
from layouts import kaggle
from shared import recorder_names
from shared.recordings import Segment
from shared.source import Source

HEADER = 'primary_label,filename'


@pytest.fixture
def file(tmp_path):
    """Make an empty file that stands for a recording."""

    def make(name):
        path = tmp_path / 'files' / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    return make


@pytest.fixture
def tree(tmp_path):
    """Make a source folder from the text of tables, and of empty files."""

    def make(*files, **tables):
        folder = tmp_path / 'source'
        for path in files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
        folder.mkdir(exist_ok=True)
        for name, text in tables.items():
            (folder / f'{name}.csv').write_bytes(text if isinstance(text, bytes) else text.encode())
        return Source(str(folder))

    return make


def by_source(source):
    return {row.source: row for row in kaggle.rows(source)}


def clips(file):
    common = {'latitude': '4.5', 'longitude': '-74.1', 'date': '2020-05-06', 'time': '06:30', 'author': 'A. Nyone'}
    return [
        Clip(file('XC12.ogg'), 'amered', 'Setophaga ruticilla', 'American Redstart', ('norcar',), **common),
        Clip(file('XC13.ogg'), '01', 'Genus one', 'First', recording='99', rating='0', **common),
        Clip(file('iNat77.ogg'), '1', 'Genus two', 'Second', rating='2.5', licence='cc-by-nc-nd 4.0', **common),
        Clip(file('a.ogg'), '47158son01', 'Genus three', 'Third', **common),
    ]


@pytest.mark.parametrize('year', [2021, 2022, 2023, 2024, 2025, 2026])
def test_recordings_of_each_year(file, tmp_path, year):
    kaggle_trees.write(tmp_path / 'source', year, clips(file))
    source = Source(str(tmp_path / 'source'))
    name, why = layouts.recognise(source)
    assert name == 'kaggle' and why.endswith('has the columns primary_label and filename')
    found = by_source(source)
    folder = 'train_short_audio' if year == 2021 else 'train_audio'
    one = found[f'{folder}/amered/XC12.ogg']
    assert sorted(found) == sorted(source.recordings())
    assert {row.part for row in found.values()} == {'train'}
    assert (one.class_id, one.scientific_name, one.common_name) == (
        'amered',
        'Setophaga ruticilla',
        'American Redstart',
    )
    assert (one.background, one.recordist, one.quality) == (['norcar'], 'A. Nyone', 'A')
    assert (one.latitude, one.longitude, one.recording) == ('4.5', '-74.1', 'XC12')
    assert one.date == ('2020-05-06' if year == 2021 else '')
    assert one.time == ('06:30' if year in (2021, 2022) else '')
    others = [found[f'{folder}/{path}'] for path in ('01/XC13.ogg', '1/iNat77.ogg', '47158son01/a.ogg')]
    assert [row.class_id for row in others] == ['01', '1', '47158son01']
    assert [row.recording for row in others] == ['XC99', 'iNat77', '']
    assert [row.quality for row in others] == ['', 'C', 'A']
    assert others[1].licence == 'cc-by-nc-nd 4.0'


def test_real_metadata_of_2022():
    path = SHARED / 'data' / 'metadata' / 'birdclef2022_train_metadata.csv'
    if not path.exists():
        pytest.skip(f'needs {path}')
    source = Source(str(path))
    assert layouts.recognise(source)[0] == 'kaggle'
    found = by_source(source)
    assert len(found) == 14_894 and len({row.class_id for row in found.values()}) == 152
    row = found['train_audio/afrsil1/XC175522.ogg']
    assert (row.background, row.recording, row.time) == (['houspa', 'redava', 'zebdov'], 'XC175522', '08:30')
    unknown = found['train_audio/akiapo/XC713870.mp3']
    assert (unknown.latitude, unknown.recordist, unknown.quality, unknown.recording) == ('', '', '', 'XC713870')


@pytest.mark.parametrize(
    'rating, quality',
    [('5.0', 'A'), ('4.5', 'A'), ('4', 'B'), ('3.5', 'B'), ('3', 'C'), ('2', 'D'), ('1', 'E'), ('0.5', 'E')]
    + [(unknown, '') for unknown in ('0.0', '', 'nan', 'x', '6', '-1', 'inf')],
)
def test_qualities_of_ratings(tree, rating, quality):
    (row,) = kaggle.rows(tree(train=f'{HEADER},rating\na,a/1.ogg,{rating}\n'))
    assert row.quality == quality


@pytest.mark.parametrize(
    'text, labels',
    [
        ("['b', 'c']", ['b', 'c']),
        ("['']", []),
        ("['b', '', 'b', 'a', 'nocall']", ['b']),
        ('[]', []),
        ('', []),
        ('nan', []),
        ("['01', '1']", ['01', '1']),
    ],
)
def test_secondary_labels(tree, text, labels):
    source = tree(train=f'{HEADER},secondary_labels\na,a/1.ogg,"{text}"\n')
    assert [row.background for row in kaggle.rows(source)] == [labels]
    assert source.report.lines() == []


@pytest.mark.parametrize('text', ["['b', 'c'", "__import__('os')", "['b']]", '[' * 300])
def test_damaged_secondary_labels_are_reported_and_the_recording_is_kept(tree, text):
    source = tree(train=f'{HEADER},secondary_labels\na,a/1.ogg,"{text}"\n')
    assert [row.class_id for row in kaggle.rows(source)] == ['a']
    (note,) = source.report.lines()
    assert note == 'damaged lists of secondary labels: 1, such as train_audio/a/1.ogg; what could be read is used'


def test_rows_of_the_same_file_are_one_recording(tree):
    table = f'{HEADER}\na,x/1.ogg\na,x/1.ogg\nb,x/1.ogg\nb,x/2.ogg\n'
    source = tree(train=table)
    found = by_source(source)
    assert [(row.class_id, row.background) for row in found.values()] == [('a', ['b']), ('b', [])]
    assert source.report.lines() == [
        'further rows of the same recording: 1, such as train.csv, line 3; left out',
        'further rows of the same recording: 1, such as train.csv, line 4; their labels are background classes',
    ]


def test_nocall_is_noise_and_no_label_is_unlabelled(tree):
    found = by_source(tree(train=f'{HEADER}\nnocall,n/1.ogg\n,n/2.ogg\na,a/1.ogg\n'))
    assert [(row.part, row.class_id) for row in found.values()] == [('noise', ''), ('unlabelled', ''), ('train', 'a')]


@pytest.mark.parametrize('path', ['1.ogg', 'a/1.ogg', 'train_short_audio/1.ogg', 'train_audio/a/1.ogg'])
def test_recordings_are_found_in_other_folders(tree, path):
    (row,) = kaggle.rows(tree(path, train=f'{HEADER}\na,{"1.ogg" if path != "a/1.ogg" else path}\n'))
    assert row.source == path


def test_recordings_may_have_another_suffix_than_in_the_table(tree):
    (row,) = kaggle.rows(tree('train_audio/a/1.wav', train=f'{HEADER}\na,a/1.ogg\n'))
    assert row.source == 'train_audio/a/1.wav'


def test_labelled_soundscapes_of_2021(file, tmp_path):
    labels = [(0, 5, ()), (5, 10, ('amered', 'norcar')), (10, 15, ('norcar',))]
    soundscapes = [Soundscape(file('a.ogg'), 'SSW', labels=labels), Soundscape(file('b.ogg'), 'COR')]
    kaggle_trees.write(tmp_path / 'source', 2021, clips(file), soundscapes)
    found = by_source(Source(str(tmp_path / 'source')))
    one, other = found['train_soundscapes/1_SSW_20250227.ogg'], found['train_soundscapes/2_COR_20250227.ogg']
    assert (one.part, one.site, one.date, one.time) == ('soundscapes_val', 'SSW', '2025-02-27', '')
    assert one.segments == [(0, 5, ''), (5, 10, 'amered'), (5, 10, 'norcar'), (10, 15, 'norcar')]
    assert (one.class_id, one.background) == ('norcar', ['amered'])
    assert (other.part, other.segments) == ('unlabelled', [])


def test_labelled_soundscapes_of_2026_have_each_row_twice_and_classes_of_their_own(file, tmp_path):
    labels = [(0, 5, ('47158son01', 'frog')), (5, 10, ()), (3595, 3600, ('frog',))]
    kaggle_trees.write(tmp_path / 'source', 2026, clips(file), [Soundscape(file('s.ogg'), 'S05', labels=labels)])
    source = Source(str(tmp_path / 'source'))
    one = by_source(source)['train_soundscapes/BC2026_Train_0001_S05_20250227_010002.ogg']
    assert (one.part, one.site, one.date, one.time) == ('soundscapes_val', 'S05', '2025-02-27', '01:00:02Z')
    assert one.segments == [(0, 5, '47158son01'), (0, 5, 'frog'), (5, 10, ''), (3595, 3600, 'frog')]
    assert (one.class_id, one.scientific_name, one.background) == ('frog', 'Genus frog', ['47158son01'])
    assert source.class_names['47158son01'] == ('Genus three', 'Third')
    assert 'train_soundscapes_labels.csv: 4 labels are there more than once; each is used once' in source.report.lines()


def test_labels_of_missing_soundscapes_are_kept(tree):
    table = 'row_id,site,audio_id,seconds,birds\n7_COR_5,COR,7,5,a b\n7_COR_10,,,,nocall\n'
    (row,) = kaggle.rows(tree(labels=table))
    assert row.source == 'train_soundscapes/7_COR.ogg'
    assert row.segments == [Segment(0, 5, 'a'), Segment(0, 5, 'b'), Segment(5, 10, '')]


def test_labels_without_times_are_reported(tree):
    table = 'filename,start,end,primary_label\ns.ogg,00:00:05,00:00:05,a\ns.ogg,x,5,a\n,0,5,a\ns.ogg,0,5.5,a;b\n'
    source = tree(train_soundscapes_labels=table)
    (row,) = kaggle.rows(source)
    assert row.segments == [(0, 5.5, 'a'), (0, 5.5, 'b')]
    assert source.report.lines() == [
        'rows of labels that cannot be used: 3, such as train_soundscapes_labels.csv, line 2: it has no duration; '
        'left out'
    ]


def test_folders_of_soundscapes(tree):
    names = 'unlabeled_soundscapes/1.ogg', 'test_soundscapes/H01_20240102_030405.ogg', 'train_soundscapes/2.ogg'
    found = by_source(tree(*names, 'train_audio/a/1.ogg', train=f'{HEADER}\na,a/1.ogg\n'))
    assert [found[name].part for name in names] == ['unlabelled', 'soundscapes_test', 'unlabelled']
    assert found[names[1]].site == 'H01' and found[names[1]].time == '03:04:05'


@pytest.mark.parametrize(
    'name, text, place',
    [
        ('recording_location.txt', 'Location\n\nLatitude:\t6.76\nLongitude: -74.21\n', ('6.76', '-74.21')),
        ('H01_recording_location.txt', 'latitude 6\nlongitude -74', ('6', '-74')),
        ('H02_recording_location.txt', 'Latitude: 6.76\nLongitude: -74.21', ('', '')),
        ('recording_location.txt', 'Somewhere in the Andes', ('', '')),
    ],
)
def test_places_of_soundscapes(tree, name, text, place):
    source = tree('test_soundscapes/H01_20240102_030405.ogg', train=f'{HEADER}\na,a/1.ogg\n')
    pathlib.Path(source.folder, 'test_soundscapes', name).write_text(text)
    soundscape = by_source(source)['test_soundscapes/H01_20240102_030405.ogg']
    assert (soundscape.latitude, soundscape.longitude) == place


def test_submission_tables_are_no_labels(tree):
    source = tree(train=f'{HEADER}\na,a/1.ogg\n', sample_submission='row_id,birds\n1_COR_5,nocall\n')
    assert len(by_source(source)) == 1


@pytest.mark.parametrize(
    'name, expected',
    [
        ('BC2026_Train_0001_S05_20250227_010002.ogg', ('S05', '2025-02-27', '01:00:02Z')),
        ('7019_COR_20190904.ogg', ('COR', '2019-09-04', '')),
        ('folder/20240501_060000.WAV', ('', '2024-05-01', '06:00:00')),
        ('20240501_060000Z.wav', ('', '2024-05-01', '06:00:00Z')),
        ('SITE-1_20240501_060000.wav', ('SITE-1', '2024-05-01', '06:00:00')),
        ('SMA123_20240501_060000_000.wav', ('SMA123', '2024-05-01', '06:00:00')),
        ('20241301_060000.wav', ('', '', '')),
        ('XC12345678.mp3', ('', '', '')),
        ('1000170626.ogg', ('', '', '')),
    ],
)
def test_names_of_recorders(name, expected):
    assert recorder_names.parse(name) == expected


@given(st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2099, 12, 31)), st.text('aS-_1'), st.booleans())
def test_dates_and_times_in_names_of_recorders_are_found(moment, site, is_utc):
    before = f'{site}_' if site else ''
    found = recorder_names.parse(f'folder/{before}{moment:%Y%m%d_%H%M%S}{"Z" * is_utc}.wav')
    assert found == (site.rpartition('_')[2], f'{moment:%Y-%m-%d}', f'{moment:%H:%M:%S}' + 'Z' * is_utc)


@given(st.text('0123456789_-TZS. ') | st.text())
def test_any_file_name_is_parsed(name):
    site, date, time = recorder_names.parse(name)
    assert bool(date) or not site and not time


@pytest.mark.parametrize('text', [f'{HEADER}\r\né1,x/é.ogg\r\n', f'\ufeff{HEADER}\né1,x/é.ogg\n'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'latin-1'])
def test_encodings_and_line_ends(tree, text, encoding):
    if encoding == 'latin-1':
        text = text.lstrip('\ufeff')
    (row,) = kaggle.rows(tree(train=text.encode(encoding)))
    assert (row.class_id, row.source) == ('é1', 'train_audio/x/é.ogg')


def test_quotes_inside_fields(tree):
    source = tree(train=f'author,{HEADER},license\n"O, ""Bird"" Neill",a,a/1.ogg,"two\nlines"\n')
    (row,) = kaggle.rows(source)
    assert (row.recordist, row.class_id) == ('O, "Bird" Neill', 'a')


@pytest.mark.parametrize('delimiter', [';', '\t', '|'])
def test_other_delimiters(tree, delimiter):
    text = f'{HEADER},author\na,a/1.ogg,Nobody\n'.replace(',', delimiter)
    assert [row.recordist for row in kaggle.rows(tree(train=text))] == ['Nobody']


@pytest.mark.parametrize('name', ['/etc/a.ogg', '../a.ogg', 'a/../../b.ogg', r'..\a.ogg', r'C:\a.ogg'])
@pytest.mark.parametrize('table', [f'{HEADER}\na,%s\n', 'filename,start,end,primary_label\n%s,0,5,a\n'])
def test_paths_that_leave_the_source_are_refused(tree, name, table):
    with pytest.raises(Problem, match='train.csv.*is not a path below'):
        list(kaggle.rows(tree(train=table % name)))


@pytest.mark.parametrize('header', ['label,filename', 'primary_label,file', 'primary_label#filename'])
def test_a_table_without_a_needed_column_is_an_error_that_names_those_it_has(tree, header):
    source = tree('train_audio/a/1.ogg', train=f'{header}\na,a/1.ogg\n')
    assert kaggle.recognise(source) == 'a folder train_audio/ and train.csv'
    with pytest.raises(Problem, match=f'train.csv.*no column .*{header.replace(",", ", ")}'):
        list(kaggle.rows(source))


def test_folders_without_their_table_are_an_error_and_no_classes(tree):
    source = tree('train_audio/a/1.ogg', 'train_soundscapes/1.ogg')
    assert layouts.recognise(source) == ('kaggle', 'a folder train_audio/')
    with pytest.raises(Problem, match='no table with the columns primary_label and filename; add train_metadata.csv'):
        list(kaggle.rows(source))


def test_soundscapes_need_no_table(tree):
    source = tree('test_soundscapes/a.ogg', 'unlabeled_soundscapes/b.ogg')
    assert layouts.recognise(source)[0] == 'kaggle'
    assert [row.part for row in kaggle.rows(source)] == ['soundscapes_test', 'unlabelled']


def test_a_table_of_another_layout_beside_the_folder_train_audio(tree):
    assert layouts.recognise(tree('train_audio/a/1.ogg', mine='file,label\ntrain_audio/a/1.ogg,a\n'))[0] == 'table'


def test_a_broken_table_beside_is_ignored(tree):
    assert kaggle.recognise(tree(train=f'{HEADER}\na,a/1.ogg\n', empty='')).startswith('train.csv')


def test_all_tables_with_the_columns_are_read_if_none_has_a_usual_name(tree):
    found = by_source(tree(one=f'{HEADER}\na,1.ogg\n', two=f'{HEADER}\nb,2.ogg\n'))
    assert [row.class_id for row in found.values()] == ['a', 'b']
    found = by_source(tree(one=f'{HEADER}\na,1.ogg\n', train=f'{HEADER}\nb,2.ogg\n'))
    assert [row.class_id for row in found.values()] == ['b']


def test_the_source_may_be_a_table(tree):
    folder = pathlib.Path(tree('train_audio/a/1.ogg', train=f'{HEADER}\na,a/1.ogg\n').folder)
    (folder / '2.ogg').touch()
    (folder / 'train.csv').write_text(f'{HEADER},fold\na,a/1.ogg,0\nb,2.ogg,1\n')
    source = Source(str(folder / 'train.csv'))
    assert layouts.recognise(source)[0] == 'kaggle'
    assert [(row.source, row.fold) for row in kaggle.rows(source)] == [('train_audio/a/1.ogg', '0'), ('2.ogg', '1')]


def test_two_layouts_in_one_folder_are_a_question(tree):
    source = tree('data/1.xml', train=f'{HEADER}\na,a/1.ogg\n')
    with pytest.raises(Problem, match='several layouts; choose one of --layout birdclef2018 .*, --layout kaggle'):
        layouts.recognise(source)
