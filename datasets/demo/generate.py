#!/usr/bin/env python3
"""Write a synthetic source folder like that of the BirdCLEF organisers, to try all without their archives.

    datasets/demo/generate.py OUT && ./prepare_birdclef.sh OUT --dataset demo

OUT has TrainingSet/, data/, BirdCLEF2018MonophoneTest/, val/data/ and test/ with recordings and XML. They have the
faults of real ones: empty, truncated and clipped recordings; XML that is missing, incomplete, not well-formed or not
UTF-8; times and elevations in many spellings; contradictory names; files named ._*. Each species has its own song, with
dialects, individuals, noise and other species in the background, and its own region, season, time of day and elevation.

OUT also has two files that the organisers do not provide: valid_list for --valid-list (about a fifth of the training
recordings), and truth.tsv to evaluate results: media id, class id, 'train', 'valid' or 'test'; for soundscapes the last
column is replaced by the start and end in seconds. The same options give the same bytes.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/experiments')
sys.path.insert(1, os.path.abspath(__file__).rpartition('/datasets/')[0] + '/datasets')
from birdsong import program  # isort: skip
import argparse
import collections
import datetime
import shutil
from xml.sax.saxutils import escape

import numpy as np
import soundfile
from tqdm import tqdm

from birdsong.files import Problem
from songs import EPITHETS, GENERA, Bird, Rng, Species, individual, make_species, noise, scene, sing

RATE = 44100
AUTHORS = 'Ana Souza', 'José Peña', 'Mary Finch', 'Jörg Müller', 'P. & Q. Heron', 'Inês Ávila', 'Tom Wren'
AUTHORS += ('Lucía Nuñez',)
PLACES = 'Rio Claro', 'Alto Verde', 'Lagoa', 'Cerro Azul', 'São Bento', 'Las Piedras', 'Mata Funda', 'Quebrada'

Recording = collections.namedtuple('Recording', 'media species part session')
Session = collections.namedtuple('Session', 'when_and_where author bird')
# Faults and other peculiarities of recordings
TRAIN_FAULTS = 'zero bytes, no xml, truncated, clipped, bad xml, latin-1, synonym, upper case, stereo, 48000, 22050'
FAULTS = {'train': f'{TRAIN_FAULTS}, 24 bit, 8 bit, long', 'test': 'zero bytes, header only, stereo, latin-1'}
# How many other recordings of a species must remain if a fault makes one useless.
MUST_REMAIN = {('zero bytes', 'train'): 2, ('no xml', 'train'): 2, ('header only', 'test'): 1}


# == Metadata ==


def when_and_where(rng: Rng, species: Species) -> tuple[datetime.date, float, float, float, int]:
    """Date, hour (with fraction), latitude, longitude and elevation of a session of recordings of a species."""
    day = int(species.day + 75 * rng.standard_normal()) % 365
    date = datetime.date(int(rng.integers(2005, 2017)), 1, 1) + datetime.timedelta(days=day)
    hour = (species.hour + 4 * rng.standard_normal()) % 24
    latitude, longitude = (species.place[i] + species.spread * rng.standard_normal() for i in range(2))
    return date, hour, latitude, longitude, max(0, int(species.elevation + 800 * rng.standard_normal()))


def xml_text(rows: list[tuple]) -> str:
    """XML of a recording from rows (tag, value)."""
    lines = [f'\t<{tag}>{escape(str(value))}</{tag}>\n' if value != '' else f'\t<{tag} />\n' for tag, value in rows]
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Audio>\n{"".join(lines)}</Audio>\n'


def spell_time(rng: Rng, hour: float) -> str:
    """A time of day in one of many spellings."""
    h, m = int(hour), int(hour % 1 * 60)
    if rng.random() < 0.75:
        return f'{h:02}:{m:02}'
    half = 'pm' if h >= 12 else 'am'
    spellings = f'{(h - 1) % 12 + 1}:{m:02}{half}', f'{h:02}{m:02}', f'{h}.{m:02}'
    spellings += f'{h:02}:{m:02}-{(h + 1) % 24:02}:{m:02}', f'{h}h{m:02}', '?', 'morning'
    return spellings[rng.integers(7)]


def spell_elevation(rng: Rng, metres: int) -> str:
    """An elevation in one of many spellings."""
    if rng.random() < 0.75:
        return str(metres)
    thousands = f'{metres // 1000}.{metres % 1000:03}' if metres >= 1000 else f'{metres}m'
    spellings = f'{metres} m', f'{metres - metres // 10}-{metres} m', f'c. {metres}', f'~{metres}m?', f'<{metres + 1}'
    return (*spellings, thousands, 'sea level', '?')[rng.integers(8)]


def describe(rng: Rng, one: Recording, species: Species, others: list[Species], session: Session) -> list[tuple]:
    """Rows (tag, value) of the XML of a recording; without the species if it belongs to the test set."""
    date, hour, latitude, longitude, elevation = session.when_and_where
    known = one.part != 'test'
    rows = [('MediaId', one.media), ('FileName', wav_name(species, one.media))]
    if known:
        rows += [('ClassId', species.class_id)]
    rows += [('Date', date.isoformat()), ('Time', spell_time(rng, hour)), ('Country', 'Demoland')]
    rows += [('Locality', f'{PLACES[one.session % len(PLACES)]} {one.session}')]
    rows += [('Latitude', f'{latitude:.4f}'), ('Longitude', f'{longitude:.4f}')]
    rows += [
        ('Elevation', spell_elevation(rng, elevation)),
        ('Author', AUTHORS[session.author]),
        ('AuthorID', f'DEMO{session.author:05}'),
        ('Content', ('song', 'call', 'call, song')[rng.integers(3)]),
        ('Quality', int(rng.integers(1, 5))),
        ('Year', f'BirdCLEF{species.year}'),
    ]
    if known:
        rows += [('Genus', species.genus), ('Species', species.name)]
        if species.year != '2017':
            names = [f'{other.genus} {other.name}' for other in others]
            if rng.random() < 0.1:
                names.append('Ignotus volans')
            rows.append(('BackgroundSpecies', ','.join(names)))
    return remove_values(rng, [*rows, ('Comments', '')], date)


def remove_values(rng: Rng, rows: list[tuple], date: datetime.date) -> list[tuple]:
    """Rows of XML, some of them without a field, with an empty field, or with an incomplete date."""
    if rng.random() < 0.15:
        gone = ('Date', 'Time', 'Latitude', 'Elevation')[rng.integers(4)]
        return [row for row in rows if row[0] != gone and not (gone == 'Latitude' and row[0] == 'Longitude')]
    if rng.random() < 0.1:
        blank = ('Date', 'Time', 'Elevation')[rng.integers(3)]
        return [(tag, '' if tag == blank else value) for tag, value in rows]
    if rng.random() < 0.08:
        incomplete = f'{date.year}-{date.month:02}-00', str(date.year)
        return [(tag, incomplete[rng.integers(2)] if tag == 'Date' else value) for tag, value in rows]
    return rows


# == The folder ==


def plan(seed: int, species: list[Species], recordings: int) -> list[Recording]:
    """Recordings of each species, about a fifth each for test and validation, in sessions of 1 to 3.

    A session has one author, day, place and bird.
    """
    rng = np.random.default_rng([seed, 2])
    result, session = [], 0
    for s in range(len(species)):
        total = recordings // len(species) + (s < recordings % len(species))
        held = max(1, round(0.2 * total))
        for part, left in ('test', held), ('valid', held), ('train', total - 2 * held):
            while left:
                size = min(left, int(rng.choice([1, 1, 1, 2, 3])))
                result += [(s, part, session)] * size
                left -= size
                session += 1
    order = rng.permutation(len(result))
    return [Recording(1001 + i, *result[k]) for i, k in enumerate(order)]


def choose_faults(recordings: list[Recording]) -> dict[int, str]:
    """Dict of media id -> fault of that recording. The species with the most recordings left gets the next fault."""
    result = {}
    for part, kinds in FAULTS.items():
        left = collections.defaultdict(list)
        for recording in recordings:
            if recording.part == part:
                left[recording.species].append(recording.media)
        for kind in kinds.split(', '):
            s = max(left, key=lambda s: (len(left[s]), -s))  # noqa: B023
            if len(left[s]) > MUST_REMAIN.get((kind, part), 0):
                result[left[s].pop()] = kind
    return result


def wav_name(species: Species, media: int) -> str:
    """File name of a recording, as those of the organisers."""
    return f'LIFECLEF{species.year}_{"BIRDAMAZON" if species.year < "2017" else "BIRD"}_XC_WAV_RN{media}.wav'


def write_text(path: str, text: str, encoding: str = 'utf-8') -> None:
    """Write a text file, and create its folder."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w', encoding=encoding, newline='') as f:
        f.write(text)


def folders_of(one: Recording, species: Species) -> tuple[str, str]:
    """Folders for a recording and its XML."""
    if one.part == 'test':
        return ('BirdCLEF2018MonophoneTest/data',) * 2
    return ('TrainingSet/wav', 'TrainingSet/xml') if species.year < '2017' else ('data', 'data')


def write_recording(
    rng: Rng, path: str, species: Species, others: list[Species], bird: Bird, seconds: float, fault: str
) -> None:
    """Write a recording of a bird, in pieces of 30 seconds, so that memory does not grow with its length."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    rate = int(fault) if fault in ('48000', '22050') else RATE
    stereo = fault == 'stereo' or rng.random() < 0.15
    subtype = {'24 bit': 'PCM_24', '8 bit': 'PCM_U8'}.get(fault, 'PCM_16')
    pieces = [] if fault == 'header only' else [min(30, seconds - start) for start in np.arange(0, seconds, 30)]
    with soundfile.SoundFile(path, 'w', rate, 2 if stereo else 1, subtype, format='WAV') as f:
        for piece in pieces:
            samples = scene(rng, species, others, bird, piece, rate)
            if fault == 'clipped':
                samples = np.clip(8 * samples, -1, 1)
            f.write(np.stack([samples, np.float32(0.6) * np.roll(samples, 7)], 1) if stereo else samples)
    if fault == 'truncated':
        os.truncate(path, os.path.getsize(path) * 2 // 3)


def write_with_xml(
    one: Recording, species: list[Species], session: Session, fault: str, out: str, options: argparse.Namespace
) -> None:
    """Write one recording and its XML."""
    rng = np.random.default_rng([options.seed, 3, one.media])
    mine = species[one.species]
    name = wav_name(mine, one.media)[:-4]
    folder, xml_folder = folders_of(one, mine)
    others = [species[s] for s in rng.permutation(len(species))[: rng.choice(3, p=[0.6, 0.3, 0.1])] if s != one.species]
    seconds = options.long if fault == 'long' else 0
    seconds = seconds or np.exp(rng.uniform(np.log(options.shortest), np.log(options.longest)))
    path = os.path.join(out, folder, name + ('.WAV' if fault == 'upper case' else '.wav'))
    if fault == 'zero bytes':
        write_text(path, '')
    else:
        write_recording(rng, path, mine, others, session.bird, seconds, fault)
    rows = describe(rng, one, mine, others, session)
    if fault == 'synonym':
        rows = [(tag, 'Veteronym' if tag == 'Genus' else value) for tag, value in rows]
    text = xml_text(rows)
    if fault == 'latin-1':
        text = text.replace(escape(AUTHORS[session.author]), 'Jörg Müller').replace('Demoland', 'Perú')
    elif fault == 'bad xml':
        text = text.replace('</Audio>', '').replace('<Country>Demoland', '<Country>Trinidad & Tobago')
    if fault != 'no xml':
        encoding = 'latin-1' if fault == 'latin-1' else 'utf-8'
        write_text(os.path.join(out, xml_folder, f'{name}.xml'), text, encoding)


def write_soundscape(seed: int, media: int, species: list[Species], folder: str, seconds: int) -> list[tuple]:
    """Write a soundscape and its XML -> rows (media id, class id, start, end in seconds) of the songs in it."""
    rng = np.random.default_rng([seed, 4, media])
    name = f'LIFECLEF2018_BIRD_SOUNDSCAPE_WAV_RN{media}'
    samples = np.float32(0.02) * noise(rng, seconds * RATE, RATE)
    rows = []
    for start in range(0, seconds - 4, 5):
        length = min(5 * int(rng.choice([1, 1, 2])), seconds - start)
        if rng.random() < 0.75:
            s = int(rng.integers(len(species)))
            song = sing(species[s], rng, individual(rng), length, RATE)
            samples[start * RATE : start * RATE + len(song)] += song * np.float32(rng.uniform(0.15, 0.4))
            rows.append((media, species[s].class_id, start, start + length))
    os.makedirs(folder, exist_ok=True)
    soundfile.write(os.path.join(folder, f'{name}.wav'), np.clip(samples, -1, 1), RATE, 'PCM_16', format='WAV')
    date, hour, latitude, longitude, elevation = when_and_where(rng, species[int(rng.integers(len(species)))])
    tags = 'MediaId', 'FileName', 'Date', 'Time', 'Latitude', 'Longitude', 'Elevation', 'Comments'
    time, place = f'{int(hour):02}:{int(hour % 1 * 60):02}', (f'{latitude:.4f}', f'{longitude:.4f}')
    values = media, f'{name}.wav', date.isoformat(), time, *place, elevation, ''
    # the organisers have this XML in a subfolder
    write_text(os.path.join(folder, 'xml', f'{name}.xml'), xml_text(list(zip(tags, values, strict=True))))
    return rows


def make_session(seed: int, one: Recording, species: list[Species]) -> Session:
    """The common properties of all recordings of a session."""
    rng = np.random.default_rng([seed, 5, one.session])
    where = when_and_where(rng, species[one.species])
    return Session(where, int(rng.integers(len(AUTHORS))), individual(rng))


def generate(out: str, options: argparse.Namespace) -> str:
    """Write the source folder -> line that summarises its content."""
    species = make_species(options.seed, options.species)
    recordings = plan(options.seed, species, options.recordings)
    faults = choose_faults(recordings)
    truth, valid = [], []
    for one in tqdm(recordings, desc='recordings', disable=None):
        session = make_session(options.seed, one, species)
        write_with_xml(one, species, session, faults.get(one.media, ''), out, options)
        mine = species[one.species]
        truth.append((one.media, mine.class_id, one.part))
        if one.part == 'valid':
            valid.append(f'train/{mine.year}/{wav_name(mine, one.media)}')
    media = recordings[-1].media
    for folder in ('val/data', 'test'):
        for _ in range(options.soundscapes):
            media += 1
            folder_path, seconds = os.path.join(out, folder), options.soundscape_seconds
            truth += write_soundscape(options.seed, media, species, folder_path, seconds)
    # such files are in archives from macOS
    for kind in 'wav', 'xml':
        write_text(os.path.join(out, f'TrainingSet/{kind}/._LIFECLEF2014_BIRDAMAZON_XC_WAV_RN1.{kind}'), '\0\5\26\7')
    write_text(os.path.join(out, 'valid_list'), ''.join(f'{key}\n' for key in valid))
    write_text(os.path.join(out, 'truth.tsv'), ''.join('\t'.join(map(str, row)) + '\n' for row in truth))
    test, soundscapes = sum(one.part == 'test' for one in recordings), 2 * options.soundscapes
    total = f'{len(recordings)} recordings of {len(species)} species'
    return f'{total}, {test} of them for the test, and {soundscapes} soundscapes'


def parse_options() -> argparse.Namespace:
    """Options of the command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', metavar='OUT', help='folder to create')
    for name, default, text in (
        ('seed', 0, 'seed of all random choices'),
        ('species', 12, 'number of species'),
        ('recordings', 200, 'number of recordings for training and test, at least 5 per species'),
        ('soundscapes', 2, 'number of soundscapes for validation, and as many for the test'),
        ('soundscape-seconds', 60, 'length of each'),
        ('long', 600, 'length of one long recording in seconds; 0: none'),
    ):
        parser.add_argument(f'--{name}', type=int, default=default, metavar='N', help=f'{text} ({default})')
    parser.add_argument('--shortest', type=float, default=3, metavar='S', help='shortest recording in seconds (3)')
    parser.add_argument('--longest', type=float, default=15, metavar='S', help='longest of the others in seconds (15)')
    options = parser.parse_args()
    most = len(GENERA) * len(EPITHETS)
    if not 2 <= options.species <= most:
        parser.error(f'--species {options.species}: expected 2 to {most}')
    least = 5 * options.species
    if options.recordings < least:
        parser.error(f'--recordings {options.recordings}: {options.species} species need at least {least}')
    if options.seed < 0 or options.soundscapes < 0 or options.soundscape_seconds < 5 or options.long < 0:
        parser.error('expected seed, soundscapes and long from 0, soundscape-seconds from 5')
    if not 0.1 <= options.shortest <= options.longest <= 3600:
        lengths = f'--shortest {options.shortest:g} --longest {options.longest:g}'
        parser.error(f'{lengths}: expected 0.1 <= shortest <= longest <= 3600')
    return options


def main() -> None:
    options = parse_options()
    if os.path.exists(options.out):
        raise Problem(f'{options.out}: exists already; remove it or choose another folder')
    parent, name = os.path.split(os.path.abspath(options.out))
    unfinished = os.path.join(parent, f'.{name}.{os.getpid()}.part')
    try:
        os.makedirs(unfinished)
        content = generate(unfinished, options)
        os.rename(unfinished, options.out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f'{options.out}: {content}')


if __name__ == '__main__':
    program.run(main)
