"""Conversion: formats, quality, broken recordings, interruptions."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from birdsong.data import audio
from helpers import ROOT, run_program, write_lines
from shared import conversion
from shared.options import remembered
from shared.recordings import PARTS, Recording, write_recordings

SCRIPT = ROOT / 'datasets' / 'birdclef' / 'audio' / 'convert.py'

RATE = 22050


def run(source, dataset, *arguments):
    """Collect and convert the recordings of a source; the result of the first step that fails, or of the last."""
    result = run_program('datasets/collect.py', source, '--dataset', dataset)
    if result.returncode:
        return result
    return run_program('datasets/birdclef/audio/convert.py', source, '--dataset', dataset, *arguments)


def converted(source, dataset, *arguments):
    result = run(source, dataset, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def sine(seconds=1.0, rate=44100, frequency=1000.0, channels=1, level=0.5):
    wave = level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


def write(path, samples, rate=44100, subtype='PCM_16', kind='WAV'):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype, format=kind)
    return path


def read(dataset, key):
    wav = audio.WavFile(str(dataset / 'audio' / key), sample_rate=RATE)
    return np.array(wav.samples)


def repairs(dataset):
    path = dataset / 'audio' / 'repairs.tsv'
    rows = [line.split('\t') for line in path.read_text().splitlines()] if path.exists() else []
    assert all(len(row) == 3 for row in rows)
    return {key: (problem, done) for key, problem, done in rows}


def level(samples, frequency, rate=RATE):
    """Amplitude of a sine of known frequency, and the RMS of the rest."""
    t = np.arange(len(samples)) / rate
    basis = np.stack([np.sin(2 * np.pi * frequency * t), np.cos(2 * np.pi * frequency * t)], 1)
    fit = np.linalg.lstsq(basis, samples, rcond=None)[0]
    return np.hypot(*fit), np.sqrt(np.mean((samples - basis @ fit) ** 2))


@pytest.mark.parametrize(
    'kind, subtype, suffix',
    [
        ('WAV', 'PCM_16', 'wav'),
        ('WAV', 'PCM_U8', 'WAV'),
        ('WAV', 'PCM_24', 'Wav'),
        ('WAV', 'PCM_32', 'wav'),
        ('WAV', 'FLOAT', 'wav'),
        ('WAV', 'DOUBLE', 'wav'),
        ('WAV', 'ULAW', 'wav'),
        ('WAVEX', 'PCM_16', 'wav'),
        ('FLAC', 'PCM_16', 'flac'),
        ('OGG', 'VORBIS', 'ogg'),
        ('MP3', 'MPEG_LAYER_III', 'MP3'),
        ('AIFF', 'PCM_16', 'aif'),
        ('AU', 'PCM_16', 'au'),
        ('CAF', 'PCM_16', 'caf'),
        ('W64', 'PCM_16', 'w64'),
    ],
)
def test_every_format_becomes_mono_16_bit_at_22050_hz(tmp_path, kind, subtype, suffix):
    for channels in 1, 2:
        write(
            tmp_path / 'source' / 'data' / (f'LIFECLEF2017_X_RN{int(channels)}.{suffix}'),
            sine(1.5, channels=channels),
            44100,
            subtype,
            kind,
        )
    converted(tmp_path / 'source', tmp_path / 'made')
    for channels in 1, 2:
        samples = read(tmp_path / 'made', f'train/2017/LIFECLEF2017_X_RN{int(channels)}.wav')
        assert len(samples) == 33075
        amplitude, rest = level(samples[2000:-2000] / 32768, 1000)
        assert abs(amplitude - 0.5) < 0.01 and rest < 0.01
    assert not repairs(tmp_path / 'made')


@pytest.mark.parametrize('rate', [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000])
def test_every_rate_keeps_length_and_pitch(tmp_path, rate):
    write(tmp_path / 'source' / 'data' / 'x.wav', sine(2, rate), rate)
    converted(tmp_path / 'source', tmp_path / 'made')
    samples = read(tmp_path / 'made', 'train/x.wav')
    assert abs(len(samples) - 2 * RATE) <= 1
    amplitude, rest = level(samples[2000:-2000] / 32768, 1000)
    assert abs(amplitude - 0.5) < 0.001 and rest < 1e-4


def test_recordings_in_the_right_format_keep_their_samples(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 50000).astype(np.int16)
    write(tmp_path / 'source' / 'data' / 'x.wav', samples, RATE)
    converted(tmp_path / 'source', tmp_path / 'made')
    assert np.array_equal(read(tmp_path / 'made', 'train/x.wav'), samples)


def test_pass_band_and_stop_band(tmp_path):
    passed, stopped = (500, 5000, 9600, 9800, 10000), (11600, 12500, 15000, 20000)
    for frequency in passed + stopped:
        # rounded here, since libsndfile would truncate
        write(
            tmp_path / 'source' / 'data' / (f'{int(frequency)}.wav'),
            np.rint(32768 * sine(2, frequency=frequency, level=0.9)).astype(np.int16),
        )
    converted(tmp_path / 'source', tmp_path / 'made')
    amplitudes = []
    for frequency in passed + stopped:
        samples = read(tmp_path / 'made', f'train/{int(frequency)}.wav')[4000:-4000] / 32768
        if frequency in passed:
            amplitude, rest = level(samples, frequency)
            assert 20 * np.log10(amplitude / np.sqrt(2) / rest) >= 90
            amplitudes.append(20 * np.log10(amplitude / 0.9))
        else:
            assert 20 * np.log10(np.sqrt(np.mean(samples**2)) / (0.9 / np.sqrt(2)) + 1e-9) <= -88
    assert np.abs(amplitudes).max() < 0.1


def test_channels_are_averaged(tmp_path):
    samples = np.stack([sine(1, RATE)[:, 0], np.zeros(RATE), -0.5 * sine(1, RATE)[:, 0]], 1)
    write(tmp_path / 'source' / 'data' / 'x.wav', samples, RATE)
    converted(tmp_path / 'source', tmp_path / 'made')
    assert np.abs(read(tmp_path / 'made', 'train/x.wav') - 32768 * samples.mean(axis=1)).max() <= 1


def test_clipping_is_counted_and_invalid_samples_become_zeros(tmp_path):
    loud = sine(0.5, RATE, level=2)
    write(tmp_path / 'source' / 'data' / 'loud.wav', loud, RATE, 'FLOAT')
    odd = sine(0.5, RATE).astype(np.float32)
    odd[[5, 6, 7]] = [[np.nan], [np.inf], [3e38]]
    write(tmp_path / 'source' / 'data' / 'odd.wav', odd, RATE, 'FLOAT')
    line = converted(tmp_path / 'source', tmp_path / 'made')
    clips = np.count_nonzero(np.abs(np.rint(loud * 32768) + 0.5) > 32768)
    assert f'1 undamaged but clipped ({int(clips)} samples clip in all)' in line
    assert repairs(tmp_path / 'made') == {
        'train/loud.wav': (f'{int(clips)} samples clip', 'the rest is kept'),
        'train/odd.wav': ('3 samples are no numbers', 'the rest is kept'),
    }
    samples = read(tmp_path / 'made', 'train/loud.wav')
    assert samples.max() == 32767 and samples.min() == -32768
    samples = read(tmp_path / 'made', 'train/odd.wav')
    assert (
        not samples[5:8].any()
        and np.abs(samples - 32768 * np.where(np.isfinite(odd) & (odd < 2), odd, 0)[:, 0]).max() <= 1
    )


def break_it(path, how):
    data = path.read_bytes()
    path.write_bytes(
        {
            'empty': b'',
            'header': data[:44],
            'text': b'no sound\n' * 100,
            'noise': bytes(range(256)) * 8,
            'rate 0': data[:24] + bytes(4) + data[28:],
            'almost': data[:60],
        }[how]
    )


def test_broken_recordings_do_not_stop_the_conversion(tmp_path):
    source, made = tmp_path / 'source', tmp_path / 'made'
    for folder in 'data', 'BirdCLEF2018MonophoneTest', 'val/data', 'test':
        for how in 'empty', 'header', 'text', 'noise', 'rate 0', 'almost':
            break_it(write(source / folder / (f'{how}.wav'), sine(0.5)), how)
        write(source / folder / 'good.wav', sine(0.5))
    (source / 'data' / 'x.m4a').write_bytes(b'\0\0\0\x20ftypM4A ')
    line = converted(source, made)
    assert '7 left out, 18 silent' in line
    noted = repairs(made)
    for folder, done in (
        ('train', 'left out'),
        ('test', '0.1 s of silence'),
        ('soundscapes/val', '0.1 s of silence'),
        ('soundscapes/test', '0.1 s of silence'),
    ):
        for how in 'empty', 'header', 'text', 'noise', 'rate 0', 'almost':
            key = f'{folder}/{how}.wav'
            assert noted[key][1] == done
            if folder == 'train':
                assert not (made / 'audio' / key).exists()
            else:
                assert np.array_equal(read(made, key), np.zeros(RATE // 10))
        assert len(read(made, f'{folder}/good.wav')) == RATE // 2
    assert noted['train/empty.wav'][0] == 'empty file' and noted['train/x.wav'][1] == 'left out'


@pytest.mark.parametrize(
    'kind, subtype, suffix',
    [
        ('WAV', 'PCM_16', 'wav'),
        ('FLAC', 'PCM_16', 'flac'),
        ('MP3', 'MPEG_LAYER_III', 'mp3'),
        ('AIFF', 'PCM_16', 'aiff'),
        ('AU', 'PCM_16', 'au'),
        ('W64', 'PCM_16', 'w64'),
        ('RF64', 'PCM_16', 'rf64'),
    ],
)
def test_the_start_of_a_truncated_recording_is_kept_and_reported(tmp_path, kind, subtype, suffix):
    samples = sine(6, channels=2) + 0.1 * np.random.default_rng(0).standard_normal((6 * 44100, 2))
    path = write(tmp_path / 'source' / 'data' / (f'x.{suffix}'), samples, 44100, subtype, kind)
    os.truncate(path, path.stat().st_size * 2 // 3)
    converted(tmp_path / 'source', tmp_path / 'made')
    problem, done = repairs(tmp_path / 'made')['train/x.wav']
    assert ('truncated' in problem or 'damaged' in problem) and done == 'the rest is kept'
    assert 3.8 * RATE < len(read(tmp_path / 'made', 'train/x.wav')) < 4.2 * RATE


def test_a_header_without_length_is_not_a_fault(tmp_path):
    path = write(tmp_path / 'source' / 'data' / 'x.wav', sine(1))
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b'\xff' * 4
    path.write_bytes(data)
    converted(tmp_path / 'source', tmp_path / 'made')
    assert len(read(tmp_path / 'made', 'train/x.wav')) == RATE and not repairs(tmp_path / 'made')


def test_names_of_the_source_become_keys(tmp_path):
    source, made = tmp_path / 'source', tmp_path / 'made'
    short = sine(0.2, RATE)
    for name in (
        'TrainingSet/deep/er/LIFECLEF2014_X_RN1.WAV',
        'data/LIFECLEF2017_X_RN2.wav',
        'data/._LIFECLEF2017_X_RN2.wav',
        'data/RN3.wav',
        'data/notes.txt',
        'BirdCLEF2018MonophoneTest/LIFECLEF2015_X_RN4.wav',
        'val/data/LIFECLEF2018_S_RN5.wav',
        'test/wav/LIFECLEF2018_S_RN6.wav',
        'elsewhere/LIFECLEF2014_X_RN7.wav',
        'data/again/LIFECLEF2017_X_RN2.wav',
        'data/with space é.wav',
        'data/tab\there.wav',
    ):
        write(source / name, short, RATE)
    (source / 'link').symlink_to(source / 'data')
    (source / 'data' / 'loop').symlink_to(source / 'data')
    converted(source, made)
    keys = sorted(str(path.relative_to(made / 'audio')) for path in (made / 'audio').rglob('*.wav'))
    assert keys == [
        'soundscapes/test/LIFECLEF2018_S_RN6.wav',
        'soundscapes/val/LIFECLEF2018_S_RN5.wav',
        'test/2015/LIFECLEF2015_X_RN4.wav',
        'train/2014/LIFECLEF2014_X_RN1.wav',
        'train/2017/LIFECLEF2017_X_RN2.wav',
        'train/RN3.wav',
        'train/with space é.wav',
    ]
    noted = repairs(made)
    assert noted['data/again/LIFECLEF2017_X_RN2.wav'] == (
        'a copy of data/LIFECLEF2017_X_RN2.wav',
        'left out; one of them is enough',
    )
    assert any('\\t' in key for key in noted)


def test_circular_links_pipes_and_long_names_are_skipped_and_reported(tmp_path):
    source, made = tmp_path / 'source', tmp_path / 'made'
    write(source / 'data' / 'good.wav', sine(0.2, RATE), RATE)
    write(source / 'data' / (f'{"y" * 241}.wav'), sine(0.2, RATE), RATE)
    for name in 'self', 'self.xml', 'self.wav':
        (source / 'data' / name).symlink_to(source / 'data' / name)
    (source / 'data' / 'gone.wav').symlink_to('nowhere.wav')
    os.mkfifo(source / 'data' / 'pipe.wav')
    converted(source, made)
    line = converted(source, made)
    assert '0 recordings converted (0.0 hours), 1 were there; repairs.tsv: 6 left out, 0 silent' in line
    assert {key.replace('y' * 241, 'long'): problem for key, (problem, _) in repairs(made).items()} == {
        'data/self': 'a link that leads to itself',
        'data/self.wav': 'a link that leads to itself',
        'data/self.xml': 'a link that leads to itself',
        'data/gone.wav': 'a link that leads nowhere',
        'data/pipe.wav': 'a pipe or a device, not a file',
        'data/long.wav': 'its name is longer than 240 bytes',
    }
    assert (made / 'xml/repairs.tsv').read_text().count('a link that leads to itself') == 2


def test_the_summary_is_the_same_in_a_second_run(tmp_path):
    source, made = tmp_path / 'source', tmp_path / 'made'
    for recorder in 1, 2, 3:
        write(source / 'data' / (f'recorder{int(recorder)}') / '20240501_060000.wav', sine(0.2, RATE), RATE)
    write(source / 'data' / 'recorder1' / '20240501_060000.wave', sine(0.3, RATE), RATE)
    write(source / 'data' / 'loud.wav', 2 * sine(0.2, RATE), RATE, 'FLOAT')
    cut = write(source / 'data' / 'cut.wav', sine(0.5, RATE), RATE)
    cut.write_bytes(cut.read_bytes()[:12000])
    (source / 'BirdCLEF2018MonophoneTest').mkdir()
    (source / 'BirdCLEF2018MonophoneTest' / 'empty.wav').write_bytes(b'')
    (source / 'data' / 'empty.wav').write_bytes(b'')
    first, second = converted(source, made), converted(source, made)
    assert '4 recordings converted' in first and '0 recordings converted (0.0 hours), 4 were there' in second
    found = (
        'repairs.tsv: 4 left out (2 as copies of others, 1 because another has the same file name), 1 silent, '
        '1 damaged but kept in part, 1 undamaged but clipped ('
    )
    assert found in first and found in second


def test_notes_of_the_mp3_decoder_are_hidden(tmp_path):
    path = write(tmp_path / 'source' / 'data' / 'x.mp3', sine(3), kind='MP3', subtype='MPEG_LAYER_III')
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(range(256)) * 8 + content[len(content) // 2 + 2048 :])
    result = run(tmp_path / 'source', tmp_path / 'made')
    assert (result.returncode, result.stderr) == (0, '') and list(repairs(tmp_path / 'made')) == ['train/x.wav']


def test_running_again_converts_only_what_is_missing_or_was_replaced(tmp_path):
    source, made = tmp_path / 'source', tmp_path / 'made'
    for n in range(4):
        write(source / 'data' / (f'x{int(n)}.wav'), sine(0.2, RATE), RATE)
    (source / 'data' / 'x0.wav').write_bytes(b'')
    assert '3 recordings converted' in converted(source, made)
    before = {path: path.stat().st_mtime_ns for path in (made / 'audio').rglob('*.wav')}
    noted = repairs(made)
    (made / 'audio/train/x1.wav').unlink()
    # left by an interrupted run
    (made / 'audio/train/.x2.wav.99.part').write_bytes(b'half')
    assert '1 recordings converted' in converted(source, made)
    assert repairs(made) == noted and not list(made.rglob('*.part'))
    assert {path: path.stat().st_mtime_ns for path in before if path.name != 'x1.wav'} == {
        path: time for path, time in before.items() if path.name != 'x1.wav'
    }
    # the broken recording was replaced
    write(source / 'data' / 'x0.wav', sine(0.3, RATE), RATE)
    assert '1 recordings converted' in converted(source, made)
    assert not repairs(made) and len(read(made, 'train/x0.wav')) == round(0.3 * RATE)


def test_an_interrupted_run_leaves_complete_files_and_continues(tmp_path):
    source, made = tmp_path / 'source', tmp_path / 'made'
    for n in range(40):
        write(source / 'data' / (f'x{int(n):02}.wav'), sine(4, channels=2))
    write(source / 'BirdCLEF2018MonophoneTest' / 'empty.wav', sine(1)).write_bytes(b'')
    assert run_program('datasets/collect.py', source, '--dataset', made).returncode == 0
    for kind in signal.SIGKILL, signal.SIGINT:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(source), '--dataset', str(made), '--jobs', '1'], stderr=subprocess.PIPE
        )
        count = len(list(made.rglob('x*.wav')))
        while process.poll() is None and len(list(made.rglob('x*.wav'))) < count + 3:
            pass
        process.send_signal(kind)
        process.communicate()
        assert process.returncode in ((-9, 0) if kind == signal.SIGKILL else (130, 0))
        for path in made.rglob('*.wav'):
            if not path.name.startswith('.'):
                assert audio.read_header(str(path)).length in (4 * RATE, RATE // 10)
    converted(source, made)
    assert len(list(made.rglob('x*.wav'))) == 40 and not list(made.rglob('*.part'))
    assert list(repairs(made)) == ['test/empty.wav']


def test_audio_may_be_on_other_disks(tmp_path):
    source, made = tmp_path / 'source', tmp_path / 'made'
    write(source / 'data' / 'LIFECLEF2017_X_RN1.wav', sine(0.2, RATE), RATE)
    write(source / 'BirdCLEF2018MonophoneTest' / 'LIFECLEF2017_X_RN2.wav', sine(0.2, RATE), RATE)
    disks = [tmp_path / name for name in ('disk1', 'disk2')]
    for disk in disks:
        disk.mkdir()
    made.mkdir()
    (made / 'audio').symlink_to(disks[0])
    (disks[0] / 'train').mkdir()
    (disks[0] / 'train' / '2017').symlink_to(disks[1])
    converted(source, made)
    assert (disks[1] / 'LIFECLEF2017_X_RN1.wav').is_file() and (
        disks[0] / 'test' / '2017' / 'LIFECLEF2017_X_RN2.wav'
    ).is_file()
    assert '0 recordings converted' in converted(source, made)
    disks[0].rename(tmp_path / 'gone')
    result = run(source, made)
    assert result.returncode == 1 and 'mounted' in result.stderr and result.stderr.count('\n') == 1


def test_the_number_of_jobs_does_not_change_the_result(tmp_path, tiny_source):
    for jobs in 1, 3:
        converted(tiny_source, tmp_path / str(jobs), '--jobs', jobs)
    one, three = (
        {
            str(path.relative_to(tmp_path / jobs)): path.read_bytes()
            for path in (tmp_path / jobs).rglob('*')
            if path.is_file()
        }
        for jobs in '13'
    )
    assert one == three and len(one) > 20


def test_memory_does_not_grow_with_the_length(tmp_path):
    code = (
        f'import resource, sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import convert; '
        'convert.run(sys.argv[1], sys.argv[2], 1); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)'
    )
    peaks = []
    for seconds in 5, 1200:
        path = write(tmp_path / str(seconds) / 'data' / 'x.wav', np.zeros((1, 2)))
        data = path.read_bytes()[:44]
        size = seconds * 44100 * 4
        path.write_bytes(data[:4] + (size + 36).to_bytes(4, 'little') + data[8:40] + size.to_bytes(4, 'little'))
        os.truncate(path, 44 + size)
        folders = tmp_path / str(seconds), tmp_path / 'made' / str(seconds)
        assert run_program('datasets/collect.py', folders[0], '--dataset', folders[1]).returncode == 0
        result = subprocess.run(
            [sys.executable, '-c', code, *map(str, folders)],
            stdout=subprocess.PIPE,
            check=True,
        )
        peaks.append(int(result.stdout.split()[-1]))
        assert len(read(tmp_path / 'made' / str(seconds), 'train/x.wav')) == seconds * RATE
    # in KiB; the samples of the longer one take 200 MiB
    assert peaks[1] - peaks[0] < 40000


def test_a_second_conversion_into_the_same_folder_is_refused(tmp_path, tiny_source):
    import fcntl

    (tmp_path / 'made' / 'audio').mkdir(parents=True)
    with open(tmp_path / 'made' / 'audio' / '.convert.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run(tiny_source, tmp_path / 'made')
    assert result.returncode == 1 and 'another conversion' in result.stderr


@pytest.mark.parametrize(
    'arguments, status, problem',
    [
        (['/nowhere'], 1, 'no such folder'),
        ([], 2, 'SOURCE'),
        (['.', '--jobs', '-1'], 2, '--jobs'),
        (['.', '--jobs', 'x'], 2, '--jobs'),
        (['.', '--dataset', 'a b'], 1, 'not a name'),
    ],
)
def test_bad_arguments(arguments, status, problem):
    result = run_program('datasets/birdclef/audio/convert.py', *arguments)
    assert result.returncode == status and problem in result.stderr and 'Traceback' not in result.stderr


def test_a_source_without_recordings_is_one_line(tmp_path):
    (tmp_path / 'source' / 'data').mkdir(parents=True)
    result = run(tmp_path / 'source', tmp_path / 'made')
    assert result.returncode == 1 and 'no recordings' in result.stderr and result.stderr.count('\n') == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_bytes_are_converted_or_refused(tmp_path, data):
    path = write(tmp_path / 'x.wav', sine(0.3, channels=2), 44100)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with open(tmp_path / 'out.wav', 'wb') as out:
        try:
            samples, clipped, problems = conversion.convert(str(path), out, RATE)
        except conversion.Unreadable as e:
            assert str(e)
            return
    assert audio.read_header(str(tmp_path / 'out.wav')) == (RATE, 1, 2, samples, 44)
    assert 0 <= clipped <= samples


# == Recordings of any source ==


def converted_table(tmp_path, recordings, *arguments, rate=None):
    """Convert `recordings` from tmp_path/source with a table of recordings, without collecting them -> stdout."""
    made = tmp_path / 'made'
    write_recordings(str(made), recordings)
    if rate:
        (made / 'dataset.vars').write_text(f'sample_rate={rate}\n')
    script = 'datasets/birdclef/audio/convert.py'
    result = run_program(script, tmp_path / 'source', '--dataset', made, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_only_the_part_decides_whether_an_unreadable_recording_becomes_silence(tmp_path):
    source, made = tmp_path / 'source', tmp_path / 'made'
    # the folders have the names of other parts
    folders = dict(zip(PARTS, PARTS[::-1], strict=True))
    recordings = [Recording(key=f'{folders[part]}/x.wav', source=f'{part}/x.mp3', part=part) for part in PARTS]
    for part in PARTS:
        write(source / part / 'x.mp3', sine(0.1)).write_bytes(b'')
    converted_table(tmp_path, recordings)
    silent = {part for part in PARTS if (made / 'audio' / folders[part] / 'x.wav').exists()}
    assert silent == {'test', 'soundscapes_val', 'soundscapes_test'}
    assert repairs(made) == {
        f'{folders[part]}/x.wav': ('empty file', '0.1 s of silence' if part in silent else 'left out') for part in PARTS
    }


@pytest.mark.parametrize('rate', [8000, 32000, 48000])
def test_recordings_get_the_sample_rate_of_the_dataset(tmp_path, rate):
    source, made = tmp_path / 'source', tmp_path / 'made'
    write(source / 'a' / 'b.wav', sine(2, 44100), 44100)
    (source / 'empty.ogg').write_bytes(b'')
    recordings = [Recording(key='a/b.wav', source='a/b.wav'), Recording('empty.wav', 'empty.ogg', 'test')]
    assert '(0.0 hours)' in converted_table(tmp_path, recordings, rate=rate)
    assert audio.read_header(str(made / 'audio/empty.wav')).length == rate // 10
    wav = audio.WavFile(str(made / 'audio/a/b.wav'), sample_rate=rate)
    assert abs(len(wav) - 2 * rate) <= 1
    amplitude, rest = level(np.array(wav.samples)[2000:-2000] / 32768, 1000, rate)
    assert abs(amplitude - 0.5) < 0.001 and rest < 1e-4


def test_a_dataset_does_not_get_recordings_of_two_sample_rates(tmp_path):
    write(tmp_path / 'source' / 'a.wav', sine(0.2, RATE), RATE)
    converted_table(tmp_path, [Recording(key='a.wav', source='a.wav')])
    (tmp_path / 'made/dataset.vars').write_text('sample_rate=32000\n')
    script = 'datasets/birdclef/audio/convert.py'
    result = run_program(script, tmp_path / 'source', '--dataset', tmp_path / 'made')
    assert result.returncode == 1 and result.stderr.count('\n') == 1
    assert 'has 22050 Hz instead of 32000 Hz' in result.stderr


def test_recordings_that_are_no_longer_in_the_source_are_kept_and_missing_ones_counted(tmp_path):
    source, made = tmp_path / 'source', tmp_path / 'made'
    recordings = [Recording(key=f'{name}.wav', source=f'{name}.wav') for name in 'abc']
    for name in 'ab':
        write(source / f'{name}.wav', sine(0.2, RATE), RATE)
    line = converted_table(tmp_path, [*recordings, Recording(key='only_metadata.wav')])
    assert '2 recordings converted' in line and f'1 are neither there nor in {source}, such as c.wav' in line
    (source / 'a.wav').unlink()
    assert '0 recordings converted (0.0 hours), 2 were there' in converted_table(tmp_path, recordings)
    assert (made / 'audio/a.wav').exists()


def test_equal_file_names_in_different_folders_are_two_recordings(tmp_path):
    source, made = tmp_path / 'source', tmp_path / 'made'
    for number, name in enumerate(('test/a.wav', 'train/a.wav', 'a.mp3', 'a.wav')):
        write(source / name, sine(0.1 * (number + 1), RATE), RATE, *(['MPEG_LAYER_III', 'MP3'] * name.endswith('mp3')))
    recordings = [Recording(source=f'{folder}/a.wav', key=f'{folder}/a.wav') for folder in ('test', 'train')]
    recordings += [Recording(source=name, key=f'{name}.wav') for name in ('a.mp3', 'a.wav')]
    converted_table(tmp_path, recordings)
    lengths = [len(read(made, recording.key)) for recording in recordings]
    assert all(abs(length / (0.1 * RATE) - n) < 0.6 for n, length in enumerate(lengths, 1))


def test_files_of_the_2018_archives_that_were_not_used_are_in_the_table_of_repairs(tmp_path):
    made = tmp_path / 'made'
    write(tmp_path / 'source' / 'a.wav', sine(0.2, RATE), RATE)
    write_lines(made / 'repairs.tsv', ['b.wav\ta copy of a.wav\tleft out; delete it', 'c.wav\tx\tone was used'])
    recordings = [Recording(key='a.wav', source='a.wav')]
    assert 'left out' not in converted_table(tmp_path, recordings) and not repairs(made)
    write_lines(made / 'xml/recordings.tsv', ['path'])
    assert '1 left out (1 as copies of others)' in converted_table(tmp_path, recordings)
    assert repairs(made) == {'b.wav': ('a copy of a.wav', 'left out; delete it')}


def test_a_dataset_without_recordings_gets_none(tmp_path):
    write(tmp_path / 'source' / 'a.wav', sine(0.2, RATE), RATE)
    write_recordings(str(tmp_path / 'made'), [Recording(key='a.wav', source='a.wav')])
    remembered(str(tmp_path / 'made'), 'collect', {'no_audio': True})
    script = 'datasets/birdclef/audio/convert.py'
    result = run_program(script, tmp_path / 'source', '--dataset', tmp_path / 'made')
    assert result.returncode == 1 and 'prepare_birdclef.sh --audio' in result.stderr
    assert not (tmp_path / 'made/audio').exists()


def test_a_dataset_of_an_earlier_version_keeps_its_recordings_and_labels(tiny_dataset, tiny_source, tmp_path):
    made = tmp_path / 'made'
    shutil.copytree(tiny_dataset, made)
    for name in 'recordings.tsv', 'dataset.vars', 'preparation.json', 'filelists/groups.tsv':
        (made / name).unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for folder in ('audio', 'labels') for path in (made / folder).rglob('*.*')}
    assert '0 recordings converted' in converted(tiny_source, made)
    assert run_program('datasets/birdclef/labels/recreate.py', '--dataset', made).returncode == 0
    assert (made / 'dataset.vars').read_text() == 'sample_rate=22050\n'
    del before[made / 'audio/.convert.lock']
    assert {path: path.stat().st_mtime_ns for path in before} == before
