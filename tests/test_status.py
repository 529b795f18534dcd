"""train_all.sh --status, --watch and --release: how each state of a model is shown."""

import datetime
import json
import os
import pathlib
import re
import signal

import numpy as np

from birdsong import files
from birdsong.training import states as states_module
from helpers import gate, open_gate, start_training, train_all, wait_for


def status(project, *arguments):
    result = project.run(
        'experiments/train_all.sh',
        '--status',
        '--dataset',
        'tiny',
        '--models',
        project.experiments / 'table.tsv',
        *arguments,
    )
    assert result.returncode == 0, result.output
    return dict(line.split(None, 1) for line in result.stdout.splitlines())


def test_status_shows_the_state_of_every_model(project):
    states = status(project)
    assert states['plain'] == states['meta'] == 'free'
    assert states['student'] == 'waiting      for plain'
    assert states['both'] == 'waiting      for plain, meta'
    gate(project, 'plain')
    driver = start_training(project, 'plain')
    wait_for(driver.stdout, 'plain: training')
    assert states['4'] == 'models: 2 free, 2 waiting'
    words = status(project)['plain']
    assert words.startswith(f'running      on {os.uname().nodename} (') and 'no epoch finished yet' in words
    (project.experiments / 'FAIL').write_text('plain')
    open_gate(project, 'plain')
    assert driver.wait(60) == 1
    driver.communicate()
    words = status(project, 'plain')['plain']
    assert words.startswith('failed') and 'the loss is not finite' in words and 'plain.log' in words
    (project.experiments / 'FAIL').unlink()
    train_all(project)
    root = project.experiments / 'tiny' / 'plain'
    files.save_npz(
        f'{root!s}.err.npz',
        {
            'errors': np.array([[2, 1, 1, 0.125], [1, 2, 1, 0.5], [1, 2, 1, 0.25]]),
            'columns': np.array(['train_loss', 'valid_loss', 'valid_error', 'valid_map']),
        },
    )
    (project.experiments / 'tiny' / 'plain.run.json').write_text('{"saved_epoch": 2}')
    (project.experiments / 'tiny' / 'meta.pred.npz').unlink()
    states = status(project)
    assert states['plain'] == 'finished     MAP of excerpts 0.500 after epoch 2 of 3'
    assert 'eval_all.sh --dataset tiny' in states['MAP:']
    assert states['meta'] == 'finished     no predictions yet'
    assert states['4'] == 'models: 4 finished'


def test_without_a_table_status_shows_the_models_in_the_folder_or_the_published_ones_if_it_is_empty(project):
    def shown(*names):
        result = project.run('experiments/train_all.sh', '--status', '--dataset', 'tiny', *names)
        assert result.returncode == 0, result.output
        return [line.split()[0] for line in result.stdout.splitlines()]

    assert len(shown()) == 37 + 1
    train_all(project, 'plain')
    (project.experiments / 'tiny' / 'others.npz.lock').mkdir()
    assert shown() == ['others', 'plain', '2']
    assert shown('plain', 'dummy_lme1_fdrop05_fM10k_powlearn_shift5_fs1024_mc2cgr1dgr1') == [
        'dummy_lme1_fdrop05_fM10k_powlearn_shift5_fs1024_mc2cgr1dgr1',
        'plain',
        '2',
    ]


def test_status_shows_the_map_of_a_model_of_the_original(tmp_path):
    np.savez(tmp_path / 'm.err.npz', np.array([[2, 1, 1, 0.125], [1, 2, 1, 0.5]]))
    assert states_module.reached(str(tmp_path / 'm')) == 'MAP of excerpts 0.500 after epoch 2 of 2'


def write_record(root, *epochs, **settings):
    """The parts of the record of a training run that status reads; each epoch is (loss, MAP, rate, seconds)."""
    names = 'train_loss', 'valid_map', 'rate', 'seconds'
    metrics = [{'epoch': i, **dict(zip(names, epoch, strict=True))} for i, epoch in enumerate(epochs, 1)]
    pathlib.Path(f'{root}.run.json').write_text(json.dumps({'settings': settings, 'metrics': metrics}))


def test_progress_of_a_training_run_is_read_from_its_record(tmp_path):
    root = tmp_path / 'm'
    epochs = (2, 0.1, 0.001, 50), (1.5, 0.2, 0.001, 60), (1.25, 0.3, 0.0001, 70)
    write_record(root, *epochs, epochs=33, patience=10)
    assert states_module.progress(str(root), datetime.datetime(2026, 1, 1, 23, 45)) == (
        'epoch 3 (train loss 1.2500, valid map 0.3000), rate 0.0001, 1.0 min per epoch, ends by 2026-01-02 00:15'
    )


def test_progress_of_an_older_run_whose_record_has_no_metrics_is_read_from_its_errors(tmp_path):
    (tmp_path / 'm.run.json').write_text('{"settings": {"epochs": 33}}')
    assert states_module.progress(str(tmp_path / 'm')) == 'no epoch finished yet'
    np.savez(tmp_path / 'm.err.npz', errors=np.array([[2.0], [1.25]]), columns=np.array(['train_loss']))
    assert states_module.progress(str(tmp_path / 'm')) == 'epoch 2 (train loss 1.2500)'


def work_of(project, name):
    return next((project.experiments / 'tiny' / (f'{name}.npz.lock')).glob('1/work.*'))


def test_running_training_shows_its_epoch_rate_and_end(project):
    gate(project, 'plain')
    driver = start_training(project, 'plain')
    wait_for(driver.stdout, 'plain: training')
    work = work_of(project, 'plain')
    write_record(work / 'plain', (2.5, 0.125, 0.001, 90), epochs=2)
    end = datetime.datetime.now() + datetime.timedelta(seconds=90)
    words = status(project, 'plain')['plain']
    assert re.search(
        r'on \S+ \(process \d+\) since \d{4}-.*; epoch 1 \(train loss 2.5000, valid map 0.1250\), rate 0.001, '
        rf'1.5 min per epoch, ends about {end.year}-',
        words,
    ), words
    open_gate(project, 'plain')
    assert driver.wait(60) == 0
    driver.communicate()


def test_student_of_a_failed_teacher_and_failing_predictions(project):
    (project.experiments / 'FAIL').write_text('plain')
    (project.experiments / 'FAIL_PREDICT').write_text('meta')
    train_all(project)
    states = status(project)
    assert states['student'] == 'waiting      for plain, which failed'
    assert states['both'] == 'waiting      for plain, which failed'
    assert re.match('finished +predictions failed: .*out of memory', states['meta'])


def test_killed_driver_shows_as_interrupted(project):
    gate(project, 'plain')
    driver = start_training(project, 'plain')
    wait_for(driver.stdout, 'plain: training')
    supervisor = int(
        re.search(
            r'process: (\d+)', (project.experiments / 'tiny' / 'plain.npz.lock' / '1' / 'owner').read_text()
        ).group(1)
    )
    driver.kill()
    os.kill(supervisor, signal.SIGKILL)
    driver.communicate()
    words = status(project, 'plain')['plain']
    assert re.match('interrupted  (stale: was held by|free, after its supervisor was killed)', words), words


def test_watch_shows_the_state_repeatedly(project):
    watch = project.start(
        'experiments/status.py',
        '--watch',
        '0.01',
        '--dataset',
        'tiny',
        '--models',
        project.experiments / 'table.tsv',
        'meta',
    )
    assert [watch.stdout.readline() for _ in range(4)] == 2 * ['meta  free\n', '1 models: 1 free\n']
    watch.terminate()
    watch.communicate()


def release(project, *names):
    return project.run(
        'experiments/train_all.sh',
        '--dataset',
        'tiny',
        '--models',
        project.experiments / 'table.tsv',
        '--release',
        *names,
    )


def test_released_training_continues_with_the_next_driver(project):
    gate(project, 'plain')
    driver = start_training(project, 'plain')
    wait_for(driver.stdout, 'plain: training')
    refused = release(project, 'plain')
    assert refused.returncode == 75 and 'held by' in refused.stderr and '--force' in refused.stderr
    assert status(project)['plain'].startswith('running')
    driver.terminate()
    assert driver.wait(60) == 143
    driver.communicate()
    (project.experiments / 'plain.gate').unlink()
    assert status(project)['plain'].startswith('interrupted')
    assert release(project, 'plain').returncode == 0
    result = train_all(project, 'plain')
    assert result.returncode == 0 and 'plain: continuing from' in result.stdout


def test_release_of_free_and_of_unknown_models(project):
    for name, words in (('plain', 'nobody has claimed it'), ('plaim', 'did you mean plain')):
        result = release(project, name)
        assert result.returncode == 1 and words in result.stderr
