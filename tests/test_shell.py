"""Shell scripts pass shellcheck; every driver has a usage text; the environment is installed once."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from helpers import ROOT


def tracked():
    listing = subprocess.run(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard'], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    return [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def shell_scripts():
    found = []
    for name in tracked():
        with open(ROOT / name, 'rb') as f:
            if name.endswith('.sh') or re.match(rb'#!.*\b(ba)?sh\b', f.readline()):
                found.append(name)
    return found


SCRIPTS = shell_scripts()
DRIVERS = ['prepare_birdclef.sh', 'tests/run.sh'] + [
    f'experiments/{name}.sh' for name in ('train_all', 'predict_missing', 'eval_all', 'submit_all', 'crossval', 'demo')
]


@pytest.mark.parametrize('script', SCRIPTS)
def test_shellcheck_finds_nothing(script):
    shellcheck = shutil.which('shellcheck', path=os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH'])
    if not shellcheck:
        pytest.skip('needs shellcheck')
    result = subprocess.run([shellcheck, script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('script', SCRIPTS)
def test_scripts_are_strict_and_can_be_parsed(script):
    text = (ROOT / script).read_text()
    assert text.startswith('#!/usr/bin/env bash\n')
    if script not in ('experiments/lib.sh', 'experiments/results.sh'):
        assert 'set -euo pipefail' in text
        assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run(['bash', '-n', script], cwd=ROOT).returncode == 0


@pytest.mark.parametrize('script', SCRIPTS)
def test_no_text_is_evaluated_as_a_subscript(script):
    """Bash 5.1 runs $(...) in the subscripts of `[[ -v A[$x] ]]`, `unset A[$x]`, `printf -v A[$x]` and `((A[$x]))`."""
    assert not re.findall(r'(?:-v|\bunset)\s+["\']?\w+\[.*|\(\([^()]*\w\[\$.*', (ROOT / script).read_text())


@pytest.mark.parametrize('name', ['a[$(touch x)]', '$(touch x)', '../up', '-x', '.hidden', 'a b', 'é', '', 'a\nb'])
def test_names_that_bash_would_evaluate_or_that_leave_the_folder_are_refused(name):
    lib = ROOT / 'experiments' / 'lib.sh'
    result = subprocess.run(['bash', '-c', '. "$1"; is_name a1_.+-B && ! is_name "$2"', 'test', str(lib), name])
    assert result.returncode == 0


@pytest.mark.parametrize('script', DRIVERS)
def test_help_shows_usage_and_an_example(script):
    result = subprocess.run([ROOT / script, '--help'], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 'Usage' in result.stdout and 'Example' in result.stdout


def test_programs_can_be_run_and_modules_cannot():
    for name in tracked():
        if name.endswith('.py') and not name.startswith('tests/test_'):
            text = (ROOT / name).read_text()
            program = "if __name__ == '__main__':" in text
            assert program == text.startswith('#!/usr/bin/env python3\n') or name.startswith('tests/standins/'), name
            assert os.access(ROOT / name, os.X_OK) == text.startswith('#!'), name


# A stand-in for Python, which creates an environment and records each installation.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
    *'-m venv '*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo venv >> "$NOTES" ;;
    *'pip --version'*) exit 0 ;;
    *'pip install'*)
        echo install >> "$NOTES"
        [[ -z ${PIP_WAITS:-} ]] || { echo > "$PIP_WAITS"; exec sleep 100; }
        [[ -z ${PIP_FAILS:-} ]] ;;
    *) exec '@PYTHON@' "$@" ;;
esac
"""


@pytest.fixture
def fresh(tmp_path):
    """A folder with lib.sh and requirements.txt, and a function that starts a script there which calls ensure_env."""
    (tmp_path / 'experiments').mkdir()
    (tmp_path / 'bin').mkdir()
    shutil.copy2(ROOT / 'experiments' / 'lib.sh', tmp_path / 'experiments')
    (tmp_path / 'requirements.txt').write_text('numpy==1  # arrays\n')
    (tmp_path / 'bin' / 'python3').write_text(FAKE_PYTHON.replace('@PYTHON@', sys.executable))
    (tmp_path / 'bin' / 'python3').chmod(0o755)
    script = tmp_path / 'script.sh'
    script.write_text('#!/usr/bin/env bash\nset -euo pipefail\n. experiments/lib.sh\nensure_env\necho "$PYTHON"\n')
    script.chmod(0o755)
    ours = ('VIRTUAL_ENV', 'CONDA_PREFIX', 'BIRDCLEF_ENV_SAID')
    env = {k: v for k, v in os.environ.items() if k not in ours}

    def start(**more):
        return subprocess.Popen(
            [script],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(env, PATH=f'{tmp_path / "bin"}:{os.environ["PATH"]}', NOTES=str(tmp_path / 'notes'), **more),
        )

    start.path = tmp_path
    start.notes = lambda: (tmp_path / 'notes').read_text().split() if (tmp_path / 'notes').exists() else []
    return start


def finish(process):
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout.strip(), stderr


def test_environment_is_installed_once_and_again_if_requirements_change(fresh):
    code, python, words = finish(fresh())
    assert code == 0 and python == str(fresh.path / '.venv/bin/python') and 'installing requirements.txt' in words
    assert fresh.notes() == ['venv', 'install']
    code, again, words = finish(fresh())
    assert (code, again, words) == (0, python, '')
    assert fresh.notes() == ['venv', 'install']
    (fresh.path / 'requirements.txt').write_text('numpy==2\n')
    assert finish(fresh())[0] == 0
    assert fresh.notes() == ['venv', 'install', 'install']


def test_two_starts_at_once_install_once(fresh):
    for process in [fresh() for _ in range(4)]:
        assert finish(process)[0] == 0
    assert fresh.notes() == ['venv', 'install']


def test_failed_installation_is_repeated(fresh):
    code, _, words = finish(fresh(PIP_FAILS='1'))
    assert code == 1 and 'type the same command again' in words
    assert finish(fresh())[0] == 0
    assert fresh.notes() == ['venv', 'install', 'install']


def test_a_stopped_installation_leaves_no_process(fresh):
    fifo = fresh.path / 'waits'
    os.mkfifo(fifo)
    process = fresh(PIP_WAITS=str(fifo))
    fifo.read_text()
    process.terminate()
    # The pipes end when no process has them open.
    assert finish(process)[0] == 143


def test_environment_that_cannot_be_written_is_reported_with_a_solution(fresh):
    (fresh.path / '.venv').write_text('in the way')
    code, _, words = finish(fresh())
    assert code == 1 and len(words.splitlines()) == 1
    assert '.venv: cannot be written to' in words and 'pip install -r' in words


@pytest.mark.parametrize('variable', ['VIRTUAL_ENV', 'CONDA_PREFIX'])
def test_active_environment_is_used_if_it_is_complete(fresh, variable):
    code, python, words = finish(fresh(**{variable: sys.prefix}))
    assert code == 0 and python == f'{sys.prefix}/bin/python' and 'using the active environment' in words
    (fresh.path / 'requirements.txt').write_text('numpy==1\nnosuchthing==1\n')
    code, python, words = finish(fresh(**{variable: sys.prefix}))
    assert code == 0 and python == str(fresh.path / '.venv/bin/python') and 'nosuchthing;' in words


def test_missing_python_or_venv_is_reported_with_a_solution(fresh):
    python = fresh.path / 'bin' / 'python3'
    python.write_text(
        FAKE_PYTHON.replace('@PYTHON@', sys.executable).replace(
            "    *'pip --version'*", "    *ensurepip*) exit 1 ;;\n    *'pip --version'*"
        )
    )
    code, _, words = finish(fresh())
    assert code == 1 and 'python3-venv' in words
    for name in ('python', 'python3', *(f'python3.{int(i)}' for i in range(10, 16))):
        (fresh.path / 'bin' / name).write_text('#!/usr/bin/env bash\nexit 1\n')
        (fresh.path / 'bin' / name).chmod(0o755)
    code, _, words = finish(fresh())
    assert code == 1 and 'no Python 3.10 or newer' in words
    assert fresh.notes() == []


def test_environment_and_results_are_ignored_by_git_behind_symbolic_links_too(tmp_path):
    if not shutil.which('git'):
        pytest.skip('needs git')
    subprocess.run(['git', 'init', '-q', str(tmp_path)], check=True)
    shutil.copy(ROOT / '.gitignore', tmp_path)
    (tmp_path / 'experiments').mkdir()
    (tmp_path / 'datasets').mkdir()
    links = ['.venv', 'experiments/birdclef', 'experiments/few.2', 'datasets/birdclef2']
    for name in links:
        (tmp_path / name).symlink_to(tmp_path)
    kept = [name for name in tracked() if not name.startswith('tests/')]
    result = subprocess.run(
        ['git', 'check-ignore', '--no-index', '--', *links, *kept], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert result.stdout.splitlines() == links
