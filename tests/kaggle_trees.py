"""Write recordings as source folders in the layouts of BirdCLEF on Kaggle, 2021 to 2026."""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Iterable

# Columns of the table of recordings, of each year that has other ones than the year before.
COLUMNS = {
    2021: 'primary_label secondary_labels type latitude longitude scientific_name common_name author date filename '
    'license rating time url',
    2022: 'primary_label secondary_labels type latitude longitude scientific_name common_name author license rating '
    'time url filename',
    2023: 'primary_label secondary_labels type latitude longitude scientific_name common_name author license rating '
    'url filename',
    2025: 'primary_label secondary_labels type filename collection rating url latitude longitude scientific_name '
    'common_name author license',
}


@dataclasses.dataclass
class Clip:
    """A recording of one class; `file` is copied as a link, and `recording` is the number of a xeno-canto recording."""

    file: pathlib.Path
    label: str
    scientific_name: str = ''
    common_name: str = ''
    secondary: tuple[str, ...] = ()
    latitude: str = ''
    longitude: str = ''
    date: str = ''
    time: str = ''
    author: str = ''
    rating: str = '4.5'
    licence: str = 'cc-by-nc-sa 4.0'
    recording: str = ''


@dataclasses.dataclass
class Soundscape:
    """A long recording. `labels` are (start, end, classes) in whole seconds; None: it is not labelled."""

    file: pathlib.Path
    site: str = 'S01'
    date: str = '20250227'
    time: str = '010002'
    labels: list[tuple[int, int, tuple[str, ...]]] | None = None


def write(folder: pathlib.Path, year: int, clips: Iterable[Clip], soundscapes: Iterable[Soundscape] = ()) -> None:
    """Write the source folder of a year."""
    clips = list(clips)
    audio = folder / ('train_short_audio' if year == 2021 else 'train_audio')
    rows = [_row(clip, year) for clip in clips]
    for clip in clips:
        _link(clip.file, audio / clip.label / clip.file.name)
    columns = COLUMNS[max(known for known in COLUMNS if known <= year)].split()
    table = 'train.csv' if year >= 2025 else 'train_metadata.csv'
    write_csv(folder / table, columns, [[row[column] for column in columns] for row in rows])
    names = {clip.label: (clip.scientific_name, clip.common_name) for clip in clips}
    if year == 2022:
        (folder / 'scored_birds.json').write_text('[]')
        rows = [[n, 'species', code, common, latin] for n, (code, (latin, common)) in enumerate(names.items())]
        columns = ['TAXON_ORDER', 'CATEGORY', 'SPECIES_CODE', 'PRIMARY_COM_NAME', 'SCI_NAME']
        write_csv(folder / 'eBird_Taxonomy_v2021.csv', columns, rows)
    if year >= 2025:
        for _, _, labels in (segment for soundscape in soundscapes for segment in soundscape.labels or ()):
            for label in labels:
                names.setdefault(label, (f'Genus {label}', f'Common {label}'))
        columns = ['primary_label', 'inat_taxon_id', 'scientific_name', 'common_name', 'class_name']
        rows = [[code, 1000 + n, *both, 'Aves'] for n, (code, both) in enumerate(names.items())]
        write_csv(folder / 'taxonomy.csv', columns, rows)
        (folder / 'recording_location.txt').write_text('Somewhere\n')
    _write_soundscapes(folder, year, soundscapes)


def write_csv(path: pathlib.Path, columns: list[str], rows: Iterable[list]) -> None:
    """Write a CSV file as Kaggle's are, with quotes where they are needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='', encoding='utf-8') as f:
        writer = csv.writer(f, lineterminator='\n')
        writer.writerow(columns)
        writer.writerows(rows)


def _row(clip, year):
    return {
        'primary_label': clip.label,
        'secondary_labels': repr(list(clip.secondary)),
        'type': "['song']",
        'latitude': clip.latitude,
        'longitude': clip.longitude,
        'scientific_name': clip.scientific_name,
        'common_name': clip.common_name,
        'author': clip.author,
        'date': clip.date,
        'time': clip.time,
        'filename': clip.file.name if year == 2021 else f'{clip.label}/{clip.file.name}',
        'license': clip.licence,
        'rating': clip.rating,
        'url': f'https://xeno-canto.org/{clip.recording}' if clip.recording else '-',
        'collection': 'XC',
    }


def _write_soundscapes(folder, year, soundscapes):
    rows = []
    for number, soundscape in enumerate(soundscapes, 1):
        suffix = soundscape.file.suffix
        if year == 2021:
            stem = f'{number}_{soundscape.site}_{soundscape.date}'
        elif year == 2026:
            stem = f'BC2026_Train_{number:04}_{soundscape.site}_{soundscape.date}_{soundscape.time}'
        else:
            stem = f'{soundscape.site}_{soundscape.date}_{soundscape.time}'
        _link(soundscape.file, folder / 'train_soundscapes' / f'{stem}{suffix}')
        for start, end, labels in soundscape.labels or ():
            if year == 2021:
                birds = ' '.join(labels) or 'nocall'
                rows.append([f'{number}_{soundscape.site}_{end}', soundscape.site, number, end, birds])
            else:
                rows.append([f'{stem}{suffix}', _clock(start), _clock(end), ';'.join(labels) or 'nocall'])
    if rows and year == 2021:
        write_csv(folder / 'train_soundscape_labels.csv', ['row_id', 'site', 'audio_id', 'seconds', 'birds'], rows)
    elif rows:
        write_csv(
            folder / 'train_soundscapes_labels.csv', ['filename', 'start', 'end', 'primary_label'], [*rows, *rows]
        )


def _clock(seconds):
    return f'{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}'


def _link(file, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(file, target)
