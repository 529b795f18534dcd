"""Parsers read any file or option, or refuse it in one line that names the place."""

import functools
import os
import pathlib
import string
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from birdsong import config, files, model_table
from birdsong.data import metadata
from birdsong.data.dataset import Dataset
from birdsong.files import Problem
from birdsong.networks import model
from birdsong.scores import combination, predictions

settings.register_profile(
    'parsers',
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile('parsers')

TEXT = st.text(st.characters(exclude_categories=['Cs']), max_size=40)
WORD = st.text(string.ascii_letters + string.digits + '_-+.', min_size=1, max_size=9)
NUMBER = st.one_of(
    st.integers(-9999, 99999).map(str),
    st.floats().map(str),
    st.sampled_from(['', '0x1', '1e999', '9' * 400, '1_0', '٣']),
)


def refused(call, *names):
    """The result of `call()`, or None if it is refused in one line that contains `names`."""
    try:
        return call()
    except Problem as e:
        line = ' '.join(str(e).split())  # as birdsong/program.py prints it
        assert len(line) > 10 and all(' '.join(name.split()) in line for name in names), line
        return None


# == Metadata ==


def parts(separator, count):
    """Texts of about `count` numbers with separators."""
    return st.lists(NUMBER, min_size=count - 1, max_size=count + 1).map(separator.join)


@given(st.one_of(TEXT, parts('-', 3), parts(':', 3), parts('-', 2)))
@example('2010-01-' + '9' * 400)
@example('00:00:' + '9' * 400)
def test_any_value_is_a_finite_number_or_missing(tmp_path, text):
    text = ' '.join(text.split())
    (tmp_path / 'meta.tsv').write_text('\t'.join(['key'] + 5 * [text]) + '\n', encoding='utf-8')
    found = refused(lambda: metadata.read_table(str(tmp_path / 'meta.tsv')), 'meta.tsv, line 1')
    assert found is not None and all(np.isfinite(value) for value in found['key'].values())
    cfg = config.load([], ['input_meta=' + ','.join(metadata.SOURCES)])
    row = metadata.encode(metadata.numbers([found['key']], metadata.SOURCES), cfg)
    assert row.shape == (1, metadata.size(cfg)) and np.isfinite(row).all()


@given(st.dates(), st.times(), st.floats(-90, 90), st.floats(-180, 180), st.integers(-400, 8000), st.integers(0, 900))
def test_metadata_are_read_as_they_were_written(tmp_path, date, time, latitude, longitude, low, more):
    row = [
        'x.wav',
        date.isoformat(),
        time.strftime('%H:%M:%S'),
        repr(latitude),
        repr(longitude),
        f'{low}-{low + more}',
    ]
    (tmp_path / 'meta.tsv').write_text('\t'.join(row) + '\n')
    found = metadata.read_table(str(tmp_path / 'meta.tsv'))['x.wav']
    days = date.replace(year=2001, day=min(date.day, 28)).timetuple().tm_yday + date.day - min(date.day, 28)
    assert found == dict(
        date=days,
        time=time.hour * 60 + time.minute + time.second / 60,
        latitude=latitude,
        longitude=longitude,
        elevation=low + more,
    )


@given(st.lists(st.one_of(st.none(), st.floats(0, 366)), min_size=1, max_size=5), st.integers(1, 16))
def test_an_encoded_date_is_on_a_circle(days, size):
    cfg = config.load([], ['input_meta=date', f'input_meta.date_encoding.size={size}'])
    values = np.array([[np.nan if day is None else day] for day in days])
    rows = metadata.encode(values, cfg)
    assert rows.shape == (len(days), 1 + size)
    for day, row in zip(days, rows, strict=True):
        assert row[0] == (day is not None) and (day is not None or not row.any())
    if size > 1:
        there = ~np.isnan(values[:, 0])
        np.testing.assert_allclose((rows[there, 1:].astype(float) ** 2).sum(axis=1), size, rtol=1e-4)
        np.testing.assert_allclose(metadata.encode(values + 365, cfg), rows, atol=1e-5)


# == Settings ==


@given(
    st.lists(
        st.tuples(st.one_of(st.sampled_from(sorted(config.kinds())), WORD), st.one_of(NUMBER, TEXT, WORD)), max_size=4
    )
)
def test_any_assignment_has_its_type_or_is_refused(assignments):
    lines = [f'{name}={value}' for name, value in assignments]
    found = refused(lambda: config.load([], lines))
    if found is not None:
        config.check({k: v for k, v in found.items()})
        assert set(found) == set(config.load()) | {key for key, _ in assignments if not key.startswith('#')} & set(
            config.DERIVED
        )


LAYERS = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                'conv',
                'Conv',
                'convg1',
                'pool',
                'avgpool',
                'lme1pool',
                'resblock',
                'resblock_start_end',
                'dense',
                'full',
                'groupdrop',
                'bn',
                'x',
            ]
        ),
        st.lists(
            st.one_of(st.integers(-3, 9).map(str), st.sampled_from(['Full', 'Shift', 'Fullx', '', 'a', '1.5'])),
            max_size=6,
        ).map('x'.join),
    ).map(':'.join),
    TEXT,
    st.just(''),
)


@given(st.lists(LAYERS, max_size=4).map(','.join))
@example('conv:4x3x3,pool:3x3,Conv:5x2x-1')
def test_any_architecture_is_built_or_its_layer_named(arch):
    def build():
        cfg = dict(config.load(), arch=arch, mel_bands=20, frame_len=256)
        return model.build(cfg, 3, 0)

    net = refused(build)
    assert net is None or isinstance(net, model.Network)


# == Tables ==

PRESETS = st.lists(st.one_of(st.sampled_from(['dummy', 'published', 'lme1', '../x', '']), WORD), max_size=2).map(
    ' '.join
)
TEACHERS = st.lists(
    st.one_of(st.tuples(st.sampled_from(['ban', 'init_from', 'fps']), WORD).map('='.join), st.just('-'), WORD),
    max_size=2,
).map(' '.join)


@given(
    st.lists(
        st.one_of(
            TEXT,
            st.tuples(
                st.one_of(st.sampled_from('ab'), WORD),
                PRESETS,
                st.one_of(TEACHERS, st.sampled_from(['ban=a', 'ban=b'])),
                TEXT,
            ).map('\t'.join),
        ),
        max_size=4,
    )
)
@example(['a\tdummy\tban=b', 'b\tdummy\tban=a'])
@example(['a\tdummy', 'b\tdummy\tban=a'])
def test_any_table_of_models_is_read_or_its_fault_named(tmp_path, lines):
    table = tmp_path / 'models.tsv'
    table.write_text(''.join(line + '\n' for line in lines), encoding='utf-8')
    found = refused(lambda: model_table.read_table(str(table)))
    if found is not None:
        order = model_table.in_order(found, [])
        assert sorted(order) == sorted(found)
        for name in order:
            assert all(order.index(teacher) < order.index(name) for teacher in model_table.teachers_of(found[name]))
            assert not any(set(argument) & set('\t\n') for argument in model_table.train_arguments(found[name], 'd'))


@given(
    st.lists(
        st.one_of(
            TEXT, st.tuples(st.sampled_from(['a.wav', 'b.wav']), st.one_of(NUMBER, parts(',', 2), TEXT)).map('\t'.join)
        ),
        max_size=4,
    )
)
def test_any_labels_are_class_indices_or_their_line_is_named(tmp_path, lines):
    for name, text in (
        ('filelists/valid', ''.join(line + '\n' for line in lines)),
        ('labels/labelset', 'x\ny\nz\n'),
        ('labels/fg.tsv', ''.join(line + '\n' for line in lines)),
        ('labels/bg.tsv', ''.join(line + '\n' for line in lines)),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding='utf-8')
    dataset = Dataset(tmp_path)
    labels = refused(lambda: dataset.labels(), 'fg.tsv, line ')
    assert labels is None or set(labels.values()) <= {0, 1, 2}
    background = refused(lambda: dataset.background(), 'bg.tsv, line ')
    assert background is None or all(set(classes) <= {0, 1, 2} for classes in background.values())
    keys = refused(lambda: dataset.filelist('valid'), 'filelists/valid')
    assert keys is None or all(key.strip() and '\n' not in key for key in keys)


@given(st.binary(max_size=60))
def test_any_bytes_are_lines_or_no_text(tmp_path, content):
    (tmp_path / 'list').write_bytes(content)
    lines = refused(lambda: files.read_lines(str(tmp_path / 'list')), 'list: not UTF-8')
    assert lines is None or not any('\n' in line or '\r' in line for line in lines)


@given(st.one_of(WORD, TEXT), st.one_of(NUMBER, TEXT))
def test_a_member_is_a_file_and_perhaps_a_weight(name, weight):
    found = refused(lambda: combination.parse_weighted(f'{name}:{weight}'), 'finite')
    if found is not None:
        assert found[1] is None and found[0] == f'{name}:{weight}' or np.isfinite(found[1]) and found[0] == name


# == Archives ==

DAMAGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3
)


@functools.cache
def archive(compress):
    """Bytes of an archive of plain arrays."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'a.npz')
        files.save_npz(path, {'files': np.array(['a', 'bc']), 'x': np.arange(6.0).reshape(2, 3)}, compress)
        return path.read_bytes()


@functools.cache
def prediction(timed=False):
    """Bytes of a file of predictions, with or without times."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'p.npz')
        times = {'starts': [0, 0, 5], 'stops': [3, 5, 9.5]} if timed else {}
        predictions.save(path, ['a', 'bc'], [np.ones((1, 3)), np.zeros((2, 3))], **times)
        return path.read_bytes()


def write_damaged(path, content, damages):
    """Write a file with some bytes replaced. Each damage: relative position, number of bytes, new bytes."""
    content = bytearray(content)
    for share, count, other in damages:
        at = int(share * len(content))
        content[at : at + count] = other
    path.write_bytes(content)


@given(st.booleans(), DAMAGES)
def test_a_damaged_archive_is_refused_or_contains_plain_arrays(tmp_path, compress, damages):
    path = tmp_path / 'a.npz'
    write_damaged(path, archive(compress), damages)
    found = refused(lambda: files.load_npz(path), 'a.npz: ')
    assert found is None or not any(value.dtype.hasobject for value in found.values())


@given(DAMAGES, st.booleans())
@example([(0.640625, 3, bytes(3))], False)
def test_damaged_predictions_are_refused_or_finite(tmp_path, damages, timed):
    path = tmp_path / 'p.npz'
    write_damaged(path, prediction(timed), damages)
    found = refused(lambda: predictions.load(path), 'p.npz: ')
    assert found is None or np.isfinite(found.scores).all() and found.offsets[-1] == len(found.scores)
    assert found is None or found.starts is None or (found.starts < found.stops).all()


@given(st.binary(max_size=200))
@example(b'PK\x05\x06' + bytes(18))
def test_any_bytes_are_refused_as_predictions(tmp_path, content):
    path = tmp_path / 'p.npz'
    path.write_bytes(content)
    with pytest.raises(Problem, match='p.npz: '):
        predictions.load(path)
    assert os.listdir(tmp_path) == ['p.npz']
