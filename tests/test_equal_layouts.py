"""The same recordings give the same dataset, byte for byte, in whatever layout they come."""

import csv
import shutil

import kaggle_trees
import pytest
from kaggle_trees import Clip, Soundscape

from helpers import SHARED, run_program

BIRDS5 = SHARED / 'data' / 'birds5'
# Folder of the recordings in each layout, which begins the keys, and metadata that its table cannot contain.
LAYOUTS = {
    'table': ('', ''),
    'folders': ('', 'date time latitude longitude author recording secondary names'),
    'kaggle2021': ('train_short_audio/', ''),
    'kaggle2022': ('train_audio/', 'date'),
    'kaggle2025': ('train_audio/', 'date time'),
    'kaggle2026': ('train_audio/', 'date time'),
}
SEGMENTS = [(0, 5, ('nothura_minor',)), (5, 10, ('a_frog', 'penelope_pileata')), (10, 15, ())]


def read_clips(longest):
    """The clips of all species that are shorter than `longest` seconds, with made-up metadata."""
    if not BIRDS5.exists():
        pytest.skip(f'needs {BIRDS5}')
    with open(BIRDS5 / 'manifest.csv', newline='') as f:
        rows = [row for row in csv.DictReader(f) if float(row['seconds']) < longest]
    numbers = {name: str(100 + i) for i, name in enumerate(sorted({row['recording'] for row in rows}))}
    return [
        Clip(
            BIRDS5 / row['file'],
            row['file'].split('/')[0],
            row['species'],
            f'The {row["species"].split()[1]} bird',
            secondary=('penelope_pileata',) if number % 3 == 0 and 'penelope' not in row['file'] else (),
            latitude=f'-{number}.25',
            longitude=f'-{60 + number}.5',
            date=f'2019-05-{1 + number % 28:02}',
            time=f'{number % 24:02}:30',
            author=f'Recordist {number % 5}',
            recording=numbers[row['recording']],
        )
        for number, row in enumerate(rows)
    ]


def write_folders(source, clips, soundscapes):
    for clip in clips:
        target = source / clip.label / clip.file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip.file, target)


def write_table(source, clips, soundscapes):
    write_folders(source, clips, ())
    columns = 'file,label,scientific_name,common_name,background,latitude,longitude,date,time,recordist,recording'
    rows = [
        [
            *(f'{clip.label}/{clip.file.name}', clip.label, clip.scientific_name, clip.common_name),
            *(';'.join(clip.secondary), clip.latitude, clip.longitude, clip.date, clip.time, clip.author),
            *(f'XC{clip.recording}', '', '', ''),
        ]
        for clip in clips
    ]
    for number, soundscape in enumerate(soundscapes):
        path = source / 'train_soundscapes' / f'{number}{soundscape.file.suffix}'
        path.parent.mkdir(exist_ok=True)
        shutil.copy(soundscape.file, path)
        for start, end, labels in soundscape.labels:
            row = [str(path.relative_to(source)), ';'.join(labels), *9 * [''], start, end, 'soundscapes_val']
            rows.append(row)
    kaggle_trees.write_csv(source / 'recordings.csv', [*columns.split(','), 'start', 'end', 'part'], rows)


def prepared(layout, folder, clips, soundscapes=()):
    """Prepare a dataset from a source folder of this layout -> its folder, and texts of its tables without prefix."""
    source, dataset = folder / 'source', folder / 'dataset'
    if layout.startswith('kaggle'):
        kaggle_trees.write(source, int(layout[-4:]), clips, soundscapes)
    else:
        {'table': write_table, 'folders': write_folders}[layout](source, clips, soundscapes)
    for program, *arguments in (
        ('collect.py', source),
        ('birdclef/labels/recreate.py',),
        ('birdclef/audio/convert.py', source, '--jobs', 1),
    ):
        done = run_program(f'datasets/{program}', '--dataset', dataset, *arguments)
        assert done.returncode == 0, done.stderr
    return dataset


def read(dataset, name, prefix=''):
    """Text of a file of a dataset, without the prefix of the keys."""
    lines = (dataset / name).read_text().splitlines(keepends=True)
    assert all(line.startswith(prefix) for line in lines)
    return ''.join(line[len(prefix) :] for line in lines)


@pytest.fixture(scope='module', params=[6, pytest.param(60, marks=pytest.mark.slow)])
def clips(request):
    return read_clips(request.param)


@pytest.fixture(scope='module')
def reference(clips, tmp_path_factory):
    """The dataset from a table that contains everything."""
    return prepared('table', tmp_path_factory.mktemp('table'), clips)


@pytest.mark.parametrize('layout', [name for name in LAYOUTS if name != 'table'])
def test_the_same_dataset_comes_out_of_each_layout(layout, clips, reference, tmp_path):
    prefix, unknown = LAYOUTS[layout]
    dataset = prepared(layout, tmp_path, clips)
    for name in 'labels/labelset', 'labels/fg.tsv':
        assert read(dataset, name, prefix if name.endswith('.tsv') else '') == read(reference, name)
    if 'names' not in unknown:
        for name in 'labels/labelset_latin', 'labels/labelset_common':
            assert read(dataset, name) == read(reference, name)
        assert read(dataset, 'labels/bg.tsv', prefix) == read(reference, 'labels/bg.tsv')
        assert metadata(dataset, unknown, prefix) == metadata(reference, unknown)
    audio = dataset / 'audio' / prefix
    for path in sorted((reference / 'audio').rglob('*.wav')):
        assert (audio / path.relative_to(reference / 'audio')).read_bytes() == path.read_bytes()
    assert len(list(audio.rglob('*.wav'))) == len(clips)


def metadata(dataset, unknown, prefix=''):
    """Rows of meta.tsv without the columns `unknown`."""
    rows = [line.split('\t') for line in read(dataset, 'labels/meta.tsv', prefix).splitlines()]
    kept = [
        i for i, name in enumerate(['key', 'date', 'time', 'latitude', 'longitude', 'elevation']) if name not in unknown
    ]
    return [[row[i] for i in kept] for row in rows]


def test_labels_with_times_are_the_same_in_each_layout(tmp_path):
    clips = read_clips(4)[:2]
    soundscape = Soundscape(clips[0].file, labels=SEGMENTS)
    found = set()
    for layout in 'table', 'kaggle2021', 'kaggle2026':
        dataset = prepared(layout, tmp_path / layout, clips, [soundscape])
        (path,) = (dataset / 'audio' / 'train_soundscapes').iterdir()
        segments = read(dataset, 'labels/segments.tsv').replace(f'train_soundscapes/{path.name}', 'KEY')
        found.add((read(dataset, 'labels/labelset'), segments))
    ((labelset, segments),) = found
    latin = (tmp_path / 'kaggle2026' / 'dataset' / 'labels' / 'labelset_latin').read_text()
    assert latin.splitlines()[:2] == ['Genus a_frog', 'Eudromia formosa']
    assert labelset.split() == ['a_frog', 'eudromia_formosa', 'nothura_minor', 'penelope_pileata']
    assert segments == 'KEY\t0\t5\t2\nKEY\t5\t10\t0\nKEY\t5\t10\t3\nKEY\t10\t15\t\n'
