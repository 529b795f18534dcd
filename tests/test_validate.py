"""validate.py: the description of a good dataset, and one line that says what to do for each kind of fault."""

import shutil
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import validate
from birdsong.data.dataset import Dataset
from helpers import run_program, wav_bytes, write_lines
from shared.options import remembered


def run(dataset, *arguments):
    return run_program('datasets/validate.py', dataset, *arguments)


@pytest.fixture
def dataset(tiny_dataset, tmp_path):
    return shutil.copytree(tiny_dataset, tmp_path / 'copy')


def lines(path, change):
    """Change the list of lines of a file in place."""
    content = path.read_text().splitlines()
    path.write_text('\n'.join(change(content) or content) + '\n')


def test_a_good_dataset_is_described(dataset):
    result = run(dataset)
    assert result.returncode == 0 and not result.stderr
    for part in (
        '28 recordings',
        '4 classes',
        'hours at 22050 Hz',
        'soundscapes_val',
        'metadata: date',
        'elevation',
        'repairs',
        'in no list: 1',
    ):
        assert part in result.stdout
    quick = run(dataset, '--quick')
    assert (quick.returncode, quick.stdout, quick.stderr) == (0, '', '')


def test_only_lists_and_labels_are_required(dataset):
    for name in (
        'bg.tsv',
        'meta.tsv',
        'labelset_latin',
        'labelset_2014',
        'labelset_2015',
        'labelset_2017',
        'repairs.tsv',
    ):
        (dataset / 'labels' / name).unlink()
    for name in 'test', 'soundscapes_val', 'soundscapes_test':
        (dataset / 'filelists' / name).unlink()
    shutil.rmtree(dataset / 'xml')
    result = run(dataset)
    assert result.returncode == 0, result.stderr
    assert 'metadata: none' in result.stdout


def first(dataset, name='train'):
    return dataset / 'audio' / (dataset / 'filelists' / name).read_text().split()[0]


def header(**changes):
    def change(dataset):
        values = dict(rate=22050, channels=1, width=2, length=None)
        values.update(changes)
        path = first(dataset)
        data = path.read_bytes()[44 : 44 + 4 * 2000]
        size = len(data) if values['length'] is None else values['length']
        frame = values['channels'] * values['width']
        path.write_bytes(
            struct.pack(
                '<4sI4s4sIHHIIHH4sI',
                b'RIFF',
                36 + size,
                b'WAVE',
                b'fmt ',
                16,
                1,
                values['channels'],
                values['rate'],
                frame * values['rate'],
                frame,
                8 * values['width'],
                b'data',
                size,
            )
            + data[:size]
        )

    return change


def append(name, line):
    return lambda dataset: lines(dataset / name, lambda content: content + [line(content) if callable(line) else line])


def cut(name, field):
    """Remove the fields of the first line from number `field` on."""
    return lambda dataset: lines(
        dataset / name, lambda content: ['\t'.join(content[0].split('\t')[:field])] + content[1:]
    )


def write_segments(*rows):
    return lambda dataset: write_lines(dataset / 'labels/segments.tsv', rows)


FAULTS = {
    'no list': (lambda dataset: (dataset / 'filelists/valid').unlink(), 'filelists/valid: missing'),
    'no labels': (lambda dataset: (dataset / 'labels/fg.tsv').unlink(), 'labels/fg.tsv: missing'),
    'no audio': (lambda dataset: shutil.rmtree(dataset / 'audio'), 'audio: no such folder'),
    'empty list': (lambda dataset: (dataset / 'filelists/valid').write_text(''), 'filelists/valid: lists nothing'),
    'listed twice': (append('filelists/valid', lambda content: content[0]), 'is in filelists/valid already'),
    'in both lists': (
        lambda dataset: lines(
            dataset / 'filelists/valid', lambda content: content + (dataset / 'filelists/train').read_text().split()[:1]
        ),
        'is in filelists/train already',
    ),
    'absolute path': (append('filelists/test', '/etc/passwd'), 'no path below audio/'),
    'path upwards': (append('filelists/test', '../../x.wav'), 'no path below audio/'),
    'blank line': (append('filelists/test', ''), 'no path below audio/'),
    'unlabelled': (
        lambda dataset: lines(
            dataset / 'labels/fg.tsv',
            lambda content: [
                line for line in content if not line.startswith((dataset / 'filelists/train').read_text().split()[0])
            ],
        ),
        'has no row in labels/fg.tsv',
    ),
    'class out of range': (append('labels/fg.tsv', 'x.wav\t4'), "x.wav has class '4'; expected 0 to 3"),
    'class no number': (append('labels/fg.tsv', 'x.wav\t-1'), "x.wav has class '-1'"),
    'two rows': (append('labels/fg.tsv', lambda content: content[0]), 'has a row already'),
    'no field': (cut('labels/fg.tsv', 1), 'labels/fg.tsv, line 1: expected 2 fields'),
    'background out of range': (append('labels/bg.tsv', 'x.wav\t1,9'), "x.wav has classes '1,9'"),
    'background row missing': (
        lambda dataset: lines(dataset / 'labels/bg.tsv', lambda content: content[:1]),
        'labels/bg.tsv: no row for',
    ),
    'metadata fields': (cut('labels/meta.tsv', 3), 'labels/meta.tsv, line 1: expected 6 fields'),
    'date': (append('labels/meta.tsv', 'x.wav\t2010\t\t\t\t'), "has the date '2010'"),
    'time': (append('labels/meta.tsv', 'x.wav\t\t24:00:00\t\t\t'), "has the time '24:00:00'"),
    'latitude': (append('labels/meta.tsv', 'x.wav\t\t\tnorth\t\t'), "has the latitude 'north'"),
    'elevation': (append('labels/meta.tsv', 'x.wav\t\t\t\t\thigh'), "has the elevation 'high'"),
    'labels twice': (append('labels/labelset', lambda content: content[-1]), 'is there twice'),
    'label with semicolon': (append('labels/labelset', 'zz;z'), "'zz;z' cannot be a class id"),
    'segment fields': (write_segments('x.wav\t0\t5'), 'segments.tsv, line 1: expected path, start, end and class'),
    'segment times': (write_segments('x.wav\t5\t5\t0'), "'5' to '5'; expected seconds, the start before the end"),
    'segment no time': (write_segments('x.wav\tnan\t5\t0'), "'nan' to '5'; expected seconds"),
    'segment class': (write_segments('x.wav\t0\t5\t4'), "line 1: class '4'; expected 0 to 3, or nothing"),
    'segment order': (write_segments('x.wav\t5\t6\t0', 'x.wav\t0\t5\t0'), 'line 2: rows must be sorted'),
    'group missing': (
        lambda dataset: (dataset / 'filelists/groups.tsv').write_text('x.wav\tg\n'),
        'filelists/groups.tsv: no row for',
    ),
    'common names missing': (
        lambda dataset: (dataset / 'labels/labelset_common').write_text('A\n'),
        'labels/labelset_common: 1 names for 4 classes',
    ),
    'noise missing': (lambda dataset: write_lines(dataset / 'filelists/noise', ['no.wav']), 'no such recording'),
    'other rate in dataset.vars': (
        lambda dataset: (dataset / 'dataset.vars').write_text('sample_rate=32000\n'),
        '32000 Hz (sample_rate in dataset.vars)',
    ),
    'no labels at all': (lambda dataset: (dataset / 'labels/labelset').write_text(''), 'no classes'),
    'names missing': (
        lambda dataset: lines(dataset / 'labels/labelset_latin', lambda content: content[1:]),
        '3 names for 4 classes',
    ),
    'unknown edition class': (append('labels/labelset_2014', 'nobody'), 'nobody is not in labels/labelset'),
    'recording missing': (lambda dataset: first(dataset).unlink(), 'no such recording'),
    'recording empty': (lambda dataset: first(dataset).write_bytes(b''), 'an empty file'),
    'recording truncated': (header(length=8000000), 'truncated'),
    'recording without samples': (header(length=0), 'has no samples'),
    'other rate': (header(rate=44100), 'is not mono, 16 bit, 22050 Hz'),
    'stereo': (header(channels=2), 'is not mono'),
    '32 bit': (header(width=4), 'is not mono'),
    'no recording': (lambda dataset: first(dataset).write_text('This is text. ' * 50), 'not a WAVE file'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_one_line_and_status_1(dataset, fault):
    change, problem = FAULTS[fault]
    change(dataset)
    faults, described = validate.check(str(dataset))
    assert not described and any(problem in line for line in faults)
    # one fault may cause another
    assert len(faults) <= 2


def test_each_fault_is_one_line_of_output(dataset):
    run(dataset, '--quick')
    FAULTS['recording missing'][0](dataset)
    FAULTS['class out of range'][0](dataset)
    FAULTS['class out of range'][0](dataset)
    result = run(dataset)
    assert result.returncode == 1 and not result.stdout and 'Traceback' not in result.stderr
    assert len(result.stderr.splitlines()) == 3 and all(
        line.startswith('validate.py: ') for line in result.stderr.splitlines()
    )


def test_faults_of_a_kind_are_counted(dataset):
    for i in range(5):
        append('labels/fg.tsv', f'x{i}.wav\t77')(dataset)
    faults, _ = validate.check(str(dataset))
    assert (
        faults == [line for line in faults if 'x0.wav' in line and '(and 4 more of this kind)' in line]
        and len(faults) == 1
    )


def test_times_that_the_2018_scripts_wrote_are_corrected_and_stop_no_driver(dataset, capsys):
    meta = dataset / 'labels/meta.tsv'
    times = {
        '24:10:00': '12:10:00',
        '24:00:00': '12:00:00',
        '700:00:00': '07:00:00',
        '1830:00:00': '18:30:00',
        '30:30:00': '18:30:00',
        '25:61:00': '',
        '07:15:00': '07:15:00',
        '5:7:9': '05:07:09',
        '': '',
    }
    keys = (dataset / 'filelists/train').read_text().split()
    before = ''.join(f'{key}\t2010-05-07\t{time}\t\t\t\n' for key, time in zip(keys, times, strict=False))
    meta.write_text(before)
    assert validate.check(str(dataset), quick=True)[0] == []
    faults, _ = validate.check(str(dataset))
    assert len(faults) == 1 and '24:10:00' in faults[0] and 'validate.py NAME --repair-times' in faults[0]
    table = Dataset(str(dataset)).metadata()
    assert table[keys[0]] == {'date': 127, 'time': 24 * 60 + 10} and table[keys[6]]['time'] == 435
    assert capsys.readouterr().err.count("6 times of day are wrong, such as '24:10:00' in line 1") == 1
    result = run(dataset, '--repair-times')
    assert (result.returncode, result.stderr) == (0, '') and '6 times corrected, 1 left out' in result.stdout
    assert [line.split('\t')[2] for line in meta.read_text().splitlines()] == list(times.values())
    assert (dataset / 'labels/meta.tsv.old').read_text() == before
    assert validate.check(str(dataset))[0] == []
    assert (
        'nothing changed' in run(dataset, '--repair-times').stdout
        and (dataset / 'labels/meta.tsv.old').read_text() == before
    )


def test_byte_order_marks_are_removed_from_lists_and_tables(dataset):
    _, before = validate.check(str(dataset))
    for name in (
        'filelists/train',
        'filelists/valid',
        'labels/labelset',
        'labels/fg.tsv',
        'labels/bg.tsv',
        'labels/meta.tsv',
    ):
        path = dataset / name
        path.write_text('\ufeff' + path.read_text(), encoding='utf-8')
    # as in the output of `cat one two`
    lines(dataset / 'filelists/test', lambda content: ['\ufeff' + line for line in content])
    assert validate.check(str(dataset)) == ([], before)


def test_prediction_needs_only_recordings_and_the_named_lists(dataset):
    for name in 'train', 'valid':
        (dataset / 'filelists' / name).unlink()
    shutil.rmtree(dataset / 'labels')
    assert 'filelists/train: missing' in run(dataset).stderr
    result = run(dataset, '--for', 'predict', '--filelists', 'test,soundscapes_val')
    assert (
        (result.returncode, result.stderr) == (0, '')
        and 'soundscapes_val' in result.stdout
        and 'soundscapes_test' not in result.stdout
    )
    assert run(dataset, '--for', 'predict', '--quick').stderr == ''
    assert 'filelists/valid: missing' in run(dataset, '--for=predict', '--filelists=valid').stderr
    first(dataset, 'test').unlink()
    faults, _ = validate.check(str(dataset), purpose='predict', names=['test'])
    assert len(faults) == 1 and 'no such recording' in faults[0]


def test_evaluation_needs_lists_and_labels_but_no_recordings(dataset):
    shutil.rmtree(dataset / 'audio')
    (dataset / 'filelists' / 'train').unlink()
    faults, described = validate.check(str(dataset), purpose='evaluate')
    assert not faults and 'recordings, 4 classes' in described[0]
    faults, _ = validate.check(str(dataset), purpose='evaluate', names=['test'])
    assert 'has no row in labels/fg.tsv' in faults[0]


def test_quick_trusts_the_index_and_the_full_check_does_not(dataset):
    assert run(dataset, '--quick').returncode == 0 and (dataset / 'index.npz').exists()
    first(dataset).unlink()
    assert run(dataset, '--quick').returncode == 0
    result = run(dataset)
    assert result.returncode == 1 and 'no such recording' in result.stderr


@pytest.mark.parametrize(
    'name, problem',
    [
        ('/nowhere', 'not a dataset'),
        ('shared', 'a folder of the program'),
        ('no_such_dataset', 'not a dataset'),
        ('..', 'not a name'),
        ('', 'not a name'),
    ],
)
def test_another_folder_is_refused_in_one_line(name, problem):
    result = run(name)
    assert result.returncode == 1 and problem in result.stderr and result.stderr.count('\n') == 1


@given(st.lists(st.text(st.characters(exclude_categories=['Cs']), max_size=12), min_size=6, max_size=6))
def test_any_row_of_metadata_is_checked(fields):
    row = '\t'.join(fields)
    good = validate.META_ROW.fullmatch(row)
    assert not good or row.count('\t') == 4


def test_noise_and_unlabelled_recordings_need_no_label(dataset):
    keys = (dataset / 'filelists/train').read_text().split()
    for name, part in ('noise', keys[:1]), ('unlabelled', keys[1:2]):
        write_lines(dataset / 'filelists' / name, part)
    write_lines(dataset / 'filelists/train', keys[2:])
    for name in 'fg.tsv', 'bg.tsv':
        lines(dataset / 'labels' / name, lambda content: [line for line in content if line.split('\t')[0] in keys[2:]])
    valid = (dataset / 'filelists/valid').read_text().split()
    for name in 'fg.tsv', 'bg.tsv':
        lines(dataset / 'labels' / name, lambda content: content + [f'{key}\t0' for key in valid])
    faults, described = validate.check(str(dataset))
    assert not faults and any(line.split()[:2] == ['unlabelled', '1'] for line in described)
    faults, _ = validate.check(str(dataset), purpose='evaluate', names=['noise'])
    assert 'has no row in labels/fg.tsv' in faults[0]


def test_classes_need_not_be_sorted(dataset):
    lines(dataset / 'labels/labelset', lambda content: content[::-1])
    assert validate.check(str(dataset))[0] == []


def test_segments_groups_and_rare_classes_are_described(dataset):
    keys = {name: (dataset / 'filelists' / name).read_text().split() for name in ('train', 'valid', 'test')}
    rows = [f'{keys["valid"][0]}\t{times}' for times in ('0\t5\t', '1\t10\t1', '9999\t10000\t1')]
    write_segments(*rows)(dataset)
    groups = {key: f'g{number // 3}' for number, key in enumerate(sorted(sum(keys.values(), [])))}
    groups[keys['valid'][0]] = groups[keys['train'][0]] = 'both'
    write_lines(dataset / 'filelists/groups.tsv', ['\t'.join(item) for item in groups.items()])
    description = '\n'.join(validate.check(str(dataset))[1])
    assert 'segments: 3 of 1 classes in 1 recordings; 1 without any class; 1 start after the end' in description
    assert 'of which the largest has 3 recordings' in description and 'are in more than one list' in description


@pytest.fixture
def metadata_only(dataset):
    shutil.rmtree(dataset / 'audio')
    remembered(str(dataset), 'collect', {'no_audio': True})
    return dataset


@pytest.mark.parametrize('purpose', ['train', 'predict', 'metadata'])
def test_a_dataset_prepared_without_recordings_needs_metadata_instead(metadata_only, purpose):
    faults, described = validate.check(str(metadata_only), purpose=purpose)
    assert not faults and 'metadata only' in described[0] and any('metadata: date' in line for line in described)
    (metadata_only / 'labels/meta.tsv').unlink()
    faults, _ = validate.check(str(metadata_only), purpose=purpose)
    assert len(faults) == 1 and f'labels/meta.tsv: missing, but needed by --for {purpose}' in faults[0]


def test_a_dataset_that_lost_its_recordings_is_not_one_without(dataset):
    shutil.rmtree(dataset / 'audio')
    assert 'audio: no such folder' in validate.check(str(dataset))[0][0]
    assert validate.check(str(dataset), purpose='metadata')[0] == []


def make_fold(dataset):
    fold = dataset.parent / f'{dataset.name}-fold1'
    (fold / 'filelists').mkdir(parents=True)
    for name in 'audio', 'labels', 'index.npz', 'dataset.vars', 'recordings.tsv':
        (fold / name).symlink_to(f'../{dataset.name}/{name}')
    for name in 'train', 'valid':
        shutil.copy(dataset / 'filelists' / name, fold / 'filelists' / name)
    return fold


def test_a_fold_is_checked_like_any_dataset(dataset):
    fold = make_fold(dataset)
    faults, described = validate.check(str(fold))
    assert not faults and '22 recordings' in described[0] and 'a fold of copy' in described[0]
    assert validate.check(str(dataset))[0] == []
    # all share one index, which the first of them wrote
    assert (fold / 'index.npz').is_symlink() and (dataset / 'index.npz').is_file()
    # recordings that are in no list of a fold are in those of the dataset
    assert not any('in no list' in line for line in described)
    dataset.rename(dataset.parent / 'moved')
    faults, _ = validate.check(str(fold))
    assert any('audio: no such file or folder: the link leads to ../copy/audio, which is missing' in f for f in faults)
    assert all('link' in fault for fault in faults)


def test_a_fold_of_a_dataset_without_recordings_needs_none(metadata_only):
    fold = make_fold(metadata_only)
    (fold / 'audio').unlink()
    assert validate.check(str(fold))[0] == []


def test_the_sample_rate_is_that_of_dataset_vars(dataset):
    (dataset / 'dataset.vars').write_text('sample_rate=22050\n')
    assert validate.check(str(dataset))[0] == []
    (dataset / 'dataset.vars').write_text('sampel_rate=22050\n')
    result = run(dataset)
    assert result.returncode == 1 and 'unknown setting sampel_rate' in result.stderr and result.stderr.count('\n') == 1


@pytest.mark.parametrize(
    'program, arguments',
    [
        ('collect.py', ['.']),
        ('birdclef/labels/recreate.py', []),
        ('birdclef/audio/convert.py', ['.']),
        ('birdclef/filelists/split.py', []),
    ],
)
def test_a_fold_is_not_prepared_itself(dataset, program, arguments):
    fold = make_fold(dataset)
    before = sorted(fold.rglob('*'))
    result = run_program(f'datasets/{program}', *arguments, '--dataset', fold)
    assert result.returncode == 1 and 'a fold of copy; prepare that dataset' in result.stderr
    assert sorted(fold.rglob('*')) == before and (fold / 'recordings.tsv').is_symlink()


def test_classes_may_have_the_names_of_parts(tmp_path):
    source, made = tmp_path / 'source', tmp_path / 'made'
    classes = ['test', 'train', 'soundscapes', 'robin']
    for number, name in enumerate(f'{name}/{i}.wav' for name in classes for i in range(4)):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(wav_bytes(np.full(2205, number, np.int16)))
    # unlike a recording of the part test, this one does not become silence
    (source / 'test/empty.wav').write_bytes(b'')
    for program, arguments in {
        'collect.py': [source],
        'birdclef/labels/recreate.py': [],
        'birdclef/audio/convert.py': [source],
        'birdclef/filelists/split.py': [],
    }.items():
        result = run_program(f'datasets/{program}', *arguments, '--dataset', made)
        assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (made / 'filelists').iterdir()) == ['groups.tsv', 'train', 'valid']
    assert not (made / 'audio/test/empty.wav').exists()
    assert not list((made / 'labels').glob('labelset_20*'))
    faults, described = validate.check(str(made))
    assert not faults and '16 recordings' in described[0] and '4 classes' in described[0]
    assert all(line.endswith(', 4 classes') for line in described[1:3])
