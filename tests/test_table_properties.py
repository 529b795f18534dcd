"""Parsers of tables, annotations, lists and metadata read whatever was written, and anything else without failing."""

import csv
import datetime
import io
import itertools
import json
import re
import string

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from birdsong.files import Problem
from layouts import annotations, table, xeno_canto
from shared import metadata_values, selections
from shared.delimited import Table, labels_of, list_literal
from shared.intervals import interval, merge_overlapping, seconds
from shared.recordings import Segment
from shared.report import Report
from shared.source import Source

PROPERTIES = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

TEXT = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'), max_size=30)
WORD = st.text(string.ascii_letters + string.digits + '_-', min_size=1, max_size=8)
NAME = st.text(string.ascii_letters + string.digits + "_-' äöé鳥", min_size=1, max_size=12).map(str.strip).filter(bool)
TIME = st.floats(0, 1e5).map(lambda number: round(number, 3))
LINE = st.lists(st.one_of(TEXT, WORD, st.sampled_from(['1', '2.5', '-3', '1e9', 'nan', '\\'])), max_size=5)


def refused(call):
    """The result of `call()`, or None if it is refused in one line."""
    try:
        return call()
    except Problem as e:
        assert len(str(e)) > 10
        return None


# == Lists in fields ==


def plain(text):
    return ' '.join(text.split())


@PROPERTIES
@given(st.lists(st.text(st.characters(exclude_categories=['C', 'Z'], exclude_characters=';'), max_size=9)))
def test_lists_are_read_as_they_were_written(names):
    names = [name for name in names if name]
    assert list_literal(repr(names)) == names
    assert list_literal(json.dumps(names)) == names
    assert list_literal(json.dumps(names, ensure_ascii=False)) == names


@PROPERTIES
@given(st.lists(NAME), st.sampled_from([';', ' ; ', ',', ', ']))
def test_names_between_separators_are_read(names, separator):
    names = [name for name in names if name.strip('\'" ')]
    assume(not separator.startswith(',') or names)
    assert list_literal(separator.join(names)) == [plain(name.strip('\'"')) for name in names]


@PROPERTIES
@given(st.one_of(TEXT, st.text('[](){}\'",;ab1\\ ')))
@example('[' * 90000)
@example('[' * 90000 + "'")
@example("['a'" + '+' * 5000 + ']')
@example('[' + '9' * 9000 + ', "a"]')
@example("[{'a'}, {}, b'c']")
def test_any_text_is_a_list_of_names(text):
    for items in list_literal(text), labels_of(text):
        assert all(item and item == plain(item) and ';' not in item for item in items)


# == Tables ==


@PROPERTIES
@given(
    st.lists(WORD, min_size=2, max_size=5, unique=True),
    st.data(),
    st.sampled_from(',;\t|'),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(['\n', '\r\n', '\r']),
    st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16']),
)
def test_tables_are_read_as_they_were_written(tmp_path, columns, data, delimiter, quoting, end, encoding):
    # with the other kinds of quoting, the csv module may write single line breaks without quotes
    field = TEXT if quoting == csv.QUOTE_ALL else TEXT.map(lambda text: re.sub('[\r\n]', '', text))
    rows = data.draw(st.lists(st.lists(field, min_size=len(columns), max_size=len(columns)), max_size=6))
    buffer = io.StringIO(newline='')
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([columns, *rows])
    (tmp_path / 'a.csv').write_bytes(buffer.getvalue().encode(encoding))
    read = Table(str(tmp_path / 'a.csv'))
    stripped = [[field.strip() for field in row] for row in rows]
    assert read.columns == columns
    assert [list(row.values()) for row in read] == [row for row in stripped if any(row)]
    assert not read.problems


@PROPERTIES
@given(
    st.one_of(
        st.binary(max_size=200),
        TEXT.map(str.encode),
        st.lists(LINE).map(lines_of := (lambda rows: '\n'.join(','.join(row) for row in rows).encode())),
    )
)
@example(b'file,label\n"' + b'x' * 100000)
@example(b'\xff\xfe\0')
@example(b',,,\n,,')
@example(b'file,label\na,b,c,d\ne')
def test_any_file_is_a_table_or_refused(tmp_path, content):
    (tmp_path / 'a.csv').write_bytes(content)
    read = refused(lambda: Table(str(tmp_path / 'a.csv')))
    rows = refused(lambda: list(read)) if read else None
    assert rows is None or all(list(row) == list(dict.fromkeys(read.columns)) for row in rows)


@PROPERTIES
@given(st.lists(st.lists(st.one_of(TEXT, st.sampled_from(['a.wav', 'x', '1', '2', 'test', '[1, 2]'])), max_size=6)))
def test_any_table_of_recordings_is_read_or_refused(tmp_path, rows):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([['file', 'label', 'start', 'end', 'split', 'detected_events'], *rows])
    (tmp_path / 'a.csv').write_text(buffer.getvalue(), encoding='utf-8', newline='')
    source = Source(str(tmp_path))
    for recording in refused(lambda: list(table.rows(source))) or ():
        assert recording.class_id or recording.part not in ('train', 'valid')
        assert not recording.source.startswith(('/', '..'))
        assert all(0 <= start < end for start, end, _ in recording.segments)


# == Times ==


@PROPERTIES
@given(st.integers(0, 99999999))
def test_times_are_read_in_any_spelling(milliseconds):
    value = milliseconds / 1000
    minutes, rest = divmod(milliseconds, 60000)
    clock = f'{minutes // 60}:{minutes % 60:02d}:{rest / 1000:06.3f}'
    for text in (f'{value:.3f}', f'{value:.3f}'.replace('.', ','), clock, f' +{value:.3f} ', repr(value)):
        assert seconds(text) == pytest.approx(value, abs=1e-6)


@PROPERTIES
@given(TEXT | st.text('0123456789.,:eE+-', max_size=20))
def test_any_other_text_is_no_time(text):
    try:
        assert abs(seconds(text)) < 1e8
    except ValueError as e:
        assert 'is not a time' in str(e)


@PROPERTIES
@given(st.floats(-1e7, 1e7), st.floats(-1e7, 1e7))
def test_intervals_begin_at_zero_or_later_and_have_a_duration(start, end):
    try:
        low, high, corrected = interval(start, end)
    except ValueError:
        assert start == end or max(start, end) <= 0
    else:
        assert 0 <= low < high == max(start, end) and bool(corrected) == (start > end or min(start, end) < 0)


@PROPERTIES
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9), st.sampled_from('abc'))))
def test_merged_segments_cover_the_same_times_without_overlap(rows):
    segments = [Segment(start, start + length, name) for start, length, name in rows]
    merged = merge_overlapping(segments)
    covered = lambda segments: {(t, name) for start, end, name in segments for t in range(start, end)}  # noqa: E731
    assert covered(merged) == covered(segments)
    assert sum(end - start for start, end, _ in merged) == len(covered(segments))


# == Annotations ==

SELECTION = st.tuples(TIME, TIME, NAME)


@PROPERTIES
@given(
    st.lists(SELECTION), st.permutations(['Selection', 'View', selections.START, selections.END, 'Species']), st.data()
)
def test_selection_tables_are_read_as_they_were_written(tmp_path, rows, columns, data):
    end = data.draw(st.sampled_from(['\n', '\r\n']))
    lines = ['\t'.join(columns)]
    for number, (start, stop, label) in enumerate(rows, 1):
        fields = dict(
            zip((selections.START, selections.END, 'Species'), (f'{start:.3f}', f'{stop:.3f}', label), strict=True)
        )
        fields |= {'Selection': str(number), 'View': 'Spectrogram 1'}
        lines.append('\t'.join(fields[column] for column in columns))
    path = tmp_path / 'a.selections.txt'
    path.write_bytes((end.join(lines) + end).encode(data.draw(st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16']))))
    report = Report()
    assert selections.kind_of(str(path)) == selections.SELECTIONS
    read, is_complete = selections.read_selections(str(path), 'a', report)
    assert [(row.start, row.end, row.label) for row in read] == [
        (start, stop, plain(label)) for start, stop, label in rows
    ]
    assert [row.line for row in read] == list(range(2, len(rows) + 2)) and is_complete and not report.lines()


@PROPERTIES
@given(st.lists(SELECTION, min_size=1), st.data())
def test_label_tracks_are_read_as_they_were_written(tmp_path, rows, data):
    lines = [f'{start:.6f}\t{stop:.6f}\t{label}' for start, stop, label in rows]
    if data.draw(st.booleans()):
        lines = list(itertools.chain.from_iterable((line, '\\\t100.0\t2000.0') for line in lines))
    path = tmp_path / 'a.txt'
    path.write_bytes(data.draw(st.sampled_from(['\n', '\r\n'])).join(lines).encode())
    report = Report()
    assert selections.kind_of(str(path)) == selections.LABEL_TRACK
    read, is_complete = selections.read_label_track(str(path), 'a', report)
    assert [(row.start, row.end, row.label) for row in read] == [
        (start, stop, plain(label)) for start, stop, label in rows
    ]
    assert is_complete and not report.lines()


@PROPERTIES
@given(
    st.one_of(st.binary(max_size=100), st.lists(LINE).map(lambda rows: '\n'.join(map('\t'.join, rows)).encode())),
    st.booleans(),
)
@example(b'\\\n', False)
@example(b'1\t2\tx\n\0\t\xff', False)
def test_any_file_beside_a_recording_is_read_or_refused(tmp_path, content, has_header):
    header = (
        f'{selections.START}\t{selections.END}\tSpecies\tBegin File\tFile Offset (s)\n'.encode() if has_header else b''
    )
    (tmp_path / 'a.txt').write_bytes(header + content)
    (tmp_path / 'a.wav').touch()
    source = Source(str(tmp_path))
    for recording in refused(lambda: list(annotations.rows(source))) or ():
        assert recording.source == 'a.wav'
        assert all(0 <= start < end for start, end, _ in recording.segments)


# == Metadata of xeno-canto ==

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(['1', '2', '?', '']),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(['id', 'gen', 'sp', 'recordings', 'also', 'q', 'lat', 'x']), inner, max_size=6
        )
    ),
    max_leaves=12,
)


@PROPERTIES
@given(JSON)
def test_any_json_is_read_or_refused(tmp_path, content):
    (tmp_path / 'a.json').write_text(json.dumps(content))
    for recording in refused(lambda: list(xeno_canto.rows(Source(str(tmp_path))))) or ():
        assert re.fullmatch(r'XC\d+\.mp3', recording.source)
        assert isinstance(recording.latitude, str) and isinstance(recording.background, list)


# == Dates, times and coordinates ==


@PROPERTIES
@given(st.dates(datetime.date(1000, 1, 1)))
def test_dates_are_repaired_to_the_same_day(date):
    assert metadata_values.repair_date(f'{date.year}-{date.month}-{date.day}') == date.isoformat()
    assert metadata_values.repair_date(date.isoformat()) == date.isoformat()


@PROPERTIES
@given(st.times().map(lambda time: time.replace(microsecond=0, tzinfo=None)))
def test_times_are_repaired_to_the_same_minute(time):
    half = f'{time.hour % 12 or 12}:{time.minute:02d}{"am" if time.hour < 12 else " pm"}'
    minute = time.replace(second=0).isoformat()
    assert metadata_values.repair_time(time.isoformat()) == time.isoformat()
    for text in (
        half,
        f'{time.hour}h{time.minute:02d}',
        f'{time.hour:02d}{time.minute:02d}',
        f'{time.hour}.{time.minute:02d}',
    ):
        assert metadata_values.repair_time(text) == minute


@PROPERTIES
@given(st.floats(-90, 90).map(lambda degrees: round(degrees, 9)), st.integers(-400, 8848))
def test_coordinates_and_elevations_are_kept(degrees, metres):
    for text in repr(degrees), f'{degrees:.5f}':
        assert float(metadata_values.repair_degrees(text, 90)) == float(text)
    for text in f'{metres}', f'{metres} m', f'ca. {metres}m', f'{metres}.0':
        assert metadata_values.repair_elevation(text) == str(metres)


@PROPERTIES
@given(TEXT | st.text('0123456789.,:-hm pam?~<>NSEW', max_size=20))
@example('9' * 5000)
@example('1-' * 200)
def test_any_text_is_repaired_or_dropped(text):
    for repair in (
        metadata_values.repair_date,
        metadata_values.repair_time,
        metadata_values.repair_elevation,
        lambda text: metadata_values.repair_degrees(text, 90),
        lambda text: metadata_values.repair_degrees(text, 180),
    ):
        try:
            value = repair(text)
        except ValueError:
            continue
        assert repair(value) == value
