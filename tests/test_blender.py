"""blender.py: its weights give the same metrics in eval.py, and what it prints, writes and refuses."""

import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

from birdsong.scores import predictions
from birdsong.scores.selection import Selection
from helpers import ROOT, model_scores, write_lines
from helpers import run_scores as run


@pytest.fixture
def dataset(tmp_path):
    """A dataset of 80 recordings, and predictions m0.npz to m3.npz for it."""
    scores, truth, background = model_scores()
    keys = [f'train/{i}.wav' for i in range(80)]
    write_lines(tmp_path / 'set/filelists/valid', keys)
    write_lines(tmp_path / 'set/labels/labelset', [f'c{c}' for c in range(9)])
    write_lines(tmp_path / 'set/labels/fg.tsv', [f'{k}\t{t}' for k, t in zip(keys, truth, strict=True)])
    write_lines(
        tmp_path / 'set/labels/bg.tsv', [f'{k}\t{",".join(map(str, b))}' for k, b in zip(keys, background, strict=True)]
    )
    for m, member in enumerate(scores):
        predictions.save(tmp_path / (f'm{m}.pred.npz'), keys, list(member))
    return tmp_path / 'set'


INPUTS = [f'm{m}.pred.npz' for m in range(4)]


def blend(dataset, *args):
    return run(dataset, *args, program='blender.py')


def test_the_printed_lines_give_the_same_metrics_in_eval(dataset):
    done = blend(dataset, *INPUTS, '--labelfile-background=bg.tsv', '--strategy=forward', '--output=w.tsv')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines and all(line.split(':')[0] in INPUTS and float(line.split(':')[1]) > 0 for line in lines)
    evaluated = run(dataset, *lines, '--labelfile-background=bg.tsv').stdout
    said = [line for line in done.stderr.splitlines() if line.startswith('MAP: ')][-1]
    assert evaluated.startswith(said)
    table = (dataset.parent / 'w.tsv').read_text().splitlines()
    assert f'# {said}' in table and '# options:' in table
    members = [line.split('\t') for line in table if not line.startswith('#')]
    assert [[f'{name}.pred.npz', weight] for name, weight in members] == [line.split(':') for line in lines]


def test_the_table_is_written_to_a_new_folder_with_the_required_options(dataset):
    done = blend(dataset, *INPUTS, '--strategy=forward', '--softmax', '--output=new/folder/w.tsv')
    assert done.returncode == 0, done.stderr
    assert '# options: --softmax' in (dataset.parent / 'new/folder/w.tsv').read_text().splitlines()
    said = [line for line in done.stderr.splitlines() if line.startswith('MAP: ')][-1]
    assert run(dataset, '--softmax', *done.stdout.splitlines()).stdout.startswith(said)


def test_without_background_only_the_foreground_counts(dataset):
    done = blend(dataset, *INPUTS, '--patience=5')
    assert done.returncode == 0 and 'MAP-bg' not in done.stderr and 'MAP: ' in done.stderr


def test_unreadable_files_are_reported_and_skipped(dataset):
    (dataset.parent / 'bad.npz').write_bytes(b'PK\3\4')
    predictions.save(dataset.parent / 'other.npz', ['train/x.wav'], [np.zeros(9)])
    done = blend(dataset, 'none.npz', *INPUTS[:2], 'bad.npz:0.5', 'other.npz', '--patience=5')
    assert done.returncode == 0
    for name, why in (('none.npz', 'no such file'), ('bad.npz', 'not a complete'), ('other.npz', 'another dataset')):
        assert any(
            line.startswith(f'blender.py: skipped: {name}: ') and why in line for line in done.stderr.splitlines()
        )
    assert {line.split(':')[0] for line in done.stdout.splitlines()} <= set(INPUTS[:2])
    done = blend(dataset, 'none.npz', 'bad.npz')
    assert done.returncode == 1 and 'none of the 2 files' in done.stderr


@pytest.mark.parametrize(
    'args, message',
    [
        (('m0.pred.npz:-1',), 'negative'),
        (('m0.pred.npz', 'm0.pred.npz:2'), 'twice'),
        ((INPUTS[0], '--folds=1'), '--folds=1'),
        ((INPUTS[0], '--folds=81'), '--folds=81: more than the 80'),
        ((INPUTS[0], '--patience=0'), '--patience=0'),
        ((INPUTS[0], '--init-weights=nan'), '--init-weights'),
        ((INPUTS[0], '--labelfile-background=x.tsv'), 'x.tsv'),
        ((INPUTS[0], '--trials=t'), '--trials: a search is no longer recorded'),
    ],
)
def test_wrong_options_are_refused_in_one_line(dataset, args, message):
    done = blend(dataset, *args)
    assert done.returncode == 1 and done.stdout == '' and message in done.stderr.splitlines()[-1]
    assert done.stderr.startswith('blender.py: ')


def test_ctrl_c_prints_the_best_so_far(dataset):
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / 'experiments/blender.py'),
            '--dataset',
            str(dataset),
            *INPUTS,
            '--strategy=hyperopt',
            '--patience=100000',
        ],
        cwd=dataset.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        for line in process.stderr:
            if line.startswith('1: MAP: '):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and 'interrupted; the best so far:' in err and 'Traceback' not in err
    assert out and run(dataset, *out.splitlines()).stdout.startswith(err.splitlines()[-1].split(', top')[0])


def test_stability_prints_a_table_and_chooses_the_winner(dataset):
    done = blend(dataset, *INPUTS, '--stability', '--seeds=2', '--strategy=forward', '--seed=5')
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    at = next(i for i, line in enumerate(lines) if 'wins and 95 % intervals on 50 random subsets of 20' in line)
    rows = [line.split() for line in lines[at + 2 : at + 6]]
    assert [' '.join(row[5:]).replace(' (chosen)', '') for row in rows] == [
        'forward, seed 5',
        'forward, seed 6',
        'greedy, seed 5',
        'initial weights',
    ]
    # improvements of each candidate follow its name
    assert [
        line for line in lines if line in ('forward, seed 5', 'forward, seed 6', 'greedy, seed 5', 'initial weights')
    ] == lines[:1] + ['forward, seed 6', 'greedy, seed 5', 'initial weights']
    wins = [float(row[1]) for row in rows]
    assert sum(wins) == pytest.approx(50, abs=0.2) and '(chosen)' in rows[int(np.argmax(wins))]
    for row in rows:
        assert float(row[2]) <= float(row[0]) <= float(row[4])


def test_folds_evaluate_on_held_out_recordings(dataset):
    plain = blend(dataset, *INPUTS, '--strategy=forward')
    done = blend(dataset, *INPUTS, '--strategy=forward', '--folds=4')
    assert done.returncode == 0 and done.stdout == plain.stdout
    assert 'fg on held-out recordings' in done.stderr and 'fold 4 of 4' in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        'fitted on this list; estimate for new recordings, from 4 folds: MAP: '
    )


def noise(dataset, models=12):
    """Write random predictions, for which no weights generalise. Returns the names of their files."""
    keys = (dataset / 'filelists/valid').read_text().split()
    names = [f'n{m}.pred.npz' for m in range(models)]
    for m, name in enumerate(names):
        predictions.save(dataset.parent / name, keys, list(np.random.default_rng(m).normal(size=(len(keys), 9))))
    return names


@pytest.mark.parametrize('strategy', ('greedy', 'forward'))
def test_fast_strategies_print_an_estimate_for_new_recordings_beside_the_fitted_metrics(strategy, dataset):
    done = blend(dataset, *noise(dataset), '--strategy', strategy, '--labelfile-background=bg.tsv', '--output=w.tsv')
    assert done.returncode == 0, done.stderr
    fitted, estimate = done.stderr.splitlines()[-3:-1]
    assert fitted.startswith('MAP: ')
    assert estimate.startswith('fitted on this list; estimate for new recordings, from 5 folds: MAP: ')
    metric = [dict(part.split(': ') for part in line.rsplit('folds: ')[-1].split(', ')) for line in (fitted, estimate)]
    for name in ('MAP', 'MAP-bg'):
        assert float(metric[1][name]) < float(metric[0][name]) - 0.03
    assert f'# {estimate}' in (dataset.parent / 'w.tsv').read_text().splitlines()


def test_slow_strategies_say_how_to_get_an_estimate(dataset):
    done = blend(dataset, *INPUTS, '--strategy=hyperopt', '--patience=5')
    assert done.stderr.splitlines()[-1] == 'fitted on this list; --folds 5 gives an estimate for new recordings'


def test_ctrl_c_during_the_estimate_prints_the_weights_that_were_found(dataset, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    undisturbed = blend(dataset, *INPUTS, '--strategy=forward')
    monkeypatch.setattr(Selection, 'held_out', interrupted)
    done = blend(dataset, *INPUTS, '--strategy=forward', '--output=w.tsv')
    assert undisturbed.returncode == 0 and done.returncode == 130 and done.stdout == undisturbed.stdout
    assert not (dataset.parent / 'w.tsv').exists()


def test_pickles_of_2018_can_be_blended(dataset):
    keys = (dataset / 'filelists/valid').read_text().split()
    loaded = predictions.load(dataset.parent / INPUTS[0])
    (dataset.parent / 'm0.pred.pkl').write_bytes(pickle.dumps({key: loaded[key][0] for key in keys}, 2))
    assert blend(dataset, 'm0.pred.pkl', INPUTS[1], '--patience=5').returncode == 0
