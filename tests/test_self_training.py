"""Self-training: predictions of teachers for windows of unlabelled recordings become soft targets of a student."""

import shlex

import numpy as np
import pytest
import torch

from birdsong import config, model_table
from birdsong.data.dataset import Dataset
from birdsong.data.soft_windows import SoftWindows
from birdsong.data.training_feed import TrainFeed
from birdsong.files import Problem
from birdsong.scores import predictions
from birdsong.training import self_training
from helpers import run_program, train_all, wav_bytes, write_lines

RATE = 22050
SETTINGS = ['batchsize=8', 'len_min=1', 'len_max=1', 'len_buckets=1', 'bg_threads=0', 'mel_bands=40', 'mel_max=10000']
SETTINGS += ['epochs=1', 'epochsize=3', 'arch=Conv:8x1x-1', 'cost=softmax', 'arch.output=softmax', 'pred_clip=0']
KEYS = [f'r{i}.wav' for i in range(4)]
UNLABELLED = {'u0.wav': 3, 'u1.wav': 1}  # seconds
# Of one second each; the last ones of u0 overlap.
STARTS = {'u0.wav': [0, 1, 1.5, 2], 'u1.wav': [0]}


@pytest.fixture
def dataset(tmp_path):
    """Four recordings of silence, and two unlabelled ones: second number s of recording i is the constant 100 i + s."""
    for key in KEYS:
        (tmp_path / 'audio').mkdir(exist_ok=True)
        (tmp_path / 'audio' / key).write_bytes(wav_bytes(np.zeros(2 * RATE, '<i2')))
    for i, (key, seconds) in enumerate(UNLABELLED.items()):
        samples = np.repeat(100 * i + np.arange(1, seconds + 1), RATE).astype('<i2')
        (tmp_path / 'audio' / key).write_bytes(wav_bytes(samples))
    write_lines(tmp_path / 'filelists' / 'train', KEYS)
    write_lines(tmp_path / 'filelists' / 'valid', KEYS)
    write_lines(tmp_path / 'filelists' / 'unlabelled', UNLABELLED)
    write_lines(tmp_path / 'labels' / 'labelset', 'abc')
    write_lines(tmp_path / 'labels' / 'fg.tsv', [f'{key}\t{i % 3}' for i, key in enumerate(KEYS)])
    return Dataset(tmp_path)


def save(filename, seed=0, keys=UNLABELLED, classes=3, with_times=True):
    """Write predictions with random logits; return them as softmax probabilities (rows, classes)."""
    rng = np.random.default_rng(seed)
    rows = [rng.standard_normal((len(STARTS[key]), classes)).astype(np.float32) for key in keys]
    starts = np.concatenate([STARTS[key] for key in keys])
    times = {'starts': starts, 'stops': starts + 1} if with_times else {}
    predictions.save(filename, list(keys), rows, **times)
    return torch.softmax(torch.from_numpy(np.concatenate(rows)).double(), 1).numpy()


def load(dataset, setting, *more):
    return self_training.load(config.load([], [*SETTINGS, f'self_training={setting}', *more]), dataset)


def test_targets_are_the_mean_of_the_teachers_to_a_power(dataset, tmp_path):
    each = [save(tmp_path / f'{seed}.pred.npz', seed) for seed in range(2)]
    files = f'{tmp_path}/0.pred.npz,{tmp_path}/1.pred.npz'
    soft = load(dataset, f'{files}:softmax', 'self_training_power=2')
    np.testing.assert_allclose(soft.targets, np.mean(each, axis=0) ** 2, atol=1e-6)
    np.testing.assert_array_equal(soft.middles, [0.5, 1.5, 2, 2.5, 0.5])
    logits = predictions.load(tmp_path / '0.pred.npz').scores
    sigmoid = load(dataset, f'{tmp_path}/0.pred.npz:sigmoid').targets
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert load(dataset, '') is None


def test_an_excerpt_has_the_highest_targets_of_the_windows_in_it():
    soft = SoftWindows(['a', 'b'], np.array([0, 3, 4]), np.array([0.5, 1.5, 2.5, 0.5]), np.eye(4, dtype=np.float32))
    recording, starts, targets = soft.draw(200, 20, 10, np.array([30, 5]), np.random.default_rng(0))
    found = {(r, s, *t) for r, s, t in zip(recording, starts, targets.tolist(), strict=True)}
    # Excerpts of 2 s around the middles, within the recording; the second recording is shorter.
    assert found == {(0, 0, 1, 1, 0, 0), (0, 5, 0, 1, 0, 0), (0, 10, 0, 1, 1, 0), (1, 0, 0, 0, 0, 1)}


@pytest.mark.parametrize('more', [(), ('mixup2=0.3',), ('mix_fg_bg=1',)])
def test_windows_and_their_targets_are_mixed_into_labelled_excerpts(dataset, tmp_path, more):
    if 'mix_fg_bg=1' in more:
        write_lines(tmp_path / 'labels' / 'bg.tsv', [f'{key}\t' for key in KEYS])
    save(tmp_path / 'p.pred.npz')
    cfg = config.load(
        [], [*SETTINGS, f'self_training={tmp_path}/p.pred.npz:softmax', 'self_training_weight=0.25', *more]
    )
    soft = self_training.load(cfg, dataset)
    feed = TrainFeed(dataset, cfg, on_device=True, soft=soft)
    plain = TrainFeed(dataset, cfg, on_device=True)
    seen = set()
    for k in range(12):
        batch, without = feed.batch(k), plain.batch(k)
        np.testing.assert_array_equal(batch['label'], without['label'])
        own = without.get('mixed_label', np.eye(3)[without['label']])
        for samples, target, labelled in zip(batch['samples'], batch['mixed_label'], own, strict=True):
            # The labelled recordings are silent, so the samples tell the window: seconds 1 to 3 of u0, or u1.
            level = samples.mean() / 0.25
            row = {1: 0, 2: 1, 2.5: 2, 3: 3, 101: 4}[round(2 * level) / 2]
            np.testing.assert_allclose(target, 0.75 * labelled + 0.25 * soft.targets[row], atol=1e-6)
            seen.add(row)
        np.testing.assert_array_equal(batch['samples'], feed.batch(k)['samples'])
    assert seen == set(range(5))


def test_a_student_is_trained_on_the_predictions_of_its_teacher(dataset, tmp_path):
    words = [word for setting in SETTINGS for word in ('--var', setting)]
    teacher, student, soft = (tmp_path / f'{name}.npz' for name in ('teacher', 'student', 'soft.pred'))
    done = run_program('experiments/train.py', '--dataset', tmp_path, *words, teacher)
    assert done.returncode == 0, done.stderr
    options = [
        '--vars',
        'vars/predict_soundscapes.vars',
        '--var',
        'len_max=1',
        '--filelists',
        'unlabelled',
        '--score-rest',
    ]
    done = run_program('experiments/predict.py', '--dataset', tmp_path, *options, '--score-rest', teacher, soft)
    assert done.returncode == 0, done.stderr
    words += ['--var', f'self_training={soft}:softmax']
    done = run_program('experiments/train.py', '--dataset', tmp_path, *words, student)
    assert done.returncode == 0 and student.exists(), done.stderr


def test_predictions_that_do_not_fit_are_refused_with_one_line(dataset, tmp_path):
    good, bad = tmp_path / 'good.pred.npz', tmp_path / 'bad.pred.npz'
    save(good)
    with pytest.raises(Problem, match='expected FILE'):
        load(dataset, str(good))
    save(bad, classes=4)
    with pytest.raises(Problem, match='4 classes, expected 3'):
        load(dataset, f'{bad}:softmax')
    save(bad, with_times=False)
    with pytest.raises(Problem, match='no times'):
        load(dataset, f'{bad}:softmax')
    save(bad, keys=['u0.wav'])
    with pytest.raises(Problem, match='other recordings'):
        load(dataset, f'{good},{bad}:softmax')
    with pytest.raises(Problem, match='set arch'):
        load(dataset, f'{good}:softmax', 'arch=')


SELF = """teacher\tpublished dummy lme1
other\tpublished resnet1 lme1
student\tpublished dummy lme1\tself_training=teacher:other
"""


def test_train_all_predicts_the_unlabelled_list_with_the_teachers_before_it_trains_the_student(project):
    (project.experiments / 'table.tsv').write_text(SELF)
    write_lines(project.path / 'datasets' / 'tiny' / 'filelists' / 'unlabelled', ['soundscapes/test/SSW_RN9.wav'])
    result = train_all(project, 'student', 'teacher', 'other')
    assert result.returncode == 0, result.output
    lines = (project.experiments / 'CALLS').read_text().splitlines()
    words = [shlex.split(line) for line in lines if line.startswith(('train', 'predict'))]
    assert [' '.join(line[:2]) for line in words] == [
        *('train teacher', 'predict teacher', 'train other', 'predict other'),
        *('predict teacher', 'predict other', 'train student', 'predict student'),
    ]
    assert words[4][words[4].index('--filelists') + 1] == 'unlabelled' and '--score-rest' in words[4]
    files = 'tiny/unlabelled/teacher.pred.npz,tiny/unlabelled/other.pred.npz:softmax'
    assert f'self_training={files}' in words[6]
    assert train_all(project, 'student').returncode == 0
    assert (project.experiments / 'CALLS').read_text().count('\n') == len(lines) + 1  # only the dataset was checked


def test_seeds_have_teachers_of_the_same_seed(tmp_path):
    (tmp_path / 'table.tsv').write_text(SELF)
    models = model_table.read_table(str(tmp_path / 'table.tsv'), 'birds')
    model_table.add_seeds(models, ['student.seed2'], 'birds')
    expected = 'birds/unlabelled/teacher.seed2.pred.npz,birds/unlabelled/other.seed2.pred.npz:softmax'
    assert models['student.seed2'].settings['self_training'] == expected
    assert model_table.predictions_before(models['student.seed2']) == ['unlabelled', 'teacher.seed2', 'other.seed2']
