"""Which recordings are drawn for training, and the weights of their examples: classes and qualities."""

import numpy as np
import pytest
from scipy import stats

from birdsong import config
from birdsong.data import sampling
from birdsong.data.dataset import Dataset
from birdsong.data.training_feed import TrainFeed
from birdsong.files import Problem
from helpers import write_lines, write_recording_tables

COUNTS = (40, 12, 6, 2)  # recordings of each class
LABELS = np.repeat(np.arange(4), COUNTS)


def settings(*assignments):
    return config.load([], ['len_min=0', 'len_max=0', 'arch=', 'input_meta=latitude', 'bg_threads=0', *assignments])


@pytest.fixture
def imbalanced(tmp_path):
    """A metadata-only dataset of 60 recordings of 4 classes; the qualities of some are known."""
    keys = [f'{i}.wav' for i in range(len(LABELS))]
    qualities = 'A', 'b', 'E', '', 'no score', '3.5'
    records = {
        key: dict(class_id=str(label), quality=qualities[i % 6])
        for i, (key, label) in enumerate(zip(keys, LABELS, strict=True))
    }
    write_recording_tables(tmp_path, records)
    write_lines(tmp_path / 'filelists' / 'train', keys)
    write_lines(tmp_path / 'labels' / 'labelset', 'abcd')
    write_lines(tmp_path / 'labels' / 'meta.tsv', [f'{key}\t\t\t{i}\t\t' for i, key in enumerate(keys)])
    return Dataset(tmp_path)


# == Probabilities ==


@pytest.mark.parametrize('balance', [0.5, 1, 2])
def test_probabilities_follow_a_power_of_the_number_of_recordings_of_the_class(balance):
    shares = sampling.recording_shares(settings(f'class_balance={balance}'), LABELS, 16)
    by_class = np.array([count ** (1 - balance) for count in COUNTS])
    np.testing.assert_allclose(np.bincount(LABELS, shares), by_class / by_class.sum())
    np.testing.assert_allclose(shares[LABELS == 3], shares[-1])


def test_no_recording_is_expected_more_often_in_an_epoch_than_the_limit():
    cfg = settings('class_balance=1', 'max_excerpts=5', 'epochsize=10')
    shares = sampling.recording_shares(cfg, LABELS, 16)
    expected = shares * 160
    free = sampling.recording_shares(dict(cfg, max_excerpts=0), LABELS, 16)
    assert (free * 160).max() == pytest.approx(20)
    np.testing.assert_allclose(expected[LABELS >= 2], 5)
    # The classes without a limit share the rest equally.
    np.testing.assert_allclose(np.bincount(LABELS, expected)[:2], (160 - 8 * 5) / 2 * np.array([1, 1]))
    assert shares.sum() == pytest.approx(1)


def test_a_limit_that_cannot_be_kept_makes_all_recordings_equally_likely():
    shares = sampling.recording_shares(settings('class_balance=1', 'max_excerpts=1', 'epochsize=100'), LABELS, 16)
    np.testing.assert_allclose(shares, 1 / 60)


def test_items_are_drawn_as_often_as_their_shares_say():
    rng = np.random.default_rng(1)
    shares = rng.exponential(size=60)
    shares /= shares.sum()
    buckets = np.split(rng.permutation(60), [10, 35])
    of_bucket = np.empty(60, int)
    for number, bucket in enumerate(buckets):
        of_bucket[bucket] = number
    chosen, total = np.zeros(3), np.zeros(60)
    for _ in range(4000):
        items = sampling.draw_by_share(buckets, shares, 16, rng)
        number = of_bucket[items[0]]
        assert (of_bucket[items] == number).all()
        counts = np.bincount(items, minlength=60)
        expected = np.where(of_bucket == number, 16 * shares / shares[buckets[number]].sum(), 0)
        assert (np.abs(counts - expected) < 1).all()
        chosen[number] += 1
        total += counts
    assert stats.chisquare(chosen, 4000 * np.array([shares[b].sum() for b in buckets])).pvalue > 0.01
    np.testing.assert_allclose(total, 4000 * 16 * shares, rtol=0.2, atol=40)


@pytest.mark.parametrize('balance, mean', [(0, COUNTS), (1, (15, 15, 15, 15))])
def test_batches_contain_the_classes_as_often_as_expected(imbalanced, balance, mean):
    feed = TrainFeed(imbalanced, settings(f'class_balance={balance}', 'batchsize=6', 'seed=3'))
    labels = [feed.batch(k)['label'] for k in range(2000)]
    assert np.isin(LABELS, np.concatenate(labels)).all()
    first = np.bincount([batch[0] for batch in labels], minlength=4)  # examples of different batches are independent
    assert stats.chisquare(first, 2000 * np.array(mean) / 60).pvalue > 0.01


def test_the_order_in_a_batch_says_nothing_about_the_class(imbalanced):
    feed = TrainFeed(imbalanced, settings('class_balance=1', 'batchsize=6'))
    table = np.zeros((6, 4))
    for k in range(1000):
        table[np.arange(6), feed.batch(k)['label']] += 1
    assert stats.chi2_contingency(table).pvalue > 0.01


def test_without_balance_nothing_changes(imbalanced):
    plain = TrainFeed(imbalanced, settings())
    limited = TrainFeed(imbalanced, settings('max_excerpts=1'))
    for k in range(5):
        np.testing.assert_array_equal(plain.batch(k)['item'], limited.batch(k)['item'])


def test_balanced_batches_are_the_same_for_any_number_of_threads(imbalanced):
    cfg = settings('class_balance=0.5', 'max_excerpts=9', 'epochsize=2')
    batches = list(TrainFeed(imbalanced, cfg).batches(0, 8))
    for way in ({'bg_threads': 3}, {'bg_processes': 2}):
        for k, batch in enumerate(TrainFeed(imbalanced, dict(cfg, **way)).batches(2, 8), 2):
            for name in batch:
                np.testing.assert_array_equal(batch[name], batches[k][name])


# == Weights ==


def test_quality_is_a_weight_of_the_example_and_1_if_unknown(imbalanced):
    cfg = settings('quality_weights=1:0.8:0.6:0.3:0')
    batch = TrainFeed(imbalanced, cfg).batch(0)
    expected = np.array([1, 0.8, 0, 1, 1, 0.7])  # 3.5 stars are between B and C
    np.testing.assert_allclose(batch['weight'], expected[batch['item'] % 6], rtol=1e-6)
    assert batch['weight'].dtype == np.float32
    both = TrainFeed(imbalanced, dict(cfg, class_weights='google:1')).batch(0)
    alone = TrainFeed(imbalanced, settings('class_weights=google:1')).batch(0)
    np.testing.assert_allclose(both['weight'], alone['weight'] * batch['weight'], rtol=1e-6)
    assert 'weight' not in TrainFeed(imbalanced, settings()).batch(0)


@pytest.mark.parametrize('text', ['1', '1:2:3:4', '1:1:1:1:-1', '1:1:1:1:nan', 'A:B:C:D:E', '1:1:1:1:1:1'])
def test_quality_weights_that_are_not_five_numbers_are_refused(imbalanced, text):
    with pytest.raises(Problem, match='expected five numbers'):
        TrainFeed(imbalanced, settings(f'quality_weights={text}'))


def test_missing_qualities_are_reported(imbalanced, tmp_path, capsys):
    cfg = settings('quality_weights=1:1:1:1:0.5')
    keys = imbalanced.filelist('train')
    write_recording_tables(tmp_path, {key: dict(class_id=str(label)) for key, label in zip(keys, LABELS, strict=True)})
    assert (TrainFeed(imbalanced, cfg).batch(0)['weight'] == 1).all()
    assert capsys.readouterr().err.count('no quality') == 1
    (tmp_path / 'recordings.tsv').unlink()
    with pytest.raises(Problem, match='recordings.tsv: no such file; quality_weights needs it'):
        TrainFeed(imbalanced, cfg)
