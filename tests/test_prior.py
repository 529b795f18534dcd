"""identify.sh --prior: what metadata networks expect at the place and time of a recording, on its detections."""

import csv
import json

import numpy as np
import pytest
import test_identify
import test_plausible
import torch

from birdsong import config
from birdsong.data.dataset import Dataset
from birdsong.findings import calibration, detections
from birdsong.identification import prior
from birdsong.networks import model
from helpers import run_program, write_lines

trained, dataset = test_plausible.trained, test_plausible.dataset
SOUTH = '--latitude', '40.5', '--longitude', '8.5'


@pytest.fixture(autouse=True)
def audio_model(dataset):
    """A network on audio alone, for the classes of the dataset."""
    folder = dataset.parent / 'experiments/places'
    test_identify.write_model(folder, 'cnn', 0)
    cfg = config.load([folder / 'cnn.npz.vars'])
    net = model.build(cfg, 3)
    model.load(net, folder / 'cnn.npz')
    with torch.no_grad():
        net.audio.head.weight.mul_(0.05)  # otherwise, all scores are almost 0 or 1
    model.save(net, folder / 'cnn.npz')


@pytest.fixture
def folder(tmp_path):
    """Two recordings, of which only the first has a date."""
    for name in 'A_20240531_063000.wav', 'b.wav':
        test_identify.sound(tmp_path / 'rec' / name, 4, seed=len(name))
    return tmp_path / 'rec'


def steps(dataset, folder, out, *options):
    """What identify.sh does; returns all it printed, or the result of the step that failed."""
    common = 'experiments/identify.py', folder, '--dataset', dataset, '--device', 'cpu', '--output', out
    options = ['--model', dataset.parent / 'experiments/places/cnn.npz', '--threshold', '0', *options]
    text = ''
    for step in ['--plan'], ['--shard', '0001', out / 'shards/0001.npz'], ['--finish']:
        done = run_program(*common, *options, *step)
        text += done.stderr + done.stdout
        if done.returncode:
            return done
        options = [option for option in options if option != '--force']
    return text


def found(out):
    """{(file, start, class): row} of the findings."""
    return {(row['File'], row['Start (s)'], row['Class']): row for row in test_identify.rows(out / 'findings.csv')}


def table(path):
    with open(path, encoding='utf-8', newline='') as f:
        return [row for row in csv.reader(f, delimiter='\t')][1:]


def factors(dataset, **place):
    """Factors of the three classes at a place."""
    files = [str(dataset.parent / f'experiments/places/{name}.npz') for name in ('meta_one', 'meta_two')]
    known = {'time': 390.0, 'latitude': 40.5, 'longitude': 8.5, **place}
    return prior.Factors(prior.Prior('soft', 1e-6, tuple(files), Dataset(str(dataset)))).of(lambda _: known)


def multiplied(value, factor):
    """A probability whose odds are multiplied by a factor."""
    return value * factor / (1 - value + value * factor)


def test_mask_removes_classes_that_are_not_expected_there(dataset, folder, tmp_path):
    out, plain = tmp_path / 'mask', tmp_path / 'plain'
    steps(dataset, folder, plain, *SOUTH)
    text = steps(dataset, folder, out, *SOUTH, '--prior', 'mask', '--prior-limit', '0.5')
    expected = {c for c, factor in zip('abc', factors(dataset)(np.zeros(1))[0], strict=True) if factor >= 0.5}
    assert 'a' in expected and 'c' not in expected
    before, after = found(plain), found(out)
    assert after == {key: row for key, row in before.items() if key[2] in expected}
    counts = {row[0]: row[2:] for row in table(out / 'prior.tsv')}
    assert counts == {c: ['4', '4' if c in expected else '0'] for c in 'abc'}
    assert table(out / 'prior_recordings.tsv') == [
        [name, '6', str(2 * len(expected))] for name in sorted(path.name for path in folder.iterdir())
    ]
    assert f'12 detections became {4 * len(expected)}' in text


def test_recordings_of_unknown_places_are_unchanged_and_counted(dataset, folder, tmp_path):
    out = tmp_path / 'out'
    write_lines(tmp_path / 'where.csv', ['file,latitude,longitude', 'A_20240531_063000.wav,40.5,8.5'])
    options = '--prior', 'mask', '--prior-limit', '0.5', '--metadata', tmp_path / 'where.csv'
    text = steps(dataset, folder, out, *options)
    assert '; 1 recordings are unchanged, because their place or date is unknown' in text
    assert {key[2] for key in found(out) if key[0] == 'b.wav'} == set('abc')
    assert 'c' not in {key[2] for key in found(out) if key[0] != 'b.wav'}
    assert table(out / 'prior_recordings.tsv')[1] == ['b.wav', '', '']


def test_soft_multiplies_the_odds_and_leaves_the_scores(dataset, folder, tmp_path):
    out, plain = tmp_path / 'soft', tmp_path / 'plain'
    steps(dataset, folder, plain, *SOUTH)
    steps(dataset, folder, out, *SOUTH, '--prior', 'soft', '--prior-limit', '1e-6')
    before, after, expected = found(plain), found(out), factors(dataset)(np.zeros(1))[0]
    assert before.keys() == after.keys()
    for key, row in after.items():
        assert row['Score'] == before[key]['Score']
        assert 0.001 < float(row['Score']) < 0.999
        if key[0] != 'b.wav':  # its time is unknown
            want = multiplied(float(row['Score']), expected['abc'.index(key[2])])
            assert float(row['Confidence']) == pytest.approx(want, abs=2e-4)


def test_the_prior_comes_after_the_calibration(dataset, folder, tmp_path):
    curves = calibration.Calibration(list('abc'), np.full(3, 0.5), np.full(3, -1.0), calibration.SOFTMAX)
    curves.save(tmp_path / 'curves.json')
    out = tmp_path / 'out'
    steps(
        dataset,
        folder,
        out,
        *SOUTH,
        '--prior',
        'soft',
        '--prior-limit',
        '1e-6',
        '--calibration',
        tmp_path / 'curves.json',
    )
    expected = factors(dataset)(np.zeros(1))[0]
    rows = [row for key, row in found(out).items() if key[0] != 'b.wav']
    assert len(rows) == 6
    for row in rows:
        value = float(row['Score'])
        probability = 1 / (1 + np.exp(1 - 0.5 * np.log(value / (1 - value))))
        assert float(row['Probability']) == pytest.approx(probability, abs=2e-4)
        want = multiplied(probability, expected['abc'.index(row['Class'])])
        assert float(row['Confidence']) == pytest.approx(want, abs=2e-4)


def test_factors_follow_the_time_of_the_window(dataset):
    def at(seconds):
        return {'time': 390.0, 'latitude': 40.5 if seconds < prior.STEP else 46.5, 'longitude': 8.5}

    kept = prior.Factors(
        prior.Prior(
            'soft',
            1e-6,
            tuple(str(dataset.parent / f'experiments/places/{name}.npz') for name in ('meta_one', 'meta_two')),
            Dataset(str(dataset)),
        )
    ).of(at)(np.array([0.0, 599, 600]))
    assert kept[:, 0].argmax() in (0, 1) and kept[2, 0] < kept[0, 0] and kept[2, 2] > kept[0, 2]
    np.testing.assert_array_equal(kept[0], kept[1])


def test_soft_is_limited_on_both_sides(dataset):
    files = (str(dataset.parent / 'experiments/places/meta_one.npz'),)
    known = {'time': 390.0, 'latitude': 40.5, 'longitude': 8.5}
    limited = prior.Factors(prior.Prior('soft', 0.9, files, Dataset(str(dataset)))).of(lambda _: known)
    values = limited(np.zeros(1))[0]
    assert values[0] == pytest.approx(1 / 0.9) and values[2] == 0.9


@pytest.mark.parametrize(
    'options, message',
    [
        (['--prior-limit', '0.5'], 'belong to --prior; give --prior soft'),
        (['--prior', 'soft', '--prior-limit', '1'], '--prior-limit=1: expected a number between 0 and 1'),
        (['--prior', 'soft', '--prior-model', 'cnn'], 'cnn.npz: a network that needs audio'),
        (['--prior', 'soft', '--prior-model', 'none'], 'none.npz: no such model'),
        (['--prior', 'mask', '--model', 'located'], '--prior=mask: located uses metadata already'),
    ],
)
def test_what_is_not_possible_is_refused_in_one_line(options, message, dataset, folder, tmp_path):
    test_identify.write_model(
        dataset.parent / 'experiments/places', 'located', 5, 'input_meta=latitude', 'arch_meta=dense:4'
    )
    done = steps(dataset, folder, tmp_path / 'out', *options)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and message in lines[-1] and len(lines) == 1, done.stderr
    assert not (tmp_path / 'out').exists()


def test_without_metadata_networks_there_is_no_prior(dataset, folder, tmp_path, monkeypatch):
    monkeypatch.setattr('birdsong.config.EXPERIMENTS', str(tmp_path / 'empty'))
    done = steps(dataset, folder, tmp_path / 'out', '--prior', 'soft')
    assert done.returncode == 1 and 'empty/places: no metadata networks; train some' in done.stderr


def test_findings_with_another_prior_are_not_mixed(dataset, folder, tmp_path):
    out = tmp_path / 'out'
    steps(dataset, folder, out, *SOUTH, '--prior', 'mask')
    done = steps(dataset, folder, out, *SOUTH, '--prior', 'soft')
    assert done.returncode == 1 and 'has findings with other prior (["mask", 0.01' in done.stderr
    assert json.loads((out / 'identify.json').read_text())['prior'][0] == 'mask'
    # tables of an earlier prior do not stay beside findings without one
    text = steps(dataset, folder, out, *SOUTH, '--force')
    assert 'prior' not in text and not list(out.glob('prior*'))


def test_factors_of_the_odds_decide_what_is_detected():
    scores, times = np.array([[0.2, 0.5, 0.5], [0.2, 0.5, 0.5]]), (np.array([0.0, 5]), np.array([5.0, 10]))
    rules = detections.Rules(np.full(3, 0.5))
    odds = {0.0: [4, 0.5, 0], 5.0: [1, 1, 1]}
    by_start = lambda starts: np.array([odds[start] for start in starts.tolist()], float)  # noqa: E731
    result = detections.detect('a', *times, scores, rules, factors=by_start)
    assert [(d.start, d.class_index, round(d.confidence, 6), d.score) for d in result] == [
        (0, 0, 0.5, 0.2),
        (5, 1, 0.5, 0.5),
        (5, 2, 0.5, 0.5),
    ]
    rules = detections.Rules(np.zeros(3))
    assert len(detections.detect('a', *times, scores, rules, factors=by_start)) == 5
