"""The synthetic source folder: its layout, its faults, its seed, and differences between species."""

import collections
import itertools
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from helpers import ROOT, run_program


def run(*arguments):
    return run_program('datasets/demo/generate.py', *arguments)


SMALL = ('--species=2', '--recordings=10', '--shortest=0.5', '--longest=1', '--long=0', '--soundscapes=1')
SMALL += ('--soundscape-seconds=5',)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in ('one', 1), ('other', 2):
        result = run(tmp_path / name, f'--seed={seed}', *SMALL)
        assert result.returncode == 0, result.stderr
    script = str(ROOT / 'datasets' / 'demo' / 'generate.py')
    subprocess.run([sys.executable, script, str(tmp_path / 'again'), '--seed=1', *SMALL], check=True)
    one, again, other = (content(tmp_path / name) for name in ('one', 'again', 'other'))
    assert one == again
    assert one['truth.tsv'] != other['truth.tsv']


def test_the_folder_is_laid_out_like_that_of_the_organisers(tiny_source):
    for folder, kind, count in (
        ('TrainingSet', 'wav', 1),
        ('data', 'wav', 1),
        ('BirdCLEF2018MonophoneTest', 'wav', 4),
        ('val/data', 'wav', 1),
        ('test', 'wav', 1),
        ('val/data/xml', 'xml', 1),
        ('test/xml', 'xml', 1),
    ):
        assert (
            len([path for path in (tiny_source / folder).rglob('*') if path.suffix.lower() == f'.{kind}']) >= count
        ), folder
    truth = [line.split('\t') for line in (tiny_source / 'truth.tsv').read_text().splitlines()]
    assert collections.Counter(row[2] for row in truth if len(row) == 3) == {'train': 20, 'valid': 4, 'test': 4}
    assert {row[1] for row in truth if len(row) == 3 and row[2] == 'train'} == {
        row[1] for row in truth if len(row) == 3 and row[2] == 'test'
    }
    valid = (tiny_source / 'valid_list').read_text().splitlines()
    assert sorted(line.split('_RN')[1][:-4] for line in valid) == sorted(row[0] for row in truth if row[-1] == 'valid')
    texts = [path.read_text('latin-1') for path in (tiny_source / 'BirdCLEF2018MonophoneTest').rglob('*.xml')]
    assert texts and not any('ClassId' in text or 'Genus' in text for text in texts)


def test_recordings_and_xml_have_the_known_faults(tiny_source):
    wavs = [path for path in tiny_source.rglob('*') if path.suffix.lower() == '.wav' and not path.name.startswith('._')]
    assert any(path.suffix == '.WAV' for path in wavs) and list(tiny_source.rglob('._*'))
    empty = [path for path in wavs if not path.stat().st_size]
    assert {path.relative_to(tiny_source).parts[0] == 'BirdCLEF2018MonophoneTest' for path in empty} == {True, False}
    infos = [soundfile.info(str(path)) for path in wavs if path.stat().st_size > 44]
    assert {(info.channels, info.samplerate, info.subtype) for info in infos} >= {
        (1, 44100, 'PCM_16'),
        (2, 44100, 'PCM_16'),
        (1, 48000, 'PCM_16'),
        (1, 22050, 'PCM_16'),
        (1, 44100, 'PCM_24'),
        (1, 44100, 'PCM_U8'),
    }
    assert max(info.duration for info in infos) == 20 and any('should be' in info.extra_info for info in infos)
    xml = {path.stem: path.read_bytes() for path in tiny_source.rglob('*.xml')}
    assert {path.stem for path in wavs} - set(xml)
    assert any(b'Per\xfa' in data for data in xml.values()) and any(
        b'Trinidad & Tobago' in data for data in xml.values()
    )
    assert any(b'Veteronym' in data for data in xml.values())


@pytest.mark.slow
def test_species_are_recognisable_by_their_songs_and_by_metadata(tmp_path):
    """A plain linear classifier on mean log spectra, and one on metadata alone, are both far better than chance."""
    import scipy.signal

    source, made = tmp_path / 'source', tmp_path / 'made'
    assert (
        run(
            source, '--species=8', '--recordings=120', '--shortest=2', '--longest=4', '--long=0', '--soundscapes=0'
        ).returncode
        == 0
    )
    for script, arguments in ('../collect.py', [source]), ('labels/recreate.py', []), ('audio/convert.py', [source]):
        assert run_program(f'datasets/birdclef/{script}', *arguments, '--dataset', made).returncode == 0
    truth = {row[0]: row[1:] for row in (line.split('\t') for line in (source / 'truth.tsv').read_text().splitlines())}
    classes = sorted({row[0] for row in truth.values()})
    edges = np.geomspace(500, 10000, 33)

    def sound(path):
        samples, rate = soundfile.read(path, dtype='float32')
        if len(samples) < rate:
            return np.zeros(64)
        f, _, power = scipy.signal.spectrogram(samples, rate, nperseg=1024, noverlap=512)
        bands = np.log(
            np.stack(
                [
                    power[np.searchsorted(f, a) : max(np.searchsorted(f, a) + 1, np.searchsorted(f, b))].sum(0)
                    for a, b in itertools.pairwise(edges)
                ]
            )
            + 1e-10
        )
        bands -= np.median(bands, axis=1, keepdims=True)
        return np.concatenate([bands.mean(1), bands.std(1)])

    def when_and_where(row):
        date, time, latitude, longitude, elevation = row
        day = (int(date[5:7]) * 30 + int(date[8:])) / 365 * 2 * np.pi if date else None
        hour = int(time[:2]) / 24 * 2 * np.pi if time else None
        return np.array(
            [
                *((np.cos(day), np.sin(day)) if date else (0, 0)),
                *((np.cos(hour), np.sin(hour)) if time else (0, 0)),
                float(latitude or -12) / 10,
                float(longitude or -60) / 10,
                float((elevation or '900').split('-')[-1]) / 1000,
            ]
        )

    meta = {
        row[0]: row[1:] for row in (line.split('\t') for line in (made / 'labels/meta.tsv').read_text().splitlines())
    }
    keys = sorted(str(path.relative_to(made / 'audio')) for path in (made / 'audio').rglob('*.wav'))
    media = [key.split('_RN')[1][:-4] for key in keys]
    labels = np.array([classes.index(truth[m][0]) for m in media])
    test = np.array([truth[m][1] == 'test' for m in media])
    features = {
        'sound': np.stack([sound(made / 'audio' / key) for key in keys]),
        'metadata': np.stack([when_and_where(meta.get(key, [''] * 5)) for key in keys]),
    }
    for name, x in features.items():
        x = (x - x[~test].mean(0)) / (x[~test].std(0) + 1e-6)
        means = np.stack([x[~test & (labels == c)].mean(0) for c in range(len(classes))])
        inverse = np.linalg.inv(np.cov((x - means[labels])[~test].T) + 0.3 * np.eye(x.shape[1]))
        scores = -np.stack([np.einsum('ij,jk,ik->i', x[test] - mean, inverse, x[test] - mean) for mean in means], 1)
        ranks = (scores > scores[np.arange(test.sum()), labels[test]][:, None]).sum(1) + 1
        # chance: 0.34
        assert np.mean(1 / ranks) > 0.5, name


@pytest.mark.parametrize(
    'arguments, status, problem',
    [
        ([], 2, 'OUT'),
        (['x', '--species=1'], 2, '--species 1'),
        (['x', '--species=5', '--recordings=24'], 2, 'at least 25'),
        (['x', '--shortest=9', '--longest=2'], 2, 'longest'),
        (['x', '--seed=-1'], 2, 'seed'),
        ([ROOT], 1, 'exists already'),
    ],
)
def test_bad_arguments(tmp_path, arguments, status, problem):
    result = run(*[tmp_path / 'x' if argument == 'x' else argument for argument in arguments])
    assert result.returncode == status and problem in result.stderr and not list(tmp_path.iterdir())
