"""Cross-validation: crossval.py's metrics, ensembles and intervals, and crossval.sh with stand-ins for the training."""

import json
import os
import shutil

import numpy as np
import pytest

from birdsong.scores import metrics, predictions
from helpers import calls, gate, make_listed, run_program, wait_for, write_lines

CLASSES, PER_FOLD, FOLDS = 4, 12, 3
KEYS = [f'some/r{i:02}.wav' for i in range(PER_FOLD * FOLDS)]
TRUTH = np.arange(len(KEYS)) % CLASSES


def fold_of(number):
    """Indices of the recordings in the validation list of a fold."""
    return np.arange(number - 1, len(KEYS), FOLDS)


def write_folds(folder, name='set', keys=KEYS, truth=TRUTH, held_out=None):
    """A dataset and its folds, in `folder`; held_out: indices of the validation recordings of each fold."""
    held_out = held_out or [fold_of(number) for number in range(1, FOLDS + 1)]
    main = folder / name
    write_lines(main / 'filelists/train', keys)
    write_lines(main / 'labels/labelset', [f'class {c}' for c in range(max(truth) + 1)])
    write_lines(main / 'labels/fg.tsv', [f'{key}\t{c}' for key, c in zip(keys, truth, strict=True)])
    write_lines(main / 'labels/bg.tsv', [f'{key}\t' for key in keys])
    for number, indices in enumerate(held_out, 1):
        fold = folder / f'{name}-fold{number}'
        shutil.rmtree(fold, ignore_errors=True)
        write_lines(fold / 'filelists/valid', [keys[i] for i in indices])
        write_lines(fold / 'filelists/train', [keys[i] for i in range(len(keys)) if i not in indices])
        (fold / 'labels').symlink_to(f'../{name}/labels')
    return main


def model_scores(quality, seed):
    """Logits of a model for all recordings; `quality` is added to the right class."""
    scores = np.random.default_rng(seed).normal(size=(len(KEYS), CLASSES)).astype(np.float32)
    scores[np.arange(len(KEYS)), TRUTH] += quality
    return scores


def write_predictions(results, model, scores, name='set'):
    for number in range(1, FOLDS + 1):
        which = fold_of(number)
        (results / f'{name}-fold{number}').mkdir(parents=True, exist_ok=True)
        predictions.save(results / f'{name}-fold{number}/{model}.pred.npz', [KEYS[i] for i in which], scores[which])


MODELS = {'good': (2.0, 1), 'weak': (0.7, 2), 'noise': (0.0, 3)}


@pytest.fixture
def collection(tmp_path):
    """The dataset `set` with folds and predictions of three models; their scores by name."""
    write_folds(tmp_path)
    scores = {name: model_scores(*about) for name, about in MODELS.items()}
    for name, values in scores.items():
        write_predictions(tmp_path / 'results', name, values)
    return tmp_path, scores


def run(folder, *arguments):
    return run_program('experiments/crossval.py', '--dataset', 'set', '--results', 'results', *arguments, cwd=folder)


def table(folder, *arguments):
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / 'results/set/crossval/table.json').read_text()), done.stdout


def softmax(scores):
    powers = np.exp(np.asarray(scores, float))
    return powers / powers.sum(axis=1, keepdims=True)


def expected_metrics(scores, truth):
    """MAP, top-1, cmAP and macro ROC-AUC by their definitions (no ties)."""
    ranks = 1 + np.sum(scores > scores[np.arange(len(truth)), truth][:, None], axis=1)
    precisions, areas = [], []
    for c in sorted(set(truth.tolist())):
        own, values = truth == c, scores[:, c]
        precisions.append(np.mean([np.mean(own[values >= value]) for value in values[own]]))
        areas.append(np.mean(values[own][:, None] > values[~own]))
    return {
        'MAP': np.mean(1 / ranks),
        'top-1': np.mean(ranks == 1),
        'cmAP': np.mean(precisions),
        'ROC-AUC': np.mean(areas),
    }


def test_metrics_of_pooled_predictions_and_of_folds_are_those_of_the_definitions(collection):
    folder, scores = collection
    found, printed = table(folder, *MODELS, '--samples=20')
    for name, values in scores.items():
        probabilities = softmax(values)
        pooled = expected_metrics(probabilities, TRUTH)
        folds = [expected_metrics(probabilities[fold_of(i)], TRUTH[fold_of(i)]) for i in range(1, FOLDS + 1)]
        for metric, value in pooled.items():
            assert found['metrics'][name][metric]['pooled'] == pytest.approx(value, abs=1e-6)
            each = [fold[metric] for fold in folds]
            assert found['metrics'][name][metric]['of each seed and fold'][0] == pytest.approx(each, abs=1e-6)
            assert found['metrics'][name][metric]['folds'] == pytest.approx(np.mean(each), abs=1e-6)
        line = next(line for line in printed.splitlines() if line.startswith(name)).split()
        assert line[1] == f'{pooled["MAP"]:.3f}' and line[-4] == f'{np.mean([f["MAP"] for f in folds]):.3f}'
    assert found['recordings'] == len(KEYS) and found['folds'] == ['set-fold1', 'set-fold2', 'set-fold3']


def test_scikit_learn_gives_the_same_class_wise_metrics(collection):
    sklearn = pytest.importorskip('sklearn.metrics')
    folder, scores = collection
    found, _ = table(folder, *MODELS, '--samples=2')
    for name, values in scores.items():
        truth, probabilities = np.eye(CLASSES)[TRUTH], softmax(values)
        for metric, function in (('cmAP', 'average_precision_score'), ('ROC-AUC', 'roc_auc_score')):
            expected = getattr(sklearn, function)(truth, probabilities, average='macro')
            assert found['metrics'][name][metric]['pooled'] == pytest.approx(expected, abs=1e-6)


def test_pooled_predictions_are_written_as_predicted_and_the_ensembles_as_probabilities(collection):
    folder, scores = collection
    found, _ = table(folder, *MODELS, '--samples=2')
    results = folder / 'results/set/crossval'
    order = np.concatenate([fold_of(i) for i in range(1, FOLDS + 1)])
    for name, values in scores.items():
        saved = predictions.load(results / f'{name}.pred.npz')
        assert saved.files == [KEYS[i] for i in order]
        np.testing.assert_array_equal(saved.scores, values[order])
    weights = np.array(found['weights'][0])
    assert weights.shape == (FOLDS, len(MODELS)) and weights.sum(axis=1) == pytest.approx(1)
    lines = (results / 'ensemble.tsv').read_text().splitlines()
    assert '# options: --softmax' in lines
    means = dict(zip(MODELS, weights.mean(axis=0), strict=True))
    assert {line.split('\t')[0]: float(line.split('\t')[1]) for line in lines if line[0] != '#'} == pytest.approx(
        {name: weight for name, weight in means.items() if weight > 0}, rel=1e-3
    )
    members = np.stack([softmax(scores[name]) for name in MODELS])
    saved = predictions.load(results / 'ensemble.pred.npz')
    equal = predictions.load(results / 'ensemble_equal.pred.npz')
    for i, key in enumerate(KEYS):
        np.testing.assert_allclose(saved[key][0], weights[i % FOLDS] @ members[:, i], rtol=1e-5)
        np.testing.assert_allclose(equal[key][0], members[:, i].mean(axis=0), rtol=1e-5)


def test_weights_of_a_fold_do_not_depend_on_its_own_recordings(collection):
    folder, scores = collection
    before = table(folder, *MODELS, '--samples=2')[0]['weights'][0]
    changed = scores['noise'].copy()
    changed[fold_of(2)] = 9 * np.eye(CLASSES)[TRUTH[fold_of(2)]]
    write_predictions(folder / 'results', 'noise', changed)
    after = table(folder, *MODELS, '--samples=2')[0]['weights'][0]
    assert after[1] == before[1]
    # in the other folds, the model that knows these recordings now has more weight
    assert after[0][2] > before[0][2] and after[2][2] > before[2][2]


def test_seeds_are_averaged_and_their_spread_is_shown(collection):
    folder, _ = collection
    for name, (quality, number) in MODELS.items():
        for seed in (1, 2):
            write_predictions(folder / 'results', f'{name}.seed{seed}', model_scores(quality, 10 * number + seed))
    found, printed = table(folder, 'good', 'weak', '--seeds=3', '--samples=50')
    for name in ('good', 'weak', 'ensemble', 'ensemble_equal'):
        values = found['metrics'][name]['MAP']
        assert len(values['of each seed']) == 3 and len(set(values['of each seed'])) == 3
        assert values['pooled'] == pytest.approx(np.mean(values['of each seed']))
        assert values['sd'] == pytest.approx(np.std(values['of each seed'], ddof=1))
        assert values['low'] < values['pooled'] < values['high']
    values = found['metrics']['weak']['MAP']
    alone = [table(folder, f'weak.seed{i}', '--samples=2')[0] for i in (1, 2)]
    assert values['of each seed'][1:] == [
        one['metrics'][f'weak.seed{i}']['MAP']['pooled'] for i, one in enumerate(alone, 1)
    ]
    line = next(line for line in printed.splitlines() if line.startswith('weak'))
    assert f'{values["pooled"]:.3f}±{values["sd"]:.3f} ({values["low"]:.3f}-{values["high"]:.3f})' in line
    assert (folder / 'results/set/crossval/weak.seed2.pred.npz').exists()
    assert (folder / 'results/set/crossval/ensemble.seed2.pred.npz').exists()


def test_intervals_are_those_of_metrics_intervals_and_of_groups_if_there_are_any(collection):
    folder, scores = collection
    order = np.concatenate([fold_of(i) for i in range(1, FOLDS + 1)])
    found, printed = table(folder, 'weak')
    low, high = metrics.intervals(scores['weak'][order], TRUTH[order])['MAP']
    values = found['metrics']['weak']['MAP']
    assert (values['low'], values['high']) == pytest.approx((low, high))
    assert 'bootstrap samples of the 36 recordings' in printed
    groups = {key: i // 9 for i, key in enumerate(KEYS)}
    write_lines(folder / 'set/filelists/groups.tsv', [f'{key}\t{g}' for key, g in groups.items()] + ['other.wav\t9'])
    found, printed = table(folder, 'weak')
    group = [f'group {groups[KEYS[i]]}' for i in order]
    low, high = metrics.intervals(scores['weak'][order], TRUTH[order], groups=group)['MAP']
    values = found['metrics']['weak']['MAP']
    assert (values['low'], values['high']) == pytest.approx((low, high))
    assert 'bootstrap samples of the 4 groups (filelists/groups.tsv)' in printed


def test_folds_and_groups_that_split_creates_are_evaluated(tmp_path):
    records = {
        f'{"abc"[i % 3]}/clip{i}.wav': {'class_id': str(i % 3), 'part': 'train', 'recording': f'original {i // 2}'}
        for i in range(48)
    }
    made = make_listed(tmp_path / 'set', records)
    write_lines(made / 'labels/labelset', 'abc')
    done = run_program('datasets/birdclef/filelists/split.py', '--dataset', made, '--folds=2')
    assert done.returncode == 0, done.stderr
    for number in (1, 2):
        keys = (tmp_path / f'set-fold{number}/filelists/valid').read_text().split()
        (tmp_path / f'results/set-fold{number}').mkdir(parents=True)
        scores = [np.eye(3, dtype=np.float32)['abc'.index(key[0])] for key in keys]
        predictions.save(tmp_path / f'results/set-fold{number}/m.pred.npz', keys, scores)
    found, printed = table(tmp_path, 'm', '--samples=10')
    assert found['recordings'] == 48 and found['metrics']['m']['cmAP']['pooled'] == 1
    assert 'of the 24 groups' in printed


def test_option_against_prints_paired_differences(collection):
    folder, scores = collection
    write_predictions(folder / 'results', 'twin', scores['weak'])
    found, printed = table(folder, 'weak', 'good', 'twin', '--against=weak')
    lines = {line.split()[0]: line.split() for line in printed.partition('differences from weak\n')[2].splitlines()[2:]}
    assert list(lines) == ['good', 'twin', 'ensemble', 'ensemble_equal']
    assert lines['twin'][1:5] == ['+0.000', '(+0.000', 'to', '+0.000)']
    # the interval from the reciprocal ranks of both models in the same samples
    order = np.concatenate([fold_of(i) for i in range(1, FOLDS + 1)])
    ranks = [metrics.per_recording(scores[name][order], TRUTH[order])[0] for name in ('good', 'weak')]
    gain = 1 / ranks[0] - 1 / ranks[1]
    low, high = np.quantile([drawn @ gain / len(gain) for drawn in metrics.resample(len(gain))], [0.025, 0.975])
    assert lines['good'][1:5] == [f'{gain.mean():+.3f}', f'({low:+.3f}', 'to', f'{high:+.3f})']
    assert found['metrics']['good']['MAP']['low'] < found['metrics']['good']['MAP']['high']
    for models, name in ((('good', 'weak'), 'nobody'), (('good',), 'good'), (('good',), 'ensemble')):
        assert f'--against {name}: not one of' in problem(folder, *models, '--against', name)


def test_background_classes_count_where_there_are_any(collection):
    folder, scores = collection
    before, _ = table(folder, 'weak', '--samples=2')
    assert 'MAP-bg' not in before['metrics']['weak']
    others = [[(c + 1) % CLASSES] if i % 2 else [] for i, c in enumerate(TRUTH)]
    write_lines(
        folder / 'set/labels/bg.tsv', [f'{k}\t{",".join(map(str, b))}' for k, b in zip(KEYS, others, strict=True)]
    )
    found, _ = table(folder, 'weak', '--samples=2')
    expected = metrics.evaluate(scores['weak'], TRUTH, others)['MAP-bg']
    assert found['metrics']['weak']['MAP-bg']['pooled'] == pytest.approx(expected)
    assert found['metrics']['weak']['ROC-AUC'] != before['metrics']['weak']['ROC-AUC']
    assert found['metrics']['weak']['MAP']['pooled'] == before['metrics']['weak']['MAP']['pooled']


def test_a_class_that_a_fold_lacks_is_left_out_of_the_class_wise_metrics_of_that_fold(tmp_path):
    truth = np.array([0, 0, 1, 1, 0, 1, 2, 1])
    keys = KEYS[:8]
    write_folds(tmp_path, keys=keys, truth=truth, held_out=[[0, 1, 2, 3], [4, 5, 6, 7]])
    scores = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    for number, which in ((1, slice(0, 4)), (2, slice(4, 8))):
        (tmp_path / f'results/set-fold{number}').mkdir(parents=True)
        predictions.save(tmp_path / f'results/set-fold{number}/m.pred.npz', keys[which], scores[which])
    found, printed = table(tmp_path, 'm', '--samples=100')
    probabilities = softmax(scores)
    folds = [expected_metrics(probabilities[:4], truth[:4]), expected_metrics(probabilities[4:], truth[4:])]
    values = found['metrics']['m']['cmAP']
    assert 'in 2 folds\n' in printed
    assert values['of each seed and fold'][0] == pytest.approx([fold['cmAP'] for fold in folds])
    assert values['low'] is not None


def test_recordings_that_are_never_held_out_are_counted(collection):
    folder, _ = collection
    for number in range(1, FOLDS + 1):
        with open(folder / f'set-fold{number}/filelists/train', 'a') as f:
            f.write('only/once.wav\n')
    assert '36 recordings in 3 folds; 1 more are in all training lists\n' in table(folder, 'good', '--samples=2')[1]


def problem(folder, *arguments):
    done = run(folder, *arguments)
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr.startswith('crossval.py: ') and done.stderr.count('\n') == 1, done.stderr
    return done.stderr


def test_a_dataset_without_folds_is_reported_with_the_command_that_makes_them(collection):
    folder, _ = collection
    shutil.rmtree(folder / 'set-fold2')
    assert 'only fold1, fold3' in problem(folder, 'good')
    (folder / 'set-fold4').mkdir()  # perhaps left behind by an earlier division
    for number in (1, 3):
        shutil.rmtree(folder / f'set-fold{number}')
    assert 'no such folds; create them with ./prepare_birdclef.sh SOURCE --dataset set --folds 5' in problem(
        folder, 'good'
    )


def test_folds_that_overlap_are_refused(collection):
    folder, _ = collection
    lines = (folder / 'set-fold3/filelists/valid').read_text()
    (folder / 'set-fold3/filelists/valid').write_text(f'{lines}{KEYS[0]}\n')
    assert f'{KEYS[0]}: in the validation list of set-fold1 and of set-fold3' in problem(folder, 'good')
    (folder / 'set-fold3/filelists/valid').write_text(lines)
    (folder / 'set-fold2/filelists/train').write_text('\n'.join(KEYS))
    assert f'set-fold2: {KEYS[1]} is in both of its lists' in problem(folder, 'good')


def test_missing_and_incomplete_predictions_are_named(collection):
    folder, scores = collection
    (folder / 'results/set-fold2/good.pred.npz').unlink()
    which = fold_of(3)[1:]
    predictions.save(folder / 'results/set-fold3/weak.pred.npz', [KEYS[i] for i in which], scores['weak'][which])
    done = run(folder, '--missing', *MODELS)
    assert done.returncode == 0 and done.stdout == 'set-fold2\tgood\nset-fold3\tweak\n'
    assert 'missing predictions: 2, such as good of set-fold2; start crossval.sh' in problem(folder, *MODELS)
    assert 'missing predictions: 3, such as noise.seed1 of set-fold1' in problem(folder, 'noise', '--seeds=2')


@pytest.mark.parametrize(
    'arguments, words',
    [(('ensemble',), 'rename the model'), (('../up',), 'not a valid name'), (('good', '--dataset=vars'), 'belongs')],
)
def test_names_that_cannot_be_used_are_refused(collection, arguments, words):
    assert words in problem(collection[0], *arguments)


def test_models_that_were_trained_on_recordings_that_are_held_out_now_are_refused(collection):
    folder, _ = collection
    assert run(folder, '--begin', 'good').stdout.split() == ['set-fold1', 'set-fold2', 'set-fold3']
    # more recordings in both lists are no problem
    keys = [*KEYS, 'new/1.wav', 'new/2.wav', 'new/3.wav']
    truth = np.append(TRUTH, [0, 0, 0])
    write_folds(folder, keys=keys, truth=truth, held_out=[np.arange(i, len(keys), FOLDS) for i in range(FOLDS)])
    assert run(folder, '--begin', 'good').returncode == 0
    # other folds are
    write_folds(folder, keys=keys, truth=truth, held_out=[np.arange(13 * i, 13 * i + 13) for i in range(FOLDS)])
    assert 'the folds have changed since: delete results/set-fold*/' in problem(folder, '--begin', 'good')
    for number in range(1, FOLDS + 1):
        shutil.rmtree(folder / f'results/set-fold{number}')
    assert run(folder, '--begin', 'good').returncode == 0
    assert (folder / 'results/set-fold1/trained.list').read_text().split() == keys[13:]


# == The driver ==


@pytest.fixture
def folds(project):
    """A project with stand-ins for train.py and predict.py, and the dataset `set` with two folds."""
    write_two_folds(project, len(KEYS))
    return project


def write_two_folds(project, count):
    keys = [f'some/r{i:02}.wav' for i in range(count)]
    held_out = [np.arange(i, count, 2) for i in range(2)]
    write_folds(project.path / 'datasets', keys=keys, truth=np.arange(count) // 2 % 3, held_out=held_out)


def arguments(*more):
    return ('experiments/crossval.sh', '--dataset', 'set', '--models', 'table.tsv', *more)


def crossval(project, *more, **env):
    return project.run(*arguments(*more), cwd=project.experiments, TRAIN_ALL_POLL='0.1', **env)


def start(project, *more):
    return project.start(*arguments(*more), cwd=project.experiments, TRAIN_ALL_POLL='0.1')


def test_models_are_trained_on_all_folds_and_a_table_is_printed_which_a_second_run_repeats(folds):
    result = crossval(folds, 'meta', '--var', 'epochs=3', '--device', 'cpu')
    assert result.returncode == 0, result.output
    assert calls(folds) == calls(folds, 'predict') == ['meta', 'meta']
    assert (folds.experiments / 'CALLS').read_text().count('epochs=3') == 2
    assert result.stdout.startswith('set: 36 recordings in 2 folds\n')
    assert [line.split()[0] for line in result.stdout.splitlines()[4:]] == ['meta']
    written = (folds.experiments / 'set/crossval/table.tsv').read_text().splitlines()
    assert [line.split('\t')[0] for line in written] == ['model', 'meta']
    again = crossval(folds, 'meta')
    assert again.returncode == 0 and again.stdout == result.stdout and len(calls(folds)) == 2


@pytest.mark.slow
def test_option_seeds_trains_each_model_and_its_teacher_with_several_seeds_and_keeps_what_is_trained(folds):
    assert crossval(folds, 'plain').returncode == 0
    result = crossval(folds, 'plain', 'student', '--seeds=2')
    assert result.returncode == 0, result.output
    assert sorted(calls(folds)) == sorted(['plain', 'student', 'plain.seed1', 'student.seed1'] * 2)
    lines = (folds.experiments / 'CALLS').read_text().splitlines()
    assert [line.split()[-3:] for line in lines if line.startswith('train student.seed1')] == [
        [f'ban=set-fold{i}/plain.seed1.npz', '--var', 'seed=1'] for i in (1, 2)
    ]
    assert '2 folds, 2 seeds' in result.stdout and '±' in result.stdout
    rows = [line.split()[0] for line in result.stdout.splitlines()[4:]]
    assert rows == ['plain', 'student', 'ensemble', 'ensemble_equal']
    refused = crossval(folds, 'meta', '--seeds=2', '--var', 'seed=4')
    assert refused.returncode == 2 and '--seeds and --var seed exclude each other' in refused.stderr


@pytest.mark.slow
def test_a_failed_model_does_not_stop_the_other_folds_and_there_is_no_table(folds):
    (folds.experiments / 'FAIL').write_text('plain')
    result = crossval(folds, 'plain', 'meta')
    assert result.returncode == 1 and result.stdout == ''
    assert calls(folds) == ['plain', 'meta'] * 2
    assert 'set-fold2: missing predictions: plain' in result.stderr
    assert 'models of set-fold1 set-fold2 failed' in result.stderr
    (folds.experiments / 'FAIL').unlink()
    result = crossval(folds, 'plain', 'meta')
    assert result.returncode == 0 and len(calls(folds)) == 6 and 'MAP' in result.stdout


@pytest.mark.slow
def test_drivers_share_the_folds_and_the_one_that_waits_prints_the_table(folds):
    gate(folds, 'plain')
    first = start(folds, 'plain')
    wait_for(first.stderr, 'plain: training')
    # the second one does not wait in fold 1, not even for the teacher of student
    second = start(folds, 'student', 'plain', '--wait')
    wait_for(second.stderr, 'set-fold2\n')
    wait_for(second.stderr, 'plain: training')
    third = crossval(folds, 'plain')
    assert third.returncode == 0 and third.stdout == ''
    assert 'set-fold1: missing predictions: plain' in third.stderr and 'no table yet' in third.stderr
    status = crossval(folds, '--status', 'plain', 'student')
    assert status.stdout.count('set-fold') == 2 and status.stdout.count('plain    running ') == 2
    end = os.open(folds.experiments / 'plain.gate', os.O_RDWR)  # frees both
    (folds.experiments / 'plain.gate').unlink()
    os.close(end)
    words = first.communicate(timeout=120)[1]
    printed, more = second.communicate(timeout=120)
    assert first.returncode == 0 and second.returncode == 0, words + more
    assert sorted(calls(folds)) == ['plain', 'plain', 'student', 'student']
    assert printed.startswith('set: 36 recordings in 2 folds')


@pytest.mark.slow
def test_a_stopped_driver_stops_its_training_and_the_same_command_continues(folds):
    gate(folds, 'plain')
    driver = start(folds, 'plain')
    wait_for(driver.stderr, 'plain: training')
    end = os.open(folds.experiments / 'plain.gate', os.O_WRONLY)  # returns when the training waits there
    driver.terminate()
    assert driver.wait(60) == 143
    driver.communicate()
    os.close(end)
    (folds.experiments / 'plain.gate').unlink()
    assert calls(folds) == ['plain'] and not list(folds.experiments.glob('set-fold*/plain.npz'))
    result = crossval(folds, 'plain')
    assert result.returncode == 0 and calls(folds) == ['plain'] * 3
    assert 'continuing from the state' in result.stderr


@pytest.mark.slow
def test_recordings_added_to_the_folds_are_predicted(folds):
    assert crossval(folds, 'meta').returncode == 0
    write_two_folds(folds, len(KEYS) + 4)
    result = crossval(folds, 'meta', '--report')
    assert result.returncode == 0 and result.stdout.startswith('set: 40 recordings')
    assert 'experiments/set/report.html: report on set, ' in result.stderr
    assert calls(folds) == ['meta'] * 2 and calls(folds, 'predict') == ['meta'] * 4


def test_a_dataset_without_folds_is_reported_by_the_driver_before_anything_is_trained(project):
    result = project.run(
        'experiments/crossval.sh', '--dataset', 'tiny', '--models', 'table.tsv', cwd=project.experiments
    )
    assert result.returncode == 1 and calls(project) == []
    assert result.stderr.splitlines()[-1].startswith('crossval.py: ') and '--folds 5' in result.stderr


FAKE_SBATCH = """#!/usr/bin/env bash
printf 'sbatch %s\\n' "$*" >> "$NOTES"
cat >> "$NOTES"
echo $RANDOM
"""


def test_slurm_gets_a_job_per_model_and_fold_or_workers_that_run_the_driver(folds):
    tools = folds.path / 'tools'
    tools.mkdir()
    for name, text in (('sbatch', FAKE_SBATCH), ('squeue', '#!/bin/sh\n')):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    env = {'PATH': f'{tools}:{folds.env.get("PATH", os.environ["PATH"])}', 'NOTES': str(folds.path / 'notes')}
    result = crossval(folds, 'meta', 'plain', '--seeds=2', '--slurm', '--', '--time=1', **env)
    assert result.returncode == 0, result.output
    notes = (folds.path / 'notes').read_text()
    names = [line.partition('--job-name=')[2].split()[0] for line in notes.splitlines() if line.startswith('sbatch')]
    assert sorted(names) == sorted(
        f'set-fold{i}/{name}' for i in (1, 2) for name in ('meta', 'plain', 'meta.seed1', 'plain.seed1')
    )
    assert notes.count(' --time=1') == 8 and './train_all.sh --dataset set-fold2' in notes and calls(folds) == []
    (folds.path / 'notes').unlink()
    result = crossval(folds, 'meta', '--seeds=2', '--slurm-workers', '4', '--', '--time=1', **env)
    assert result.returncode == 0, result.output
    notes = (folds.path / 'notes').read_text()
    assert '--array=1-4' in notes and '--job-name=set/crossval ' in notes and '--time=1' in notes
    assert "./slurm.sh '' ./crossval.sh --dataset set" in notes and '--seeds 2' in notes and ' meta' in notes
