"""How programs end without packages or memory, when they are interrupted, and if their output is not read."""

import os
import subprocess
import sys

import pytest

from helpers import ROOT

PROGRAMS = sorted(
    path
    for folder in ('experiments', 'datasets')
    for path in (ROOT / folder).rglob('*.py')
    if path.read_text().startswith('#!') and 'import argparse' in path.read_text()
)
TORCH = 'experiments/train.py'


def run(program, *arguments, python=(sys.executable,), **kwargs):
    return subprocess.run(
        [*python, str(ROOT / program), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        **kwargs,
    )


@pytest.mark.parametrize('program', PROGRAMS, ids=lambda path: path.stem)
def test_missing_packages_are_reported_in_one_line_with_a_solution(program):
    result = run(program, '--help', python=(sys.executable, '-S', '-E'))  # no packages but the standard library
    assert result.returncode == 1
    assert result.stderr.startswith(f'{program.name}: the Python package ') and result.stderr.count('\n') == 1
    assert '.venv/bin/activate' in result.stderr and 'requirements.txt' in result.stderr


@pytest.mark.parametrize('program', PROGRAMS, ids=lambda path: path.stem)
def test_ctrl_c_during_the_imports_leaves_no_traceback(program, tmp_path):
    for name in ('numpy', 'defusedxml'):
        (tmp_path / (f'{name}.py')).write_text('import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n')
    result = run(program, '--help', env=dict(os.environ, PYTHONPATH=str(tmp_path)))
    assert (result.returncode, result.stderr) == (130, f'{program.name}: interrupted\n')


@pytest.mark.parametrize('kilobytes, program', [(60000, 'experiments/eval.py'), (150000, TORCH)])
def test_too_little_memory_is_reported_in_one_line(kilobytes, program):
    result = run(program, '--help', python=('bash', '-c', 'ulimit -v "$0"; exec "$@"', str(kilobytes), sys.executable))
    assert result.returncode == 1
    assert '.py: not enough memory' in result.stderr and result.stderr.count('\n') == 1


def test_memory_that_runs_out_later_is_reported_in_one_line(tmp_path):
    (tmp_path / 'json.py').write_text('bytearray(1 << 50)\n')
    result = run('experiments/eval.py', '--help', env=dict(os.environ, PYTHONPATH=str(tmp_path)))
    assert result.returncode == 1
    assert result.stderr.startswith('eval.py: not enough memory') and result.stderr.count('\n') == 1


@pytest.mark.parametrize('closed', ['2>&-', '<&- >&- 2>&-'])
def test_closed_streams_do_not_change_how_a_program_ends(closed, tmp_path):
    python = ('bash', '-c', f'exec "$@" {closed}', 'bash', sys.executable)
    assert run('experiments/list_models.py', 'none', python=python).returncode == 1
    assert run('experiments/list_models.py', python=python).returncode == 0


def test_program_ends_silently_when_nobody_reads_its_output():
    python = ('bash', '-c', '"$@" | head -c1; exit "${PIPESTATUS[0]}"', 'bash', sys.executable)
    result = run('experiments/list_models.py', python=python)
    assert result.returncode in (0, 141) and result.stderr == ''
