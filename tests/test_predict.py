"""predict.py: the original's predictions, blocks, journals, and bad input."""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import config
import model
import predict
from conftest import GOLDEN_DIR, ROOT
from files import Problem, save_npz
from predictions import load, save

GOLDEN = ('predict/predict',)
ARCH = ['arch=conv:4x3x3x2x2,pool:3x3,Conv:8x3x-1', 'arch.pool=logmeanexp:1', 'cost=softmax', 'arch.output=softmax', 'mel_bands=20',
        'epochs=1', 'epochsize=2', 'batchsize=4', 'len_min=1', 'len_max=2', 'bg_threads=1']


def run(program, *args, check=True):
    done = subprocess.run([sys.executable, str(ROOT / 'experiments' / program), *map(str, args)], capture_output=True, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def call(monkeypatch):
    """Runs predict.py's main in this process, which saves the import of torch."""
    def run_main(*args):
        monkeypatch.setattr(sys, 'argv', ['predict.py', *map(str, args)])
        predict.main()
    return run_main


@pytest.fixture(scope='module')
def trained(tiny_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    run('train.py', '--dataset', tiny_dataset, *(x for v in ARCH for x in ('--var', v)), folder / 'm.npz')
    return folder / 'm.npz'


def cases():
    path = GOLDEN_DIR / 'predict' / 'predict.json'
    return [c for c in json.loads(path.read_text())['cases'] if c['rc'] == 0] if path.exists() else []


@pytest.mark.parametrize('case', cases(), ids=lambda c: '%(net)s-%(mode)s' % c)
def test_predictions_are_those_of_the_original(case, golden, golden_dir, tmp_path, call):
    _, arrays = golden('predict/predict')
    shutil.copytree(golden_dir / 'dataset', tmp_path / 'dataset')
    call(golden_dir / 'nets' / (case['net'] + '.npz'), tmp_path / 'out.npz', '--dataset', tmp_path / 'dataset', '--device', 'cpu', *case['options'].split())
    found = load(str(tmp_path / 'out.npz'))
    assert set(found.files) == set(case['shapes'])
    for file, shape in case['shapes'].items():
        expected = arrays['%s|%s|%s' % (case['net'], case['mode'], file)]
        assert list(found[file].shape) == shape
        if not (file.endswith('_RN12.wav') and ('meta' in case['net'] or case['net'] == 'combined')):  # its month 00 counts as missing now
            np.testing.assert_allclose(found[file], expected, atol=2e-4 if case['net'].startswith('mel_learn') else 1e-4)


def test_metadata_networks_ignore_split_pool(golden_dir, tmp_path, call):
    shutil.copytree(golden_dir / 'dataset', tmp_path / 'dataset')
    net = golden_dir / 'nets' / 'meta_dtenc3.npz'
    for name, options in (('a', ()), ('b', ('--split-pool',))):
        call(net, tmp_path / (name + '.npz'), '--dataset', tmp_path / 'dataset', '--filelists', 'test', '--var', 'arch.output=linear', *options)
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


def test_recordings_shorter_than_the_network_get_a_row(golden_dir, tmp_path, call):
    shutil.copytree(golden_dir / 'dataset', tmp_path / 'dataset')
    call(golden_dir / 'nets' / 'dummy_lme1.npz', tmp_path / 'out.npz', '--dataset', tmp_path / 'dataset',
        '--filelists', 'short', '--var', 'len_min=0', '--var', 'len_max=5')
    found = load(str(tmp_path / 'out.npz'))
    assert all(found[file].shape == (1, 7) for file in found.files)


def test_the_number_of_threads_changes_nothing(trained, tiny_dataset, tmp_path, call):
    for threads in 0, 3:
        call(trained, tmp_path / ('%d.npz' % threads), '--dataset', tiny_dataset, '--var', 'bg_threads=%d' % threads)
    assert (tmp_path / '0.npz').read_bytes() == (tmp_path / '3.npz').read_bytes()


def test_the_rest_of_a_soundscape_is_scored_on_demand(trained, tiny_dataset, tmp_path, call):
    rows = {}
    for name, options in (('plain', ()), ('rest', ('--score-rest',))):
        call(trained, tmp_path / (name + '.npz'), '--dataset', tiny_dataset, '--filelists', 'soundscapes_val',
            '--var', 'len_min=0', '--var', 'len_max=5', *options)
        found = load(str(tmp_path / (name + '.npz')))
        rows[name] = len(found[found.files[0]])
    assert rows['rest'] == rows['plain'] + 1


@pytest.mark.parametrize('change, words', [
    (dict(model='missing.npz'), 'no such file'), (dict(filelists='nowhere'), 'nowhere'), (dict(var='len_mn=3'), 'did you mean len_min'),
    (dict(out='out.txt'), 'must end in .npz'), (dict(device='cuda:9'), '--device cuda:9'), (dict(var='arch=conv:5x3x3'), 'does not fit'),
    (dict(var='classes=3'), 'another data set')])
def test_bad_input_is_one_line_and_nothing_is_written(change, words, trained, tiny_dataset, tmp_path, call):
    options = dict(model=trained, out='out.npz', filelists='valid', var='len_min=1', device='cpu')
    options.update(change)
    with pytest.raises(Problem, match=words) as caught:
        call(options['model'], tmp_path / options['out'], '--dataset', tiny_dataset, '--filelists', options['filelists'],
             '--var', options['var'], '--device', options['device'])
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_files_of_the_original_serve_as_model_and_start_and_teacher(trained, tiny_dataset, tmp_path, call):
    net = predict.load_model(str(trained), config.load([str(trained) + '.vars']), 0)
    original = tmp_path / 'original.npz'
    model.save_original(net, original)
    shutil.copy(str(trained) + '.vars', str(original) + '.vars')
    for name, file in (('ours', trained), ('theirs', original)):
        call(file, tmp_path / (name + '.pred.npz'), '--dataset', tiny_dataset)
        run('train.py', '--dataset', tiny_dataset, *(x for v in ARCH + ['init_from=%s' % file, 'ban=%s' % file] for x in ('--var', v)),
            tmp_path / (name + '.npz'))
    assert (tmp_path / 'ours.pred.npz').read_bytes() == (tmp_path / 'theirs.pred.npz').read_bytes()
    assert (tmp_path / 'ours.npz').read_bytes() == (tmp_path / 'theirs.npz').read_bytes() != trained.read_bytes()


def test_a_model_of_other_arrays_is_refused_with_both_lists(trained, tiny_dataset, tmp_path, call):
    original = tmp_path / 'original.npz'
    model.save_original(predict.load_model(str(trained), config.load([str(trained) + '.vars']), 0), original)
    shutil.copy(str(trained) + '.vars', str(original) + '.vars')
    for change, there, wanted in (('mel_bands=24', 'param1 1x20', 'audio.front.standardise.mean 1x24'),
                                  ('arch=conv:4x3x3x2x2,Conv:8x3x-1', 'It holds the arrays', 'the network has')):
        with pytest.raises(Problem, match='does not fit.*%s.*%s' % (there, wanted)):
            call(original, tmp_path / 'out.npz', '--dataset', tiny_dataset, '--var', change)
    assert not (tmp_path / 'out.npz').exists()


def test_a_model_cut_in_half_is_refused(trained, tiny_dataset, tmp_path):
    broken = tmp_path / 'm.npz'
    broken.write_bytes(trained.read_bytes()[:3000])
    shutil.copy(str(trained) + '.vars', str(broken) + '.vars')
    done = run('predict.py', broken, tmp_path / 'out.npz', '--dataset', tiny_dataset, check=False)
    assert done.returncode == 1 and len(done.stderr.strip().split('\n')) == 1
    assert 'predict.py: ' in done.stderr and 'm.npz: not a whole .npz' in done.stderr
    assert not (tmp_path / 'out.npz').exists()


@pytest.fixture
def dataset(tiny_dataset, tmp_path):
    """A copy of the tiny dataset that a test may change."""
    shutil.copytree(tiny_dataset, tmp_path / 'tiny_demo')
    return tmp_path / 'tiny_demo'


def test_rows_of_an_earlier_prediction_are_reused_if_they_are_of_the_same_model_and_settings(trained, dataset, tmp_path, call, capfd):
    old, new, whole = (tmp_path / name for name in ('old.npz', 'new.npz', 'whole.npz'))
    keys = (dataset / 'filelists' / 'valid').read_text().splitlines()

    def predict_list(keys, out, *options):
        (dataset / 'filelists' / 'valid').write_text(''.join(key + '\n' for key in keys))
        call(trained, out, '--dataset', dataset, *options)
        return capfd.readouterr().out
    predict_list(keys[1:], old)
    predict_list(keys, whole)
    assert 'reused %d recordings' % (len(keys) - 1) in predict_list(keys, new, '--reuse', old)
    assert new.read_bytes() == whole.read_bytes()
    assert 'reused 1 recordings' in predict_list(keys[1:2], new, '--reuse', whole)
    for options in (('--var', 'len_max=3'), ('--split-pool',)):
        assert 'nothing reused' in predict_list(keys, new, '--reuse', old, *options)
    # neither are predictions that do not say what they are of, damaged ones, and those of another model
    save(old, load(old).files, load(old).scores, load(old).offsets)
    assert 'nothing reused' in predict_list(keys, new, '--reuse', old)
    old.write_bytes(whole.read_bytes()[:-100])
    assert 'nothing reused' in predict_list(keys, new, '--reuse', old)
    assert 'reused' not in predict_list(keys, new, '--reuse', tmp_path / 'missing.npz')
    shutil.copy(str(trained) + '.vars', tmp_path / 'm.npz.vars')
    arrays = dict(np.load(trained))
    save_npz(tmp_path / 'm.npz', {name: value * np.float32(.5) for name, value in arrays.items()})
    call(tmp_path / 'm.npz', new, '--dataset', dataset, '--reuse', whole)
    assert 'nothing reused' in capfd.readouterr().out
    assert not np.array_equal(load(new).scores, load(whole).scores)
