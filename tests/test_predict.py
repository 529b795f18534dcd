"""predict.py: predictions equal to those of the original, blocks, reuse, bad input."""

import importlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch

import predict
from birdsong import config
from birdsong.data import stft
from birdsong.data.dataset import Dataset, dataset_of
from birdsong.data.feeds import TestFeed
from birdsong.files import Problem, save_npz
from birdsong.networks import model
from birdsong.prediction.predictor import load_model
from birdsong.scores.predictions import load, save
from helpers import read_golden, run_program

GOLDEN = ('predict/predict',)
ARCH = [
    'arch=conv:4x3x3x2x2,pool:3x3,Conv:8x3x-1',
    'arch.pool=logmeanexp:1',
    'cost=softmax',
    'arch.output=softmax',
    'mel_bands=20',
    'epochs=1',
    'epochsize=2',
    'batchsize=4',
    'len_min=1',
    'len_max=2',
    'bg_threads=1',
]


def train(dataset, settings, out):
    options = [word for setting in settings for word in ('--var', setting)]
    done = run_program('experiments/train.py', '--dataset', dataset, *options, out)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def call(monkeypatch):
    """Runs the main function of predict.py in this process, so that the test gets its exceptions."""

    def run_main(*args):
        monkeypatch.setattr(sys, 'argv', ['predict.py', *map(str, args)])
        predict.main()

    return run_main


@pytest.fixture(scope='module')
def trained(tiny_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    train(tiny_dataset, ARCH, folder / 'm.npz')
    return folder / 'm.npz'


def cases():
    return [c for c in read_golden('predict/predict')[0]['cases'] if c['rc'] == 0]


@pytest.mark.parametrize('case', cases(), ids=lambda c: f'{c["net"]}-{c["mode"]}')
def test_predictions_equal_those_of_the_original(case, golden, golden_net, golden_dataset, tmp_path, call):
    _, arrays = golden('predict/predict')
    call(
        golden_net(f'nets/{case["net"]}'),
        tmp_path / 'out.npz',
        '--dataset',
        golden_dataset,
        '--device',
        'cpu',
        *case['options'].split(),
    )
    found = load(str(tmp_path / 'out.npz'))
    assert set(found.files) == set(case['shapes'])
    for file, shape in case['shapes'].items():
        expected = arrays[f'{case["net"]}|{case["mode"]}|{file}']
        assert list(found[file].shape) == shape
        if not (
            file.endswith('_RN12.wav') and ('meta' in case['net'] or case['net'] == 'combined')
        ):  # its month 00 counts as missing now
            np.testing.assert_allclose(
                found[file], expected, atol=2e-4 if case['net'].startswith('mel_learn') else 1e-4
            )


def test_metadata_networks_ignore_split_pool(golden_net, golden_dataset, tmp_path, call):
    net = golden_net('nets/meta_dtenc3')
    for name, options in (('a', ()), ('b', ('--split-pool',))):
        call(
            net,
            tmp_path / f'{name}.npz',
            '--dataset',
            golden_dataset,
            '--filelists',
            'test',
            '--var',
            'arch.output=linear',
            *options,
        )
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


def test_recordings_shorter_than_the_network_get_a_row(golden_net, golden_dataset, tmp_path, call):
    call(
        golden_net('nets/dummy_lme1'),
        tmp_path / 'out.npz',
        '--dataset',
        golden_dataset,
        '--filelists',
        'short',
        '--var',
        'len_min=0',
        '--var',
        'len_max=5',
    )
    found = load(str(tmp_path / 'out.npz'))
    assert all(found[file].shape == (1, 7) for file in found.files)


def test_the_number_of_threads_does_not_change_predictions(trained, tiny_dataset, tmp_path, call):
    for threads in 0, 3:
        call(trained, tmp_path / (f'{threads}.npz'), '--dataset', tiny_dataset, '--var', f'bg_threads={threads}')
    assert (tmp_path / '0.npz').read_bytes() == (tmp_path / '3.npz').read_bytes()


def test_score_rest_adds_the_remainder_of_a_soundscape(trained, tiny_dataset, tmp_path, call):
    rows = {}
    for name, options in (('plain', ()), ('rest', ('--score-rest',))):
        call(
            trained,
            tmp_path / f'{name}.npz',
            '--dataset',
            tiny_dataset,
            '--filelists',
            'soundscapes_val',
            '--var',
            'len_min=0',
            '--var',
            'len_max=5',
            *options,
        )
        found = load(str(tmp_path / f'{name}.npz'))
        rows[name] = len(found[found.files[0]])
    assert rows['rest'] == rows['plain'] + 1


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(model='missing.npz'), 'no such file'),
        (dict(filelists='nowhere'), 'nowhere'),
        (dict(var='len_mn=3'), 'did you mean len_min'),
        (dict(out='out.txt'), 'must end in .npz'),
        (dict(device='cuda:9'), '--device cuda:9'),
        (dict(var='arch=conv:5x3x3'), 'does not fit'),
        (dict(var='classes=3'), 'does not fit'),
    ],
)
def test_bad_input_gives_a_message_of_one_line_and_writes_nothing(change, words, trained, tiny_dataset, tmp_path, call):
    options = dict(model=trained, out='out.npz', filelists='valid', var='len_min=1', device='cpu')
    options.update(change)
    with pytest.raises(Problem, match=words) as caught:
        call(
            options['model'],
            tmp_path / options['out'],
            '--dataset',
            tiny_dataset,
            '--filelists',
            options['filelists'],
            '--var',
            options['var'],
            '--device',
            options['device'],
        )
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def bare(tiny_dataset, tmp_path):
    """A dataset of recordings and one list, without labels."""
    (tmp_path / 'bare/filelists').mkdir(parents=True)
    (tmp_path / 'bare/audio').symlink_to(tiny_dataset / 'audio')
    shutil.copy(tiny_dataset / 'filelists/valid', tmp_path / 'bare/filelists/new')
    return tmp_path / 'bare'


def test_recordings_without_labels_are_predicted(trained, tiny_dataset, bare, tmp_path, call):
    call(trained, tmp_path / 'labelled.npz', '--dataset', tiny_dataset)
    call(
        trained,
        tmp_path / 'bare.npz',
        '--dataset',
        bare,
        '--filelists',
        'new',
        '--plot',
        tmp_path / 'plots',
        '--saliency',
        3,
    )
    expected = load(tmp_path / 'labelled.npz').scores
    np.testing.assert_array_equal(load(tmp_path / 'bare.npz').scores, expected)
    assert len(list((tmp_path / 'plots').iterdir())) == len(load(tmp_path / 'bare.npz'))
    (bare / 'labels').mkdir()
    (bare / 'labels/labelset').write_text('another\ndataset\n')
    call(trained, tmp_path / 'other.npz', '--dataset', bare, '--filelists', 'new')
    np.testing.assert_array_equal(load(tmp_path / 'other.npz').scores, expected)


def test_a_trained_model_ignores_the_settings_of_the_dataset(trained, tiny_dataset, bare, tmp_path, call):
    (bare / 'dataset.vars').write_text('mel_max=3000\nsample_rate=32000\nfps=35\n')
    call(trained, tmp_path / 'with.npz', '--dataset', bare, '--filelists', 'new')
    call(trained, tmp_path / 'without.npz', '--dataset', tiny_dataset)
    np.testing.assert_array_equal(load(tmp_path / 'with.npz').scores, load(tmp_path / 'without.npz').scores)


def test_recordings_named_by_key_or_path_are_predicted(trained, tiny_dataset, tmp_path, call):
    keys = (tiny_dataset / 'filelists/valid').read_text().split()[:3]
    call(
        trained,
        tmp_path / 'out.npz',
        '--dataset',
        tiny_dataset,
        '--file',
        keys[2],
        '--file',
        tiny_dataset / 'audio' / keys[0],
    )
    assert load(tmp_path / 'out.npz').files == [keys[2], keys[0]]
    with pytest.raises(Problem, match='nowhere.wav: no such recording'):
        call(trained, tmp_path / 'out.npz', '--dataset', tiny_dataset, '--file', 'nowhere.wav')


def test_an_output_named_pkl_is_written_as_npz_with_a_message(trained, tiny_dataset, tmp_path, call, capsys):
    call(trained, tmp_path / 'm.pred.pkl', '--dataset', tiny_dataset)
    assert f'not pickled: {tmp_path}/m.pred.npz' in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ['m.pred.npz'] and len(load(tmp_path / 'm.pred.npz'))


def test_plot_without_a_folder_does_not_take_the_model_as_its_folder(trained, tiny_dataset, tmp_path, call):
    with pytest.raises(Problem, match='no display here'):
        call('--dataset', tiny_dataset, '--plot', trained, tmp_path / 'out.npz')


def test_the_default_dataset_is_that_of_the_model(trained, tiny_dataset, tmp_path, call, monkeypatch, capsys):
    experiments = tmp_path / 'experiments'
    (tmp_path / 'datasets').mkdir()
    (tmp_path / 'datasets/few').symlink_to(tiny_dataset)
    monkeypatch.setattr('birdsong.data.dataset.DATASETS', str(tmp_path / 'datasets'))
    monkeypatch.setattr(config, 'EXPERIMENTS', str(experiments))
    for folder in ('few', 'few/submissions/mono/parts', 'mine', 'gone'):
        (experiments / folder).mkdir(parents=True)
        for suffix in ('', '.vars'):
            shutil.copy(f'{trained}{suffix}', experiments / folder / f'm.npz{suffix}')
    call(experiments / 'few/m.npz', experiments / 'few/m.pred.npz')
    assert 'dataset: few' in capsys.readouterr().err
    monkeypatch.setattr(sys, 'argv', ['eval.py', f'{experiments / "few/m.pred.npz"}:0.5'])
    importlib.import_module('eval').main()
    assert 'MAP: ' in capsys.readouterr().out
    assert dataset_of(str(experiments / 'few/submissions/mono/parts/m.pred.npz')) == 'few'
    assert dataset_of(str(experiments / 'mine/m.npz')) == 'birdclef'
    for name in 'mine', 'gone':
        (experiments / name / 'm.run.json').write_text(json.dumps({'dataset': 'few' if name == 'mine' else 'gone'}))
    assert dataset_of(str(experiments / 'mine/m.pred.npz')) == 'few'
    with pytest.raises(Problem, match='made with dataset gone.*--dataset'):
        call(experiments / 'gone/m.npz', tmp_path / 'out.npz')
    (experiments / 'mine/m.run.json').write_text(json.dumps({'dataset': '../few'}))
    assert dataset_of(str(experiments / 'mine/m.npz')) == 'birdclef'


@pytest.mark.parametrize('options', [(), ('--split-pool',)])
def test_attention_of_networks_without_pooling_is_a_side_output(options, golden_net, golden_dataset, tmp_path, call):
    net = golden_net('nets/attention_nopool')
    call(
        net,
        tmp_path / 'out.npz',
        '--dataset',
        golden_dataset,
        '--filelists',
        'soundscapes',
        '--device',
        'cpu',
        '--var',
        'len_min=0',
        '--var',
        'len_max=5',
        '--include-side-outputs',
        *options,
    )
    scores, attention = load(tmp_path / 'out.npz'), load(tmp_path / 'out.attention.npz')
    assert attention.files == scores.files and attention.offsets.tolist() == scores.offsets.tolist()
    cfg = config.load([f'{net}.vars'], ['len_min=0', 'len_max=5'])
    plain = load_model(net, cfg, 0).eval()
    item = TestFeed(Dataset(golden_dataset), cfg, 'soundscapes').item(1)
    spect = stft.spectrogram(
        item['samples'], cfg['sample_rate'], cfg['frame_len'], cfg['fps'], bins=stft.num_bins(cfg)
    )[:350]
    with torch.no_grad():
        expected = plain(torch.from_numpy(spect)[None])['attention'][0].T.numpy()
    assert expected.shape[1] == plain.global_pool.attention
    np.testing.assert_allclose(attention[item['file']][: len(expected)], expected, atol=1e-4)


def test_files_of_the_original_can_be_models_initial_weights_and_teachers(trained, tiny_dataset, tmp_path, call):
    net = load_model(str(trained), config.load([f'{trained}.vars']), 0)
    original = tmp_path / 'original.npz'
    model.save_original(net, original)
    shutil.copy(f'{trained}.vars', f'{original}.vars')
    for name, file in (('ours', trained), ('theirs', original)):
        call(file, tmp_path / f'{name}.pred.npz', '--dataset', tiny_dataset)
        train(tiny_dataset, ARCH + [f'init_from={file}', f'ban={file}'], tmp_path / f'{name}.npz')
    assert (tmp_path / 'ours.pred.npz').read_bytes() == (tmp_path / 'theirs.pred.npz').read_bytes()
    assert (tmp_path / 'ours.npz').read_bytes() == (tmp_path / 'theirs.npz').read_bytes() != trained.read_bytes()


def test_a_model_that_does_not_fit_is_refused_with_the_arrays_of_both(trained, tiny_dataset, tmp_path, call):
    original = tmp_path / 'original.npz'
    model.save_original(load_model(str(trained), config.load([f'{trained}.vars']), 0), original)
    shutil.copy(f'{trained}.vars', f'{original}.vars')
    for change, there, wanted in (
        ('mel_bands=24', 'param1 1x20', 'audio.front.standardise.mean 1x24'),
        ('arch=conv:4x3x3x2x2,Conv:8x3x-1', 'It holds the arrays', 'the network has'),
    ):
        with pytest.raises(Problem, match=f'does not fit.*{there}.*{wanted}'):
            call(original, tmp_path / 'out.npz', '--dataset', tiny_dataset, '--var', change)
    assert not (tmp_path / 'out.npz').exists()


def test_a_truncated_model_is_refused(trained, tiny_dataset, tmp_path):
    broken = tmp_path / 'm.npz'
    broken.write_bytes(trained.read_bytes()[:3000])
    shutil.copy(f'{trained}.vars', f'{broken}.vars')
    done = run_program('experiments/predict.py', broken, tmp_path / 'out.npz', '--dataset', tiny_dataset)
    assert done.returncode == 1 and len(done.stderr.strip().split('\n')) == 1
    assert 'predict.py: ' in done.stderr and 'm.npz: not a complete .npz' in done.stderr
    assert not (tmp_path / 'out.npz').exists()


@pytest.fixture
def dataset(tiny_dataset, tmp_path):
    """A copy of the tiny dataset that a test may change."""
    shutil.copytree(tiny_dataset, tmp_path / 'tiny_demo')
    return tmp_path / 'tiny_demo'


def test_rows_of_the_same_model_and_settings_are_taken_from_earlier_predictions(
    trained, dataset, tmp_path, call, capfd
):
    old, new, whole = (tmp_path / name for name in ('old.npz', 'new.npz', 'whole.npz'))
    keys = (dataset / 'filelists' / 'valid').read_text().splitlines()

    def predict_list(keys, out, *options):
        (dataset / 'filelists' / 'valid').write_text(''.join(f'{key}\n' for key in keys))
        call(trained, out, '--dataset', dataset, *options)
        return capfd.readouterr().out

    predict_list(keys[1:], old)
    predict_list(keys, whole)
    assert f'reused {len(keys) - 1} recordings' in predict_list(keys, new, '--reuse', old)
    assert new.read_bytes() == whole.read_bytes()
    assert 'reused 1 recordings' in predict_list(keys[1:2], new, '--reuse', whole)
    for options in (('--var', 'len_max=3'), ('--split-pool',)):
        assert 'nothing reused' in predict_list(keys, new, '--reuse', old, *options)
    # Predictions without a key, damaged ones and those of another model are not reused either.
    save(old, load(old).files, load(old).scores, load(old).offsets)
    assert 'nothing reused' in predict_list(keys, new, '--reuse', old)
    old.write_bytes(whole.read_bytes()[:-100])
    assert 'nothing reused' in predict_list(keys, new, '--reuse', old)
    assert 'reused' not in predict_list(keys, new, '--reuse', tmp_path / 'missing.npz')
    shutil.copy(f'{trained}.vars', tmp_path / 'm.npz.vars')
    arrays = dict(np.load(trained))
    save_npz(tmp_path / 'm.npz', {name: value * np.float32(0.5) for name, value in arrays.items()})
    call(tmp_path / 'm.npz', new, '--dataset', dataset, '--reuse', whole)
    assert 'nothing reused' in capfd.readouterr().out
    assert not np.array_equal(load(new).scores, load(whole).scores)


def test_a_model_with_fewer_classes_than_the_dataset_works_and_the_new_ones_rank_last(
    trained, dataset, tmp_path, call, capsys
):
    call(trained, tmp_path / 'before.npz', '--dataset', dataset)
    for name, text in (('labelset', 'newone'), ('labelset_latin', 'Avis nova')):
        with open(dataset / 'labels' / name, 'a') as f:
            f.write(f'{text}\n')
    keys = (dataset / 'filelists/valid').read_text().splitlines()
    rows = (dataset / 'labels/fg.tsv').read_text().splitlines()
    rows = [f'{keys[0]}\t4' if row.startswith(f'{keys[0]}\t') else row for row in rows]
    (dataset / 'labels/fg.tsv').write_text(''.join(f'{row}\n' for row in rows))
    call(trained, tmp_path / 'out.npz', '--dataset', dataset, '--plot', tmp_path / 'plots', '--saliency', 3)
    assert (tmp_path / 'out.npz').read_bytes() == (tmp_path / 'before.npz').read_bytes()
    assert len(list((tmp_path / 'plots').iterdir())) == len(keys)
    with pytest.raises(Problem, match='--saliency newone: neither a class'):
        call(trained, tmp_path / 'new.npz', '--dataset', dataset, '--saliency', 'newone')
    capsys.readouterr()
    for program, options in (
        ('eval.py', ()),
        ('blender.py', ()),
        ('submit_csv.py', ('--filelist=valid', tmp_path / 'out.csv')),
    ):
        done = run_program(f'experiments/{program}', '--dataset', dataset, tmp_path / 'out.npz', *options)
        assert done.returncode == 0, done.stderr
        warnings = [line for line in done.stderr.splitlines() if 'of 4 classes, but the dataset has 5' in line]
        assert len(warnings) == (program == 'eval.py')  # once per process
    ranks = [line.split(';') for line in (tmp_path / 'out.csv').read_text().splitlines()]
    assert [rank for _, name, _, rank in ranks if name == 'newone'] == ['5'] * len(keys)
