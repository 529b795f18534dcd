"""Effects on excerpts that the 2018 system does not have: time shift, fades, gains, noise and masks."""

import contextlib
import functools
import hashlib
import pathlib
import shutil
import sys

import numpy as np
import pytest
import torch

import train
from birdsong import config
from birdsong.data import effects
from birdsong.data.dataset import Dataset
from birdsong.data.training_feed import TrainFeed
from birdsong.files import Problem, load_npz
from birdsong.networks import model
from birdsong.networks.frontend import Magnitudes
from helpers import FULL_TRAINING, training_arguments, wav_bytes

LENGTHS = (9000, 15000, 22050, 30000, 44100, 70000)
SMALL = ['batchsize=4', 'len_min=1', 'len_max=1', 'len_buckets=1', 'bg_threads=0', 'mel_bands=40', 'mel_max=10000']
SHIFT, FADE, GAIN = ['time_shift=1'], ['fade=30'], ['gain_db=12']
NOISE = ['noise=noise', 'noise_snr=5:15']
MASKS = ['time_masks=2', 'time_mask_max=0.2', 'freq_masks=1', 'freq_mask_max=0.3']
ALL = SHIFT + FADE + GAIN + NOISE + MASKS
STRETCH = ['spect_augment=1', 'max_stretch=0.2', 'max_shift=0.1', 'max_db=9']
pytestmark = pytest.mark.filterwarnings('ignore:The behavior of affine_transform')


@pytest.fixture
def dataset(tmp_path):
    """Six recordings of three classes with random samples, and two of noise, of which the first is short."""
    for name in ('audio', 'filelists', 'labels'):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    keys = [f'r{i}.wav' for i in range(len(LENGTHS))]
    noises = ['n0.wav', 'n1.wav']
    for key, length in zip(keys + noises, (*LENGTHS, 5000, 60000), strict=True):
        samples = rng.integers(-3000, 3000, length).astype('<i2')
        (tmp_path / 'audio' / key).write_bytes(wav_bytes(samples))
    for name, lines in {
        'filelists/train': keys,
        'filelists/noise': noises,
        'labels/labelset': 'abc',
        'labels/fg.tsv': [f'{key}\t{int(i % 3)}' for i, key in enumerate(keys)],
        'labels/meta.tsv': [f'{key}\t\t\t{i}\t\t' for i, key in enumerate(keys)],
    }.items():
        (tmp_path / name).write_text(''.join(f'{line}\n' for line in lines))
    return Dataset(tmp_path)


@pytest.fixture
def feed(dataset, capsys):
    """Function of settings that gives a TrainFeed."""
    return lambda *settings, on_device=True: TrainFeed(
        dataset, config.load([], [*SMALL, *settings]), on_device=on_device
    )


def same(batch, other, *without):
    assert set(batch) - set(without) == set(other) - set(without)
    for name in set(batch) - set(without):
        np.testing.assert_array_equal(batch[name], other[name])
        assert batch[name].dtype == other[name].dtype


# == All effects ==


def test_without_effects_batches_are_those_of_earlier_versions(feed):
    """The digests were computed before there were effects."""
    for settings, expected in ([], 'c0d50d5d4145676a'), (['mixup2=0.3'], '62cfdb79ed019e12'):
        digest = hashlib.sha256()
        for k in range(5):
            batch = feed(*settings).batch(k)
            digest.update(batch['samples'].tobytes() + batch['item'].tobytes())
        assert digest.hexdigest()[:16] == expected


@pytest.mark.parametrize('settings', [ALL, ALL + ['mixup=0.3'], ALL + ['mixup2=0.3'] + STRETCH])
@pytest.mark.parametrize('on_device', [False, True])
def test_batches_are_the_same_with_threads_and_processes(feed, settings, on_device):
    batches = list(feed(*settings, on_device=on_device).batches(0, 6))
    for way in ('bg_threads=3', 'bg_processes=2'):
        for k, batch in enumerate(feed(*settings, way, on_device=on_device).batches(2, 6), 2):
            same(batch, batches[k])
    masks = feed(*settings, 'seed=1').batch(2)['masks']
    assert not np.array_equal(masks, batches[2]['masks'])


@pytest.mark.parametrize(
    'settings', [SHIFT, FADE, GAIN, GAIN + ['spect_augment=1', 'max_db=9'], NOISE, ALL, ALL + ['mixup2=0.3']]
)
def test_host_and_device_give_the_same_spectrograms(feed, settings):
    magnitudes = Magnitudes(config.load([], SMALL))
    for k in range(3):
        host, device = feed(*settings, on_device=False).batch(k), feed(*settings).batch(k)
        spect = magnitudes(torch.from_numpy(device['samples'])).numpy()
        if 'filter' in device:
            spect = spect * device['filter'][:, None]
        np.testing.assert_allclose(spect, host['spect'], atol=1e-6 * host['spect'].max())
        same(host, device, 'spect', 'samples', 'filter')


@pytest.mark.parametrize('settings', [FADE, GAIN, NOISE, MASKS])
def test_effects_do_not_change_other_random_choices(feed, settings):
    for mixing in (['input_meta=latitude'], ['mixup2=0.3']):
        plain = feed(*mixing).batch(3)
        same(feed(*mixing, *settings).batch(3), plain, 'samples', 'filter', 'masks')
        if settings in (GAIN, MASKS):
            np.testing.assert_array_equal(feed(*mixing, *settings).batch(3)['samples'], plain['samples'])


# == Each effect ==


@pytest.mark.parametrize('mixing', [[], ['mixup2=0.3']])
def test_excerpts_of_short_recordings_are_shifted_circularly(feed, mixing):
    shifts = {item: set() for item in range(len(LENGTHS))}
    plain, shifting = feed(*mixing), feed(*SHIFT, *mixing)
    for k in range(40):
        before, after = plain.batch(k), shifting.batch(k)
        same(after, before, 'samples')
        assert after['samples'].dtype == before['samples'].dtype
        for item, one, other in zip(before['item'].tolist(), before['samples'], after['samples'], strict=True):
            if not mixing:
                shift = np.tile(one, 2).tobytes().index(other.tobytes()) // 2
                shifts[item].add(shift / len(one))
    if mixing:
        # If the two recordings that are mixed had the same shift, the magnitudes of all frequencies would be unchanged.
        one, other = (np.abs(np.fft.rfft(batch['samples'])) for batch in (before, after))
        assert (np.abs(one - other).max(1) > 1e-3 * one.max(1)).sum() >= 2
        return
    for item, places in shifts.items():
        if LENGTHS[item] < 2 * 22050:
            # a looped recording looks the same after a shift by its length
            assert len(places) > 10 and max(places) - min(places) > 0.3
        else:
            assert places == {0}


def test_fades_rise_to_a_peak_and_fall(feed):
    plain, faded = feed(), feed(*FADE)
    ends = []
    for k in range(40):
        before, after = plain.batch(k)['samples'], faded.batch(k)['samples']
        assert after.dtype == np.float32
        for one, other in zip(before, after, strict=True):
            audible = one != 0
            level = 20 * np.log10(other[audible] / one[audible])
            peak = level.argmax()
            assert -0.1 < level[peak] < 1e-4 and level.min() >= -30
            for part in level[: peak + 1], level[peak:][::-1]:
                straight = np.interp(np.flatnonzero(audible)[: len(part)], [0, len(part)], [part[0], part[-1]])
                assert len(part) < 1000 or np.abs(part - straight).max() < 0.1
            ends += [level[0], level[-1]]
    # uniformly distributed in dB
    assert min(ends) < -25 and max(ends) > -5 and -17 < np.mean(ends) < -13


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('peak', [0, 1e-3, 0.5, 0.9999, 1])
def test_fades_with_a_peak_near_an_end_are_finite(peak):
    samples = np.ones(10_000, np.float32)
    effects.fade(samples, -60, -60, peak)
    assert samples.max() == pytest.approx(1, abs=0.01) and samples.min() > 0.9e-3


def test_gains_are_uniform_in_decibels(feed):
    decibels, louder = [], feed(*GAIN)
    for k in range(60):
        factors = louder.batch(k)['filter']
        assert (factors == factors[:, :1]).all() and factors.dtype == np.float32
        decibels += (20 * np.log10(factors[:, 0])).tolist()
    assert -12 <= min(decibels) < -10 and 10 < max(decibels) <= 12
    assert abs(np.mean(decibels)) < 2 and abs(np.mean(np.abs(decibels)) - 6) < 1


def test_gains_and_random_filters_are_multiplied(feed):
    filters = ['spect_augment=1', 'max_db=9']
    plain, louder = (feed(*filters, *more).batch(0)['filter'] for more in ([], GAIN))
    factors = louder / plain
    assert np.ptp(plain, axis=1).min() > 0.01 and np.ptp(factors / factors[:, :1], axis=1).max() < 1e-5
    assert np.abs(factors[:, 0] - 1).min() > 1e-3


def test_noise_has_the_ratio_that_was_asked_for(feed, dataset):
    # spectra of the two recordings of noise, continued with their start
    noises = [np.frombuffer(pathlib.Path(dataset.audio_path(f'n{i}.wav')).read_bytes()[44:], '<i2') for i in range(2)]
    endless = [np.fft.rfft(np.tile(noise, 20)[:82050].astype(float), 150000) for noise in noises]
    ratios, different, plain, noisy = [], set(), feed(), feed(*NOISE)
    for k in range(30):
        before, after = plain.batch(k)['samples'].astype(np.float32), noisy.batch(k)['samples']
        for signal, mixture in zip(before, after, strict=True):
            added = mixture - signal
            if added.any():
                ratios.append(20 * np.log10(np.linalg.norm(signal) / np.linalg.norm(added)))
                different.add(np.abs(np.fft.rfft(added[:1000]))[:50].tobytes())
                likeness = [np.fft.irfft(noise * np.fft.rfft(added, 150000).conj()).max() for noise in endless]
                found = int(np.argmax(likeness))
                assert likeness[found] > 0.97 * np.linalg.norm(added) * noises[found].std() * np.sqrt(len(added))
    # added to about half of the excerpts, with all ratios from 5 to 15 dB
    assert 45 < len(ratios) < 75 and len(different) == len(ratios)
    assert 4.99 < min(ratios) < 6 and 14 < max(ratios) < 15.01


@pytest.mark.parametrize('probability, share', [(0, 0), (1, 1)])
def test_noise_is_added_with_the_probability_that_was_asked_for(feed, probability, share):
    before = feed().batch(0)['samples']
    after = feed(*NOISE, f'noise_probability={probability}').batch(0)['samples']
    assert (before != after).any(1).mean() == share


def test_noise_is_added_as_by_torchaudio():
    functional = pytest.importorskip('torchaudio').functional
    rng = np.random.default_rng(0)
    samples, noise = rng.normal(0, 1000, 5000).astype(np.float32), rng.integers(-9, 9, 5000).astype(np.int16)
    expected = functional.add_noise(*torch.tensor(np.stack([samples, noise]))[:, None], torch.tensor([7.0]))[0]
    effects.add_noise(samples, noise, 7)
    np.testing.assert_allclose(samples, expected, rtol=1e-4, atol=1e-2)


def test_silence_has_no_ratio_and_stays_as_it_is():
    noise = np.arange(100, dtype=np.int16)
    for samples, added in (np.zeros(100, np.float32), noise), (np.ones(100, np.float32), 0 * noise):
        before = samples.copy()
        effects.add_noise(samples, added, 3)
        np.testing.assert_array_equal(samples, before)


def test_masks_have_the_shares_that_were_asked_for(feed):
    masking = feed(*MASKS)
    masks = np.concatenate([masking.batch(k)['masks'] for k in range(150)])
    frames = feed(*MASKS, on_device=False).batch(0)['spect'].shape[1]
    assert masks.shape == (600, 3, 4) and masks.dtype == np.int32
    for part, other, size, other_size, share in (
        (masks[:, :2, :2], masks[:, :2, 2:], frames, 40, 0.2),
        (masks[:, 2:, 2:], masks[:, 2:, :2], 40, frames, 0.3),
    ):
        assert (other == (0, other_size)).all()
        width = part[..., 1] - part[..., 0]
        assert width.min() == 0 and width.max() == round(share * size)
        assert abs(width.mean() - share * size / 2) < 0.05 * share * size
        assert part.min() == 0 and part.max() == size
        assert abs(part.mean() - size / 2) < 0.05 * size


@pytest.mark.parametrize('scale', ['log', 'pow_learn', 'pcen'])
def test_masked_parts_have_the_mean_of_their_band_and_the_rest_is_unchanged(scale):
    cfg = config.load([], [*SMALL, 'arch=conv:4x3x3,Conv:4x9x-1', f'magscale={scale}'])
    torch.manual_seed(0)
    spect = 1000 * torch.rand(2, 50, 465)
    masks = torch.tensor([[[0, 50, 3, 5], [10, 20, 0, 40]], [[0, 50, 7, 7], [49, 50, 0, 40]]])
    plain, masked = (model.build(cfg, 3).audio.front.train() for _ in range(2))
    expected, found = plain(spect), masked(spect, masks)
    hidden = torch.zeros(2, 1, 50, 40, dtype=torch.bool)
    hidden[0, :, :, 3:5] = hidden[0, :, 10:20] = hidden[1, :, 49] = True
    assert (found[hidden] == 0).all() and torch.equal(found[~hidden], expected[~hidden])
    assert expected.mean((0, 2)).abs().max() < 1e-4
    assert torch.equal(plain.standardise.mean, masked.standardise.mean)


@pytest.mark.parametrize(
    'settings, words',
    [
        (['noise=rain'], 'noise=rain: .*filelists has no such list; put recordings.*prepare the dataset again'),
        (['noise=valid'], 'noise=valid: recordings of this list must not be used in training'),
        (NOISE + ['noise_snr=9:3'], 'noise_snr=9:3: expected LOW:HIGH in dB'),
        (['noise_snr=3'], 'noise_snr=3: expected A:A'),
        (['time_masks=-1'], 'time_masks=-1: expected int 0..'),
        (['freq_mask_max=2'], 'freq_mask_max=2: expected number 0..1'),
        (['fade=-3'], 'fade=-3: expected number 0..'),
    ],
)
def test_a_setting_that_does_not_fit_is_named_in_one_line(feed, settings, words):
    with pytest.raises(Problem, match=words) as caught:
        feed(*settings)
    assert '\n' not in str(caught.value)


# == Training ==


@pytest.fixture
def call(tiny_dataset, tmp_path, monkeypatch):
    """Function that trains tmp_path/NAME/m.npz with all effects; noise are other training recordings."""

    def run(name, *flags, **settings):
        settings = dict(map(functools.partial(str.split, sep='='), ALL), noise='train', **settings)
        monkeypatch.setattr(
            sys, 'argv', ['train.py', *training_arguments(tiny_dataset, tmp_path / name / 'm.npz', *flags, **settings)]
        )
        train.main()

    return run


def test_training_with_effects_can_be_interrupted_and_compute_spectrograms_anywhere(call, tmp_path, monkeypatch):
    call('host', *FULL_TRAINING, spectrogram='cpu', arch__fulldrop=0)
    call('device', *FULL_TRAINING, spectrogram='device', arch__fulldrop=0)
    host, device = (load_npz(tmp_path / name / 'm.err.npz')['errors'] for name in ('host', 'device'))
    np.testing.assert_allclose(host, device, rtol=2e-3)
    call('resumed', *FULL_TRAINING, spectrogram='cpu', arch__fulldrop=0, epochs=1)
    call('resumed', *FULL_TRAINING, spectrogram='cpu', arch__fulldrop=0)
    assert (tmp_path / 'host' / 'm.npz').read_bytes() == (tmp_path / 'resumed' / 'm.npz').read_bytes()
    call('unmasked', *FULL_TRAINING, spectrogram='cpu', arch__fulldrop=0, time_masks=0, freq_masks=0)
    assert (tmp_path / 'host' / 'm.err.npz').read_bytes() != (tmp_path / 'unmasked' / 'm.err.npz').read_bytes()


def test_a_training_does_not_continue_with_another_list_of_noise(tiny_dataset, tmp_path, monkeypatch):
    other = tmp_path / 'other'
    shutil.copytree(tiny_dataset, other)
    keys = (other / 'filelists' / 'train').read_text().splitlines(keepends=True)
    arguments = training_arguments(other, tmp_path / 'm.npz', *FULL_TRAINING, noise='noise', epochs=1)
    monkeypatch.setattr(sys, 'argv', ['train.py', *arguments])
    for count in 3, 3, 2:
        (other / 'filelists' / 'noise').write_text(''.join(keys[:count]))
        with pytest.raises(Problem, match='data was .*, now') if count == 2 else contextlib.nullcontext():
            train.main()


def test_the_plot_of_the_feed_shows_masks(call, tmp_path, monkeypatch):
    import matplotlib.axes

    shown = []
    monkeypatch.setattr(matplotlib.axes.Axes, 'imshow', lambda axis, image, **options: shown.append(image))
    call('plot', plot_datafeed=1)
    assert (tmp_path / 'plot' / 'm.feed.png').exists() and len(shown) == 16
    assert all(image.shape[0] == 20 for image in shown)
    assert sum((image == 0).all(0).any() or (image == 0).all(1).any() for image in shown) > 10
