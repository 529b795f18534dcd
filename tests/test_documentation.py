"""Pages of documentation name only files that are in the repository."""

import re
import subprocess

import pytest

from helpers import ROOT

# a placeholder, and a file of the 2018 system
NOT_OURS = {'layouts/LAYOUT.py', 'recreate.sh'}


def files():
    """The files in the repository, including new ones that git does not ignore, as paths that begin with a slash."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard']
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip('not a git repository')
    return ['/' + name for name in found.stdout.splitlines() if (ROOT / name).exists()]


def test_named_files_are_in_the_repository():
    known, missing = files(), []
    for page in (name for name in known if name.endswith('.md')):
        for name in re.findall(r'`(?:\./)?([\w./-]+\.(?:md|py|sh))`', (ROOT / page[1:]).read_text()):
            if name not in NOT_OURS and not any(one.endswith('/' + name) for one in known):
                missing.append(f'{page[1:]}: {name}')
    assert not missing, '\n'.join(missing)
