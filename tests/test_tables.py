"""The layout `table`: tables of recordings, in any spelling, become rows of recordings.tsv."""

import pytest

from birdsong.files import Problem
from layouts import recognise, table
from shared.delimited import Table, list_literal
from shared.recordings import Segment
from shared.source import Source


def source(folder, text, name='recordings.csv', encoding='utf-8'):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return Source(str(folder))


def rows(folder, text, **options):
    """{source path: Recording} and the notes for the user."""
    found = source(folder, text, **options)
    return {row.source: row for row in table.rows(found)}, found.notes


# == Lists in fields ==


@pytest.mark.parametrize(
    'text, items',
    [
        ("['amered', 'norcar']", ['amered', 'norcar']),
        ('["a", null, "b c"]', ['a', 'b c']),
        ("['']", []),
        ('[]', []),
        ('', []),
        ('[01, 1, 47158son01]', ['01', '1', '47158son01']),
        ('["01", 2e3]', ['01', '2e3']),
        ('a; b ;', ['a', 'b']),
        ('a,b', ['a', 'b']),
        ('Robin, European; Wren', ['Robin, European', 'Wren']),
        ("['it''s', \"it's\"]", ['its', "it's"]),
        ("[['a', 'b'], ['c']]", ['a', 'b', 'c']),
        ("['a'", ["['a"]),
        ('[\'__import__("os")\' + 1]', ['__import__("os")\' + 1']),
    ],
)
def test_lists_in_fields_are_read_in_any_syntax(text, items):
    assert list_literal(text) == items


# == Tables of other programs ==

PLAIN = 'file,label,latitude\na b.wav,robin,1.5\nc.wav,wren,-2\n'


@pytest.mark.parametrize(
    'content',
    [
        PLAIN.encode(),
        b'\xef\xbb\xbf' + PLAIN.encode(),
        PLAIN.replace('\n', '\r\n').encode(),
        PLAIN.replace('\n', '\r').encode(),
        PLAIN.encode('utf-16'),
        PLAIN.encode('utf-16-le'),
        PLAIN.replace(',', ';').encode(),
        PLAIN.replace(',', '\t').encode(),
        PLAIN.replace(',', ' | ').encode(),
        b'sep=;\r\n' + PLAIN.replace(',', ';').encode(),
        ('\n\n' + PLAIN.replace('\n', '\n\n').rstrip()).encode(),
        PLAIN.replace('robin', '"robin"').replace('label', '"label"').encode(),
    ],
)
def test_a_table_is_read_in_any_spelling(tmp_path, content):
    (tmp_path / 'a.csv').write_bytes(content)
    read = Table(str(tmp_path / 'a.csv'))
    assert read.columns == ['file', 'label', 'latitude']
    assert [list(row.values()) for row in read] == [['a b.wav', 'robin', '1.5'], ['c.wav', 'wren', '-2']]
    assert not read.problems


# == Recordings ==


def test_rows_of_a_file_become_one_recording(tmp_path):
    found, _ = rows(
        tmp_path,
        'file,label,background,date,recordist,split\n'
        "a/x.wav,01,\"['b', 'c']\",2020-01-02,,val\n"
        'a/x.wav,1,,,Someone,\n'
        'y.wav,47158son01,d;e,,,\n',
    )
    first = found['a/x.wav']
    assert (first.class_id, first.background, first.part) == ('01', ['b', 'c', '1'], 'valid')
    assert (first.date, first.recordist) == ('2020-01-02', 'Someone')
    assert (found['y.wav'].class_id, found['y.wav'].background, found['y.wav'].part) == (
        '47158son01',
        ['d', 'e'],
        'train',
    )


def test_rows_with_times_become_segments(tmp_path):
    found, notes = rows(
        tmp_path,
        'file;label;start;end\nx.wav;a;0;1,5\nx.wav;b;00:00:02;00:00:07\nx.wav;;8;9\nx.wav;c;x;9\ny.wav;;0;5\nz.wav;a;5;1\n',
    )
    assert found['x.wav'].segments == [Segment(0, 1.5, 'a'), Segment(2, 7, 'b'), Segment(8, 9, '')]
    assert (found['x.wav'].class_id, found['x.wav'].background) == ('c', ['a', 'b'])
    assert (found['y.wav'].class_id, found['y.wav'].part) == ('', 'noise')
    assert found['z.wav'].segments == [Segment(1, 5, 'a')]
    assert any('1 rows with times that cannot be used' in note and 'line 5' in note for note in notes)
    assert any('1 segments whose end is before the start (recordings.csv, line 7)' in note for note in notes)


def test_columns_of_birdset_are_recognised(tmp_path):
    found = source(
        tmp_path,
        'filepath,start_time,end_time,low_freq,high_freq,ebird_code,ebird_code_multilabel,ebird_code_secondary,'
        'lat,long,local_time,quality,recordist,detected_events,event_cluster\n'
        "XC1.ogg,,,,,amered,\"['amered', 'norcar']\",['norcar'],1.5,-70,08:00,A,Ann,\"[[0.5, 2], [3, 4.5]]\",0\n"
        "HSN_1.ogg,0,5,,,,\"['amered', 'norcar']\",,1,2,,,,,\n"
        'HSN_1.ogg,5,10,,,,[],,1,2,,,,,\n',
    )
    assert recognise(found)[0] == 'table'
    first, second = table.rows(found)
    assert (first.class_id, first.background) == ('amered', ['norcar'])
    assert first.segments == [Segment(0.5, 2, 'amered'), Segment(3, 4.5, 'amered')]
    assert (first.latitude, first.longitude, first.time, first.quality) == ('1.5', '-70', '08:00', 'A')
    assert second.segments == [Segment(0, 5, 'amered'), Segment(0, 5, 'norcar'), Segment(5, 10, '')]


@pytest.mark.parametrize('path', ['/etc/passwd', '../x.wav', 'a/../../x.wav', 'C:\\x.wav', '..\\x.wav'])
def test_paths_that_lead_out_of_the_folder_are_refused(tmp_path, path):
    with pytest.raises(Problem, match=r'recordings.csv, line 3: .* is not a path below'):
        rows(tmp_path, f'file,label\na.wav,a\n{path},b\n')


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(Problem, match=r"recordings.csv, line 2: 'tset' is no part; expected one of train, valid, test"):
        rows(tmp_path, 'file,label,split\na.wav,a,tset\n')
