"""Labels and metadata from XML: the results of 2018, corrected values, damaged and hostile files."""

import datetime
import hashlib
import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import validate
from helpers import SHARED, run_program, wav_bytes
from shared import metadata_values, xml_fields
from shared.delimited import Table
from shared.recordings import Recording, Segment, write_recordings

# First digits of SHA-256 of the labels of the fixture tiny_source, as written before there was recordings.tsv.
DIGESTS = {
    'bg.tsv': 'cced87f655a34d43',
    'fg.tsv': 'a264da771b35c2f4',
    'labelset': 'de5407212df20994',
    'labelset_2014': 'fb82f7deef048603',
    'labelset_2015': '22caecc410bfd3bb',
    'labelset_2017': 'cec51079bce98d74',
    'labelset_latin': '7cafd54f90da353e',
    'meta.tsv': 'a5576f8c2d7cdaf9',
    'repairs.tsv': 'c40e3a668277da18',
}
GOLDEN = ('misc/recreate_main', 'misc/recreate_repair')

# Clear values that the original read wrongly or not at all.
CORRECTED_TIMES = {
    '0700': '07:00:00',
    '0715 00': '07:15:00',
    '12am': '00:00:00',
    '12pm': '12:00:00',
    '12:15am': '00:15:00',
    '12:15 pm': '12:15:00',
    '18:30pm': '18:30:00',
    '06:30-07:00': '06:30:00',
    '24:00': None,
    '25:61': None,
    '10:30 AM.': '10:30:00',
    '11 a. m.': '11:00:00',
    '6:00 a.m': '06:00:00',
    ' 00': '00:00:00',
}
CORRECTED_ELEVATIONS = {
    '12.5': '12',
    '1200.5': '1200',
    '-5': '-5',
    '-100': '-100',
    '1,200': '1200',
    '3 000': '3000',
    '100 m - 200 m': '100-200',
    '0 to 100': '0-100',
    '100 to 200': '100-200',
    '100/200': '100-200',
}
CORRECTED_ELEVATIONS.update(
    (text, '100')
    for text in (
        '100 approximately m',
        '100 m.',
        '100m.',
        '100 metres',
        '100 msnm',
        '100masl',
        '100?m',
        '100~',
        '~100',
        'c100',
        'ca 100',
        'Approx. 100',
    )
)


def run(script, *arguments):
    return run_program(f'datasets/birdclef/{script}', *arguments)


def xml(**fields):
    return '<?xml version="1.0" encoding="UTF-8"?>\n<Audio>\n{}</Audio>\n'.format(
        ''.join(
            '<{}>{}</{}>\n'.format(tag, value.replace('&', '&amp;').replace('<', '&lt;'), tag)
            for tag, value in fields.items()
        )
    )


def write_xml(source, files):
    for name, content in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return source


def make_labels(source, dataset):
    for script, arguments in ('../collect.py', [source]), ('labels/recreate.py', []):
        result = run(script, *arguments, '--dataset', dataset)
        assert result.returncode == 0, result.stderr
    return result.stdout


def outcome(repair, text):
    try:
        return repair(text)
    except ValueError:
        return None


@pytest.mark.parametrize(
    'kind, repair, corrected',
    [
        ('repair_time', metadata_values.repair_time, CORRECTED_TIMES),
        ('repair_elevation', metadata_values.repair_elevation, CORRECTED_ELEVATIONS),
    ],
)
def test_values_are_repaired_as_in_2018_or_corrected(golden, kind, repair, corrected):
    cases = golden('misc/recreate_repair')[0][kind]
    expected = {text: value if isinstance(value, str) else None for text, value in cases.items()}
    expected.update(corrected)
    assert {text: outcome(repair, text) for text in expected} == expected


def test_labels_are_those_of_2018_or_corrected(golden, tmp_path):
    case = golden('misc/recreate_main')[0]
    folders = {'train': 'TrainingSet/xml', 'test': 'BirdCLEF2018MonophoneTest', 'soundscapes': 'val/data'}
    write_xml(
        tmp_path / 'source',
        {
            f'{folders[name.split("/")[0]]}/{name.split("/", 1)[1]}': xml(**fields)
            for name, fields in case['xml'].items()
        },
    )
    line = make_labels(tmp_path / 'source', tmp_path / 'made')
    assert all(part in line for part in ('mmm', 'Corvus corone (2x)', 'Corvus corax (1x)'))

    def key(line):
        name = line.split('\t')[0]
        base = name.split('/')[-1]
        # in 2018 recordings kept their folders, and the rows of soundscapes had names of no recording
        ours = (
            f'soundscapes/val/{base}' if name.startswith('soundscapes') else f'{name.split("/")[0]}/{base[8:12]}/{base}'
        )
        return line.replace(name, ours, 1)

    expected = {
        name: sorted(map(key, filter(None, lines))) if name.endswith('.tsv') else lines[:-1]
        for name, lines in case['files'].items()
    }
    # unlike in 2018, a date with month 0 is dropped
    expected['meta.tsv'] = [line.replace('2010-00-00', '') for line in expected['meta.tsv']]
    for name, lines in expected.items():
        assert (tmp_path / 'made' / 'labels' / name).read_text().splitlines() == lines, name


@pytest.mark.parametrize(
    'text, expected',
    [
        ('2010-05-06', '2010-05-06'),
        ('2010-5-6', '2010-05-06'),
        ('2012-02-29', '2012-02-29'),
        ('2010', None),
        ('2010-05', None),
        ('2010-00-10', None),
        ('2010-05-00', None),
        ('2010-13-01', None),
        ('2010-02-30', None),
        ('0000-05-06', None),
        ('May', None),
        ('', None),
        ('10-05-06', None),
        ('٢٠١٠-٠٥-٠٦', None),
        ('2019-00-00', None),
        ('?', None),
        ('2019/5/6', '2019-05-06'),
        ('2019.05.06', '2019-05-06'),
        ('6.5.2019', '2019-05-06'),
        ('31.12.2019 07:30', '2019-12-31'),
        ('31.13.2019', None),
        ('20190506', '2019-05-06'),
        ('20191332', None),
        ('12345678', None),
        ('2019-05-06T07:00:00Z', '2019-05-06'),
        ('2019-05-06 07:00:00', '2019-05-06'),
        ('2019-05-06T07:00:00.123+02:00', '2019-05-06'),
        ('2019-05/06', None),
        ('06/05/2019', None),
    ],
)
def test_a_date_must_exist(text, expected):
    assert outcome(metadata_values.repair_date, text) == expected


@pytest.mark.parametrize(
    'text, expected',
    [
        ('1.5', '1.5'),
        (' -3', '-3'),
        ('90', '90'),
        ('90.1', None),
        ('x', None),
        ('nan', None),
        ('inf', None),
        ('1e999', None),
        ('1_0', None),
        ('', None),
        ('-', None),
        ('12,5', '12.5'),
        ('-12,5', '-12.5'),
        ('12.5 S', '-12.5'),
        ('S12.5°', '-12.5'),
        ("12°30'N", '12.5'),
        ('12° 30′ 18″ s', '-12.505'),
        ("0°30'36''S", '-0.51'),
        ('12.5 W', None),
        ('-12.5 S', None),
        ('N 12.5 N', None),
        ("12°60'", None),
        ('90°0\'1"N', None),
        ('1,5,5', None),
        ('no score', None),
    ],
)
def test_degrees_are_numbers_within_their_limit(text, expected):
    assert outcome(lambda text: metadata_values.repair_degrees(text, 90), text) == expected


@pytest.mark.parametrize(
    'text, expected',
    [
        ('2019-05-06T07:00:00Z', '07:00:00'),
        ('2019-05-06 7:30', '07:30:00'),
        ('20190506 07:30:15', '07:30:15'),
        ('2019-05-06T25:00:00', None),
        ('2019-05-06', None),
        ('am', None),
        ('?:?', None),
        ('xx:xx', None),
        ('Dawn', None),
        ('020:30', None),
        ('07.00-08.00 AM', '07:00:00'),
        ('1621h', '16:21:00'),
    ],
)
def test_times_of_timestamps_and_other_tables_are_read(text, expected):
    assert outcome(metadata_values.repair_time, text) == expected


@given(st.floats(0, 89.9999), st.sampled_from(['NS', 'EW']), st.booleans(), st.booleans())
def test_degrees_and_minutes_with_a_letter_are_decimal_degrees(degrees, letters, negative, before):
    whole, minutes = int(degrees), round(degrees % 1 * 60, 4) % 60
    letter = letters[negative]
    text = f"{whole}° {minutes}'"
    text = f'{letter} {text}' if before else f'{text} {letter}'
    value = float(metadata_values.repair_degrees(text, 90 if letters == 'NS' else 180))
    assert abs(value - (-1 if negative else 1) * (whole + minutes / 60)) < 1e-6


@given(st.text(max_size=80) | st.from_regex(r"[NSEWnsew]? ?[+-]?\d{1,4}[.,°]?\d{0,3}['°]? ?[NSEW]?", fullmatch=True))
@example('1' * 100000)
def test_any_coordinate_is_repaired_to_degrees_or_dropped(text):
    for limit in 90, 180:
        value = outcome(lambda text: metadata_values.repair_degrees(text, limit), text)  # noqa: B023
        assert value is None or abs(float(value)) <= limit


@given(
    st.text(max_size=80) | st.from_regex(r'[~c]?\.? ?[0-9]{1,4}([:.h -][0-9]{1,2}){0,3} ?([ap]m|h|m)?', fullmatch=True)
)
@example('1' * 100000)
@example(f'{" " * 100000}x')
def test_any_text_is_repaired_to_a_valid_value_or_dropped(text):
    time = outcome(metadata_values.repair_time, text)
    if time is not None:
        datetime.time.fromisoformat(time)
        assert len(time) == 8
    elevation = outcome(metadata_values.repair_elevation, text)
    assert elevation is None or re.fullmatch(r'-?\d+(-\d+)*', elevation)
    date = outcome(metadata_values.repair_date, text)
    assert date is None or str(datetime.date.fromisoformat(date)) == date


@given(st.datetimes(), st.integers(0, 8848))
def test_correct_values_are_kept(when, height):
    assert metadata_values.repair_date(when.date().isoformat()) == when.date().isoformat()
    assert metadata_values.repair_time(when.strftime('%H:%M')) == when.strftime('%H:%M:00')
    assert metadata_values.repair_time(when.strftime('%H:%M:%S')) == when.strftime('%H:%M:%S')
    assert metadata_values.repair_elevation(str(height)) == str(height)
    # with am and pm, for which midnight and noon are special cases
    assert metadata_values.repair_time(when.strftime('%I:%M %p')) == when.strftime('%H:%M:00')


@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from(
            [
                b'<Audio>',
                b'</Audio>',
                b'<Date>',
                b'</Date>',
                b'<ClassId>',
                b'</ClassId>',
                b'<Date/>',
                b'&amp;',
                b'&',
                b'<',
                b'x',
                b'\xe9',
                b'<!--',
                b'-->',
                b'\0',
                b'<![CDATA[',
                b']]>',
                b'<?xml version="1.0"?>',
            ]
        ),
        max_size=12,
    ).map(b''.join)
)
def test_any_bytes_are_read_as_fields_or_refused(data):
    fields, problems = xml_fields.parse(data)
    assert problems if fields is None else set(fields) == set(xml_fields.FIELDS)


@pytest.mark.parametrize(
    'data, date, problem',
    [
        (b'<Audio><Date>2010-05-06</Date></Audio>', '2010-05-06', None),
        (b'\xef\xbb\xbf<?xml version="1.0"?><Audio><Date> 2010-05-06\n</Date></Audio>', '2010-05-06', None),
        (
            '<?xml version="1.0" encoding="UTF-16"?><Audio><Date>2010-05-06</Date></Audio>'.encode('utf-16'),
            '2010-05-06',
            None,
        ),
        (
            b'<?xml version="1.0" encoding="ascii"?><Audio><Author>Jos\xc3\xa9</Author><Date>2010-05-06</Date></Audio>',
            '2010-05-06',
            None,
        ),
        (b'<?xml version="1.0" encoding="nonsense"?><Audio><Date>2010-05-06</Date></Audio>', '2010-05-06', None),
        (b'<Audio><Date></Date></Audio>', '', None),
        (b'<Audio><Date /></Audio>', '', None),
        (b'<Audio><!-- <Date>1</Date> --><Date><![CDATA[2]]></Date></Audio>', '2', None),
        (b'<Audio><Author>Jos\xe9</Author><Date>2010-05-06</Date></Audio>', '2010-05-06', 'Latin-1'),
        (b'<Audio><Locality>A & B</Locality><Date>2010-05-06</Date></Audio>', '2010-05-06', 'well-formed'),
        (b'<Audio><Locality>A &eacute; B</Locality><Date>2010-05-06</Date></Audio>', '2010-05-06', 'well-formed'),
        (b'<Audio><Date>2010-05-06</Date><Comments>cut', '2010-05-06', 'well-formed'),
        (b'<Audio><Date>2010-05-06\n<Time>6:30</Time></Audio>', '2010-05-06', 'well-formed'),
        (b'<Audio><Time>6:30</Time><Date>2010-05', '', 'well-formed'),
    ],
)
def test_xml_is_read_despite_its_faults(data, date, problem):
    fields, problems = xml_fields.parse(data)
    assert fields['Date'] == date
    assert problem in problems[0] if problem else not problems


def test_bytes_that_are_not_utf8_are_read_as_windows_1252():
    fields, _ = xml_fields.parse(
        b'<?xml version="1.0" encoding="UTF-8"?><Audio><Author>Jos\xe9 \x96 P\xe9rez</Author></Audio>'
    )
    assert fields['Author'] == 'José – Pérez'


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa">{}]><Audio><ClassId>&j;</ClassId></Audio>'.format(
        ''.join('<!ENTITY {} "{}">'.format(b, (f'&{a};') * 10) for a, b in itertools.pairwise('abcdefghij'))
    )
).encode()
READS_FILE = b'<!DOCTYPE Audio [<!ENTITY x SYSTEM "file:///etc/passwd">]><Audio><ClassId>&x;</ClassId></Audio>'


def test_entities_are_never_expanded(tmp_path):
    source = write_xml(
        tmp_path / 'source',
        {
            'TrainingSet/LIFECLEF2014_X_RN1.xml': xml(ClassId='abc'),
            'TrainingSet/LIFECLEF2014_X_RN2.xml': BOMB,
            'TrainingSet/LIFECLEF2014_X_RN3.xml': READS_FILE,
            'TrainingSet/LIFECLEF2014_X_RN4.xml': BOMB.replace(b'</Audio>', b''),
            'TrainingSet/LIFECLEF2014_X_RN6.xml': b'&' + BOMB,
            'TrainingSet/LIFECLEF2014_X_RN5.xml': b'<Audio>' + b'<Date>' * (1 << 20),
        },
    )
    make_labels(source, tmp_path / 'made')
    assert (tmp_path / 'made/labels/labelset').read_text() == 'abc\n'
    lines = (tmp_path / 'made/xml/repairs.tsv').read_text().splitlines()
    assert [line.split('\t')[0][-7:] for line in lines] == ['RN2.wav', 'RN3.wav', 'RN4.wav', 'RN5.wav', 'RN6.wav']


@pytest.mark.parametrize(
    'time, longitude, local',
    [
        ('01:00:02Z', '-60', ['2025-02-26', '21:00:02']),
        ('23:30:00Z', '15', ['2025-02-28', '00:30:00']),
        ('12:00:00Z', '', ['2025-02-27', '']),
        ('25:00:00Z', '15', ['2025-02-27', '']),
        ('01:00:02', '-60', ['2025-02-27', '01:00:02']),
    ],
)
def test_times_in_utc_become_local_times(time, longitude, local):
    values, problems = metadata_values.metadata(Recording(date='2025-02-27', time=time, longitude=longitude))
    assert values[:2] == local
    assert [problem for problem in problems if problem[0] == f'Time {time!r}'] == (
        [(f'Time {time!r}', local[1] or 'dropped')] if time.endswith('Z') else []
    )


def test_recordings_without_class_get_no_label_and_classes_get_their_most_frequent_names(tmp_path):
    source = write_xml(
        tmp_path / 'source',
        {
            'data/a/LIFECLEF2017_X_RN1.xml': xml(
                ClassId='b',
                Genus='Parus',
                Species='major',
                BackgroundSpecies=' Turdus  merula ,Parus major,,Turdus merula',
            ),
            'data/b/LIFECLEF2017_X_RN2.XML': xml(ClassId='a', Genus='Turdus', Species='merula'),
            'data/LIFECLEF2017_X_RN3.xml': xml(Genus='Parus', Species='major'),
            'data/LIFECLEF2017_X_RN4.xml': xml(ClassId='c'),
            'data/._LIFECLEF2017_X_RN5.xml': xml(ClassId='d'),
        },
    )
    line = make_labels(source, tmp_path / 'made')
    labels = tmp_path / 'made' / 'labels'
    assert (labels / 'labelset').read_text().split() == ['a', 'b', 'c']
    assert (labels / 'labelset_latin').read_text().splitlines() == ['Turdus merula', 'Parus major', 'c']
    assert (labels / 'fg.tsv').read_text() == ''.join(
        f'train/2017/LIFECLEF2017_X_RN{number}.wav\t{index}\n' for number, index in ((1, 1), (2, 0), (4, 2))
    )
    assert (labels / 'bg.tsv').read_text().splitlines()[0] == 'train/2017/LIFECLEF2017_X_RN1.wav\t0,1'
    assert 'first counts' not in line
    assert 'RN3.wav\tno ClassId\tleft out' in (labels / 'repairs.tsv').read_text()
    assert (labels / 'labelset_2014').read_text() == ''


def test_a_second_run_reads_and_writes_nothing_except_for_new_files(tmp_path):
    source = write_xml(tmp_path / 'source', {'data/LIFECLEF2017_X_RN1.xml': xml(ClassId='b')})
    make_labels(source, tmp_path / 'made')
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'made').rglob('*') if path.is_file()}
    # XML of the same time as the table is read again, so wait until the table is newer
    while True:
        result = run('../collect.py', source, '--dataset', tmp_path / 'made')
        if '(0 files read now)' in result.stdout:
            break
        (tmp_path / 'made/xml/recordings.tsv').touch()
        before[tmp_path / 'made/xml/recordings.tsv'] = (tmp_path / 'made/xml/recordings.tsv').stat().st_mtime_ns
    assert 'nothing new' in make_labels(source, tmp_path / 'made')
    assert {path: path.stat().st_mtime_ns for path in before} == before
    write_xml(source, {'data/LIFECLEF2017_X_RN2.xml': xml(ClassId='a')})
    assert '(1 files read now)' in run('../collect.py', source, '--dataset', tmp_path / 'made').stdout
    make_labels(source, tmp_path / 'made')
    # the class that was there before keeps its index
    assert (tmp_path / 'made/labels/labelset').read_text().split() == ['b', 'a']


@pytest.mark.parametrize(
    'script, arguments, problem',
    [
        ('labels/recreate.py', ['--dataset', '/nowhere'], 'recordings.tsv: no such file'),
        ('labels/recreate.py', ['--dataset', '..'], 'not a name'),
        ('labels/recreate.py', ['--dataset', ''], 'not a name'),
    ],
)
def test_bad_input_is_one_line(script, arguments, problem):
    result = run(script, *arguments)
    assert result.returncode == 1 and problem in result.stderr and result.stderr.count('\n') == 1


def test_a_source_without_labels_and_a_damaged_table_are_one_line(tmp_path):
    source = write_xml(tmp_path / 'source', {'data/LIFECLEF2017_X_RN1.xml': xml(Date='2010-05-06')})
    run('../collect.py', source, '--dataset', tmp_path / 'made')
    result = run('labels/recreate.py', '--dataset', tmp_path / 'made')
    assert result.returncode == 1 and 'ClassId' in result.stderr
    (tmp_path / 'made/recordings.tsv').write_text('key\nx\n')
    result = run('labels/recreate.py', '--dataset', tmp_path / 'made')
    assert result.returncode == 1 and 'delete the file' in result.stderr and result.stderr.count('\n') == 1
    (tmp_path / 'made/recordings.tsv').unlink()
    (tmp_path / 'made/xml/recordings.tsv').write_text('path\nx\n')
    # collecting again creates the tables again
    assert run('../collect.py', source, '--dataset', tmp_path / 'made').returncode == 0
    assert len(xml_fields.read_records(str(tmp_path / 'made'))) == 1


# == Recordings of any source ==


def labelled(tmp_path, recordings, *arguments):
    """Run recreate.py for recordings -> (labels folder, stdout)."""
    write_recordings(str(tmp_path), recordings)
    result = run('labels/recreate.py', '--dataset', tmp_path, *arguments)
    assert result.returncode == 0, result.stderr
    return tmp_path / 'labels', result.stdout


def rows(path):
    return [tuple(line.split('\t')) for line in path.read_text().splitlines()]


def test_the_files_of_the_2018_archives_are_byte_for_byte_those_of_earlier_versions(tiny_source, tmp_path):
    make_labels(tiny_source, tmp_path / 'made')
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (tmp_path / 'made/labels').iterdir()
    }
    assert digests == DIGESTS
    assert (tmp_path / 'made/dataset.vars').read_text() == 'sample_rate=22050\n'


def test_only_the_column_part_decides_and_never_a_folder_in_a_key(tmp_path):
    parts = {
        'test/train/a.wav': 'train',
        'train/b.wav': 'test',
        'soundscapes/val/c.wav': 'train',
        'noise/d.wav': 'valid',
        'train/e.wav': 'unlabelled',
        'valid/f.wav': 'noise',
    }
    made = [
        Recording(key=key, part=part, class_id='' if part in ('noise', 'unlabelled') else 'c', latitude=str(i))
        for i, (key, part) in enumerate(parts.items())
    ]
    labels, _ = labelled(tmp_path, made)
    assert [key for key, _ in rows(labels / 'fg.tsv')] == sorted(key for key in parts if key[-5] in 'abcd')
    # training recordings only: 0 and 2
    assert 'input_meta.latitude_mean=1\ninput_meta.latitude_std=1\n' in (tmp_path / 'dataset.vars').read_text()


def test_existing_classes_keep_their_indices_and_new_ones_are_appended(tmp_path):
    made = [Recording(key=f'{name}.wav', class_id=name) for name in ('m', '1', 'z')]
    labels, _ = labelled(tmp_path, made)
    assert (labels / 'labelset').read_text().split() == ['1', 'm', 'z']
    made = [Recording(key=f'{name}.wav', class_id=name) for name in ('01', 'm', 'a', 'z')]
    _, output = labelled(tmp_path, made)
    assert (labels / 'labelset').read_text().split() == ['1', 'm', 'z', '01', 'a']
    assert rows(labels / 'fg.tsv') == [('01.wav', '3'), ('a.wav', '4'), ('m.wav', '1'), ('z.wav', '2')]
    assert '1 classes of labels/labelset have no recording any more, such as 1' in output


def test_background_classes_are_named_by_class_scientific_or_common_name(tmp_path):
    made = [
        Recording(key='1.wav', class_id='a', scientific_name='Turdus merula', common_name='Blackbird'),
        Recording(key='2.wav', class_id='b', scientific_name='Parus major', common_name='Great Tit'),
        Recording(key='3.wav', class_id='c', background=['Great Tit', 'a', 'Turdus  merula', 'Corvus corax', 'x']),
        Recording(key='4.wav', class_id='c', background=['x', 'b']),
    ]
    labels, output = labelled(tmp_path, made)
    assert rows(labels / 'bg.tsv') == [('1.wav', ''), ('2.wav', ''), ('3.wav', '1,0'), ('4.wav', '1')]
    assert '3 background entries name none of the classes and are not used: x (2x), Corvus corax (1x)' in output
    assert (labels / 'labelset_latin').read_text().splitlines() == ['Turdus merula', 'Parus major', 'c']
    assert (labels / 'labelset_common').read_text().splitlines() == ['Blackbird', 'Great Tit', 'c']


def test_segments_are_sorted_and_give_classes_that_have_no_recording(tmp_path):
    segments = [(5, 10.25, 'b'), (0, 5, ''), (5, 10.25, 'a'), (12345.678, 12350, 'only here')]
    made = [
        Recording(key='s/2.wav', part='valid', class_id='a', segments=[Segment(*segment) for segment in segments]),
        Recording(key='s/1.wav', part='test', segments=[Segment(0, 5, 'b')]),
    ]
    labels, output = labelled(tmp_path, made)
    assert (labels / 'labelset').read_text().splitlines() == ['a', 'b', 'only here']
    assert rows(labels / 'segments.tsv') == [
        ('s/1.wav', '0', '5', '1'),
        ('s/2.wav', '0', '5', ''),
        ('s/2.wav', '5', '10.25', '0'),
        ('s/2.wav', '5', '10.25', '1'),
        ('s/2.wav', '12345.678', '12350', '2'),
    ]
    assert '3 classes, 1 recordings with a class, 5 segments' in output
    labelled(tmp_path, [Recording(key='s/2.wav', class_id='a')])
    assert not (labels / 'segments.tsv').exists()


def test_recordings_about_which_nothing_is_known_have_no_metadata(tmp_path):
    made = [
        Recording(key='1.wav', class_id='a'),
        Recording(key='2.wav', part='test', source='2.mp3', copy_of='1.wav'),
        Recording(key='3.wav', part='test', recordist='someone'),
    ]
    labels, _ = labelled(tmp_path, made)
    assert [row[0] for row in rows(labels / 'meta.tsv')] == ['1.wav', '3.wav']


def test_recordings_for_prediction_need_no_classes(tmp_path):
    labels, output = labelled(tmp_path, [Recording(key='1.wav', part='unlabelled', date='2019-05-06', time='7h')])
    assert '0 classes' in output and rows(labels / 'meta.tsv') == [('1.wav', '2019-05-06', '07:00:00', '', '', '')]
    assert sorted(path.name for path in labels.iterdir()) == ['meta.tsv', 'repairs.tsv']


@pytest.mark.parametrize(
    'date, time, longitude, expected',
    [
        ('2019-05-06', '07:30:00Z', '-60', ('2019-05-06', '03:30:00')),
        ('2019-05-06', '01:00Z', '-60', ('2019-05-05', '21:00:00')),
        ('2019-12-31', '20:00:30 UTC', '151.2', ('2020-01-01', '06:05:18')),
        ('', '07:30 GMT', '15', ('', '08:30:00')),
        ('2019-05-06T07:30:00+00:00', '', '-60', ('2019-05-06', '03:30:00')),
        ('2019-05-06T07:30:00Z', '', '60 W', ('2019-05-06', '03:30:00')),
        ('2019-05-06', '2019-05-06T07:30:00Z', '-60', ('2019-05-06', '03:30:00')),
        # another time zone is that of the place
        ('2019-05-06T07:30:00-04:00', '', '-60', ('2019-05-06', '07:30:00')),
        # without a longitude, the local time is unknown
        ('2019-05-06', '07:30:00Z', '', ('2019-05-06', '')),
        ('2019-05-06', 'noonZ', '-60', ('2019-05-06', '')),
        ('0001-01-01', '00:30Z', '-60', ('0001-01-01', '')),
    ],
)
def test_utc_becomes_local_solar_time(date, time, longitude, expected):
    values, problems = metadata_values.metadata(Recording(date=date, time=time, longitude=longitude))
    assert tuple(values[:2]) == expected
    assert problems


def test_a_time_in_the_date_is_used_if_there_is_no_other(tmp_path):
    made = [
        Recording(key='1.wav', class_id='a', date='2019-05-06T07:30:00'),
        Recording(key='2.wav', class_id='a', date='2019-05-06 07:30:00', time='08:00'),
        Recording(key='3.wav', class_id='a', date='2019-05-06 00:00:00'),
    ]
    labels, _ = labelled(tmp_path, made)
    assert [row[1:3] for row in rows(labels / 'meta.tsv')] == [
        ('2019-05-06', '07:30:00'),
        ('2019-05-06', '08:00:00'),
        ('2019-05-06', ''),
    ]


def test_the_means_of_the_metadata_belong_to_the_dataset(tmp_path):
    made = [
        Recording(key='1.wav', class_id='a', latitude='10', elevation='100-300'),
        Recording(key='2.wav', class_id='a', latitude='20', elevation='300'),
        Recording(key='3.wav', class_id='a', latitude='?'),
        Recording(key='4.wav', class_id='a', part='test', latitude='80', longitude='7'),
    ]
    labelled(tmp_path, made)
    lines = ['sample_rate=22050', 'input_meta.latitude_mean=15', 'input_meta.latitude_std=5']
    # equal values have no deviation to divide by
    lines += ['input_meta.elevation_mean=300', 'input_meta.elevation_std=1']
    assert (tmp_path / 'dataset.vars').read_text().splitlines() == lines
    for recording in made:
        recording.elevation = ''
    labelled(tmp_path, made, '--sample-rate', 32000)
    assert (tmp_path / 'dataset.vars').read_text().splitlines() == ['sample_rate=32000', *lines[1:3]]
    labelled(tmp_path, made)
    assert 'sample_rate=32000' in (tmp_path / 'dataset.vars').read_text()


def test_the_sample_rate_of_converted_recordings_cannot_change(tmp_path):
    made = [Recording(key='a/1.wav', class_id='a')]
    labelled(tmp_path, made)
    before = (tmp_path / 'dataset.vars').read_bytes()
    (tmp_path / 'audio/a').mkdir(parents=True)
    (tmp_path / 'audio/a/1.wav').write_bytes(wav_bytes([0] * 10, rate=22050))
    result = run('labels/recreate.py', '--dataset', tmp_path, '--sample-rate', 32000)
    assert result.returncode == 1 and result.stderr.count('\n') == 1
    assert '22050 Hz' in result.stderr and 'choose another --dataset' in result.stderr
    assert (tmp_path / 'dataset.vars').read_bytes() == before
    labelled(tmp_path, made, '--sample-rate', 22050)


@pytest.mark.parametrize(
    'recordings, problem',
    [
        ([Recording(key='1.wav')], 'none of 1 training recordings has a class'),
        ([Recording(key='1.wav', class_id='a;b')], "'a;b' cannot be a class id"),
        ([Recording(key='1.wav', class_id='a, b')], 'rename the class'),
    ],
)
def test_recordings_that_give_no_labels_are_one_line(tmp_path, recordings, problem):
    write_recordings(str(tmp_path), recordings)
    result = run('labels/recreate.py', '--dataset', tmp_path)
    assert result.returncode == 1 and problem in result.stderr and result.stderr.count('\n') == 1
    assert not (tmp_path / 'labels').exists() and not (tmp_path / 'dataset.vars').exists()


def test_a_damaged_labelset_is_refused_before_indices_change(tmp_path):
    labels, _ = labelled(tmp_path, [Recording(key='1.wav', class_id='a')])
    (labels / 'labelset').write_text('a\na\n')
    result = run('labels/recreate.py', '--dataset', tmp_path)
    assert result.returncode == 1 and 'class ids must be unique' in result.stderr


def test_repairs_are_counted_by_kind_and_listed(tmp_path):
    times = ['?', '?', 'am', '7h', '07:00']
    made = [Recording(key=f'{i}.wav', class_id='a', time=time) for i, time in enumerate(times)]
    labels, output = labelled(tmp_path, made)
    assert '5 recordings with a class, 2 with metadata (1 values repaired, 3 dropped)' in output
    assert "time: 1 repaired: '7h' to 07:00:00 (1x)\ntime: 3 dropped: '?' (2x), 'am' (1x)" in output
    assert rows(labels / 'repairs.tsv')[2:] == [('2.wav', "Time 'am'", 'dropped'), ('3.wav', "Time '7h'", '07:00:00')]


def test_ten_thousand_classes_and_one_class(tmp_path):
    made = [Recording(key=f'{i}.wav', class_id=f'class {i}') for i in range(10_000)]
    labels, output = labelled(tmp_path / 'many', made)
    assert '10000 classes' in output and len(rows(labels / 'labelset')) == 10_000
    labels, _ = labelled(tmp_path / 'one', made[:1])
    assert rows(labels / 'fg.tsv') == [('0.wav', '0')]


@pytest.mark.parametrize('name', ['sumatra_birds_metadata.csv', 'birdclef2022_train_metadata.csv'])
def test_real_metadata_are_repaired_or_dropped(name):
    path = SHARED / 'data/metadata' / name
    if not path.exists():
        pytest.skip(f'needs {path}')
    fields = {'date': ['date'], 'time': ['time'], 'latitude': ['lat', 'latitude'], 'elevation': ['alt']}
    fields['longitude'] = ['lng', 'longitude']
    for row in Table(str(path)):
        texts = {field: next((row[name] for name in names if name in row), '') for field, names in fields.items()}
        values, problems = metadata_values.metadata(Recording(**texts))
        assert validate.META_ROW.fullmatch('\t'.join(values))
        # nothing is lost without a note
        assert sum(map(bool, values)) + sum(done == 'dropped' for _, done in problems) == sum(map(bool, texts.values()))
