"""identify.sh: from a folder of recordings to findings, with tiny networks."""

import csv
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import zoneinfo

import numpy as np
import pytest
import soundfile

from birdsong import config
from birdsong.data import metadata
from birdsong.findings.circumstances import UTC
from birdsong.identification import plan
from birdsong.networks import model
from birdsong.scores import predictions
from helpers import Checkout, chunk, randomise, run_program, wav_bytes, write_lines
from shared import clues, conversion

CLASSES = ['ant', 'bee', 'cat']
SETTINGS = [
    'arch=conv:4x3x3x2x2,pool:3x3,Conv:8x3x-1,Conv:8x1x1',
    'arch.pool=mean',
    'arch.output=softmax',
    'cost=softmax',
    'mel_bands=20',
    'len_min=1',
    'len_max=2',
    'classes=3',
]


def write_model(folder, name, seed, *settings):
    """A network with random weights, and its settings."""
    cfg = config.load([], SETTINGS + list(settings))
    net = randomise(model.build(cfg, 3, metadata.size(cfg)), seed)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(net, folder / f'{name}.npz')
    config.write_vars(f'{folder / name}.npz.vars', cfg)


def write_trained(project):
    """A dataset `tiny` and its models one and two, of which two is better on the validation list."""
    dataset, results = project.path / 'datasets' / 'tiny', project.experiments / 'tiny'
    write_lines(dataset / 'filelists/valid', ['a.wav', 'b.wav'])
    write_lines(dataset / 'labels/labelset', CLASSES)
    write_lines(dataset / 'labels/labelset_latin', ['Formica rufa', 'Apis mellifera', 'Felis catus'])
    write_lines(dataset / 'labels/fg.tsv', ['a.wav\t0', 'b.wav\t1'])
    for seed, name in enumerate(('one', 'two')):
        write_model(results, name, seed)
    scores = np.eye(3, dtype=np.float32)[:2]
    predictions.save(results / 'two.pred.npz', ['a.wav', 'b.wav'], scores)
    predictions.save(results / 'one.pred.npz', ['a.wav', 'b.wav'], scores[::-1])
    return project


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A copy of the project with trained models. Tests that change it must undo this."""
    project = Checkout(tmp_path_factory.mktemp('identify') / 'project')
    project.copy()
    return write_trained(project)


def sound(path, seconds, rate=22050, seed=0, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 0.1, (int(seconds * rate), channels))
    samples *= 1 + np.sin(np.arange(len(samples)) / rate)[:, None]
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture
def folder(tmp_path):
    """Recordings of several formats, rates and lengths, in folders."""
    folder = tmp_path / 'field recordings'
    sound(folder / 'BC2026_Train_0001_S05_20250227_010002.ogg', 7, seed=1)
    sound(folder / 'A/20240501_060000.wav', 5, 48000, seed=2, channels=2)
    sound(folder / 'A/deep/b.flac', 0.4, 32000, seed=3)
    return folder


def identify(project, folder, *options, cwd=None, **env):
    env = {'IDENTIFY_POLL': '0.2', 'OMP_NUM_THREADS': '1', **env}
    command = 'experiments/identify.sh', folder, '--dataset', 'tiny', '--device', 'cpu', *options
    return project.run(*command, cwd=cwd, timeout=600, **env)


def steps(project, folder, *options):
    """What identify.sh does, in this process; models are given by their files."""
    common = folder, '--dataset', project.path / 'datasets/tiny', '--device', 'cpu'
    options = list(options)
    if '--model' not in options:
        options += ['--model', 'two']
    options = [project.experiments / f'tiny/{o}.npz' if o in ('one', 'two', 'located') else o for o in options]
    done = run_program('experiments/identify.py', *common, *options, '--plan')
    output, *shards = done.stdout.splitlines() or ['']
    options = [option for option in options if option != '--force']
    results = [done]
    for shard in shards:
        out = f'{output}/shards/{shard}.npz'
        if not os.path.exists(out) and not results[-1].returncode:
            results.append(run_program('experiments/identify.py', *common, *options, '--shard', shard, out))
    if not results[-1].returncode:
        results.append(run_program('experiments/identify.py', *common, *options, '--finish'))
    done = subprocess.CompletedProcess('steps', results[-1].returncode)
    done.stdout, done.stderr = (''.join(getattr(r, name) for r in results) for name in ('stdout', 'stderr'))
    done.output = done.stdout + done.stderr
    return done


def rows(path):
    with open(path, newline='') as f:
        return list(csv.DictReader(f))


def content(out):
    """The bytes of all findings in an output folder."""
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


def test_findings_of_a_folder_with_the_best_model_by_default(trained, folder, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob('*')}
    out = tmp_path / 'out'
    done = identify(trained, folder, '--output', 'out', '--threshold', '0', '--keep-scores', cwd=tmp_path)
    assert done.returncode == 0, done.output
    assert 'models: two, the best of 2 models on the validation list' in done.stderr
    assert 'windows of 2 s every 2 s; trained on excerpts of 1 to 2 s' in done.stderr
    found = rows(out / 'findings.csv')
    spans = {}
    for row in found:
        spans.setdefault(row['File'], set()).add((row['Start (s)'], row['End (s)']))
    assert spans == {
        'A/20240501_060000.wav': {('0.0', '2.0'), ('2.0', '4.0'), ('4.0', '5.0')},
        'A/deep/b.flac': {('0.0', '0.4')},
        'BC2026_Train_0001_S05_20250227_010002.ogg': {
            ('0.0', '2.0'),
            ('2.0', '4.0'),
            ('4.0', '6.0'),
            ('6.0', '7.0'),
        },
    }
    assert {row['Model'] for row in found} == {'two'}
    assert {row['Scientific name'] for row in found} == {'Formica rufa', 'Apis mellifera', 'Felis catus'}
    last = [row for row in found if row['File'].startswith('BC2026') and row['Start (s)'] == '6.0']
    assert {(row['Date'], row['Time'], row['Time zone']) for row in last} == {('2025-02-27', '01:00:08', 'UTC')}
    # scores are logits of a softmax, and all of them are kept
    kept = predictions.load(out / 'shards/0001.pred.npz')
    assert kept.files == sorted(spans) and kept.scores.shape == (8, 3)
    outputs = np.exp(kept['A/deep/b.flac'][0]) / np.exp(kept['A/deep/b.flac'][0]).sum()
    short = {row['Class']: float(row['Score']) for row in found if row['File'] == 'A/deep/b.flac'}
    assert [short[name] for name in CLASSES] == pytest.approx(outputs, rel=1e-5)
    summary = rows(out / 'summary.csv')
    hours = {row['Date']: 3600 * float(row['Hours']) for row in summary}
    assert hours == pytest.approx({'': 0.4, '2024-05-01': 5, '2025-02-27': 7}, abs=0.01)
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob('*')}


@pytest.mark.slow
def test_same_scores_as_predict_py_for_a_prepared_dataset(trained, folder, tmp_path):
    done = identify(trained, folder, '--output', tmp_path / 'out', '--keep-scores')
    assert done.returncode == 0, done.output
    prepared = trained.run('prepare_birdclef.sh', folder, '--dataset', 'prepared')
    assert prepared.returncode == 0, prepared.output
    again = subprocess.run(
        [sys.executable, 'predict.py', 'tiny/two.npz', tmp_path / 'two.pred.npz', '--dataset', 'prepared']
        + ['--filelists', 'unlabelled', '--vars', 'vars/predict_soundscapes.vars', '--var', 'len_max=2']
        + ['--device', 'cpu'],
        cwd=trained.experiments,
        env=dict(trained.env, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    kept, expected = (predictions.load(p) for p in (tmp_path / 'out/shards/0001.pred.npz', tmp_path / 'two.pred.npz'))
    # predict.py leaves out the remainder at the end
    for name, key, count in (
        ('A/20240501_060000.wav', 'A/20240501_060000.wav', 2),
        ('BC2026_Train_0001_S05_20250227_010002.ogg', 'BC2026_Train_0001_S05_20250227_010002.wav', 3),
    ):
        np.testing.assert_allclose(kept[name][:count], expected[key], rtol=1e-4, atol=1e-4)


def test_run_again_it_handles_only_new_recordings(trained, folder, tmp_path):
    out = tmp_path / 'out'
    assert steps(trained, folder, '--output', out).returncode == 0
    first = (out / 'shards/0001.npz').stat().st_mtime_ns, content(out)
    done = steps(trained, folder, '--output', out)
    assert '3 recordings, 0 of them new; 1 shards' in done.stderr and content(out) == first[1]
    sound(folder / 'A/A.wav', 3, seed=4)
    done = steps(trained, folder, '--output', out)
    assert done.returncode == 0 and '4 recordings, 1 of them new; 2 shards' in done.stderr
    assert (out / 'shards/0001.npz').stat().st_mtime_ns == first[0]
    assert [row['File'] for row in rows(out / 'recordings.csv')][-1] == 'A/A.wav'
    # a recording that was replaced by a longer one is handled again
    sound(folder / 'A/A.wav', 5, seed=4)
    done = steps(trained, folder, '--output', out)
    assert '1 of them new; 3 shards' in done.stderr
    assert [(row['File'], row['Duration (s)']) for row in rows(out / 'recordings.csv')][-1] == ('A/A.wav', '5.000')
    assert len(rows(out / 'recordings.csv')) == 4


def test_unreadable_files_do_not_stop_others_and_are_listed_once(trained, folder, tmp_path):
    (folder / 'empty.wav').touch()
    (folder / 'A/text.mp3').write_text('no sound')
    whole = (folder / 'A/20240501_060000.wav').read_bytes()
    (folder / 'A/cut.wav').write_bytes(whole[: len(whole) // 2])
    (folder / 'lost.wav').symlink_to('nowhere')
    (folder / 'line\nbreak.wav').write_bytes(whole)
    (folder / 'notes.txt').write_text('not a recording')
    done = steps(trained, folder, '--output', tmp_path / 'out')
    assert done.returncode == 0, done.output
    problems = [line.split('\t') for line in (tmp_path / 'out/skipped.tsv').read_text().splitlines()]
    assert sorted((path, done) for path, _, done in problems) == [
        ('A/cut.wav', 'the rest is used'),
        ('A/text.mp3', 'left out'),
        ('empty.wav', 'left out'),
        ('line\\nbreak.wav', 'left out'),
        ('lost.wav', 'left out'),
    ]
    assert dict((path, problem) for path, problem, _ in problems)['empty.wav'] == 'empty file'
    assert len(rows(tmp_path / 'out/recordings.csv')) == 4
    assert '5 problems (4 recordings left out)' in done.stdout


def fails(done, message):
    assert done.returncode == 1, done.output
    lines = [line for line in done.stderr.splitlines() if 'identify.py: ' in line or 'identify.sh: ' in line]
    assert message in lines[-1] and 'Traceback' not in done.output, done.output


def test_folders_without_recordings_are_errors(trained, tmp_path):
    out = tmp_path / 'out'
    fails(steps(trained, tmp_path / 'none', '--output', out), 'none: no such folder')
    (tmp_path / 'empty').mkdir()
    fails(steps(trained, tmp_path / 'empty', '--output', out), 'empty: no recordings')
    (tmp_path / 'empty/a.wav').touch()
    (tmp_path / 'empty/b.wav').write_text('text')
    done = steps(trained, tmp_path / 'empty', '--output', out)
    fails(done, f'none of its 2 recordings can be read, see {out}/skipped.tsv')


def test_the_best_model_is_one_that_needs_audio(trained, folder, tmp_path):
    write_model(trained.experiments / 'tiny', 'meta', 3, 'arch=', 'input_meta=time', 'arch_meta=dense:4', 'len_max=0')
    shutil.copy(trained.experiments / 'tiny/two.pred.npz', trained.experiments / 'tiny/meta.pred.npz')
    out = '--output', tmp_path / 'out', '--plan'
    try:
        done = trained.run('experiments/identify.py', folder, '--dataset', 'tiny', *out)
        assert done.returncode == 0 and 'models: two, the best of 2 models' in done.stderr, done.output
        fails(
            steps(trained, folder, '--output', tmp_path / 'o', '--model', trained.experiments / 'tiny/meta.npz'),
            'the models use metadata alone; choose at least one that needs audio',
        )
    finally:
        for path in (trained.experiments / 'tiny').glob('meta*'):
            path.unlink()


def test_models_that_are_missing_or_of_another_dataset_are_errors(trained, folder, tmp_path):
    results = trained.experiments / 'tiny'
    out = '--output', tmp_path / 'out'
    fails(identify(trained, folder, *out, '--model', 'three'), 'three.npz: no such model')
    fails(identify(trained, folder, *out, '--run', 'none'), 'none.tsv; create it with blender.py')
    write_lines(tmp_path / 'other/labels/labelset', ['a', 'b'])
    write_model(tmp_path, 'alien', 3, 'classes=3')
    write_lines(tmp_path / 'alien.run.json', [json.dumps({'dataset': 'demo'})])
    fails(identify(trained, folder, *out, '--model', tmp_path / 'alien.npz'), 'a model of dataset demo, not of tiny')
    (results / 'ensembles').mkdir()
    try:
        write_lines(results / 'ensembles/mine.tsv', ['# options:', 'one\t0.5', 'gone\t1'])
        fails(identify(trained, folder, *out), 'mine.tsv: its member gone is not trained')
        write_lines(results / 'ensembles/mine.tsv', ['one\tnan'])
        fails(identify(trained, folder, *out), 'mine.tsv, line 1: expected a model and its weight above 0')
    finally:
        shutil.rmtree(results / 'ensembles')
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_the_only_ensemble_is_the_default_and_its_scores_are_the_weighted_sum(trained, folder, tmp_path):
    results = trained.experiments / 'tiny'
    scores = {}
    for name in 'one', 'two':
        assert identify(trained, folder, '--output', tmp_path / name, '--model', name, '--keep-scores').returncode == 0
        scores[name] = predictions.load(tmp_path / name / 'shards/0001.pred.npz').scores
    (results / 'ensembles').mkdir()
    try:
        write_lines(results / 'ensembles/mine.tsv', ['# options:', 'one\t0.5', 'two\t2'])
        done = identify(trained, folder, '--output', tmp_path / 'mine', '--keep-scores')
    finally:
        shutil.rmtree(results / 'ensembles')
    assert 'models: the ensemble mine, one:0.5+two:2' in done.stderr
    found = predictions.load(tmp_path / 'mine/shards/0001.pred.npz').scores
    np.testing.assert_allclose(found, (0.5 * scores['one'] + 2 * scores['two']) / 2, rtol=1e-5, atol=1e-6)


def test_output_of_other_models_is_kept_unless_forced(trained, folder, tmp_path):
    out = tmp_path / 'out'
    assert steps(trained, folder, '--output', out, '--model', 'one').returncode == 0
    before = content(out)
    fails(steps(trained, folder, '--output', out, '--model', 'two'), 'has findings with other models, networks (one')
    fails(steps(trained, folder, '--output', out, '--model', 'one', '--hop', '1'), 'has findings with other hop')
    assert content(out) == before
    assert steps(trained, folder, '--output', out, '--model', 'two', '--force').returncode == 0
    assert {row['Model'] for row in rows(out / 'findings.csv')} == {'two'}
    (tmp_path / 'letters').mkdir()
    (tmp_path / 'letters/mother.txt').touch()
    fails(steps(trained, folder, '--output', tmp_path / 'letters'), 'mother.txt, which is not from identify.sh')


def test_a_table_that_grew_applies_to_new_recordings_and_the_message_says_so(trained, tmp_path):
    sound(tmp_path / 'rec/a.wav', 2)
    write_lines(tmp_path / 'place.csv', ['file,latitude,longitude', 'a.wav,1,2'])
    out = tmp_path / 'out'
    options = '--output', out, '--metadata', tmp_path / 'place.csv'
    assert 'note: --metadata' not in steps(trained, tmp_path / 'rec', *options).output
    assert 'note: --metadata' not in steps(trained, tmp_path / 'rec', *options).output
    sound(tmp_path / 'rec/b.wav', 2)
    write_lines(tmp_path / 'place.csv', ['file,latitude,longitude', 'a.wav,3,4', 'b.wav,5,6'])
    done = steps(trained, tmp_path / 'rec', *options)
    assert done.returncode == 0 and 'so it applies to 1 new recordings only; add --force' in done.stderr, done.output
    assert [row['Latitude'] for row in rows(out / 'recordings.csv')] == ['1', '5']
    done = steps(trained, tmp_path / 'rec', *options, '--force')
    assert 'note: --metadata' not in done.stderr
    assert [row['Latitude'] for row in rows(out / 'recordings.csv')] == ['3', '5']


def test_the_filter_of_an_ensemble_is_noted(trained, folder, tmp_path):
    results = trained.experiments / 'tiny'
    (results / 'ensembles').mkdir()
    try:
        write_lines(results / 'ensembles/mine.tsv', ['# options: --softmax --birdclef-filter', 'one\t0.5'])
        options = '--dataset', 'tiny', '--run', 'mine', '--output', tmp_path / 'out'
        done = trained.run('experiments/identify.py', folder, *options, '--plan')
    finally:
        shutil.rmtree(results / 'ensembles')
    assert done.returncode == 0, done.output
    assert 'note: --birdclef-filter of the ensemble mine is not applied' in done.stderr


def test_time_and_place_from_files_names_table_and_options(trained, tmp_path):
    folder = tmp_path / 'rec'
    folder.mkdir()
    samples = np.zeros(22050, np.int16)
    guano = (
        b'GUANO|Version: 1.0\nTimestamp: 2023-06-01T22:15:00.5+02:00\nLoc Position: 48.5 16.25\nLoc Elevation: 210\n'
    )
    comment = b'Recorded at 19:17:30 10/02/2018 (UTC-3) by AudioMoth 0FE081F80FE081F0 at gain setting 2\0'
    bext = bytes(320) + b'2020-12-3123:59:58' + bytes(264)
    info = chunk(b'LIST', b'INFO' + chunk(b'ICMT', comment))
    (folder / 'guano.wav').write_bytes(wav_bytes(samples, after=chunk(b'guan', guano)))
    (folder / 'moth.WAV').write_bytes(wav_bytes(samples, before=info))
    (folder / 'bext.wav').write_bytes(wav_bytes(samples, before=chunk(b'bext', bext)))
    for name in 'S4A_20210704_053000.wav', 'table.wav', 'unknown.wav':
        (folder / name).write_bytes(wav_bytes(samples))
    write_lines(
        tmp_path / 'meta.csv', ['filename;date;time;lat;lon;elevation', "table.wav;2022-01-02;07:30;12°30'S;-77.5;340"]
    )
    place = '--latitude', '1.5', '--longitude', '-2.25', '--metadata', tmp_path / 'meta.csv'
    done = steps(trained, folder, '--output', tmp_path / 'out', *place)
    assert done.returncode == 0, done.output
    assert 'bext.wav: 2020-12-31 23:59:58; 1.5, -2.25 (from bext, options)' in done.stderr
    known = {row['File']: tuple(row.values())[1:8] for row in rows(tmp_path / 'out/recordings.csv')}
    assert known == {
        'guano.wav': ('2023-06-01', '22:15:00', '+02:00', '48.5', '16.25', '210', 'GUANO'),
        'moth.WAV': ('2018-02-10', '19:17:30', '-03:00', '1.5', '-2.25', '', 'ICMT, options'),
        'bext.wav': ('2020-12-31', '23:59:58', '', '1.5', '-2.25', '', 'bext, options'),
        'S4A_20210704_053000.wav': ('2021-07-04', '05:30:00', '', '1.5', '-2.25', '', 'file name, options'),
        'table.wav': ('2022-01-02', '07:30:00', '', '-12.5', '-77.5', '340', 'table'),
        'unknown.wav': ('', '', '', '1.5', '-2.25', '', 'options'),
    }
    fails(
        steps(trained, folder, '--output', tmp_path / 'o', '--latitude', '91', '--longitude', '0'),
        '--latitude=91: give degrees',
    )


def test_metadata_are_inputs_of_networks(trained, tmp_path):
    write_model(trained.experiments / 'tiny', 'located', 5, 'input_meta=latitude,longitude', 'arch_meta=dense:4')
    try:
        sound(tmp_path / 'rec/a.wav', 2)
        scores = []
        for degrees in '10', '60':
            out = tmp_path / degrees
            place = '--latitude', degrees, '--longitude', '20', '--model', 'located', '--keep-scores'
            done = steps(trained, tmp_path / 'rec', '--output', out, *place)
            assert done.returncode == 0, done.output
            scores.append(predictions.load(out / 'shards/0001.pred.npz').scores)
        assert np.abs(scores[0] - scores[1]).max() > 1e-3
    finally:
        for path in (trained.experiments / 'tiny').glob('located*'):
            path.unlink()


def many(folder, count=12):
    """Short recordings, so that each is a shard of its own with --shard-hours 0.0001."""
    for number in range(count):
        sound(folder / f'{number:02}.wav', 2 + number % 3, seed=number)
    return folder


def test_workers_share_the_shards_and_each_writes_the_findings(trained, tmp_path):
    many(tmp_path / 'rec', 4)
    options = '--dataset', 'tiny', '--device', 'cpu', '--model', 'one', '--shard-hours', '0.0001'
    workers = [
        trained.start(
            'experiments/identify.sh', tmp_path / 'rec', *options, '--output', tmp_path / 'out', IDENTIFY_POLL='0.2'
        )
        for _ in range(2)
    ]
    outputs = [''.join(worker.communicate(timeout=200)) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    lines = [
        line for output in outputs for line in output.splitlines() if line.startswith('shard ') and ' h in ' in line
    ]
    assert sorted(line.split(':')[0] for line in lines) == [f'shard 000{i}' for i in range(1, 5)]
    alone = steps(trained, tmp_path / 'rec', '--model', 'one', '--output', tmp_path / 'alone')
    assert alone.returncode == 0 and content(tmp_path / 'out').keys() == content(tmp_path / 'alone').keys()
    for name in 'findings.csv', 'summary.csv', 'recordings.csv', 'skipped.tsv':
        assert (tmp_path / 'out' / name).read_bytes() == (tmp_path / 'alone' / name).read_bytes()


def test_servers_that_plan_at_the_same_time_plan_each_recording_once(tmp_path, monkeypatch):
    found = [plan.Planned(f'{i}.wav', 1) for i in range(6)]
    mine, other = plan.Plan(str(tmp_path)), plan.Plan(str(tmp_path))
    listing = mine.recordings

    def shards_then_other(*, calls=[]):  # noqa: B006 - counts the calls
        names = plan.Plan.shards(mine)
        if not calls:
            calls.append(1)
            other.extend(found[:4], hours=0)
        return names

    monkeypatch.setattr(mine, 'shards', shards_then_other)
    mine.extend(found, hours=0)
    shards = other.shards()
    assert [one.path for shard in shards for one in listing(shard)] == [f'{i}.wav' for i in range(6)]
    assert shards == [f'{i:04}' for i in range(1, 7)]


@pytest.mark.slow
def test_killed_at_random_the_findings_are_the_same_byte_for_byte(trained, tmp_path):
    many(tmp_path / 'rec')
    options = '--model', 'one', '--shard-hours', '0.0001', '--threshold', '0.3', '--format', 'csv,raven,audacity'
    assert identify(trained, tmp_path / 'rec', *options, '--output', tmp_path / 'calm').returncode == 0
    rng = random.Random(0)
    for _ in range(20):
        command = '--dataset', 'tiny', '--device', 'cpu', *options, '--output', tmp_path / 'killed'
        driver = trained.start(
            'experiments/identify.sh', tmp_path / 'rec', *command, start_new_session=True, IDENTIFY_POLL='0.2'
        )
        try:
            driver.communicate(timeout=rng.uniform(0, 8))
        except subprocess.TimeoutExpired:
            number = rng.choice([signal.SIGKILL, signal.SIGTERM])
            (os.killpg if rng.random() < 0.5 else os.kill)(driver.pid, number)
            driver.communicate()
    done = identify(trained, tmp_path / 'rec', *options, '--output', tmp_path / 'killed')
    assert done.returncode == 0, done.output
    for path in (tmp_path / 'calm').rglob('*'):
        if path.is_file() and 'shards' not in path.parts:
            assert (tmp_path / 'killed' / path.relative_to(tmp_path / 'calm')).read_bytes() == path.read_bytes(), path
    left = [path for path in (tmp_path / 'killed').rglob('*') if path.suffix in ('.lock', '.wav')]
    assert not left


def test_full_disk_is_one_line_and_the_same_command_continues(trained, folder, tmp_path, monkeypatch):
    out = tmp_path / 'out'

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as m:
        m.setattr(conversion, '_resampled', full)
        done = steps(trained, folder, '--output', out)
    fails(done, '0.wav: No space left on device; free some space on that disk and type the same command again')
    assert steps(trained, folder, '--output', out).returncode == 0


FAKE_SBATCH = """#!/usr/bin/env bash
printf 'sbatch %s\\n' "$*" >> "$NOTES"
tee -a "$NOTES" > "$NOTES.job"
echo 17
"""


def test_slurm_jobs_run_the_same_command(trained, folder, tmp_path):
    for name, text in (('sbatch', FAKE_SBATCH), ('squeue', '#!/bin/sh\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {'PATH': f'{tmp_path}:{trained.env.get("PATH", os.environ["PATH"])}', 'NOTES': str(tmp_path / 'notes')}
    out = '--output', tmp_path / 'out', '--hop', '1'
    done = identify(trained, folder, *out, '--slurm-workers', '4', '--', '--time=1', **env)
    assert done.returncode == 0 and 'identify-out: submitted as job 17' in done.stderr, done.output
    notes = (tmp_path / 'notes').read_text()
    assert '--array=1-4' in notes and '--job-name=tiny/identify-out ' in notes and ' --time=1' in notes
    assert not list((tmp_path / 'out/shards').iterdir())
    # the job that was submitted does the work
    done = subprocess.run(
        ['bash', tmp_path / 'notes.job'],
        cwd=trained.experiments,
        env={**trained.env, **env, 'SLURM_JOB_ID': '17', 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / 'out/recordings.csv')) == 3


def test_windows_overlap_with_a_smaller_hop(trained, tmp_path):
    sound(tmp_path / 'rec/a.wav', 4.5)
    out = tmp_path / 'out'
    done = steps(trained, tmp_path / 'rec', '--output', out, '--hop', '1', '--threshold', '0', '--classes', 'bee')
    assert done.returncode == 0 and 'windows of 2 s every 1 s' in done.stderr, done.output
    spans = [(row['Start (s)'], row['End (s)']) for row in rows(out / 'findings.csv')]
    # the shortest excerpt of the training has 1 s
    assert spans == [('0.0', '2.0'), ('1.0', '3.0'), ('2.0', '4.0'), ('3.0', '4.5')]
    fails(
        steps(trained, tmp_path / 'rec', '--output', tmp_path / 'o', '--hop', '3'), '--hop=3: more than 0 and at most'
    )


def test_networks_get_local_times(tmp_path):
    (tmp_path / 'BC2026_Train_0001_S05_20250227_010002.wav').touch()
    (tmp_path / 'A_20250701_233000.wav').touch()
    utc, local = sorted(p.name for p in tmp_path.iterdir())[::-1]
    place = {'latitude': 48.0, 'longitude': 15.0}

    def inputs(name, **options):
        found = clues.Finder(str(tmp_path), **options).of(name).inputs()
        return found.get('date'), found.get('time')

    # the solar time at 15 degrees is an hour later than UTC
    assert inputs(utc, **place) == (58, pytest.approx(120, abs=0.1))
    assert inputs(utc) == (58, None)
    vienna = zoneinfo.ZoneInfo('Europe/Vienna')
    assert inputs(utc, zone=vienna) == (58, pytest.approx(120, abs=0.1))
    assert inputs(local, zone=vienna, **place) == (182, 23 * 60 + 30)
    assert inputs(local, zone=UTC, **place) == (183, 30)
    # an hour later, it is the next day
    later = clues.Finder(str(tmp_path)).of(local).later(3600).inputs()
    assert (later['date'], later['time']) == (183, 30)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_recording(trained, tmp_path):
    sizes = []
    for minutes in 4, 60:
        sound(tmp_path / f'{minutes}/a.flac', 60 * minutes, 8000)
        out = tmp_path / f'out{minutes}'
        common = tmp_path / str(minutes), '--dataset', 'tiny', '--model', 'one', '--output', out, '--device', 'cpu'
        # not getrusage, whose maximum includes that of the process that started this one
        code = 'import sys, runpy; sys.argv = sys.argv[1:]\n'
        code += 'try: runpy.run_path(sys.argv[0], run_name="__main__")\n'
        code += 'finally: print(*[line for line in open("/proc/self/status") if "VmHWM" in line])'
        for step in (['--plan'], ['--shard', '0001', out / 'shards/0001.npz']):
            done = subprocess.run(
                [sys.executable, '-c', code, trained.experiments / 'identify.py', *common, *step],
                env=dict(trained.env, OMP_NUM_THREADS='1'),
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
        sizes.append(int(done.stdout.split()[-2]) / 1024)
    # 56 minutes of samples have 148 MB
    assert sizes[1] - sizes[0] < 60, sizes
