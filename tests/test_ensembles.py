"""The 4 submissions of 2018: members, weights, options and metrics as published."""

import pytest

from helpers import ROOT

GOLDEN = ('ensembles',)
FOLDER = ROOT / 'experiments/ensembles'


def read(run):
    """(comments, members with weights) of an ensemble."""
    lines = (FOLDER / f'{run}.tsv').read_text().splitlines()
    members = [line.split('\t') for line in lines if not line.startswith('#')]
    return [line for line in lines if line.startswith('#')], [[name, float(weight)] for name, weight in members]


def test_the_submissions_agree_with_the_published_ones(golden):
    published, _ = golden('ensembles')
    assert sorted(f'{run["run"]}.tsv' for run in published) == sorted(p.name for p in FOLDER.iterdir())
    for run in published:
        comments, members = read(run['run'])
        assert [[f'birdclef/{name}', weight] for name, weight in members] == run['members']
        assert f'# options: {" ".join(run["options"])}'.rstrip() in comments
        noted = run['noted']
        top = ', '.join(f'top-{k}: {value:.2f}' for k, value in enumerate(noted['top-1..5'], 1))
        found = f'MAP: {noted["MAP"]:.3f}, MAP-bg: {noted["MAP-bg"]:.3f}, {top}'
        assert any(found in line for line in comments)
        assert comments[0] == f'# {run["title"]}' and any(run['found_with'] in line for line in comments)


@pytest.mark.parametrize('run', ('run1', 'run2', 'run3', 'run4'))
def test_members_are_models_of_the_table(run):
    table = {
        line.split('\t')[0]
        for line in (ROOT / 'experiments/models.tsv').read_text().splitlines()
        if line and not line.startswith('#')
    }
    _, members = read(run)
    assert {name for name, _ in members} <= table
    assert all(0 < weight <= 1 for _, weight in members)
