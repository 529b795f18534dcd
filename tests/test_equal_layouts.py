"""The same recordings give the same dataset, byte for byte, in whatever layout they come."""

import csv
import shutil

import pytest

import kaggle_trees
from helpers import SHARED, run_program
from kaggle_trees import Clip, Soundscape

BIRDS5 = SHARED / 'data' / 'birds5'
# Files whose texts are compared, without the folder that the keys begin with.
CLASSES = ('labels/labelset', 'labels/fg.tsv')
DESCRIBED = (*CLASSES, 'labels/labelset_latin', 'labels/labelset_common', 'labels/bg.tsv', 'dataset.vars')
# Which recordings are drawn depends on the keys.
ALL = (*DESCRIBED, 'filelists/train', 'filelists/valid', 'filelists/groups.tsv')
# Layout -> folder of the recordings, files to compare, and columns of labels/meta.tsv that its table has.
LAYOUTS = {
    'folders': ('', CLASSES, ()),
    'kaggle2021': ('train_short_audio/', DESCRIBED, ('date', 'time', 'latitude', 'longitude')),
    'kaggle2022': ('train_audio/', ALL, ('time', 'latitude', 'longitude')),
    'kaggle2025': ('train_audio/', ALL, ('latitude', 'longitude')),
    'kaggle2026': ('train_audio/', ALL, ('latitude', 'longitude')),
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
    write_folders(source / 'train_audio', clips, ())
    columns = 'file,label,scientific_name,common_name,background,latitude,longitude,date,time,recordist,recording'
    rows = [
        [
            *(f'train_audio/{clip.label}/{clip.file.name}', clip.label, clip.scientific_name, clip.common_name),
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
    """Prepare a dataset from a source folder of this layout -> its folder."""
    source, dataset = folder / 'source', folder / 'dataset'
    if layout.startswith('kaggle'):
        kaggle_trees.write(source, int(layout[-4:]), clips, soundscapes)
    else:
        {'table': write_table, 'folders': write_folders}[layout](source, clips, soundscapes)
    for program, *arguments in (
        ('collect.py', source),
        ('birdclef/labels/recreate.py',),
        ('birdclef/audio/convert.py', source, '--jobs', 1),
        ('birdclef/filelists/split.py',),
    ):
        done = run_program(f'datasets/{program}', '--dataset', dataset, *arguments)
        assert done.returncode == 0, done.stderr
    done = run_program('datasets/validate.py', dataset)
    assert done.returncode == 0, done.stderr
    return dataset


def read(dataset, name, folder=''):
    """Text of a file of a dataset, without the folder that keys begin with."""
    return (dataset / name).read_text().replace(folder, '')


@pytest.fixture(scope='module', params=[6, pytest.param(60, marks=pytest.mark.slow)])
def clips(request):
    return read_clips(request.param)


@pytest.fixture(scope='module')
def reference(clips, tmp_path_factory):
    """The dataset from a table that contains everything."""
    return prepared('table', tmp_path_factory.mktemp('table'), clips)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_same_dataset_comes_out_of_each_layout(layout, clips, reference, tmp_path):
    folder, texts, columns = LAYOUTS[layout]
    dataset = prepared(layout, tmp_path, clips)
    for name in texts:
        assert read(dataset, name, folder) == read(reference, name, 'train_audio/')
    if columns:
        assert metadata(dataset, folder, columns) == metadata(reference, 'train_audio/', columns)
    audio = reference / 'audio' / 'train_audio'
    for path in sorted(audio.rglob('*.wav')):
        assert (dataset / 'audio' / folder / path.relative_to(audio)).read_bytes() == path.read_bytes()
    assert len(list((dataset / 'audio' / folder).rglob('*.wav'))) == len(clips)


def metadata(dataset, folder, columns):
    """Keys and some columns of meta.tsv."""
    names = ['key', 'date', 'time', 'latitude', 'longitude', 'elevation']
    rows = [line.split('\t') for line in read(dataset, 'labels/meta.tsv', folder).splitlines()]
    return [[row[names.index(name)] for name in ('key', *columns)] for row in rows]


def test_labels_with_times_are_the_same_in_each_layout(tmp_path):
    clips = read_clips(6)
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
