"""The rule for the number of updates and the learning rate."""

import numpy as np
import pytest

from birdsong import config
from birdsong.training import duration

RATE = 22050


def resolved(seconds, *settings):
    cfg = config.load([], ['epochsize=auto', 'len_min=5', 'len_max=5', *settings])
    duration.resolve(cfg, np.array(seconds) * RATE)
    return cfg


@pytest.mark.parametrize(
    'seconds, settings, epochsize',
    [
        ([5] * 320, [], 142),  # 600 * 320 ** 0.75 / 16 / 20
        ([5] * 320, ['batchsize=64'], 36),
        ([0.5] * 320, [], 142),  # shorter than an excerpt
        ([15] * 320, [], 324),  # 960 excerpts
        ([600] * 32, [], 142),  # 120 excerpts each, counted as 10
        ([5] * 2, [], 25),  # at least 500 updates
        ([5] * 10**6, [], 5000),  # at most 100 000
        ([0] * 14894, ['arch=', 'len_min=0', 'len_max=0'], 2528),  # metadata alone
    ],
)
def test_the_number_of_updates_follows_recordings_lengths_and_batch_size(seconds, settings, epochsize):
    assert resolved(seconds, *settings)['epochsize'] == epochsize


@pytest.mark.parametrize('batchsize, eta', [(16, 0.001), (64, 0.002), (4, 0.0005)])
def test_the_learning_rate_follows_the_square_root_of_the_batch_size(batchsize, eta):
    assert resolved([5], f'batchsize={batchsize}', 'initial_eta=auto')['initial_eta'] == pytest.approx(eta)


def test_numbers_are_left_as_they_are():
    cfg = config.load()
    assert duration.resolve(cfg, np.array([9])) == {} and cfg == config.load()
