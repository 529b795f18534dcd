"""A small run of the complete pipeline with the real scripts, from raw recordings to submissions."""

import re

import pytest

pytestmark = pytest.mark.slow

TINY = [
    '--dataset',
    'tiny',
    '--var',
    'epochs=1',
    '--var',
    'epochsize=3',
    '--var',
    'batchsize=4',
    '--device',
    'cpu',
    '--',
    '--species',
    '3',
    '--recordings',
    '24',
    '--soundscapes',
    '1',
    '--soundscape-seconds',
    '15',
    '--long',
    '0',
]
MODELS = ['cnn', 'resnet_att4', 'cnn_ban1', 'meta', 'cnn_meta_pretrained']


def test_demo_makes_submissions_and_prints_metrics(checkout):
    result = checkout.run('experiments/demo.sh', *TINY, timeout=1200)
    assert result.returncode == 0, result.output[-4000:]
    folder = checkout.experiments / 'tiny'
    assert sorted(p.name for p in folder.glob('*.npz.vars')) == sorted(f'{name}.npz.vars' for name in MODELS)
    summary = result.stdout[result.stdout.index('Done.') :]
    for name in MODELS + ['blend']:
        assert re.search(rf'^  {name} +MAP: [01]\.\d+', summary, re.M), summary
    for path in ('mono/blend.csv', 'soundscapes/blend.csv', 'soundscapes/blend.val.csv'):
        assert f'experiments/tiny/submissions/{path}' in summary
    assert 'Next, the real dataset' in summary
    assert 'All of this as a web page: experiments/tiny/report.html' in summary
    report = (folder / 'report.html').read_text(encoding='utf-8')
    assert all(f'>{name}<' in report for name in MODELS + ['blend'])

    datasets = checkout.path / 'datasets' / 'tiny'
    classes = (datasets / 'labels' / 'labelset').read_text().split()
    rows = [line.split(';') for line in (folder / 'submissions/mono/blend.csv').read_text().splitlines()]
    media = [re.search(r'_RN(\d+)', key).group(1) for key in (datasets / 'filelists/test').read_text().split()]
    assert [row[0] for row in rows] == [m for m in media for _ in classes]
    for start in range(0, len(rows), len(classes)):
        block = rows[start : start + len(classes)]
        assert sorted(row[1] for row in block) == classes
        assert [row[3] for row in block] == [str(rank + 1) for rank in range(len(classes))]
        chances = [float(row[2]) for row in block]
        assert chances == sorted(chances, reverse=True) and abs(sum(chances) - 1) < 1e-6
        assert all(re.fullmatch(r'\d\.\d{10}', row[2]) for row in block)
    rows = [line.split(';') for line in (folder / 'submissions/soundscapes/blend.csv').read_text().splitlines()]
    assert {row[1] for row in rows} >= {'00:00:00-00:00:05', '00:00:05-00:00:10'}
    assert all(len(row) == 4 and row[2] in classes for row in rows)

    # If it is started again, it creates nothing again, and the files are the same.
    made = {path: path.stat().st_mtime_ns for path in folder.glob('*.npz')}
    submissions = {path: path.read_bytes() for path in (folder / 'submissions').rglob('*.csv')}
    again = checkout.run('experiments/demo.sh', *TINY, timeout=600)
    assert again.returncode == 0, again.output[-4000:]
    assert made == {path: path.stat().st_mtime_ns for path in folder.glob('*.npz')}
    assert submissions == {path: path.read_bytes() for path in (folder / 'submissions').rglob('*.csv')}
    for name in MODELS:
        assert f'{name}: finished, skipped' in again.stderr
