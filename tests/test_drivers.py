"""The drivers, with stand-ins for train.py and predict.py: what they run, in which order, how they end."""

import os
import select
import signal

import numpy as np
import pytest

from birdsong.scores import predictions
from helpers import (
    DRIVER_LISTS,
    calls,
    gate,
    models_of,
    open_gate,
    start_training,
    train_all,
    wait_for,
    write_ensembles,
)


def test_all_models_are_trained_after_their_teachers_and_predicted(project):
    result = train_all(project)
    assert result.returncode == 0, result.output
    assert sorted(calls(project)) == ['both', 'meta', 'plain', 'student']
    assert calls(project).index('student') > calls(project).index('plain')
    assert calls(project)[-1] == 'both'
    assert calls(project, 'validate') == ['tiny']
    for name in calls(project):
        assert (project.experiments / 'tiny' / (name + '.npz')).read_bytes() == b'model ' + name.encode()
        assert predictions.load(project.experiments / 'tiny' / (name + '.pred.npz')).files == DRIVER_LISTS['valid']
        assert 'training' in (project.experiments / 'tiny' / (name + '.log')).read_text()
    assert not list((project.experiments / 'tiny').glob('*.lock'))


def test_second_run_does_nothing_and_says_why(project):
    train_all(project, 'plain', 'meta')
    before = calls(project, 'train', 'predict')
    result = train_all(project, 'plain', 'meta')
    assert result.returncode == 0
    assert calls(project, 'train', 'predict') == before
    for name in before:
        assert f'{name}: finished, skipped' in result.stderr


def test_single_models_and_extra_settings(project):
    result = train_all(project, 'plain', '--var', 'epochs=3', '--device', 'cpu')
    assert result.returncode == 0, result.output
    assert calls(project, 'train', 'predict') == ['plain', 'plain']
    trained, predicted = [line for line in (project.experiments / 'CALLS').read_text().splitlines() if 'plain' in line]
    assert 'epochs=3' in trained and '--device cpu' in trained
    # Predictions get the settings of the training only from the model.
    assert 'epochs=3' not in predicted and '--device cpu' in predicted and '--split-pool' in predicted


def test_only_students_of_a_failed_model_are_skipped_and_the_next_run_trains_it(project):
    (project.experiments / 'FAIL').write_text('plain')
    result = train_all(project)
    assert result.returncode == 1
    assert calls(project) == ['plain', 'meta']
    assert calls(project, 'predict') == ['meta']
    assert models_of(project) == ['meta.npz']
    assert 'student: skipped: its teacher plain failed' in result.stderr
    assert 'both: skipped: its teacher plain failed' in result.stderr
    log = (project.experiments / 'tiny' / 'plain.log').read_text().splitlines()
    assert 'failed with exit status 1: train.py: plain: the loss is not finite' in log[-1]
    # After the cause is removed, the same command trains it.
    (project.experiments / 'FAIL').unlink()
    result = train_all(project)
    assert result.returncode == 0, result.output
    assert sorted(calls(project)) == ['both', 'meta', 'plain', 'plain', 'student']
    assert 'not finite' in (project.experiments / 'tiny' / 'plain.log').read_text()


def test_failed_prediction_is_reported_and_repeated_by_the_next_run(project):
    (project.experiments / 'FAIL_PREDICT').write_text('plain')
    result = train_all(project, 'plain', 'student')
    assert result.returncode == 1
    assert 'plain: prediction of the validation list failed with exit status 1' in result.stderr
    assert not (project.experiments / 'tiny' / 'plain.pred.npz').exists()
    assert 'student.npz' in models_of(project)
    (project.experiments / 'FAIL_PREDICT').unlink()
    assert train_all(project, 'plain', 'student').returncode == 0
    assert calls(project).count('plain') == 1
    assert (project.experiments / 'tiny' / 'plain.pred.npz').exists()


def test_drivers_side_by_side_never_train_the_same_model(project):
    drivers = [start_training(project) for _ in range(3)]
    for driver in drivers:
        _, stderr = driver.communicate(timeout=120)
        assert driver.returncode == 0, stderr
    assert sorted(calls(project)) == ['both', 'meta', 'plain', 'student']
    assert sorted(calls(project, 'predict')) == ['both', 'meta', 'plain', 'student']


def test_student_waits_for_a_teacher_that_is_trained_elsewhere(project):
    gate(project, 'plain')
    first = start_training(project, 'plain')
    wait_for(first.stdout, 'plain: training')
    second = start_training(project, 'student')
    heard = wait_for(second.stderr, 'student: waiting for plain')
    assert os.uname().nodename in heard
    assert calls(project) in ([], ['plain'])
    open_gate(project, 'plain')
    assert second.wait(60) == 0
    assert first.wait(60) == 0
    assert calls(project) == ['plain', 'student']
    for process in (first, second):
        process.communicate()


def test_option_no_wait_skips_a_student_whose_teacher_is_trained_elsewhere(project):
    gate(project, 'plain')
    first = start_training(project, 'plain')
    wait_for(first.stdout, 'plain: training')
    second = train_all(project, '--no-wait', 'student', 'meta')
    assert second.returncode == 0 and 'student: waiting for plain' in second.stderr
    open_gate(project, 'plain')
    assert first.wait(60) == 0
    assert sorted(calls(project)) == ['meta', 'plain']
    first.communicate()


def test_failed_training_is_not_repeated_by_another_driver_that_was_running(project):
    gate(project, 'plain')
    (project.experiments / 'FAIL').write_text('plain')
    first = start_training(project, 'plain')
    wait_for(first.stdout, 'plain: training')
    second = start_training(project, 'plain', 'student')
    wait_for(second.stderr, 'student: waiting for plain')
    open_gate(project, 'plain')
    assert second.wait(60) == 1
    assert first.wait(60) == 1
    assert calls(project) == ['plain']
    assert 'plain failed' in second.communicate()[1]
    first.communicate()


def test_student_without_its_teacher_says_what_is_missing(project):
    result = train_all(project, 'student')
    assert result.returncode == 1
    assert 'student: waiting for plain, which nobody trains' in result.stderr
    assert calls(project) == []


def test_stopped_driver_stops_its_training_and_frees_the_claim(project):
    gate(project, 'plain')
    driver = start_training(project, 'plain')
    wait_for(driver.stdout, 'plain: training')
    # When this returns, the stand-in has opened the gate for reading.
    end = os.open(project.experiments / 'plain.gate', os.O_WRONLY)
    driver.terminate()
    assert driver.wait(60) == 143
    driver.communicate()
    os.close(end)
    (project.experiments / 'plain.gate').unlink()
    assert models_of(project) == []
    assert train_all(project, 'plain').returncode == 0
    assert calls(project) == ['plain', 'plain']


def test_missing_predictions_get_the_same_settings_as_in_train_all(project):
    train_all(project, 'plain', 'meta')
    made = {}
    for path in (project.experiments / 'tiny').glob('*.pred.npz'):
        made[path.name] = path.read_bytes()
        path.unlink()
    lines = [line for line in (project.experiments / 'CALLS').read_text().splitlines() if line.startswith('predict')]
    result = project.run(
        'experiments/predict_missing.sh', '--dataset=tiny', '--models', 'table.tsv', cwd=project.experiments
    )
    assert result.returncode == 0, result.output
    assert made == {path.name: path.read_bytes() for path in (project.experiments / 'tiny').glob('*.pred.npz')}
    again = [line for line in (project.experiments / 'CALLS').read_text().splitlines() if line.startswith('predict')]
    assert sorted(again) == sorted(lines * 2)


def test_predict_missing_reports_what_it_skips_and_what_fails(project):
    train_all(project, 'plain', 'meta')
    (project.experiments / 'tiny' / 'meta.pred.npz').unlink()
    (project.experiments / 'FAIL_PREDICT').write_text('meta')
    result = project.run(
        'experiments/predict_missing.sh', '--dataset', 'tiny', '--models', project.experiments / 'table.tsv'
    )
    assert result.returncode == 1
    assert 'plain: finished, skipped' in result.stderr
    assert 'student: skipped: not trained' in result.stderr
    assert 'meta: prediction of' in result.stderr


def test_models_trained_by_hand_are_predicted_with_the_settings_for_their_kind(project):
    train_all(project, 'plain')
    folder = project.experiments / 'tiny'
    for name, settings in (
        ('heard', 'arch=conv:4x3x3,Conv:8x3x-1\n'),
        ('date', 'arch=\ninput_meta=date\n'),
        ('broken', 'nonsense\n'),
    ):
        (folder / (name + '.npz')).write_bytes(b'model')
        (folder / (name + '.npz.vars')).write_text(settings)
    result = project.run('experiments/predict_missing.sh', '--dataset', 'tiny')
    assert result.returncode == 0, result.output
    predicted = {
        line.split()[1]: line
        for line in (project.experiments / 'CALLS').read_text().splitlines()
        if line.startswith('predict')
    }
    assert sorted(predicted) == ['date', 'heard', 'plain']
    assert 'predict_audio.vars --split-pool' in predicted['heard'] and 'predict_meta.vars' in predicted['date']
    assert 'plain: finished, skipped' in result.stderr and 'dummy_' not in result.stderr
    assert 'broken.npz.vars, line 1' in result.stderr and not (folder / 'broken.pred.npz').exists()
    # with a table, its untrained models are reported, too
    (folder / 'date.pred.npz').unlink()
    result = project.run(
        'experiments/predict_missing.sh', '--dataset', 'tiny', '--models', project.experiments / 'table.tsv'
    )
    assert result.returncode == 0 and 'student: skipped: not trained' in result.stderr
    assert (folder / 'date.pred.npz').exists()


def test_a_failure_without_a_log_points_to_the_reason_and_not_to_a_log(project):
    (project.experiments / 'tiny').mkdir()
    (project.experiments / 'tiny' / 'plain.npz.lock').write_text('not a folder')
    result = train_all(project, 'plain')
    assert result.returncode == 1
    reason, failure = [line for line in result.stderr.splitlines() if 'plain.npz' in line or 'training failed' in line]
    assert 'claim' in reason and failure.endswith('training failed with exit status 74, see above')
    assert not (project.experiments / 'tiny' / 'plain.log').exists()


def test_theano_flags_are_reported_with_the_option_for_the_device(project):
    result = train_all(project, '--status', THEANO_FLAGS='device=cuda0,floatX=float32')
    assert result.returncode == 0 and '--device cuda:0' in result.stderr
    assert 'THEANO_FLAGS' not in train_all(project, '--status').stderr


def test_eval_all_prints_one_line_per_model(project):
    train_all(project)
    (project.experiments / 'tiny' / 'both.pred.npz').unlink()
    result = project.run('experiments/eval_all.sh', '--dataset', 'tiny')
    assert result.returncode == 1
    lines = dict(line.split(': ', 1) for line in result.stdout.splitlines())
    assert sorted(lines) == ['both', 'meta', 'plain', 'student']
    assert lines['plain'].startswith('MAP: ') and 'MAP-bg' in lines['plain']
    assert 'no predictions' in lines['both']
    spellings = 'plain', 'tiny/plain.npz', 'tiny/plain.npz.vars', 'tiny/plain.pred.npz'
    result = project.run('experiments/eval_all.sh', '--dataset', 'tiny', *spellings, cwd=project.experiments)
    assert result.returncode == 0, result.output
    assert [line.split(': ', 1)[1] for line in result.stdout.splitlines()] == [lines['plain']] * 4


@pytest.mark.parametrize('driver', ['train_all', 'predict_missing', 'eval_all', 'submit_all'])
@pytest.mark.parametrize('arguments', [['--nonsense'], ['--dataset'], ['--dataset', '../up'], ['--dataset', 'vars']])
def test_wrong_usage_prints_the_usage_and_does_nothing(project, driver, arguments):
    result = project.run(f'experiments/{driver}.sh', *arguments)
    assert result.returncode == 2
    assert 'Usage' in result.stderr
    assert calls(project, 'train', 'predict', 'validate') == []


@pytest.mark.parametrize('driver', ['train_all', 'predict_missing', 'submit_all'])
def test_unknown_models_and_datasets_stop_before_any_work(project, driver):
    script = f'experiments/{driver}.sh'
    for arguments, word in (
        (['--dataset', 'none', '--models', 'table.tsv'], 'not prepared'),
        (['--dataset', 'tiny', '--models', 'none.tsv'], 'none.tsv'),
    ):
        result = project.run(script, *arguments)
        assert result.returncode == 1 and word in result.stderr, result.output
    if driver != 'submit_all':
        result = project.run(script, '--dataset', 'tiny', '--models', 'table.tsv', 'plaim')
        assert result.returncode == 1 and 'did you mean plain' in result.stderr
    assert calls(project, 'train', 'predict', 'validate') == []


def test_broken_dataset_stops_before_any_work(project):
    (project.path / 'datasets' / 'validate.py').write_text('import sys; sys.exit("labels/fg.tsv is missing")\n')
    result = train_all(project)
    assert result.returncode == 1 and 'fg.tsv is missing' in result.stderr
    assert calls(project) == []


def test_environment_is_not_created_if_the_check_of_the_active_one_is_killed(project, tmp_path):
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'python').write_text('#!/bin/sh\nkill -KILL $$\n')
    (tmp_path / 'bin' / 'python').chmod(0o755)
    result = train_all(project, VIRTUAL_ENV=str(tmp_path))
    assert result.returncode == 1 and 'type the same command again' in result.stderr
    assert not (project.path / '.venv').exists()


def test_log_ends_with_exit_statuses_that_belong_to_no_signal(project):
    (project.experiments / 'train.py').write_text('import sys; print("epoch 1"); sys.exit(255)')
    assert train_all(project, 'plain').returncode == 1
    log = (project.experiments / 'tiny' / 'plain.log').read_text().splitlines()
    assert log[-1].endswith('failed with exit status 255: epoch 1')


def test_log_of_a_killed_training_ends_with_the_signal(project):
    (project.experiments / 'train.py').write_text('import os; print("epoch 1", flush=True); os.kill(os.getpid(), 9)')
    assert train_all(project, 'plain').returncode == 1
    log = (project.experiments / 'tiny' / 'plain.log').read_text().splitlines()
    assert log[-1].endswith('failed with exit status 137: ended by SIGKILL, after: epoch 1')


# Driver -> the program that is running when Ctrl-C is pressed, and further arguments.
INTERRUPTED = {
    'experiments/train_all.sh': [('experiments/train.py',), ('experiments/status.py', '--watch')],
    'experiments/predict_missing.sh': [('experiments/predict.py',)],
    'experiments/eval_all.sh': [('experiments/eval.py',)],
    'experiments/submit_all.sh': [('experiments/eval.py',)],
    'experiments/demo.sh': [('experiments/eval.py',)],
    'prepare_birdclef.sh': [('datasets/collect.py', 'datasets')],
}
# Reports its start to the FIFO, and waits for a signal.
WAITER = """#!/usr/bin/env python3
import signal
with open(%r, 'w') as f:
    f.write('there')
signal.pause()
"""


def interrupt(driver, program, project, number, *arguments, send=os.killpg):
    """Start a driver in its own session, as a terminal does, and send a signal to all of it while `program` runs."""
    fifo = project.path / 'there'
    os.mkfifo(fifo)
    (project.path / program).write_text(WAITER % str(fifo))
    there = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    process = project.start(driver, '--dataset=tiny', *arguments, start_new_session=True)
    try:
        assert select.select([there], [], [], 60)[0], 'the program was never started'
        send(process.pid, number)
        stdout, stderr = process.communicate(timeout=60)
        assert os.read(there, 100) == b'there', 'the program was started again'
    finally:
        process.kill()
        os.close(there)
    left = [pid for pid in os.listdir('/proc') if pid.isdecimal() and str(fifo).encode() in environment(pid)]
    return process.returncode, stdout + stderr, left


def environment(pid):
    try:
        with open(f'/proc/{pid}/environ', 'rb') as f:
            return f.read()
    except OSError:
        return b''


@pytest.mark.parametrize(
    'driver, program, arguments',
    [(driver, program, arguments) for driver, cases in INTERRUPTED.items() for program, *arguments in cases],
)
def test_ctrl_c_ends_a_driver_and_all_its_processes(project, driver, program, arguments):
    folder = project.experiments / 'tiny'
    write_ensembles(project)
    (project.path / 'datasets' / 'tiny' / 'source').mkdir()
    if driver.endswith('demo.sh'):
        (project.path / 'prepare_birdclef.sh').write_text('#!/bin/sh\n')
    if program != 'experiments/train.py':
        for name in ('plain', 'student', 'meta', 'both'):
            (folder / (name + '.npz')).touch()
            (folder / (name + '.npz.vars')).touch()
            if program != 'experiments/predict.py':
                predictions.save(folder / (name + '.pred.npz'), DRIVER_LISTS['valid'], np.zeros((2, 1, 3)))
    if driver != 'experiments/eval_all.sh' and driver != 'prepare_birdclef.sh':
        arguments = ['--models', project.experiments / 'table.tsv', *arguments]
    project.env['MARK'] = str(project.path / 'there')
    status, said, left = interrupt(driver, program, project, signal.SIGINT, *arguments)
    assert status == 130, said
    assert 'Traceback' not in said and left == []


@pytest.mark.parametrize('number, status', [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_end_a_driver_with_their_status(project, number, status):
    project.env['MARK'] = str(project.path / 'there')
    ended, said, left = interrupt(
        'experiments/train_all.sh',
        'experiments/train.py',
        project,
        number,
        '--models',
        project.experiments / 'table.tsv',
    )
    assert ended == status and 'Traceback' not in said and left == [], said


def test_sigterm_to_the_demo_also_ends_its_programs(project):
    (project.path / 'datasets' / 'tiny' / 'source').mkdir()
    (project.path / 'prepare_birdclef.sh').write_text('#!/bin/sh\n')
    (project.experiments / 'train_all.sh').write_text('#!/bin/sh\n')
    (project.experiments / 'tiny').mkdir()
    (project.experiments / 'tiny' / 'plain.npz.vars').touch()
    (project.experiments / 'tiny' / 'plain.pred.npz').touch()
    options = '--models', project.experiments / 'table.tsv'
    project.env['MARK'] = str(project.path / 'there')
    ended, said, left = interrupt(
        'experiments/demo.sh', 'experiments/eval.py', project, signal.SIGTERM, *options, send=os.kill
    )
    assert ended == 143 and left == [], said


def test_training_continues_if_nobody_reads_the_output_any_more(project):
    standin = project.experiments / 'train.py'
    # More than the pipes can buffer, so that the program is affected.
    standin.write_text(standin.read_text().replace("print('%s: trained' % name", "print(4000 * ('x' * 99 + '\\n')"))
    gate(project, 'plain')
    driver = start_training(project, 'plain')
    wait_for(driver.stdout, 'plain: training')
    driver.stdout.close()  # as `head -1` does
    driver.stdout = None
    open_gate(project, 'plain')
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 0, said
    assert models_of(project) == ['plain.npz']


def test_closed_streams_do_not_stop_a_training(project):
    script = project.experiments / 'closed.sh'
    script.write_text('#!/bin/bash\nexec "$@" <&- >&- 2>&-\n')
    script.chmod(0o755)
    result = project.run(
        'experiments/closed.sh',
        project.experiments / 'train_all.sh',
        '--dataset=tiny',
        '--models',
        project.experiments / 'table.tsv',
        'plain',
    )
    assert result.returncode == 0
    log = (project.experiments / 'tiny' / 'plain.log').read_text()
    # In the log, files have the names under which they are published.
    assert 'plain: trained' in log and models_of(project) == ['plain.npz']


def test_a_folder_that_cannot_be_written_to_is_named(project):
    (project.experiments / 'tiny').write_text('in the way')
    result = train_all(project, 'plain')
    assert result.returncode == 1 and 'experiments/tiny: cannot be written to' in result.stderr.splitlines()[-1]


def test_slurm_script_without_arguments_prints_its_usage(project):
    result = project.run('experiments/slurm.sh')
    assert result.returncode == 2 and 'Usage: slurm.sh' in result.stderr


def submit(project, *arguments, **kwargs):
    return project.run(
        'experiments/submit_all.sh',
        '--dataset',
        'tiny',
        '--models',
        project.experiments / 'table.tsv',
        *arguments,
        **kwargs,
    )


def test_all_ensembles_are_submitted_and_submitting_again_changes_nothing(project):
    write_ensembles(project)
    train_all(project, 'plain', 'meta')
    before = len(calls(project, 'predict'))
    result = submit(project)
    assert result.returncode == 0, result.output
    assert [line.split(':')[0] for line in result.stdout.splitlines() if 'MAP' in line] == ['one', 'two']
    mono, soundscapes = [project.experiments / 'tiny' / 'submissions' / kind for kind in ('mono', 'soundscapes')]
    for folder in mono, soundscapes:
        assert sorted(p.name for p in (folder / 'parts').glob('*.npz')) == ['meta.pred.npz', 'plain.pred.npz']
    assert len(calls(project, 'predict')) == before + 4
    for run in 'one', 'two':
        assert predictions.load(mono / (run + '.npz')).files == DRIVER_LISTS['test']
        assert predictions.load(soundscapes / (run + '.npz')).files == DRIVER_LISTS['soundscapes_test']
        assert predictions.load(soundscapes / (run + '.val.npz')).files == DRIVER_LISTS['soundscapes_val']
        assert {line.split(';')[0] for line in (mono / (run + '.csv')).read_text().splitlines()} == {'6', '7'}
        assert [line.split(';')[1] for line in (soundscapes / (run + '.csv')).read_text().splitlines()][::3] == [
            '00:00:00-00:00:05',
            '00:00:05-00:00:10',
            '00:00:10-00:00:15',
        ]
        assert (soundscapes / (run + '.val.csv')).read_text().startswith('8;')
    # the option --birdclef-filter applies to the submission: no cat in 2014
    best = [line.split(';')[1] for line in (mono / 'two.csv').read_text().splitlines() if line.endswith(';1')]
    assert best == ['bee', 'cat']
    # the single row of the metadata network is added to every segment
    plain, meta = [
        predictions.load(soundscapes / 'parts' / (n + '.pred.npz'))[DRIVER_LISTS['soundscapes_test'][0]]
        for n in ('plain', 'meta')
    ]
    assert plain.shape == (3, 3) and meta.shape == (1, 3)
    both = predictions.load(soundscapes / 'two.npz')[DRIVER_LISTS['soundscapes_test'][0]]
    np.testing.assert_allclose(both, (0.5 * plain + 2 * meta) / 2)
    # submitting again predicts nothing and writes the same bytes
    files = {path: path.read_bytes() for path in mono.parent.rglob('*.*') if path.is_file()}
    assert submit(project, 'two').returncode == 0
    assert len(calls(project, 'predict')) == before + 4
    assert files == {path: path.read_bytes() for path in mono.parent.rglob('*.*') if path.is_file()}


def add_recordings(project):
    """Append a recording to each list; returns the lists."""
    lists = {name: keys + [keys[0].replace('_RN', '_RN1')] for name, keys in DRIVER_LISTS.items()}
    for name, keys in lists.items():
        (project.path / 'datasets' / 'tiny' / 'filelists' / name).write_text(''.join(key + '\n' for key in keys))
    for table, label in ('fg.tsv', '0'), ('bg.tsv', ''):
        with open(project.path / 'datasets' / 'tiny' / 'labels' / table, 'a') as f:
            f.write('{}\t{}\n'.format(lists['valid'][-1], label))
    return lists


def reused(project):
    """Recordings of the earlier predictions that were passed to predict.py, one list per call that got any."""
    return [
        line.split()[2:]
        for line in (project.experiments / 'CALLS').read_text().splitlines()
        if line.startswith('reuse plain')
    ]


def test_recordings_added_after_the_submission_are_predicted_and_earlier_predictions_reused(project):
    write_ensembles(project)
    train_all(project, 'plain')
    assert submit(project, '--member', 'plain', 'one').returncode == 0
    lists = add_recordings(project)
    (project.experiments / 'FAIL_PREDICT').write_text('plain')
    assert submit(project, '--member', 'plain', 'one').returncode == 1
    # an attempt that fails or is killed passes the earlier predictions on to the next one
    (project.experiments / 'FAIL_PREDICT').unlink()
    result = submit(project, 'one')
    assert result.returncode == 0, result.output
    assert reused(project) == [
        DRIVER_LISTS['valid'],
        DRIVER_LISTS['valid'],
        DRIVER_LISTS['test'],
        DRIVER_LISTS['soundscapes_val'] + DRIVER_LISTS['soundscapes_test'],
    ]
    folder = project.experiments / 'tiny' / 'submissions'
    assert predictions.load(project.experiments / 'tiny' / 'plain.pred.npz').files == lists['valid']
    assert predictions.load(folder / 'mono' / 'one.npz').files == lists['test']
    assert predictions.load(folder / 'soundscapes' / 'one.npz').files == lists['soundscapes_test']
    assert not list((project.experiments / 'tiny').rglob('*.lock')) and not list(
        (project.experiments / 'tiny').rglob('old')
    )
    count = len(calls(project, 'predict'))
    assert submit(project, '--member', 'plain', 'one').returncode == 0 and len(calls(project, 'predict')) == count


def test_a_member_of_no_ensemble_is_named(project):
    write_ensembles(project)
    result = submit(project, '--member', 'plian', 'one')
    assert result.returncode == 1 and '--member plian: none of the ensembles (one) has this member' in result.stderr


@pytest.mark.parametrize('driver', ['train_all', 'predict_missing'])
def test_recordings_added_to_the_validation_list_are_predicted(project, driver):
    train_all(project, 'plain')
    lists = add_recordings(project)
    result = project.run(
        f'experiments/{driver}.sh', '--dataset=tiny', '--models', 'table.tsv', 'plain', cwd=project.experiments
    )
    assert result.returncode == 0, result.output
    assert predictions.load(project.experiments / 'tiny' / 'plain.pred.npz').files == lists['valid']
    assert reused(project) == [DRIVER_LISTS['valid']] and calls(project) == ['plain']


def test_lists_without_labels_are_predicted_and_submitted(project):
    write_ensembles(project)
    train_all(project, 'plain')
    labels = project.path / 'datasets' / 'tiny' / 'labels'
    for path in list(labels.iterdir()):
        if path.name != 'labelset':
            path.unlink()
    result = submit(project, 'one')
    assert result.returncode == 0, result.output
    assert 'one: no metrics' in result.stderr
    assert (project.experiments / 'tiny' / 'submissions' / 'mono' / 'one.csv').read_text().startswith('6;')
    (labels / 'labelset').unlink()
    (labels.parent / 'filelists' / 'train').unlink()
    result = submit(project, 'one')
    assert result.returncode == 1 and 'labels/labelset is missing' in result.stderr
    labels.rmdir()
    (project.experiments / 'tiny' / 'plain.pred.npz').unlink()
    result = project.run('experiments/predict_missing.sh', '--dataset', 'tiny')
    assert result.returncode == 0, result.output
    assert predictions.load(project.experiments / 'tiny' / 'plain.pred.npz').files == DRIVER_LISTS['valid']
    assert [
        line.split(None, 2)[2]
        for line in (project.experiments / 'CALLS').read_text().splitlines()
        if line.startswith('validate')
    ] == [
        '--quick --for train',
        '--quick --for predict',
        '--quick --for predict',
        '--quick --for predict --filelists valid',
    ]


def test_submission_fails_if_a_member_fails_and_the_others_are_created(project):
    write_ensembles(project)
    train_all(project, 'plain')
    result = submit(project)
    assert result.returncode == 1
    assert 'two: skipped: its member meta is not trained' in result.stderr
    csv = project.experiments / 'tiny' / 'submissions' / 'mono' / 'one.csv'
    assert csv.exists() and not (csv.parent / 'two.csv').exists()
    train_all(project, 'meta')
    (project.experiments / 'FAIL_PREDICT').write_text('meta')
    result = submit(project, 'two')
    assert result.returncode == 1 and 'meta: prediction of' in result.stderr
    assert not (csv.parent / 'two.csv').exists()
    (csv.parent.parent.parent / 'ensembles' / 'two.tsv').write_text('plain\t1\nmeat\t1\n')
    result = submit(project, 'two')
    assert result.returncode == 1 and 'no model meat' in result.stderr
    result = submit(project, 'three')
    assert result.returncode == 1 and 'no ensemble three' in result.stderr


@pytest.mark.parametrize(
    'lines, words',
    [
        ('x[$(touch PWNED)]\t1\n', 'is not a name of a model'),
        ('$(touch PWNED)\t1\n', 'is not a name of a model'),
        ('plain\tKIND[$(touch PWNED)]\n', 'the weight of plain is not a number'),
        ('# options: --softmax --json=PWNED\nplain\t1\n', 'the option'),
        ('# options:\t--save-predictions PWNED\nplain\t1\n', 'the option'),
    ],
)
def test_ensemble_table_cannot_run_commands_or_set_other_options(project, lines, words):
    folder = project.experiments / 'tiny' / 'ensembles'
    folder.mkdir(parents=True)
    (folder / 'bad.tsv').write_text(lines)
    result = submit(project)
    assert result.returncode == 1
    assert (
        words in result.stderr and 'bad.tsv, line 1' in result.stderr and result.stderr.count('submit_all.sh: ') < 3
    ), result.output
    assert not list(project.path.rglob('*PWNED*'))


@pytest.mark.parametrize('options', ['--softmax', '--no-softmax --birdclef-filter'])
def test_ensemble_table_may_set_options_of_its_scores(project, options):
    write_ensembles(project)
    # The last line may have no newline.
    (project.experiments / 'tiny' / 'ensembles' / 'one.tsv').write_text(f'# options: {options}\r\nplain\t1')
    train_all(project, 'plain')
    result = submit(project, 'one')
    assert result.returncode == 0, result.output


def test_two_submitters_share_the_predictions(project):
    write_ensembles(project)
    train_all(project, 'plain', 'meta')
    before = len(calls(project, 'predict'))
    options = '--dataset', 'tiny', '--models', project.experiments / 'table.tsv'
    drivers = [project.start('experiments/submit_all.sh', *options, 'two', SUBMIT_ALL_POLL='0.1') for _ in range(2)]
    for driver in drivers:
        _, stderr = driver.communicate(timeout=120)
        assert driver.returncode == 0, stderr
    assert len(calls(project, 'predict')) == before + 4


@pytest.mark.parametrize('interrupted', [False, True])
def test_option_wait_waits_for_other_drivers_and_continues_interrupted_trainings(interrupted, project):
    gate(project, 'plain')
    other = start_training(project, 'plain')
    wait_for(other.stdout, 'plain: training')
    driver = start_training(project, '--wait', 'plain')
    wait_for(driver.stderr, 'plain: waiting: training is running')
    if interrupted:
        other.terminate()
        other.communicate()
        wait_for(driver.stdout, 'plain: training')
    open_gate(project, 'plain')
    _, stderr = driver.communicate(timeout=120)
    other.communicate()
    assert driver.returncode == 0, stderr
    assert models_of(project) == ['plain.npz'] and (project.experiments / 'tiny' / 'plain.pred.npz').exists()
    assert calls(project) == ['plain'] * (1 + interrupted)


@pytest.mark.slow
def test_demo_searches_for_weights_after_all_members_are_finished_even_if_elsewhere(project):
    (project.experiments / 'table.tsv').write_text(
        'plain\tpublished dummy lme1\nmeta\tpublished meta-256-512 metaonly\n'
    )
    (project.path / 'datasets' / 'tiny' / 'source').mkdir()
    (project.path / 'prepare_birdclef.sh').write_text('#!/bin/sh\n')
    gate(project, 'plain')
    other = start_training(project, 'plain')
    wait_for(other.stdout, 'plain: training')
    demo = project.start(
        'experiments/demo.sh',
        '--dataset',
        'tiny',
        '--models',
        'table.tsv',
        cwd=project.experiments,
        TRAIN_ALL_POLL='0.1',
    )
    said = wait_for(demo.stderr, 'waiting')
    open_gate(project, 'plain')
    stdout, stderr = demo.communicate(timeout=120)
    assert demo.returncode == 0, said + stderr
    assert other.wait(timeout=60) == 0
    other.communicate()
    blend = (project.experiments / 'tiny' / 'ensembles' / 'blend.tsv').read_text()
    assert [line.split('\t')[0] for line in blend.splitlines() if not line.startswith('#')] == ['plain', 'meta']
    assert calls(project).count('plain') == 1
