"""The layout `table`: tables of recordings, in any spelling, become rows of recordings.tsv."""

import json
import sys

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
    return {row.source: row for row in table.rows(found)}, found.report.lines()


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
        ('(x) a, b (y)', ['(x) a', 'b (y)']),
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
    assert any(
        note.startswith('rows with times that cannot be used: 1, such as recordings.csv, line 5 (') for note in notes
    )
    assert 'segments whose end is before the start: 1, such as recordings.csv, line 7; corrected' in notes


def test_names_belong_to_the_class_of_their_row(tmp_path):
    text = 'file,label,start,end,common_name\nx.wav,a,0,1,Wren\nx.wav,b,1,5,Robin\ny.wav,b,,,\n'
    found = source(tmp_path, text)
    assert [(row.class_id, row.common_name) for row in table.rows(found)] == [('b', 'Robin'), ('b', 'Robin')]
    assert found.class_names == {'a': ('', 'Wren'), 'b': ('', 'Robin')} and not found.report.lines()


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


def test_tables_named_after_parts_are_read_together(tmp_path):
    for name in 'train', 'validation', 'test':
        (tmp_path / f'{name}.csv').write_text(f'file,label\n{name}.wav,a\n')
    (tmp_path / 'other.csv').write_text('file,part\no.wav,noise\n')
    found = {row.source: row.part for row in table.rows(Source(str(tmp_path)))}
    assert found == {'train.wav': 'train', 'validation.wav': 'valid', 'test.wav': 'test', 'o.wav': 'noise'}


def test_recordings_without_label_are_unlabelled_unless_the_table_says_more(tmp_path):
    found, notes = rows(
        tmp_path,
        'file,label,split\na.wav,,\nb.wav,NA,train\nc.wav,,test\nd.wav,,noise\ne.wav,,unlabeled\nf.wav,nocall,\n',
    )
    parts = {path: row.part for path, row in found.items()}
    assert parts == {
        'a.wav': 'unlabelled',
        'b.wav': 'unlabelled',
        'c.wav': 'test',
        'd.wav': 'noise',
        'e.wav': 'unlabelled',
        'f.wav': 'noise',
    }
    assert 'recordings without label: 2, such as a.wav; they are in the part unlabelled' in notes
    assert 'recordings in which no class is active: 1, such as f.wav; they are in the part noise' in notes


def test_overlapping_segments_of_a_class_are_merged_and_count_once(tmp_path):
    found, _ = rows(tmp_path, 'file,label,start,end\nx.wav,a,0,4\nx.wav,a,2,5\nx.wav,b,0,6\nx.wav,a,5,5.5\n')
    assert found['x.wav'].segments == [Segment(0, 5, 'a'), Segment(0, 6, 'b'), Segment(5, 5.5, 'a')]
    assert (found['x.wav'].class_id, found['x.wav'].background) == ('b', ['a'])


def test_rows_that_repeat_or_contradict_others_are_counted(tmp_path):
    found, notes = rows(
        tmp_path,
        'file,label,site,latitude,split\nx.wav,a,here,1.5,train\nx.wav,a,here,1.5,train\nx.wav,a,there,1.50,test\n,b,,,\n',
    )
    assert (found['x.wav'].site, found['x.wav'].part) == ('here', 'train')
    assert notes == [
        'repeated rows: 1, such as recordings.csv, line 3; left out',
        'rows that contradict an earlier row about the part: 1, such as recordings.csv, line 4; the first one is used',
        'rows that contradict an earlier row in site: 1, such as recordings.csv, line 4; the first value is used',
        'rows without file: 1, such as recordings.csv, line 5; left out',
    ]


@pytest.mark.parametrize('count', [1, 10000])
def test_any_number_of_classes_is_read(tmp_path, count):
    found, _ = rows(tmp_path, 'file,label\n' + ''.join(f'{i}.wav,{i:05d}\n' for i in range(count)))
    assert len({row.class_id for row in found.values()}) == count


def test_paths_may_begin_below_the_folder_of_the_recordings(tmp_path):
    (tmp_path / 'audio/x').mkdir(parents=True)
    for name in 'x/a.wav', 'x/b.wav', 'c.wav':
        (tmp_path / 'audio' / name).touch()
    found = source(tmp_path, 'file,label\nx/a.wav,a\nx/b.wav,b\nmissing.wav,c\n')
    assert [row.source for row in table.rows(found)] == ['audio/x/a.wav', 'audio/x/b.wav', 'missing.wav']
    assert found.report.lines() == ['the paths in the table are below audio/']


def test_paths_mean_the_only_file_that_differs_in_case_or_accents(tmp_path):
    for name in 'A.WAV', 'Sa\u0308ger.wav', 'b.wav', 'B.wav':
        (tmp_path / name).touch()
    found = source(tmp_path, 'file,label\na.wav,a\nS\u00e4ger.wav,b\nb.wav,c\nb.WAV,d\n')
    assert [row.source for row in table.rows(found)] == ['A.WAV', 'Sa\u0308ger.wav', 'b.wav', 'b.WAV']


# == Tables that other programs would not read ==


def test_names_in_any_encoding_and_with_quotes_and_line_breaks(tmp_path):
    text = 'file;label;site\nä.wav;Säger;"Weg ""am"" Fluss;\r\nLinz"\n'
    for encoding in 'utf-8', 'latin-1', 'utf-16':
        found, _ = rows(tmp_path, text, encoding=encoding)
        row = found['ä.wav']
        assert (row.class_id, row.site.split()) == ('Säger', ['Weg', '"am"', 'Fluss;', 'Linz'])


def test_one_line_in_latin_1_does_not_change_the_others(tmp_path):
    content = 'file,label\nö.wav,Müller\n'.encode() + 'ü.wav,Säger\n'.encode('latin-1')
    found, _ = rows(tmp_path, content)
    assert {path: row.class_id for path, row in found.items()} == {'ö.wav': 'Müller', 'ü.wav': 'Säger'}


def test_rows_with_an_unexpected_number_of_fields_are_reported(tmp_path):
    found, notes = rows(tmp_path, 'file,label,site\na.wav,a\nb.wav,b,Main road, Linz\nc.wav,c,Linz,,\n')
    assert sorted(found) == ['a.wav', 'c.wav']
    assert 'rows with fewer fields than columns: 1, such as recordings.csv, line 2; the other fields are empty' in notes
    assert any(
        note.startswith('rows with more fields than columns: 1, such as recordings.csv, line 3; left out')
        for note in notes
    )


def test_tab_separated_tables_may_contain_single_quotation_marks(tmp_path):
    found, _ = rows(tmp_path, 'file\tlabel\na.wav\t"Bird"\nb.wav\t"5 inch\nc.wav\tc\n', name='a.tsv')
    assert sorted(found) == ['a.wav', 'b.wav', 'c.wav'] and found['b.wav'].class_id == '"5 inch'


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'empty; expected a table with a line of column names'),
        (b'\xef\xbb\xbf \r\n', 'empty'),
        (b'PK\3\4\0\0\0\xff,\0', 'contains NUL bytes, so it is no text; save it as CSV in UTF-8'),
        (b'file,label,file\na,b,c\n', 'several columns are named file; rename or remove all but one'),
        (b'file,label\na.wav,"b\nc.wav,d\n', 'recordings.csv, line 2: contains a quotation mark that is not closed'),
        (b'file,label\na.wav,"' + b'b' * (1 << 24) + b'x"\n', 'recordings.csv, line 2: not a table: field larger'),
        (
            b'file:label\na.wav:b\n',
            r'no table with a column file and a column label \(recordings.csv has .* file:label\)',
        ),
        (b'name,label\na.wav,b\n', r'no table with .* \(recordings.csv has the columns name, label\)'),
        (b'file,bird\na.wav,b\n', r'no table with .* \(recordings.csv has the columns file, bird\)'),
    ],
)
def test_what_is_no_table_of_recordings_is_refused_and_not_recognised(tmp_path, content, message):
    found = source(tmp_path, content)
    if b'"' not in content:
        assert not table.recognise(found)
    with pytest.raises(Problem, match=message):
        list(table.rows(found))


def test_a_long_field_is_read(tmp_path):
    found, _ = rows(tmp_path, f'file,label,background\na.wav,a,"[{"x, " * 200000}]"\n')
    assert found['a.wav'].background == ['x']


def test_two_layouts_in_one_folder_are_not_guessed(tmp_path):
    (tmp_path / 'a.wav').touch()
    (tmp_path / 'a.txt').write_text('0\t1\tx\n')
    found = source(tmp_path, 'file,label\na.wav,a\n')
    with pytest.raises(Problem, match=r'several layouts; choose one of --layout annotations .*, --layout table'):
        recognise(found)


def test_recordings_beside_a_table_with_other_columns_say_so(tmp_path):
    (tmp_path / 'a.wav').touch()
    name, why = recognise(source(tmp_path, 'File,Bird\na.wav,a\n'))
    assert name == 'unlabelled' and 'no layout knows the columns of recordings.csv' in why


# == Parquet ==


def test_without_pyarrow_parquet_names_the_command_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    found = source(tmp_path, b'PAR1', name='a.parquet')
    with pytest.raises(Problem, match='a.parquet: reading Parquet needs pyarrow; type: pip install pyarrow'):
        list(table.rows(found))


def test_parquet_is_read_with_names_of_classes_and_without_sound(tmp_path):
    pyarrow = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    names = {'_type': 'ClassLabel', 'names': ['amered', 'norcar']}
    features = {'ebird_code': names, 'ebird_code_multilabel': {'_type': 'Sequence', 'feature': names}}
    metadata = {b'huggingface': json.dumps({'info': {'features': features}}).encode()}
    columns = {
        'filepath': ['a.ogg', 'b.ogg'],
        'ebird_code': [1, None],
        'ebird_code_multilabel': [[1], [0, 1]],
        'lat': [1.5, float('nan')],
        'detected_events': [[[0.5, 1.0]], None],
        'start_time': [None, 5.0],
        'end_time': [None, 10.0],
        'audio': [{'bytes': b'x', 'path': 'a'}, None],
    }
    content = pyarrow.table(columns).replace_schema_metadata(metadata)
    parquet.write_table(content, tmp_path / 'a.parquet')
    found = Source(str(tmp_path))
    first, second = table.rows(found)
    assert not found.report.lines()  # about a column `audio` that is not used
    assert (first.class_id, first.latitude, first.segments) == ('norcar', '1.5', [Segment(0.5, 1, 'norcar')])
    assert (second.class_id, second.latitude, second.background) == ('amered', '', ['norcar'])
    assert second.segments == [Segment(5, 10, 'amered'), Segment(5, 10, 'norcar')]


def test_damaged_parquet_is_refused_in_one_line(tmp_path):
    pytest.importorskip('pyarrow')
    with pytest.raises(Problem, match='a.parquet: not a Parquet table'):
        list(table.rows(source(tmp_path, b'PAR1', name='a.parquet')))
