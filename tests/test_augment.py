"""Random excerpts, mixing, filters, stretch and shift."""

import itertools

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from birdsong import config
from birdsong.data import audio
from birdsong.data.augment import (
    draw_filters,
    draw_items,
    draw_starts,
    excerpt_length,
    filter_responses,
    grab_random_excerpts,
    kept_frames,
    loop,
    make_buckets,
    mix,
    mixing_weights,
    needed_bins,
    stretch_shift,
)
from birdsong.data.prefetch import run_ahead

GOLDEN = ('augment/augment', 'augment/background')
pytestmark = pytest.mark.filterwarnings('ignore:The behavior of affine_transform')


def rng(seed=0):
    return np.random.default_rng(seed)


# == Excerpts ==


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=60), st.integers(0, 100), st.integers(0, 100), st.integers(1, 12)
)
def test_buckets_contain_each_recording_once_ordered_by_length(lengths, shortest, longest, count):
    lengths = np.array(lengths)
    shortest = min(shortest, longest)
    buckets = make_buckets(lengths, shortest, longest, count)
    joined = np.concatenate(buckets)
    assert sorted(joined) == list(range(len(lengths)))
    assert (np.diff(lengths[joined]) >= 0).all()
    assert all(len(bucket) for bucket in buckets)
    # Buckets of too short and of long recordings contain no others.
    for part in (lengths < shortest, lengths >= longest):
        if part.any():
            assert sum(part[bucket].any() for bucket in buckets) == 1
            assert all(part[bucket].all() for bucket in buckets if part[bucket].any())
    middle = [len(b) for b in buckets if lengths[b[0]] >= shortest and lengths[b[0]] < longest]
    special = int((lengths < shortest).any()) + int((lengths >= longest).any())
    if middle:
        assert max(middle) - min(middle) <= 1
        assert len(middle) == min(sum(middle), max(1, count - special))


def test_every_recording_has_the_same_chance():
    buckets = make_buckets(np.arange(20), 3, 14, 4)
    assert sorted(map(len, buckets)) == [3, 5, 6, 6]
    r = rng()
    drawn = np.concatenate([draw_items(buckets, 3, r) for _ in range(8000)])
    assert stats.chisquare(np.bincount(drawn, minlength=20)).pvalue > 1e-3


def test_batch_contains_no_recording_twice_unless_the_bucket_is_too_small():
    buckets = [np.arange(4), np.arange(4, 5)]
    for seed in range(50):
        items = draw_items(buckets, 3, rng(seed))
        assert len(items) == 3
        assert len(set(items)) == 3 if items[0] < 4 else set(items) == {4}


def test_excerpts_start_at_all_positions():
    starts = np.array([draw_starts(np.array([5, 10, 12, 3]), 10, rng(seed)) for seed in range(200)])
    assert set(starts[:, 0]) == set(starts[:, 1]) == set(starts[:, 3]) == {0}
    assert set(starts[:, 2]) == {0, 1, 2}


def test_golden_loops(golden):
    _, arrays = golden('augment/augment')
    for name, expected in arrays.items():
        if name.startswith('loop_'):
            length, wanted = map(int, name.split('_')[1:])
            if wanted < length:
                # The original does not loop excerpts that are long enough; ours is not called for them.
                continue
            out = np.full(wanted, -1, np.int16)
            out[:length] = np.arange(length)
            loop(out, length)
            np.testing.assert_array_equal(out, expected[:, 0])


def test_golden_excerpts_could_be_drawn_by_our_function(golden):
    cases, arrays = golden('augment/augment')
    lengths = arrays['grab_lengths']
    for case in cases['cases']:
        if not str(case.get('case')).startswith('grab'):
            continue
        batchsize, longest, shortest, count = case['args']
        buckets = make_buckets(lengths, shortest, longest, count)
        for number in range(case['batches']):
            items = arrays[f'{case["case"]}_{number}_labels']
            excerpts = arrays[f'{case["case"]}_{number}_wavs']
            assert any(set(items) <= set(bucket) for bucket in buckets)
            assert excerpts.shape == (batchsize, excerpt_length(lengths[items], shortest, longest))
            for item, excerpt in zip(items, excerpts, strict=True):
                if not excerpt.size:
                    continue
                start = excerpt[0] - 100 * item
                assert 0 <= start <= max(0, lengths[item] - len(excerpt))
                ours = np.empty(len(excerpt), np.int16)
                whole = 100 * item + np.arange(lengths[item])
                ours[: lengths[item]] = whole[start : start + len(excerpt)]
                loop(ours, min(len(ours), lengths[item] - start))
                np.testing.assert_array_equal(ours, excerpt)


def test_excerpts_of_files_have_one_length_per_batch_and_the_right_samples(tmp_path):
    lengths = [30, 12, 25, 4, 18, 50, 22, 9, 14, 40]
    wavs = []
    for k, length in enumerate(lengths):
        soundfile.write(tmp_path / f'{k}.wav', (100 * k + np.arange(length)).astype(np.int16), 22050)
        wavs.append(audio.WavFile(str(tmp_path / f'{k}.wav')))
    assert [len(wav) for wav in wavs] == lengths and wavs[2][3:6].tolist() == [203, 204, 205]

    def batches(count):
        return list(itertools.islice(grab_random_excerpts(wavs, range(10), 2, 20, 10, 3, rng()), count))

    drawn = batches(60)
    for excerpts, labels in drawn:
        assert excerpts.dtype == np.int16 and excerpts.shape == (2, excerpt_length(np.array(lengths)[labels], 10, 20))
        for excerpt, label in zip(excerpts, labels, strict=True):
            start = excerpt[0] - 100 * label
            assert 0 <= start <= max(0, lengths[label] - len(excerpt))
            np.testing.assert_array_equal(excerpt, 100 * label + (start + np.arange(len(excerpt))) % lengths[label])
    assert {label for _, labels in drawn for label in labels} == set(range(10))
    assert all((a[0] == b[0]).all() for a, b in zip(drawn, batches(60), strict=True))
    empty, _ = next(grab_random_excerpts(wavs, range(10), 2, 0))
    assert empty.shape == (2, 0)


# == Mixing ==


def test_golden_mixing(golden):
    _, arrays = golden('augment/augment')
    samples = arrays['mixup_in']
    legacy = np.random.RandomState(9)
    weights = legacy.beta(1.2, 0.2, 2).astype(np.float32)
    np.testing.assert_array_equal(mix(samples[:2], samples[2:], weights), arrays['mixup_out'])
    np.testing.assert_array_equal(arrays['mixup_arr_out'], arrays['mixup_out'])
    legacy = np.random.RandomState(9)
    weights = legacy.beta(0.2, 0.2, 2).astype(np.float32)
    mixed = mix(samples[:2], samples[2:], weights)
    np.testing.assert_array_equal(mixed, arrays['mixup2_out'])
    assert mixed.dtype == np.float32
    # Labels 0..3 of the four excerpts, mixed in the same way.
    one_hot = np.eye(5, dtype=np.float32)[:4]
    np.testing.assert_allclose(mix(one_hot[:2], one_hot[2:], weights), arrays['mixup2_labels'], rtol=1e-6)


@pytest.mark.parametrize('setting, beta', [('mixup=0.2', (1.2, 0.2)), ('mixup2=0.4', (0.4, 0.4)), ('mixup=1', (2, 1))])
def test_weights_follow_the_beta_distribution(setting, beta):
    weights = mixing_weights(config.load([], [setting]), 5000, rng())
    # Single precision rounds many weights to 1, so only smaller weights can be compared.
    for place in (0.05, 0.3, 0.5, 0.8, 0.99):
        assert abs(np.mean(weights < place) - stats.beta(*beta).cdf(place)) < 0.03


def test_nothing_is_mixed_by_default():
    assert mixing_weights(config.load(), 5, rng()) is None


# == Spectrograms ==


def test_golden_filters(golden):
    _, arrays = golden('augment/augment')
    spect = arrays['filters_in']
    legacy = np.random.RandomState(7)
    lowest, highest = 12 * np.log2(150), 12 * np.log2(8000)
    centre = lowest + legacy.rand(len(spect)) * (highest - lowest)
    deviation = 5 + 2 * legacy.randn(len(spect))
    gain = 10 * 2 * (legacy.rand(len(spect)) - 0.5)
    factors = filter_responses(centre, deviation, gain, spect.shape[2], 8000)
    np.testing.assert_allclose(spect * factors[:, None], arrays['filters_out'], rtol=1e-6)


def test_random_filters_have_uniform_gains_and_pitches():
    factors = draw_filters(4000, 465, 10000, 12, rng())
    assert factors.shape == (4000, 465) and factors.dtype == np.float32
    gains = 20 * np.log10(factors)
    extreme = gains[np.arange(4000), np.abs(gains).argmax(axis=1)]
    assert np.abs(extreme).max() <= 12.001
    # Uniform gains: half of them exceed half of the largest.
    assert abs(np.mean(np.abs(extreme) > 6) - 0.5) < 0.05
    assert abs(np.mean(extreme)) < 0.5
    centre = np.abs(gains).argmax(axis=1) / 465 * 10000
    # Uniform on the pitch scale: as many below as above the geometric mean.
    assert abs(np.mean(centre < np.sqrt(150 * 10000)) - 0.5) < 0.05
    np.testing.assert_array_equal(draw_filters(3, 465, 10000, 0, rng()), 1)


@pytest.mark.parametrize('order', [1, 2, 3])
def test_golden_stretch_and_shift(golden, order):
    _, arrays = golden('augment/augment')
    random = (np.random.RandomState(8).rand(2, 2) - 0.5) * 2
    for spect, factors, expected in zip(
        arrays['stretch_in'], 1 + 0.3 * random, arrays[f'stretch_out_order{order}'], strict=True
    ):
        out = np.empty(expected.shape, np.float32)
        stretch_shift(spect, *factors, out, order)
        np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize('stretch', [0.7, 0.85, 1, 1.15, 1.3])
def test_stretch_never_reads_beyond_the_excerpt(stretch):
    frames = np.arange(1, 102, dtype=np.float32)
    spect = np.repeat(frames[:, None], 8, axis=1)
    out = np.empty((kept_frames(101, 0.3), 8), np.float32)
    stretch_shift(spect, stretch, 1, out, order=1)
    assert len(out) == 70
    np.testing.assert_allclose(np.diff(out[:, 3]), 1 / stretch, rtol=1e-3)
    assert out.min() >= 1
    if stretch == 1:
        assert (out[0, 0] + out[-1, 0]) / 2 == 51


def test_shift_moves_the_pitch_and_needed_bins_are_enough():
    wide = needed_bins(60, 0.25, 129)
    assert wide == 81 and needed_bins(60, 0.25, 70) == 70 and needed_bins(60, 1, 129) == 129
    spect = np.zeros((9, wide), np.float32)
    spect[:, 40] = 1
    out = np.empty((9, 60), np.float32)
    for shift, place in ((1.25, 50), (0.75, 30), (1, 40)):
        stretch_shift(spect, 1, shift, out)
        assert out[4].argmax() == place
    full = np.ones((9, wide), np.float32)
    stretch_shift(full, 1, 0.75, out, order=1)
    np.testing.assert_allclose(out, 1, rtol=1e-5)


def test_splines_give_no_negative_magnitudes():
    spect = rng().random((30, 40)).astype(np.float32) ** 8
    out = np.empty((20, 30), np.float32)
    stretch_shift(spect, 0.8, 1.2, out, order=3)
    assert out.min() == 0


# == In the background ==


def test_golden_background(golden):
    case, _ = golden('augment/background')
    results = {one['case']: one for one in case['cases']}
    items = [i for n in (3, 4) for i in range(n)]
    assert sorted(run_ahead(int, items, threads=2)) == results['two threads']['sorted']

    def bad(_):
        raise ValueError('oops')

    with pytest.raises(ValueError, match='oops') as caught:
        list(run_ahead(bad, [1], threads=1))
    assert type(caught.value).__name__ == results['exception']['result']['error']
