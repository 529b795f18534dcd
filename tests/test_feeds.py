"""The batches of the feeds, and their messages about bad input."""

import contextlib
import hashlib
import os
import pathlib

import numpy as np
import pytest

from birdsong import config
from birdsong.data import stft
from birdsong.data.dataset import Dataset
from birdsong.data.feeds import TestFeed, ValidFeed, needs_host_spectrogram
from birdsong.data.sampling import class_weights
from birdsong.data.training_feed import TrainFeed
from birdsong.files import Problem
from birdsong.scores import predictions
from birdsong.training import pseudo_labels
from helpers import wav_bytes

GOLDEN = (
    'data/class_weights',
    'data/pseudo_labels',
    'data/test_len0-0_meta',
    'data/test_len0-5_meta',
    'data/test_len3-63_meta',
    'data/train_bgweights',
    'data/train_maxdb',
    'data/train_meta',
    'data/train_metaonly',
    'data/train_mixup',
    'data/train_mixup2',
    'data/train_plain',
    'data/valid_bs16_len5-30',
    'data/valid_bs3_len0-0',
    'data/valid_bs3_len0-0_meta',
    'data/valid_bs3_len1-2',
    'data/valid_bs3_len5-30',
    'data/valid_bs3_len5-30_meta',
    'data/valid_split3_bs2',
)
pytestmark = pytest.mark.filterwarnings('ignore:The behavior of affine_transform')
VALID = [case for case in GOLDEN if case.startswith('data/valid_bs')]
ALL_META = 'input_meta=date,time,latitude,longitude,elevation'
# A date without a month counts as missing; in the original, it was the end of December of the previous year.
MENDED = 'train/LIFECLEF2014_BIRDAMAZON_XC_WAV_RN12.wav'


def digest(samples):
    return hashlib.sha256(np.ascontiguousarray(samples).tobytes()).hexdigest()[:16]


def settings(text, *more):
    """Settings as a golden case gives them ('defaults.vars + KEY=VALUE ...'), and more."""
    return config.load([], text.replace('defaults.vars +', '').split() + list(more))


def close_spect(batch, arrays, prefix, **selection):
    spect = batch['spect'].astype(np.float64)
    scale = 3e-7 * spect.max()
    assert np.abs(spect[:, ::37, ::11] - arrays[f'{prefix}_spect_sub']).max() <= scale
    assert np.abs(spect.mean(axis=1) - arrays[f'{prefix}_spect_meanframe']).max() <= scale
    assert np.abs(spect.mean(axis=2)[:, ::5] - arrays[f'{prefix}_spect_meanbin']).max() <= scale


def same(one, other):
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
        assert one[name].dtype == other[name].dtype


# == The golden dataset ==


@pytest.fixture
def dataset(golden_dataset, tmp_path):
    for name in ('audio', 'filelists', 'labels'):
        os.symlink(golden_dataset / name, tmp_path / name)
    return Dataset(tmp_path)


@pytest.mark.parametrize('case', VALID)
def test_golden_validation_batches(golden, dataset, case):
    cases, arrays = golden(case)
    cfg = settings(cases['config'])
    feed = ValidFeed(dataset, cfg)
    on_device = ValidFeed(dataset, cfg, on_device=True)
    assert len(feed) == len(cases['batches'])
    seen = []
    for k, expected in enumerate(cases['batches']):
        batch, shipped = feed.batch(k), on_device.batch(k)
        prefix = f'b{k}'
        files = [feed.files[i] for i in batch['item']]
        seen += files
        for name in ('label', 'label_bg'):
            np.testing.assert_array_equal(batch[name], arrays[f'{prefix}_{name}'])
            assert batch[name].dtype == arrays[f'{prefix}_{name}'].dtype
        if 'meta' in expected['dtypes']:
            keep = [i for i, key in enumerate(files) if key != MENDED]
            np.testing.assert_allclose(batch['meta'][keep], arrays[f'{prefix}_meta'][keep], atol=2e-6)
            assert batch['meta'].shape == arrays[f'{prefix}_meta'].shape and batch['meta'].dtype == np.float32
        if cfg['len_max'] == 0:
            assert 'spect' not in batch and 'samples' not in shipped
            continue
        assert batch['spect'].dtype == np.float32 and list(batch['spect'].shape) == expected['spect_shape']
        assert shipped['samples'].dtype == np.int16
        assert [len(row) for row in shipped['samples']] == expected['samples']
        assert [digest(row) for row in shipped['samples']] == expected['sha16']
        if f'{prefix}_spect_sub' in arrays:
            close_spect(batch, arrays, prefix)
    if 'files_sorted' in cases:
        assert seen == cases['files_sorted']


def test_golden_validation_batches_can_be_dealt_out(golden, dataset):
    cases, arrays = golden('data/valid_split3_bs2')
    feed = ValidFeed(dataset, config.load([], ['batchsize=2', 'mel_max=10000']), on_device=True)
    for expected in cases['batches']:
        batch = feed.batch(expected['split'] + 3 * expected['batch'])
        assert [digest(row) for row in batch['samples']] == expected['sha16']
        np.testing.assert_array_equal(
            batch['label'], arrays[f'bs{int(expected["split"])}_{int(expected["batch"])}_label']
        )


@pytest.mark.parametrize('case', [case for case in GOLDEN if case.startswith('data/test_')])
def test_golden_test_items(golden, dataset, case):
    cases, arrays = golden(case)
    cfg = settings(cases['config'])
    feed = TestFeed(dataset, cfg, 'test')
    assert feed.files == cases['files']
    for i, expected in enumerate(cases['batches']):
        item = feed.item(i)
        assert item['file'] == cases['files'][i]
        if item['file'] != MENDED:
            np.testing.assert_allclose(item['meta'][0], arrays[f'b{i}_meta'][0], atol=2e-6)
        if cfg['len_max'] == 0:
            # The original computed complete spectrograms, although they were not used.
            assert 'samples' not in item
            continue
        assert item['samples'].dtype == np.int16
        assert [len(item['samples'])] == expected['samples']
        assert [digest(item['samples'])] == expected['sha16']
        if f'b{i}_spect_sub' in arrays:
            spect = stft.spectrogram(item['samples'], 22050, 1024, 70, 465)
            close_spect({'spect': spect[None]}, arrays, f'b{i}')


@pytest.mark.parametrize(
    'case',
    [
        'data/train_plain',
        'data/train_bgweights',
        'data/train_maxdb',
        'data/train_meta',
        'data/train_metaonly',
        'data/train_mixup',
    ],
)
def test_golden_training_batches_could_be_drawn_by_our_feed(golden, dataset, case, capsys):
    """Random numbers differ. Lengths, excerpts with only one possible position, and targets must be the same."""
    cases, arrays = golden(case)
    cfg = settings(cases['config'])
    feed = TrainFeed(dataset, cfg)
    lengths = {}
    ours = [feed.batch(k) for k in range(200)]
    shipped = TrainFeed(dataset, cfg, on_device=True)
    pieces = {digest(row) for k in range(200) for row in shipped.batch(k).get('samples', ())}
    names = set(ours[0]) - {'item'}
    for batch in ours:
        if 'spect' in batch:
            lengths.setdefault(batch['spect'].shape, set()).add(tuple(sorted(batch['label'])))
    for k, expected in enumerate(cases['batches']):
        prefix = f'b{k}'
        assert names == set(expected['dtypes']) - ({'spect'} if not cfg['len_max'] else set())
        for name in names:
            assert ours[0][name].dtype == expected['dtypes'][name]
            assert ours[0][name].shape[0] == expected['shapes'][name][0]
            assert ours[0][name].shape[2:] == tuple(expected['shapes'][name][2:])
        labels = arrays[f'{prefix}_label']
        if cfg['len_max']:
            # Batches of this length contain recordings from the same bucket as ours.
            assert tuple(sorted(labels)) in lengths[tuple(expected['spect_shape'])]
            for count, piece in zip(expected['samples'], expected['sha16'], strict=True):
                # For looped recordings, and for the shortest one in a batch, only one excerpt is possible.
                if not cfg['mixup'] and (count == 22050 or piece in ('1ce7107329fbb13f', '70395856f9a4a485')):
                    assert piece in pieces
        by_label = {int(label): i for batch in ours for i, label in enumerate(batch['label'])}
        for name in names & {'label_bg', 'weight'}:
            rows = {
                (int(label), row.tobytes())
                for batch in ours
                for label, row in zip(batch['label'], batch[name], strict=True)
            }
            for label, row in zip(labels, arrays[f'{prefix}_{name}'], strict=True):
                if name == 'weight':
                    near = [np.frombuffer(value, np.float32)[0] for other, value in rows if other == label]
                    np.testing.assert_allclose(near, row, rtol=1e-6)
                else:
                    assert (int(label), row.tobytes()) in rows
        assert set(labels) <= set(by_label)


def test_mixup2_works_where_the_original_failed(golden, dataset):
    case, _ = golden('data/train_mixup2')
    assert case['result']['error'] == 'IndexError'
    feed = TrainFeed(dataset, config.load([], ['mixup2=0.4', 'batchsize=2', 'len_min=1', 'len_max=3']))
    batch = feed.batch(0)
    assert batch['mixed_label'].shape == (2, 7) and batch['mixed_label'].dtype == np.float32
    np.testing.assert_allclose(batch['mixed_label'].sum(axis=1), 1, rtol=1e-6)


def test_golden_class_weights(golden, dataset):
    _, arrays = golden('data/class_weights')
    for beta in ('0.5', '1'):
        ours = class_weights({'class_weights': f'google:{beta}'}, arrays['labels'], 7)
        np.testing.assert_allclose(ours, arrays[f'weights_{beta}'], rtol=1e-6)
        assert ours.dtype == np.float32
    assert class_weights({'class_weights': ''}, arrays['labels'], 7) is None


def test_golden_pseudo_labels(golden, dataset, tmp_path, monkeypatch):
    case, arrays = golden('data/pseudo_labels')
    names = []
    for name in 'AB':
        names.append(str(tmp_path / f'{name}.pred.npz'))
        # The order and rows of other recordings do not matter.
        files = case['files'][::-1] + ['other.wav']
        predictions.save(names[-1], files, [row[None] for row in arrays[name][::-1]] + [np.zeros((2, 7), np.float32)])
    cfg = config.load([], ['batchsize=8', 'mel_max=10000'])
    files = dataset.filelist('train')
    setting = f'{",".join(names)}:softmax'
    feed = TrainFeed(dataset, cfg, pseudo_labels=pseudo_labels.load(setting, files, 7))
    order = np.argsort(feed.index['length'], kind='stable')
    np.testing.assert_array_equal(feed.labels[order], arrays['labels'])
    np.testing.assert_allclose(feed.pseudo_labels(order), arrays['pseudo'], rtol=1e-5)
    batch = feed.batch(0)
    row_of = dict(zip(order.tolist(), arrays['pseudo'], strict=True))
    np.testing.assert_allclose(batch['pseudo_label'], [row_of[i] for i in batch['item'].tolist()], rtol=1e-5)
    assert batch['pseudo_label'].dtype == np.float32
    with pytest.raises(Problem, match='no predictions for train/.*RN11.wav'):
        predictions.save(names[0], case['files'][:1], [arrays['A'][:1]])
        pseudo_labels.load(setting, files, 7)
    with pytest.raises(Problem, match='5 classes, expected 7'):
        predictions.save(names[0], case['files'], list(arrays['A'][:, None, :5]))
        pseudo_labels.load(setting, files, 7)
    with pytest.raises(Problem, match='expected FILE'):
        pseudo_labels.load(names[1], files, 7)


# == Feeds ==

LENGTHS = (3000, 9000, 20000, 25000, 30000, 31000, 40000, 52000, 60000, 90000)


@pytest.fixture
def made(tmp_path):
    """A dataset of ten recordings of three classes, whose samples show their origin."""
    for name in ('audio', 'filelists', 'labels'):
        (tmp_path / name).mkdir()
    keys = [f'LIFECLEF2014_RN{i}.wav' for i in range(len(LENGTHS))]
    for i, key in enumerate(keys):
        samples = (np.arange(LENGTHS[i]) % 3000 + 3000 * i).astype('<i2')
        (tmp_path / 'audio' / key).write_bytes(wav_bytes(samples))
    lines = {
        'filelists/train': keys,
        'filelists/valid': keys[::-1],
        'labels/labelset': ['a', 'b', 'c'],
        'labels/fg.tsv': [f'{key}\t{int(i % 3)}' for i, key in enumerate(keys)],
        'labels/bg.tsv': [f'{key}\t{"0,2" if i % 2 else ""}' for i, key in enumerate(keys)],
        'labels/meta.tsv': [f'{key}\t2010-05-07\t\t{i}\t\t' for i, key in enumerate(keys)],
    }
    for name, content in lines.items():
        (tmp_path / name).write_text(''.join(f'{line}\n' for line in content))
    return Dataset(tmp_path)


SMALL = ['batchsize=4', 'len_min=1', 'len_max=2', 'len_buckets=3', 'bg_threads=0']
AUGMENTED = SMALL + [
    'mixup2=0.3',
    'spect_augment=1',
    'max_db=9',
    'max_stretch=0.2',
    'max_shift=0.1',
    'mix_fg_bg=1',
    'class_weights=google:0.5',
    'input_meta=date,latitude',
    'input_meta.dropout=0.2',
]


@pytest.mark.parametrize('cfg', [SMALL, AUGMENTED])
@pytest.mark.parametrize('on_device', [False, True])
def test_batches_are_the_same_with_threads_and_processes(made, cfg, on_device, capsys):
    cfg = config.load([], cfg)
    batches = list(TrainFeed(made, cfg, on_device=on_device).batches(0, 6))
    for way in ({'bg_threads': 1}, {'bg_threads': 3}, {'bg_processes': 2}):
        for k, batch in enumerate(TrainFeed(made, dict(cfg, **way), on_device=on_device).batches(2, 6), 2):
            same(batch, batches[k])
    other = TrainFeed(made, dict(cfg, seed=1), on_device=on_device).batch(2)
    assert not np.array_equal(other['item'], batches[2]['item'])
    same(list(ValidFeed(made, dict(cfg, bg_threads=2)).batches())[2], ValidFeed(made, cfg).batch(2))


def test_excerpts_have_the_length_of_the_shortest_recording(made, capsys):
    feed = TrainFeed(made, config.load([], SMALL), on_device=True)
    found = {}
    for k in range(300):
        batch = feed.batch(k)
        lengths = np.array(LENGTHS)[batch['item']]
        assert batch['samples'].shape == (4, min(max(lengths.min(), 22050), 44100))
        for item, row in zip(batch['item'], batch['samples'], strict=True):
            start = row[0] - 3000 * item
            period = min(LENGTHS[item], 3000) if LENGTHS[item] > 22050 else None
            if period:
                np.testing.assert_array_equal(row, (start + np.arange(len(row))) % 3000 + 3000 * item)
            else:
                assert start == 0
                np.testing.assert_array_equal(row, np.arange(len(row)) % LENGTHS[item] % 3000 + 3000 * item)
            found.setdefault(int(item), set()).add(int(start))
        np.testing.assert_array_equal(batch['label'], batch['item'] % 3)
    # Long recordings are cut at many places, short ones are looped from their start.
    assert len(found[9]) > 50 and found[0] == {0}


def test_without_buckets_batches_contain_short_and_long_recordings(made):
    fixed = ['batchsize=4', 'len_min=1.5', 'len_max=1.5', 'bg_threads=0']
    long = np.array(LENGTHS) >= 1.5 * 22050
    for buckets, both in (1, False), (0, True):
        feed = TrainFeed(made, config.load([], [*fixed, f'len_buckets={buckets}']), on_device=True)
        shares = [long[feed.batch(k)['item']].mean() for k in range(100)]
        assert (0 < min(shares, key=lambda share: abs(share - 0.5)) < 1) == both
        assert abs(np.mean(shares) - long.mean()) < 0.15


def test_small_buckets_are_drawn_from_with_replacement_and_reported_once(made, capsys):
    feed = TrainFeed(made, config.load([], SMALL + ['batchsize=5']))
    for k in range(20):
        assert len(feed.batch(k)['item']) == 5
    error = capsys.readouterr().err
    assert error.count('drawn with replacement') == 1 and 'train' in error


def test_device_gets_samples_and_filters_or_spectrograms_if_required(made, capsys):
    cfg = config.load([], SMALL + ['spect_augment=1', 'max_db=9'])
    assert not needs_host_spectrogram(cfg)
    host, device = TrainFeed(made, cfg).batch(0), TrainFeed(made, cfg, on_device=True).batch(0)
    assert 'spect' not in device and 'filter' not in host
    spect = np.array([stft.spectrogram(row, 22050, 1024, 70, 372) for row in device['samples']])
    np.testing.assert_array_equal(spect * device['filter'][:, None], host['spect'])
    mixing = TrainFeed(made, config.load([], SMALL + ['mixup=0.2']), on_device=True).batch(0)
    assert mixing['samples'].dtype == np.float32
    stretching = config.load([], SMALL + ['spect_augment=1', 'max_stretch=0.3'])
    assert needs_host_spectrogram(stretching) and not needs_host_spectrogram(dict(stretching, spect_augment=0))
    batch = TrainFeed(made, stretching, on_device=True).batch(0)
    whole = TrainFeed(made, dict(stretching, spect_augment=0)).batch(0)
    assert batch['spect'].shape == (4, int(0.7 * whole['spect'].shape[1]), 372)


@pytest.mark.parametrize('setting', ['mixup=0.3', 'mixup2=0.3'])
def test_excerpts_and_targets_are_mixed_with_the_same_weights(made, setting, capsys):
    for i, key in enumerate(made.filelist('train')):
        with open(made.audio_path(key), 'wb') as f:
            f.write(wav_bytes(np.full(LENGTHS[i], 1000 * (i % 3), '<i2')))
    cfg = config.load([], SMALL + [setting, 'mix_fg_bg=1', 'class_weights=google:1'])
    feed = TrainFeed(made, cfg, on_device=True)
    own_weight = class_weights(cfg, feed.labels, 3)
    mixed_up = 0
    for k in range(20):
        batch = feed.batch(k)
        np.testing.assert_array_equal(batch['label'], batch['item'] % 3)
        level = batch['samples'][:, 0] / 1000
        assert np.ptp(batch['samples'], axis=1).max() == 0
        mixed_up += (np.abs(level - batch['label']) > 0.01).sum()
        if setting.startswith('mixup2'):
            # Samples depend on the class, so the weights can be computed from them.
            np.testing.assert_allclose(level, batch['mixed_label'] @ [0, 1, 2], atol=1e-5)
            np.testing.assert_allclose(batch['mixed_label'].sum(axis=1), 1, rtol=1e-6)
            assert batch['label_bg'].dtype == np.float32 and (batch['label_bg'] >= batch['mixed_label'] - 1e-6).all()
        else:
            assert 'mixed_label' not in batch and batch['label_bg'].dtype == bool
            np.testing.assert_array_equal(batch['weight'], own_weight[batch['item']])
    assert mixed_up > 10


def test_background_targets_include_the_foreground(made, capsys):
    batch = TrainFeed(made, config.load([], SMALL + ['mix_fg_bg=1'])).batch(0)
    expected = np.zeros((4, 3), bool)
    for row, item in zip(expected, batch['item'], strict=True):
        row[item % 3] = True
        if item % 2:
            row[[0, 2]] = True
    np.testing.assert_array_equal(batch['label_bg'], expected)
    assert 'label_bg' not in TrainFeed(made, config.load([], SMALL)).batch(0)


def test_metadata_only_reads_no_samples(made):
    for extra in (['len_max=0'], ['arch=']):
        cfg = config.load([], SMALL + ['input_meta=latitude'] + extra)
        feeds = TrainFeed(made, cfg), ValidFeed(made, cfg), TestFeed(made, cfg, ['valid'])
        for key in made.filelist('train'):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made.audio_path(key))
        for feed in feeds[:2]:
            assert set(feed.batch(0)) == {'meta', 'label', 'item'} and feed.num_meta == 2
        assert set(feeds[2].item(0)) == {'file', 'meta'}


def test_test_feed_takes_several_lists(made):
    feed = TestFeed(made, config.load([], ['len_min=0']), 'train,valid')
    assert feed.files == made.filelist('train') + made.filelist('valid') and len(feed) == 20
    assert len(feed.item(0)['samples']) == LENGTHS[0]
    assert feed.num_meta == 0 and 'meta' not in feed.item(0)


# == Bad input ==


def test_dataset_given_by_name_is_in_datasets(made, monkeypatch):

    monkeypatch.setattr('birdsong.data.dataset.DATASETS', os.path.dirname(made.path))
    assert Dataset(os.path.basename(made.path)).num_classes == 3


def test_another_label_file_may_have_more_classes_than_labelset(made):
    with open(os.path.join(made.path, 'labels', 'calls.tsv'), 'w') as f:
        f.writelines(f'{key}\t{int(7 if i % 2 else 0)}\n' for i, key in enumerate(made.filelist('train')))
    dataset = Dataset(made.path, 'calls.tsv')
    assert dataset.num_classes == 8 and dataset.labelset == made.labelset + ['3', '4', '5', '6', '7']
    feed = TrainFeed(dataset, config.load([], SMALL + ['label_file=calls.tsv', 'mixup2=0.3']))
    assert feed.batch(0)['mixed_label'].shape[1] == 8
    assert Dataset(made.path).num_classes == 3


@pytest.mark.parametrize(
    'file, content, words',
    [
        ('filelists/train', '', 'empty list'),
        ('filelists/train', 'LIFECLEF2014_RN0.wav\nnone.wav\nnor.wav\n', 'none.wav: no such recording.*and 1 more'),
        ('labels/labelset', 'a\nb\n', "fg.tsv, line 3: '2' is not a class index below 2"),
        ('labels/labelset', '', 'labelset: empty'),
        ('labels/labelset', 'a\nb\na\n', 'labelset: repeated'),
        ('labels/fg.tsv', 'LIFECLEF2014_RN0.wav\t0\n', 'RN1.wav has no label in labels/fg.tsv .and 8 more'),
        ('labels/fg.tsv', 'LIFECLEF2014_RN0.wav\n', 'fg.tsv, line 1: expected two tab-separated columns'),
        ('labels/fg.tsv', 'LIFECLEF2014_RN0.wav\tx\n', "fg.tsv, line 1: 'x' is not a class index"),
        ('labels/bg.tsv', 'LIFECLEF2014_RN0.wav\t0,3\n', "bg.tsv, line 1: '3' is not a class index"),
        ('audio/LIFECLEF2014_RN3.wav', '', 'RN3.wav: an empty file'),
    ],
)
def test_fault_of_the_dataset_is_named(made, file, content, words):
    with open(os.path.join(made.path, file), 'w') as f:
        f.write(content)
    with pytest.raises(Problem, match=words):
        TrainFeed(Dataset(made.path), config.load([], SMALL + ['mix_fg_bg=1']))


def test_missing_list_or_table_is_named(made):
    for name in ('filelists/train', 'labels/fg.tsv', 'labels/labelset'):
        content = pathlib.Path(made.path, name).read_text()
        os.unlink(os.path.join(made.path, name))
        with pytest.raises(Problem, match=f'{name}.*no such file'):
            TrainFeed(Dataset(made.path), config.load([], SMALL))
        with open(os.path.join(made.path, name), 'w') as f:
            f.write(content)


@pytest.mark.parametrize(
    'setting, words',
    [
        (
            'sample_rate=44100',
            'recordings have 22050 Hz, but sample_rate=44100 is set; train with --var sample_rate=22050',
        ),
        ('len_min=3', 'len_min=3 is more than len_max=2'),
        ('mixup=1 mixup2=1', 'exclude'),
        ('len_min=0 frame_len=4096', 'RN0.wav is shorter than one frame'),
        ('mel_max=20000', 'mel_max=20000'),
    ],
)
def test_setting_that_does_not_fit_is_named(made, setting, words):
    with pytest.raises(Problem, match=words):
        TrainFeed(made, config.load([], SMALL + setting.split()))


def test_a_recording_of_another_rate_than_the_others_is_named(made):
    with open(made.audio_path('LIFECLEF2014_RN4.wav'), 'wb') as f:
        f.write(wav_bytes(np.zeros(50000, '<i2'), rate=32000))
    with pytest.raises(Problem, match='RN4.wav: 32000 Hz, .*expected 22050 Hz mono 16 bit; delete it and prepare'):
        TrainFeed(made, config.load([], SMALL))


def test_a_model_names_its_sample_rate_if_the_dataset_has_another(made):
    with pytest.raises(Problem, match='have 22050 Hz, but the model was trained at 32000 Hz; .*--sample-rate 32000'):
        TestFeed(made, config.load([], SMALL + ['sample_rate=32000']))
    assert len(TestFeed(made, config.load([], ['sample_rate=32000', 'arch=', 'input_meta=latitude'])))


def test_recording_that_changed_is_noticed_when_it_is_opened(made, capsys):
    cfg = config.load([], SMALL)
    TrainFeed(made, cfg)
    for i, key in enumerate(made.filelist('train')):
        with open(made.audio_path(key), 'wb') as f:
            f.write(wav_bytes(np.zeros(30000, '<i2'))[: -i or None])
    for feed, get in ((TrainFeed(made, cfg), 'batch'), (ValidFeed(made, cfg), 'batch'), (TestFeed(made, cfg), 'item')):
        with pytest.raises(Problem, match='has changed since its header was read; delete .*index.npz'):
            getattr(feed, get)(0)
    for key in made.filelist('train'):
        os.unlink(made.audio_path(key))
    for feed, get in ((TrainFeed(made, cfg), 'batch'), (TestFeed(made, cfg), 'item')):
        with pytest.raises(Problem, match='RN.*No such file'):
            getattr(feed, get)(0)
