"""plausible.py: which classes the metadata networks of a dataset expect at a place, date and time."""

import numpy as np
import pytest

from birdsong import config
from helpers import run_program, write_lines

META = ['arch=', 'len_min=0', 'len_max=0', 'input_meta=time,latitude,longitude', 'arch_meta=full:8', 'cost=softmax']
META += ['arch.output=softmax', 'pred_clip=0', 'epochs=4', 'epochsize=40', 'batchsize=16', 'initial_eta=0.03']
META += ['input_meta.latitude_noise=0', 'input_meta.longitude_noise=0', 'bg_threads=0']
SCALES = {'latitude_mean': 43.5, 'latitude_std': 2.5, 'longitude_mean': 8.5, 'longitude_std': 0.3}
PLACE = ['--latitude', '40.5', '--longitude', '8.5', '--date', '2024-05-31']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A dataset, in which each of three classes lives at another latitude, and two networks."""
    folder = tmp_path_factory.mktemp('plausible') / 'places'
    rng = np.random.default_rng(0)
    keys = [f'{i}.wav' for i in range(60)]
    place = [f'\t06:30:00\t{40 + 3 * (i % 3) + rng.random():.4f}\t{8 + rng.random():.4f}\t' for i in range(60)]
    write_lines(folder / 'filelists/train', keys)
    write_lines(folder / 'labels/labelset', ['a', 'b', 'c'])
    write_lines(folder / 'labels/labelset_latin', ['Avis prima', 'Avis secunda', 'Avis tertia'])
    write_lines(folder / 'labels/labelset_common', ['First Bird', '', 'Third Bird'])
    write_lines(folder / 'labels/fg.tsv', [f'{key}\t{i % 3}' for i, key in enumerate(keys)])
    write_lines(folder / 'labels/bg.tsv', [f'{key}\t' for key in keys])
    write_lines(folder / 'labels/meta.tsv', [f'{key}\t{meta}' for key, meta in zip(keys, place, strict=True)])
    write_lines(folder / 'dataset.vars', [f'input_meta.{name}={value}' for name, value in SCALES.items()])
    for name, more in ('meta_one', []), ('meta_two', ['seed=1']):
        words = [word for setting in META + more for word in ('--var', setting)]
        out = folder.parent / 'experiments/places' / f'{name}.npz'
        out.parent.mkdir(parents=True, exist_ok=True)
        done = run_program('experiments/train.py', '--dataset', folder, *words, out)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def dataset(trained, monkeypatch):
    monkeypatch.setattr(config, 'EXPERIMENTS', str(trained.parent / 'experiments'))
    monkeypatch.setattr('birdsong.identification.choice.EXPERIMENTS', str(trained.parent / 'experiments'))
    return trained


def run(dataset, *args):
    return run_program('experiments/plausible.py', '--dataset', dataset, *args)


def ranked(dataset, *args):
    """{class id: (probability, scientific name, common name)}, the most probable first."""
    done = run(dataset, *args)
    assert done.returncode == 0, done.stderr
    header, *rows = (line.split('\t') for line in done.stdout.splitlines())
    assert header == ['probability', 'class', 'scientific name', 'common name']
    return {row[1]: (float(row[0]), *row[2:]) for row in rows}


def test_the_class_that_lives_there_comes_first(dataset):
    south = ranked(dataset, *PLACE, '--time', '06:30')
    assert list(south)[0] == 'a' and south['a'][0] > 0.6
    assert south['a'][1:] == ('Avis prima', 'First Bird') and south['b'][1:] == ('Avis secunda', 'Avis secunda')
    assert sum(value[0] for value in south.values()) == pytest.approx(1, abs=2e-4)
    assert list(ranked(dataset, '--latitude', '46.5', *PLACE[2:]))[0] == 'c'
    assert list(ranked(dataset, *PLACE, '--top', '1')) == ['a']


def test_the_probabilities_are_the_mean_over_the_networks(dataset):
    both, one = ranked(dataset, *PLACE), ranked(dataset, *PLACE, '--model', 'meta_one')
    two = ranked(dataset, *PLACE, '--model', dataset.parent / 'experiments/places/meta_two.npz')
    assert one != two
    for name, (value, *_) in both.items():
        assert value == pytest.approx((one[name][0] + two[name][0]) / 2, abs=1.1e-4)


def test_what_the_networks_also_use_is_named(dataset):
    assert 'meta_one.npz also uses time, not given' in run(dataset, *PLACE).stderr
    assert 'also uses' not in run(dataset, *PLACE, '--time', '06:30').stderr


@pytest.mark.parametrize(
    'args, message',
    [
        (['--latitude', '91'], '--latitude=91: expected a number from -90 to 90'),
        (['--longitude', 'nan'], '--longitude=nan: expected a number from -180 to 180'),
        (['--date', '2024-02-30'], '--date=2024-02-30: expected a date such as'),
        (['--time', '25:00'], '--time=25:00: expected a time such as 06:30'),
        (['--top', '-1'], '--top=-1: expected a number of classes'),
        (['--model', 'none'], 'none.npz: no such model'),
        (['--model', 'cnn'], 'cnn.npz: a network that needs audio or embeddings; name one that uses metadata alone'),
    ],
)
def test_what_is_not_possible_is_refused_in_one_line(args, message, dataset):
    folder = dataset.parent / 'experiments/places'
    (folder / 'cnn.npz').touch()
    write_lines(folder / 'cnn.npz.vars', ['arch=conv:4x3x3'])
    done = run(dataset, *PLACE, *args)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1, done.stderr


def test_a_dataset_without_metadata_networks_is_refused(dataset, monkeypatch, tmp_path):
    monkeypatch.setattr(config, 'EXPERIMENTS', str(tmp_path))
    done = run(dataset, *PLACE)
    assert done.returncode == 1 and 'places: no metadata networks; train some' in done.stderr
    assert done.stderr.count('\n') == 1
