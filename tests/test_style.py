"""The Python code is formatted and free of lint findings; tests/ruff.toml says by which rules."""

import ast
import subprocess
import sys

import pytest

from helpers import ROOT

RUFF = [sys.executable, '-m', 'ruff']


@pytest.mark.parametrize('command', [['format', '--check'], ['check']], ids=' '.join)
def test_the_code_passes(command):
    found = subprocess.run(
        [*RUFF, *command, '--config', 'tests/ruff.toml', '.'], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


def unannotated(path):
    """Public functions and methods of a module with a parameter or a result that has no type annotation."""
    tree = ast.parse(path.read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith('_')]
    for scope in tree, *classes:
        for function in scope.body:
            if isinstance(function, ast.FunctionDef) and (
                not function.name.startswith('_') or function.name == '__init__'
            ):
                arguments = function.args
                named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                bare = [a.arg for a in named if a.annotation is None and a.arg not in ('self', 'cls')]
                if bare or function.returns is None and function.name != '__init__':
                    yield f'{path.relative_to(ROOT)}:{function.lineno}: {function.name}({", ".join(bare)})'


def test_public_functions_of_the_package_say_their_types():
    missing = [line for path in sorted((ROOT / 'experiments/birdsong').rglob('*.py')) for line in unannotated(path)]
    assert not missing, '\n'.join(missing)
