"""The layout `annotations`: selection tables of Raven and label tracks of Audacity become segments."""

import numpy as np
import pytest
import soundfile

from birdsong.files import Problem
from layouts import annotations, recognise
from shared.recordings import Segment
from shared.source import Source

HEADER = 'Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)'


@pytest.fixture
def folder(tmp_path):
    for name, seconds in (('day/a.wav', 10), ('day/b.WAV', 20), ('day/c.wav', 30)):
        put_audio(tmp_path, name, seconds)
    return tmp_path


def put_audio(folder, name, seconds):
    (folder / name).parent.mkdir(exist_ok=True)
    with open(folder / name, 'wb') as f:
        soundfile.write(f, np.zeros(seconds * 100, np.int16), 100, format='WAV')


def put(folder, name, *lines, encoding='utf-8', end='\n'):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(end.join(lines).encode(encoding))


def rows(folder):
    """{source path: Recording} and the notes for the user."""
    source = Source(str(folder))
    return {row.source: row for row in annotations.rows(source)}, source.report.lines()


def raven(*fields):
    return '\t'.join(map(str, fields))


@pytest.mark.parametrize(
    'name',
    [
        'day/a.Table.1.selections.txt',
        'day/a.selections.txt',
        'day/a.txt',
        'day/a.wav.txt',
        'day/a_labels.txt',
        'tables/a.Table.2.selections.txt',
        'day/a.selections.tsv',
    ],
)
def test_a_table_belongs_to_the_recording_it_is_named_after(folder, name):
    put(folder, name, raven(HEADER, 'Species'), raven(1, 'Spectrogram 1', 1, 0.5, 2, 100, 200, 'amered'))
    assert recognise(Source(str(folder))) == ('annotations', f'{name} is a selection table')
    found, _ = rows(folder)
    assert found['day/a.wav'].segments == [Segment(0.5, 2, 'amered')]
    assert {path: row.part for path, row in found.items()} == {
        'day/a.wav': 'train',
        'day/b.WAV': 'unlabelled',
        'day/c.wav': 'unlabelled',
    }


def test_views_of_a_selection_count_once_and_the_longest_class_is_the_class(folder):
    put(
        folder,
        'day/a.selections.txt',
        raven(HEADER, 'Annotation'),
        raven(1, 'Waveform 1', 1, 0, 3, 0, 9, 'b'),
        raven(1, 'Spectrogram 1', 1, 0, 3, 0, 9, 'b'),
        raven(2, 'Spectrogram 1', 1, 4, 6, 0, 9, 'a'),
        raven(3, 'Spectrogram 1', 1, 5, 8, 0, 9, 'a'),
        raven(4, 'Spectrogram 1', 1, 8, 8.5, 0, 9, 'c; d, e'),
    )
    row = rows(folder)[0]['day/a.wav']
    assert row.segments == [Segment(0, 3, 'b'), Segment(4, 8, 'a'), Segment(8, 8.5, 'c'), Segment(8, 8.5, 'd, e')]
    assert (row.class_id, row.background) == ('a', ['b', 'c', 'd, e'])


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'latin-1'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_label_tracks_are_read(folder, encoding, end):
    put(
        folder,
        'day/a.txt',
        '0.500000\t2,250000\tSäger',
        '\\\t100.0\t9000.0',
        '3\t4\tnocall',
        '5\t6\tb c',
        '',
        encoding=encoding,
        end=end,
    )
    assert recognise(Source(str(folder)))[0] == 'annotations'
    row = rows(folder)[0]['day/a.wav']
    assert row.segments == [Segment(0.5, 2.25, 'Säger'), Segment(3, 4, ''), Segment(5, 6, 'b c')]
    assert (row.class_id, row.background) == ('Säger', ['b c'])


def test_malformed_lines_are_reported_with_their_place_and_left_out(folder):
    put(folder, 'day/a.txt', '0\t1\ta', 'x\t2\tb', '3\t4', '9\t5\tc', '-2\t1\td', '6\t6\te', '99\t100\tf', '8\t12\tg')
    found, notes = rows(folder)
    row = found['day/a.wav']
    assert row.segments == [Segment(0, 1, 'a'), Segment(0, 1, 'd'), Segment(5, 9, 'c'), Segment(8, 10, 'g')]
    assert (row.class_id, row.background) == ('c', ['a', 'd', 'g', 'e'])
    for text in (
        'malformed annotations: 1, such as day/a.txt, line 2 (expected start TAB end TAB label); left out',
        'annotations without label: 1, such as day/a.txt, line 3; left out',
        'annotations whose end is before the start: 1, such as day/a.txt, line 4; corrected',
        'annotations that start before the recording: 1, such as day/a.txt, line 5; corrected',
        'annotations without duration: 1, such as day/a.txt, line 6; their classes count for the whole recording',
        'annotations after the end of their recording: 1, such as day/a.txt, line 7; left out',
        'annotations that end after their recording: 1, such as day/a.txt, line 8; shortened',
    ):
        assert text in notes


def test_a_recording_with_an_empty_table_is_annotated_without_class(folder):
    put(folder, 'day/a.selections.txt', raven(HEADER, 'Species'))
    put(folder, 'day/b.txt', '')
    put(folder, 'day/c.txt', '1\t2\tnocall')
    found, _ = rows(folder)
    assert {row.part for row in found.values()} == {'noise'}
    assert found['day/a.wav'].segments == [Segment(0, 10, '')]
    assert found['day/b.WAV'].segments == [Segment(0, 20, '')]
    assert found['day/c.wav'].segments == [Segment(1, 2, '')]


@pytest.mark.parametrize(
    'lines',
    [['1\t2'], ['1\t2\tnocall', 'x\ty\tz'], [raven(HEADER, 'Species'), raven(1, 'Spectrogram 1', 1, 'x', 4)], ['?']],
)
def test_a_recording_whose_annotations_cannot_be_used_is_not_noise(folder, lines):
    put(folder, 'day/a.txt', *lines)
    put(folder, 'day/b.txt', '1\t2\tx')
    assert rows(folder)[0]['day/a.wav'].part == 'unlabelled'


def test_names_of_recorders_tell_site_date_and_time(folder):
    put_audio(folder, 'POND_20240501_060000.wav', 9)
    put(folder, 'POND_20240501_060000.txt', '1\t2\tx')
    row = rows(folder)[0]['POND_20240501_060000.wav']
    assert (row.site, row.date, row.time) == ('POND', '2024-05-01', '06:00:00')


def test_offsets_count_within_each_file(folder):
    put(
        folder,
        'all.txt',
        raven(HEADER, 'Begin Path', 'File Offset (s)', 'Common Name', 'Species Code'),
        raven(1, 'Spectrogram 1', 1, 3, 4, 0, 9, r'D:\x\day\a.wav', 3, 'American Redstart', 'amered'),
        raven(2, 'Spectrogram 1', 1, 15, 17, 0, 9, r'D:\x\day\b.WAV', 5, 'Wren', 'wren'),
        raven(3, 'Spectrogram 1', 1, 15, 17, 0, 9, r'D:\x\day\lost.wav', 5, 'Wren', 'wren'),
    )
    found, notes = rows(folder)
    assert found['day/a.wav'].segments == [Segment(3, 4, 'amered')]
    assert found['day/b.WAV'].segments == [Segment(5, 7, 'wren')]
    assert found['day/b.WAV'].common_name == 'Wren'
    assert 'annotations of recordings that are not there: 1, such as all.txt, line 4; left out' in notes


@pytest.mark.parametrize('second, start', [('day/b.WAV', 10), ('day/c.wav', 30)])
def test_times_without_offset_accumulate_over_the_files(folder, second, start):
    """c.wav follows b.WAV, which has no selections."""
    put(
        folder,
        'all.selections.txt',
        raven(HEADER, 'Begin File', 'Species'),
        raven(1, 'Spectrogram 1', 1, 3, 4, 0, 9, 'a.wav', 'x'),
        raven(2, 'Spectrogram 1', 1, start + 9, start + 11, 0, 9, second.split('/')[1], 'y'),
        raven(3, 'Spectrogram 1', 1, start + 19, start + 19.5, 0, 9, second.split('/')[1], 'y'),
    )
    found, _ = rows(folder)
    assert found['day/a.wav'].segments == [Segment(3, 4, 'x')]
    assert found[second].segments == [Segment(9, 11, 'y'), Segment(19, 19.5, 'y')]


def test_times_that_do_not_fit_the_lengths_are_left_out(folder):
    put(
        folder,
        'all.selections.txt',
        raven(HEADER, 'Begin File', 'Species'),
        raven(1, 'Spectrogram 1', 1, 3, 4, 0, 9, 'a.wav', 'x'),
        raven(2, 'Spectrogram 1', 1, 95, 96, 0, 9, 'b.WAV', 'y'),
    )
    found, notes = rows(folder)
    assert found['day/b.WAV'].part == 'unlabelled' and not found['day/b.WAV'].segments
    assert any(
        note.startswith('annotations whose times do not fit the lengths of their recordings: 2') for note in notes
    )


def test_a_selection_table_without_classes_is_refused_with_its_columns(folder):
    put(folder, 'day/a.selections.txt', raven(HEADER, 'Vogel'), raven(1, 'Spectrogram 1', 1, 3, 4, 0, 9, 'x'))
    with pytest.raises(
        Problem, match=r'a.selections.txt: needs the columns .*Species, .*Tag.*; it has Selection, .*Vogel'
    ):
        rows(folder)


def test_other_texts_are_not_annotations(folder):
    put(folder, 'README.txt', 'Recordings\tof\tbirds')
    put(folder, 'day/notes.txt', '1\t2\tnothing')
    put(folder, 'day/a.csv', 'frequency,power', '1,2')
    put(folder, 'day/b.txt', 'to be done')
    source = Source(str(folder))
    assert not annotations.recognise(source)
    assert {row.part for row in annotations.rows(source)} == {'unlabelled'}
    assert [row[:2] for row in source.skipped] == [('day/b.txt', 'neither a selection table nor a label track')]


def test_a_recording_that_cannot_be_read_keeps_its_annotations(folder):
    (folder / 'day/a.wav').write_bytes(b'RIFF')
    put(folder, 'day/a.txt', '1\t200\tx')
    assert rows(folder)[0]['day/a.wav'].segments == [Segment(1, 200, 'x')]


def test_without_annotations_the_layout_is_refused(folder):
    with pytest.raises(Problem, match='no recordings beside .*; found 3 recordings and 0 tables'):
        rows(folder)


def test_names_may_differ_in_upper_and_lower_case(folder):
    put_audio(folder, 'A.WAV', 9)
    put(folder, 'A.txt', '1\t2\tw')
    put(folder, 'day/A.txt', '1\t2\tx')
    put(
        folder,
        'all.txt',
        raven(HEADER, 'Species', 'Begin File'),
        raven(1, 'Spectrogram 1', 1, 1, 2, 0, 9, 'y', 'B.wav'),
    )
    put(folder, 'lost.txt', '1\t2\tz')
    found, notes = rows(folder)
    assert {path: row.class_id for path, row in found.items()} == {
        'A.WAV': 'w',
        'day/a.wav': 'x',
        'day/b.WAV': 'y',
        'day/c.wav': '',
    }
    assert 'label tracks that are named after no recording: 1, such as lost.txt; not read' in notes


def test_other_tables_are_named(folder):
    put(folder, 'day/a.txt', '1\t2\tx')
    put(folder, 'places.csv', 'site,latitude', 'POND,1.5')
    assert rows(folder)[1][0] == 'not read, since they are no selection tables: places.csv'
