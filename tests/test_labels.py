"""Labels and metadata from XML: the results of 2018, corrected values, damaged and hostile files."""

import datetime
import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers import run_program
from shared import metadata_values, xml_fields

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
    ],
)
def test_degrees_are_numbers_within_their_limit(text, expected):
    assert outcome(lambda text: metadata_values.repair_degrees(text, 90), text) == expected


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
