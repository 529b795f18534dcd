"""train.py: reproducible, can be continued, with one process or several."""

import functools
import json
import os
import re
import shutil
import socket
import sys

import numpy as np
import pytest
import torch

import train
from birdsong import config, devices, program
from birdsong.files import Problem, load_npz, save_npz
from birdsong.training.schedule import COLUMNS
from helpers import FULL_TRAINING, training_arguments, write_lines

ALL = FULL_TRAINING


def run_train(dataset, out, *flags, **settings):
    """train.py in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['train.py', *training_arguments(dataset, out, *flags, **settings)])
        train.main()


@pytest.fixture
def call(tiny_dataset):
    return functools.partial(run_train, tiny_dataset)


@pytest.fixture(scope='module')
def undisturbed(tiny_dataset, tmp_path_factory):
    """Function of settings that gives the folder of m.npz, trained without interruption, once for the same settings."""
    folders = {}

    def folder(**settings):
        key = str(settings)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp('undisturbed')
            run_train(tiny_dataset, folders[key] / 'm.npz', *ALL, **settings)
        return folders[key]

    return folder


def assert_equal_files(folder, other, *names):
    for name in names or ('m.npz', 'm.err.npz', 'm.hist.npz', 'm.state'):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def test_a_run_writes_model_settings_metrics_history_and_record(call, tmp_path):
    call(tmp_path / 'm.npz', *ALL, seed=5)
    assert {p.name for p in tmp_path.iterdir()} == {
        'm.npz',
        'm.npz.vars',
        'm.err.npz',
        'm.hist.npz',
        'm.state',
        'm.run.json',
    }
    record = load_npz(tmp_path / 'm.err.npz')
    errors = record['errors']
    np.testing.assert_array_equal(record['arr_0'], errors)  # what scripts of 2018 read
    assert errors.shape == (3, 4) and np.isfinite(errors).all()
    assert [v.shape for v in load_npz(tmp_path / 'm.hist.npz').values()] == [(5,)]
    assert (
        'classes=' in (tmp_path / 'm.npz.vars').read_text() and 'mel_bands=20' in (tmp_path / 'm.npz.vars').read_text()
    )
    record = json.loads((tmp_path / 'm.run.json').read_text())
    assert [[row[name] for name in COLUMNS] for row in record['metrics']] == errors.tolist()
    assert all(row['rate'] > 0 and row['seconds'] >= 0 for row in record['metrics'])
    assert record['epochs'] == 3 and record['finished'] and record['seed'] == 5 and record['device'] == 'cpu'
    assert (
        record['threads'] == torch.get_num_threads()
        and record['settings']['mel_bands'] == 20
        and record['command'][-1] == str(tmp_path / 'm.npz')
        and record['host'] == socket.gethostname()
    )
    assert (
        record['packages']['torch']
        and record['revision']
        and record['started'] <= record['written']
        and record['peak_memory_MB'] > 0
    )


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(call, tmp_path):
    for name, settings in (('a', dict(bg_threads=0)), ('b', dict(bg_threads=3)), ('c', dict(bg_threads=0, seed=1))):
        call(tmp_path / name / 'm.npz', **settings)
    a, b, c = ((tmp_path / name / 'm.npz').read_bytes() for name in 'abc')
    assert a == b != c


SCHEDULES = pytest.mark.parametrize(
    'settings',
    [
        dict(epochs=4),
        dict(epochs=6, patience=1, trials_of_patience=2, eta_decay_every='trial_of_patience', initial_eta=0.1),
        dict(epochs=4, learn_scheme='nesterov', arch__fulldrop=0.5),
        dict(
            epochs=4,
            learn_scheme='adamw',
            weight_decay=0.1,
            eta_schedule='cosine',
            warmup=1,
            average=0.8,
            average_last=3,
            initial_eta=0.1,
        ),
        dict(epochs=6, eta_schedule='cosine', average=0.8, patience=1, trials_of_patience=3, initial_eta=0.1),
    ],
)


@SCHEDULES
@pytest.mark.parametrize('dies_in', [1, 2, 3])
def test_an_interrupted_run_gives_the_same_files_as_an_undisturbed_one(
    settings, dies_in, call, undisturbed, tmp_path, monkeypatch
):
    whole, calls = train.Trainer.epoch, []

    def dying(self, *args):
        calls.append(1)
        if len(calls) == dies_in:
            self.step(next(iter(self.feed.batches(0, 1))))
            raise RuntimeError('power cut')
        return whole(self, *args)

    monkeypatch.setattr(train.Trainer, 'epoch', dying)
    with pytest.raises(RuntimeError):
        call(tmp_path / 'm.npz', *ALL, **settings)
    assert not (tmp_path / 'm.npz').exists()
    call(tmp_path / 'm.npz', *ALL, **settings)
    assert_equal_files(undisturbed(**settings), tmp_path)
    metrics = json.loads((tmp_path / 'm.run.json').read_text())['metrics']
    assert [row['epoch'] for row in metrics] == list(range(1, len(load_npz(tmp_path / 'm.err.npz')['errors']) + 1))


@SCHEDULES
def test_a_run_interrupted_after_its_last_epoch_gives_the_same_files(
    settings, call, undisturbed, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(train.model, 'save', lambda *args: (_ for _ in ()).throw(RuntimeError('power cut')))
        call(tmp_path / 'm.npz', *ALL, **settings)
    call(tmp_path / 'm.npz', *ALL, **settings)
    assert_equal_files(undisturbed(**settings), tmp_path)


@pytest.mark.parametrize(
    'settings, longer',
    [
        (dict(epochs=1), dict(epochs=2)),
        (
            dict(epochs=9, patience=1, eta_decay_every='trial_of_patience', initial_eta=0.1, trials_of_patience=1),
            dict(trials_of_patience=2),
        ),
        (dict(epochs=1, save='best'), dict(epochs=3, save='last')),
        (dict(epochs=1, average=0.8, average_last=3), dict(epochs=3)),
    ],
)
def test_a_finished_run_that_is_continued_gives_the_same_files_as_a_longer_one(settings, longer, call, tmp_path):
    call(tmp_path / 'a' / 'm.npz', *ALL, **dict(settings, **longer))
    call(tmp_path / 'b' / 'm.npz', *ALL, **settings)
    assert len(load_npz(tmp_path / 'a' / 'm.err.npz')['errors']) > len(load_npz(tmp_path / 'b' / 'm.err.npz')['errors'])
    call(tmp_path / 'b' / 'm.npz', *ALL, **dict(settings, **longer))
    assert_equal_files(tmp_path / 'a', tmp_path / 'b', 'm.npz', 'm.npz.vars', 'm.err.npz', 'm.hist.npz', 'm.state')


def test_training_continues_with_other_settings_on_request_and_records_them(call, tmp_path, capsys):
    call(tmp_path / 'm.npz', *ALL, epochs=1)
    with pytest.raises(Problem, match='--continue-anyway: then no single command reproduces the result'):
        call(tmp_path / 'm.npz', *ALL, epochs=2, batchsize=5)
    call(
        tmp_path / 'm.npz',
        '--keep-state',
        '--save-errors',
        '--continue-anyway',
        epochs=2,
        batchsize=5,
        initial_eta=0.02,
        first_params_log=0,
    )
    assert 'after epoch 1, with epochs=2 (was 1), first_params_log=0 (was 2)' in capsys.readouterr().out
    assert load_npz(tmp_path / 'm.err.npz')['errors'].shape == (2, 1)
    call(tmp_path / 'm.npz', *ALL, '--continue-anyway', epochs=3, batchsize=5, initial_eta=0.02)
    assert np.isnan(load_npz(tmp_path / 'm.err.npz')['errors'][:2, 1:]).all()
    changes = json.loads((tmp_path / 'm.run.json').read_text())['changes']
    assert 'after epoch 1: batchsize=4, now 5' in changes and 'after epoch 2: validate was False, now True' in changes
    with pytest.raises(Problem, match='m.state: belongs to another network .* delete .*m.state to train from scratch'):
        call(tmp_path / 'm.npz', *ALL, '--continue-anyway', epochs=4, mel_bands=30)


def test_a_longer_run_with_a_cosine_is_not_one_that_was_longer_from_the_start(call, tmp_path):
    settings = dict(eta_schedule='cosine', initial_eta=1)
    call(tmp_path / 'm.npz', *ALL, epochs=2, **settings)
    with pytest.raises(Problem, match='epochs=2, now 4'):
        call(tmp_path / 'm.npz', *ALL, epochs=4, **settings)
    call(tmp_path / 'm.npz', *ALL, '--continue-anyway', epochs=4, **settings)
    record = json.loads((tmp_path / 'm.run.json').read_text())
    assert record['changes'] == ['after epoch 2: epochs=2, now 4']
    # of the last of 3 updates in each epoch, of 6 and then of 12
    expected = [(1 + np.cos(np.pi * share)) / 2 for share in (2 / 6, 5 / 6, 8 / 12, 11 / 12)]
    np.testing.assert_allclose([row['rate'] for row in record['metrics']], expected)


@pytest.fixture
def states(monkeypatch):
    """The arrays at the start and after each epoch of the runs of a test."""
    found, whole = [], train.Trainer.arrays

    def listening(self):
        found.append(whole(self))
        return found[-1]

    monkeypatch.setattr(train.Trainer, 'arrays', listening)
    return found


def test_the_moving_average_of_all_updates_is_validated_and_saved(call, tmp_path, monkeypatch, states):
    settings = dict(initial_eta=0.1, epochs=5, epochsize=1)
    call(tmp_path / 'plain.npz', *ALL, **settings)
    networks = [state['net'] for state in states]
    call(tmp_path / 'm.npz', *ALL, average=0.25, **settings)
    saved = load_npz(tmp_path / 'm.npz')
    for name, expected in networks[0].items():
        assert np.array_equal(states[-1]['net'][name], networks[5][name])  # training itself is not changed
        for decay, net in zip((1 / 10, 2 / 11, 3 / 12, 0.25, 0.25), networks[1:6], strict=True):
            expected = decay * expected + (1 - decay) * net[name].astype(float)
        np.testing.assert_allclose(saved[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    # metrics of the saved network
    monkeypatch.setattr(train.Trainer, 'epoch', lambda *_: 0.0)
    call(tmp_path / 'n.npz', *ALL, epochs=1, init_from=tmp_path / 'm.npz')
    found, expected = (load_npz(tmp_path / f'{name}.err.npz')['errors'][-1, 1:] for name in 'mn')
    assert found.tolist() == expected.tolist()


def test_automatic_settings_follow_the_dataset_and_are_stored_as_numbers(call, tiny_dataset, tmp_path, capsys):
    automatic = dict(epochs=1, epochsize='auto', initial_eta='auto', batchsize=25)
    call(tmp_path / 'a' / 'm.npz', *ALL, **automatic)
    # so few recordings that the smallest number of updates, 500, applies to 20 epochs; 0.001 sqrt(25 / 16)
    assert 'chosen for this dataset: epochsize=25, initial_eta=0.00125\n' in capsys.readouterr().out
    assert {'epochsize=25', 'initial_eta=0.00125'} <= set((tmp_path / 'a' / 'm.npz.vars').read_text().split('\n'))
    call(tmp_path / 'b' / 'm.npz', *ALL, epochs=1, epochsize=25, initial_eta=0.00125, batchsize=25)
    assert_equal_files(tmp_path / 'a', tmp_path / 'b', 'm.npz', 'm.npz.vars', 'm.err.npz', 'm.state')
    call(tmp_path / 'a' / 'm.npz', *ALL, **dict(automatic, epochs=2))
    assert 'after epoch 1, with epochs=2 (was 1)' in capsys.readouterr().out


def test_the_mean_of_the_last_networks_is_saved(call, tmp_path, capsys, states):
    call(tmp_path / 'm.npz', epochs=4, average_last=3, initial_eta=0.1)
    assert 'the mean of the last 3 networks after epoch 4 of 4' in capsys.readouterr().out
    saved = load_npz(tmp_path / 'm.npz')
    for name in saved:
        expected = sum(state['net'][name].astype(float) for state in states[-3:]) / 3
        np.testing.assert_allclose(saved[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


def test_after_a_trial_the_moving_average_goes_back_to_the_best_one(call, tmp_path, monkeypatch, states):
    losses = iter([1.0, 3.0])
    monkeypatch.setattr(train.Trainer, 'validate', lambda self: (next(losses), 0.5, 0.5))
    call(tmp_path / 'm.npz', *ALL, epochs=2, patience=1, average=0.9)
    state = load_npz(tmp_path / 'm.state')
    for group in 'net', 'average':
        for name, best in states[1][group].items():
            assert np.array_equal(state[f'{group}|{name}'], best)
    assert (states[1]['average']['audio.head.weight'] != states[2]['average']['audio.head.weight']).any()


@pytest.mark.parametrize('name', ['m.state', 'm.err.npz', 'm.run.json', 'm.npz'])
def test_a_full_disk_is_reported_with_the_file_and_what_to_do(name, call, tmp_path):
    (tmp_path / f'.{name}.{os.getpid()}.part').symlink_to('/dev/full')
    with pytest.raises(SystemExit) as stopped:
        program.run(lambda: call(tmp_path / 'm.npz', *ALL, epochs=1))
    assert str(stopped.value).endswith(
        f': {tmp_path / name}: No space left on device; free some space on that disk and type the same command again'
    )
    assert not (tmp_path / 'm.npz').exists()


def test_a_state_of_other_settings_is_refused_with_the_differences(call, tmp_path):
    call(tmp_path / 'm.npz', *ALL, epochs=1)
    before = (tmp_path / 'm.state').read_bytes()
    with pytest.raises(Problem, match='batchsize=4, now 5'):
        call(tmp_path / 'm.npz', *ALL, epochs=1, batchsize=5)
    assert (tmp_path / 'm.state').read_bytes() == before


def test_a_state_of_other_data_or_of_another_format_is_refused_with_the_differences(call, tiny_dataset, tmp_path):
    state = tmp_path / 'm.state'
    call(tmp_path / 'm.npz', *ALL, epochs=1)
    before = state.read_bytes()
    with pytest.raises(Problem, match='validate was True, now False'):
        call(tmp_path / 'm.npz', '--keep-state', epochs=1)
    other = tmp_path / 'other'
    shutil.copytree(tiny_dataset, other)
    valid = other / 'filelists' / 'valid'
    valid.write_text(valid.read_text().partition('\n')[2])
    with pytest.raises(Problem, match='data was [0-9a-f]{16}, now [0-9a-f]{16}'):
        run_train(other, tmp_path / 'm.npz', *ALL, epochs=1)
    assert state.read_bytes() == before
    arrays = load_npz(state)
    save_npz(
        state, dict(arrays, description=np.array(str(arrays['description']).replace('"format": 1', '"format": 0')))
    )
    with pytest.raises(Problem, match='format was 0, now 1'):
        call(tmp_path / 'm.npz', *ALL, epochs=1)
    state.write_bytes(before[:-100])
    with pytest.raises(Problem, match='m.state: not a complete'):
        call(tmp_path / 'm.npz', *ALL, epochs=1)


def test_with_patience_the_best_network_is_saved_else_the_last(call, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0] * 3)
    monkeypatch.setattr(train.Trainer, 'validate', lambda self: (next(losses), 0.5, 0.5))
    for name, settings in (
        ('last', {}),
        ('best', dict(patience=9)),
        ('chosen', dict(save='best')),
        ('refused', dict(patience=9, save='last')),
    ):
        losses = iter([3.0, 1.0, 2.0])
        call(tmp_path / name / 'm.npz', '--validate', **settings)
        assert json.loads((tmp_path / name / 'm.run.json').read_text())['saved_epoch'] == (
            2 if name in ('best', 'chosen') else 3
        )
    read = {name: (tmp_path / name / 'm.npz').read_bytes() for name in ('last', 'best', 'chosen', 'refused')}
    assert read['best'] == read['chosen'] != read['last'] == read['refused']


def test_a_loss_that_is_not_finite_stops_the_run_without_a_model(call, tmp_path):
    with pytest.raises(Problem, match='not finite'):
        call(tmp_path / 'm.npz', initial_eta=1e30, epochsize=60, learn_scheme='momentum')
    assert not (tmp_path / 'm.npz').exists()


def test_training_says_that_a_network_with_band_centre_has_no_full_resolution(call, tmp_path, capsys):
    call(tmp_path / 'm.npz', epochs=0, band_centre=1)
    assert re.search('^band_centre=1: .*--full-resolution', capsys.readouterr().out, re.M)


def test_training_lowers_the_loss(call, tmp_path):
    call(
        tmp_path / 'm.npz', '--save-errors', epochs=12, epochsize=15, initial_eta=0.01, arch__fulldrop=0, len_buckets=1
    )
    losses = load_npz(tmp_path / 'm.err.npz')['errors'][:, 0]
    assert losses[-1] < 0.8 * losses[0]


def test_a_teacher_changes_the_training_and_a_network_starts_from_another(call, tmp_path):
    call(tmp_path / 't.npz', epochs=1)
    call(tmp_path / 's.npz', epochs=1, ban=tmp_path / 't.npz')
    call(tmp_path / 'i.npz', epochs=0, init_from=tmp_path / 't.npz')
    teacher, student, started = (load_npz(tmp_path / f'{name}.npz') for name in 'tsi')
    # same seed and batches: only the teacher makes a difference
    assert any((student[name] != teacher[name]).any() for name in teacher)
    assert all((started[name] == teacher[name]).all() for name in teacher)


def test_mixed_precision_stays_close(call, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: True)
    for name, flags in (('a', ()), ('b', ('--amp',))):
        call(tmp_path / name / 'm.npz', '--save-errors', '--validate', *flags, arch__fulldrop=0)
    a, b = (load_npz(tmp_path / name / 'm.err.npz')['errors'] for name in 'ab')
    assert (a != b).any()
    np.testing.assert_allclose(a[:, :2], b[:, :2], rtol=0.05)


def test_without_bfloat16_mixed_precision_is_float32(call, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: False)
    for name, flags in (('a', ()), ('b', ('--amp',))):
        call(tmp_path / name / 'm.npz', '--save-errors', *flags, epochs=1)
    assert_equal_files(tmp_path / 'a', tmp_path / 'b', 'm.npz', 'm.err.npz')
    assert capsys.readouterr().err.count('--amp: this processor has no instructions for bfloat16') == 1


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_network(call, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='aot_eager', fullgraph=True))
    for name, flags in (('a', ()), ('b', ('--compile',))):
        call(tmp_path / name / 'm.npz', '--save-errors', '--validate', *flags, len_min=2, len_max=2)
    a, b = (load_npz(tmp_path / name / 'm.err.npz')['errors'] for name in 'ab')
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_compiling_needs_excerpts_of_one_length(call, tmp_path):
    with pytest.raises(Problem, match='--compile: len_min=.* differ'):
        call(tmp_path / 'm.npz', '--compile', len_min=1, len_max=2)


def test_spectrograms_on_the_device_stay_close(call, tmp_path):
    for where in 'cpu', 'device':
        call(tmp_path / where / 'm.npz', '--save-errors', '--validate', spectrogram=where, arch__fulldrop=0)
    a, b = (load_npz(tmp_path / where / 'm.err.npz')['errors'] for where in ('cpu', 'device'))
    np.testing.assert_allclose(a, b, rtol=2e-3)


def test_the_feed_can_be_timed_and_plotted(call, tmp_path, capsys):
    call(tmp_path / 'm.npz', benchmark_datafeed=2)
    assert re.fullmatch(r'2 batches in \S+ s: \S+ batches/s, \S+ x real time\n', capsys.readouterr().out)
    call(tmp_path / 'm.npz', plot_datafeed=1)
    assert (tmp_path / 'm.feed.png').read_bytes().startswith(b'\x89PNG') and not (tmp_path / 'm.npz').exists()


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(ban='nowhere.npz'), 'train that model first'),
        (dict(arch='conv:4x3x300'), 'arch'),
        (dict(patience_criterion='valid_map'), '--validate'),
        (dict(eta_cycle='1:x'), 'eta_cycle'),
        (dict(epochsize='automatic'), 'epochsize=automatic: expected int 1.. or auto'),
        (dict(initial_eta='auto', learn_scheme='momentum'), 'initial_eta=auto: only for adam and adamw'),
        (dict(average=2), 'average=2: expected number 0..1'),
        (dict(average_last=2, patience=1), 'average_last=2: averages the last'),
        (dict(weight_decay=1), 'weight_decay=1: needs learn_scheme=adamw'),
        (dict(arch='', arch_meta='full:4'), 'input_meta'),
    ],
)
def test_bad_settings_stop_before_anything_is_written(settings, words, call, tmp_path):
    with pytest.raises(Problem, match=words):
        call(tmp_path / 'm.npz', *(() if 'patience_criterion' in settings else ALL), **settings)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own_settings(tiny_dataset, tmp_path):
    """Function that gives a copy of the dataset with these lines in dataset.vars."""

    def copy(*lines):
        folder = tmp_path / 'with_settings'
        for name in ('audio', 'filelists', 'labels'):
            (folder / name).mkdir(parents=True) if not folder.exists() else None
            if not (folder / name).is_symlink():
                shutil.rmtree(folder / name, ignore_errors=True)
                (folder / name).symlink_to(tiny_dataset / name)
        write_lines(folder / 'dataset.vars', lines)
        return folder

    return copy


def test_settings_of_the_dataset_override_defaults_and_are_overridden_by_presets(own_settings, tmp_path):
    dataset = own_settings('# of this dataset', 'mel_max=5000', 'mel_min=100', 'seed=7', 'batchsize=3')
    write_lines(tmp_path / 'preset.vars', ['mel_min=200'])
    run_train(dataset, tmp_path / 'm.npz', '--vars', str(tmp_path / 'preset.vars'), epochs=0)
    found = config.read_vars(str(tmp_path / 'm.npz.vars'))
    # training_arguments gives batchsize with --var
    assert [found[name] for name in ('mel_max', 'mel_min', 'seed', 'batchsize')] == [5000, 200, 7, 4]


@pytest.mark.parametrize('line, words', [('mel_mux=1', 'dataset.vars: unknown setting mel_mux'), ('x', 'dataset.vars')])
def test_a_fault_in_the_settings_of_the_dataset_names_the_file(line, words, own_settings, tmp_path):
    with pytest.raises(Problem, match=words):
        run_train(own_settings(line), tmp_path / 'm.npz')


def test_a_network_to_start_from_or_a_teacher_of_another_number_of_classes_is_refused(
    call, tiny_dataset, tmp_path, own_settings
):
    call(tmp_path / 't.npz', epochs=0)
    dataset = own_settings()
    (dataset / 'labels').unlink()
    shutil.copytree(tiny_dataset / 'labels', dataset / 'labels')
    with open(dataset / 'labels' / 'labelset', 'a') as f:
        f.write('zzz\n')
    for setting in 'init_from', 'ban':
        with pytest.raises(Problem, match=f'{setting}=.*t.npz: that network has 4 classes, the dataset 5; train'):
            run_train(dataset, tmp_path / 's.npz', **{setting: tmp_path / 't.npz'})


def test_a_teacher_whose_metadata_have_another_scale_is_refused(call, tmp_path):
    meta = dict(arch='', arch_meta='full:4', input_meta='time,latitude', epochs=0)
    call(tmp_path / 't.npz', **meta)
    call(tmp_path / 's.npz', ban=tmp_path / 't.npz', input_meta__longitude_mean=3, **meta)
    with pytest.raises(Problem, match='the teacher was trained with input_meta.latitude_mean=-6.4, not 3'):
        call(tmp_path / 's.npz', ban=tmp_path / 't.npz', input_meta__latitude_mean=3, **meta)


def test_a_model_file_of_another_kind_and_a_missing_dataset_are_refused(call, tmp_path):
    with pytest.raises(Problem, match='a model file must end in .npz'):
        call(tmp_path / 'm.txt')
    with pytest.raises(Problem, match='nowhere: no dataset'):
        run_train('nowhere', tmp_path / 'm.npz')
