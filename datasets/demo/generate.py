#!/usr/bin/env python3
"""Write a synthetic source folder as the BirdCLEF organisers ship theirs, to try everything without their archives.

    datasets/demo/generate.py OUT && ./prepare_birdclef.sh OUT --dataset demo

OUT gets TrainingSet/, data/, BirdCLEF2018MonophoneTest/, val/data/ and test/ with recordings and XML, including the dirt
that real ones have: empty, truncated and clipped recordings, XML that is missing, incomplete, not well-formed or not
UTF-8, times and elevations in all spellings, names in disagreement, files named ._*. Each species sings its own song,
with dialects, individuals, noise and other species in the background, in its own region, season, time of day and
height. Beside them lie, which the organisers don't ship, valid_list for --valid-list (about a fifth of the training
recordings) and, for judging results, truth.tsv: media id, class id, 'train', 'valid' or 'test'; for soundscapes
instead of the latter the start and end in seconds. The same options give the same bytes.
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
import scipy.signal
import soundfile
from tqdm import tqdm

from birdsong.files import Problem

YEARS = '2014', '2015', '2017'
RATE = 44100
# Not real species: names put together from these.
GENERA = (
    'Cantor',
    'Silvula',
    'Fluvicanor',
    'Montavis',
    'Arboricen',
    'Nebulus',
    'Pratincus',
    'Umbracen',
    'Trillator',
    'Lunavis',
    'Ripacus',
    'Solivox',
    'Ventulus',
    'Altipes',
    'Rubecen',
    'Noctivox',
    'Campavis',
    'Litorcen',
    'Aurovox',
    'Frondicus',
)
EPITHETS = (
    'minor',
    'major',
    'griseus',
    'viridis',
    'rufus',
    'albus',
    'niger',
    'montanus',
    'silvaticus',
    'palustris',
    'australis',
    'borealis',
    'striatus',
    'maculatus',
    'elegans',
    'modestus',
    'vulgaris',
    'rarus',
    'cantans',
    'tacitus',
    'ornatus',
    'pallidus',
    'fuscus',
    'roseus',
    'caeruleus',
    'brevis',
    'longipes',
    'solitarius',
    'gregarius',
    'andinus',
    'amazonicus',
    'riparius',
    'collaris',
    'cristatus',
    'flavus',
    'aureus',
    'umbrinus',
    'nocturnus',
    'matutinus',
    'vespertinus',
)
AUTHORS = (
    'Ana Souza',
    'José Peña',
    'Mary Finch',
    'Jörg Müller',
    'P. & Q. Heron',
    'Inês Ávila',
    'Tom Wren',
    'Lucía Nuñez',
)
PLACES = 'Rio Claro', 'Alto Verde', 'Lagoa', 'Cerro Azul', 'São Bento', 'Las Piedras', 'Mata Funda', 'Quebrada'

Syllable = collections.namedtuple('Syllable', 'kind ratio seconds width speed')
Species = collections.namedtuple('Species', 'class_id genus name year pitch dialects place spread elevation day hour')
Recording = collections.namedtuple('Recording', 'media species part session')


# == Species ==


def make_syllable(rng, kind):
    return Syllable(kind, rng.uniform(0.85, 1.2), rng.uniform(0.07, 0.35), rng.uniform(1.15, 1.6), rng.uniform(18, 45))


def make_species(seed, count):
    """List of species: names, songs, and where and when each is heard."""
    rng = np.random.default_rng([seed, 1])
    pitches = 1100 * (6500 / 1100) ** ((rng.permutation(count) + rng.uniform(0.2, 0.8, count)) / count)
    # regions, heights, seasons and hours are spread as evenly, each in an order of its own
    shares = [(rng.permutation(count) + 0.5) / count for _ in range(5)]
    pairs = rng.permutation(len(GENERA) * len(EPITHETS))[:count]
    kinds = rng.permutation(np.arange(count) % 7)
    ids = set()
    result = []
    for s in range(count):
        class_id = ''
        while not class_id or class_id in ids:
            class_id = ''.join(rng.choice(list('abcdefghijklmnoprstuvwy'), 6))
        ids.add(class_id)
        parts = [make_syllable(rng, int(kinds[s])), make_syllable(rng, int(rng.integers(7)))]
        patterns = ([0, 0, 1], [0, 1, 0, 1], [0] * 4, [0, 0, 0, 1, 1], [0, 1])
        dialects = []
        for _ in range(2):
            dialects.append(
                (parts, patterns[rng.integers(len(patterns))], rng.uniform(0.03, 0.15), rng.uniform(0.4, 1.0))
            )
        result.append(
            Species(
                class_id,
                GENERA[pairs[s] % len(GENERA)],
                EPITHETS[pairs[s] // len(GENERA)],
                YEARS[3 * s // count],
                pitches[s],
                dialects,
                (-30 + 35 * shares[0][s], -78 + 35 * shares[1][s]),
                rng.uniform(9, 15),
                3200 * shares[2][s] ** 1.5,
                365 * shares[3][s],
                (4 + 18 * shares[4][s]) % 24,
            )
        )
    return result


# == Songs ==


def sing_syllable(syllable, pitch, tempo, rate):
    """One syllable as float32 samples of amplitude 1."""
    n = max(32, int(syllable.seconds * tempo * rate))
    t = np.linspace(0, 1, n, dtype=np.float32)
    f = pitch * syllable.ratio
    kind, width = syllable.kind, syllable.width
    if kind == 1:
        track = f * width ** (2 * t - 1)
    elif kind == 2:
        track = f * width ** (1 - 2 * t)
    elif kind == 3:
        track = f * width ** (0.5 * np.sin(2 * np.pi * syllable.speed * syllable.seconds * t))
    elif kind == 4:
        track = f * width ** (1 - 4 * np.abs(t - 0.5))
    else:
        track = np.full(n, f, np.float32)
    # double precision: a phase of many turns
    phase = np.cumsum(track, dtype=np.float64) * (2 * np.pi / rate)
    wave = np.sin(phase).astype(np.float32)
    if kind == 5:
        for harmonic in (2, 3):
            if harmonic * f < 10500:
                wave += np.sin(harmonic * phase).astype(np.float32) / harmonic
    elif kind == 6:
        wave *= 0.5 + 0.5 * np.sin(2 * np.pi * 3 * syllable.speed * syllable.seconds * t)
    edge = np.minimum(1, np.minimum(t, 1 - t) * 6)
    return wave * (edge * edge * (3 - 2 * edge))


def sing(species, rng, individual, seconds, rate, start=None):
    """`seconds` of one bird's song with pauses, as float32 samples of amplitude 1 or less."""
    result = np.zeros(int(seconds * rate), np.float32)
    pitch, tempo, (parts, pattern, gap, pause) = (
        species.pitch * individual[0],
        individual[1],
        species.dialects[individual[2]],
    )
    voices = [sing_syllable(part, pitch, tempo, rate) for part in parts]
    position = (rng.uniform(0, 0.6) if start is None else start) * rate
    while position < len(result):
        loudness = rng.uniform(0.6, 1)
        for which in pattern:
            wave = voices[which][: max(0, len(result) - int(position))]
            result[int(position) : int(position) + len(wave)] += wave * np.float32(loudness * rng.uniform(0.8, 1))
            position += len(wave) + gap * tempo * rate
        position += pause * rng.uniform(0.6, 1.6) * rate
    # an echo from the edge of the wood
    delay = int(rng.uniform(0.03, 0.1) * rate)
    if len(result) > delay:
        result[delay:] += np.float32(rng.uniform(0.05, 0.3)) * result[:-delay].copy()
    return result * np.float32(0.7)


def noise(rng, samples, rate):
    """Hiss, wind, and at times insects; of about unit power."""
    white = rng.standard_normal(samples, dtype=np.float32)
    pole = rng.uniform(0.9, 0.98)
    wind = scipy.signal.lfilter(np.float32([1 - pole]), np.float32([1, -pole]), white) / np.float32(
        np.sqrt((1 - pole) / (1 + pole))
    )
    result = np.float32(rng.uniform(0.2, 0.7)) * white + wind
    if rng.random() < 0.3:
        t = np.arange(samples, dtype=np.float32) / rate
        result += (
            np.float32(0.5)
            * np.sin(2 * np.pi * rng.uniform(7000, 9500) * t)
            * (1 + np.sin(2 * np.pi * rng.uniform(8, 30) * t))
        )
    return result


def individual(rng):
    """(relative pitch, relative tempo, dialect) of one bird."""
    return np.exp(0.04 * rng.standard_normal()), np.exp(0.08 * rng.standard_normal()), int(rng.integers(2))


def scene(rng, foreground, others, bird, seconds, rate):
    """A recording of `foreground` with `others` behind and noise, float32 within -1..1."""
    result = sing(foreground, rng, bird, seconds, rate)
    for other in others:
        result += np.float32(rng.uniform(0.08, 0.25)) * sing(
            other, rng, individual(rng), seconds, rate, start=rng.uniform(0, seconds / 2)
        )
    snr = 10 ** (rng.uniform(2, 24) / 20)
    result += np.float32(0.35 / snr) * noise(rng, len(result), rate)
    return result * np.float32(rng.uniform(0.15, 0.45))


# == Metadata ==


def happening(rng, species):
    """When and where a session takes place: date, hour (with fraction), latitude, longitude, elevation."""
    day = int(species.day + 75 * rng.standard_normal()) % 365
    date = datetime.date(int(rng.integers(2005, 2017)), 1, 1) + datetime.timedelta(days=day)
    hour = (species.hour + 4 * rng.standard_normal()) % 24
    latitude, longitude = (species.place[i] + species.spread * rng.standard_normal() for i in range(2))
    return date, hour, latitude, longitude, max(0, int(species.elevation + 800 * rng.standard_normal()))


def xml_text(rows):
    return '<?xml version="1.0" encoding="UTF-8"?>\n<Audio>\n{}</Audio>\n'.format(
        ''.join(f'\t<{tag}>{escape(str(value))}</{tag}>\n' if value != '' else f'\t<{tag} />\n' for tag, value in rows)
    )


def spell_time(rng, hour):
    """A time of day as one of those who record birds would write it."""
    h, m = int(hour), int(hour % 1 * 60)
    if rng.random() < 0.75:
        return '%02d:%02d' % (h, m)
    half = 'pm' if h >= 12 else 'am'
    return (
        '%d:%02d%s' % ((h - 1) % 12 + 1, m, half),
        '%02d%02d' % (h, m),
        '%d.%02d' % (h, m),
        '%02d:%02d-%02d:%02d' % (h, m, (h + 1) % 24, m),
        '%dh%02d' % (h, m),
        '?',
        'morning',
    )[rng.integers(7)]


def spell_elevation(rng, elevation):
    """A height as one of those who record birds would write it."""
    if rng.random() < 0.75:
        return str(elevation)
    return (
        '%d m' % elevation,
        '%d-%d m' % (elevation - elevation // 10, elevation),
        'c. %d' % elevation,
        '~%dm?' % elevation,
        '<%d' % (elevation + 1),
        '%d.%03d' % divmod(elevation, 1000) if elevation >= 1000 else '%dm' % elevation,
        'sea level',
        '?',
    )[rng.integers(8)]


def describe(rng, media, wav, species, when, author, session, others, year):
    """Rows of a recording's XML; of a test recording (`species` is None) without what it is."""
    date, hour, latitude, longitude, elevation = when
    rows = [('MediaId', media), ('FileName', wav)]
    if species:
        rows += [('ClassId', species.class_id)]
    rows += [
        ('Date', date.isoformat()),
        ('Time', spell_time(rng, hour)),
        ('Country', 'Demoland'),
        ('Locality', '%s %d' % (PLACES[session % len(PLACES)], session)),
        ('Latitude', f'{latitude:.4f}'),
        ('Longitude', f'{longitude:.4f}'),
        ('Elevation', spell_elevation(rng, elevation)),
        ('Author', AUTHORS[author]),
        ('AuthorID', 'DEMO%05d' % author),
        ('Content', ('song', 'call', 'call, song')[rng.integers(3)]),
        ('Quality', int(rng.integers(1, 5))),
        ('Year', 'BirdCLEF' + year),
    ]
    if species:
        rows += [('Genus', species.genus), ('Species', species.name)]
        if year != '2017':
            names = [f'{other.genus} {other.name}' for other in others]
            if rng.random() < 0.1:
                names.append('Ignotus volans')
            rows.append(('BackgroundSpecies', ','.join(names)))
    rows.append(('Comments', ''))
    # of some, this or that was never filled in
    if rng.random() < 0.15:
        gone = ('Date', 'Time', 'Latitude', 'Elevation')[rng.integers(4)]
        rows = [row for row in rows if row[0] != gone and not (gone == 'Latitude' and row[0] == 'Longitude')]
    elif rng.random() < 0.1:
        blank = ('Date', 'Time', 'Elevation')[rng.integers(3)]
        rows = [(tag, '' if tag == blank else value) for tag, value in rows]
    elif rng.random() < 0.08:
        rows = [
            (tag, ('%d-%02d-00' % (date.year, date.month), str(date.year))[rng.integers(2)] if tag == 'Date' else value)
            for tag, value in rows
        ]
    return rows


# == The folder ==


def plan(seed, species, recordings):
    """List of Recording: about a fifth each for test and validation; a session (one author, day, place and bird) yields 1 to 3."""
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


def choose_dirt(recordings):
    """Dict media -> what is wrong with that recording; the kinds are dealt to the species with most recordings left.

    Those that make a recording useless leave a species two others for training, all but the first one for the test.
    """
    kinds = {
        'train': (
            'zero bytes',
            'no xml',
            'truncated',
            'clipped',
            'bad xml',
            'latin-1',
            'synonym',
            'upper case',
            'stereo',
            '48000',
            '22050',
            '24 bit',
            '8 bit',
            'long',
        ),
        'test': ('zero bytes', 'header only', 'stereo', 'latin-1'),
    }
    useless = {'zero bytes': {'train': 2, 'test': 0}, 'no xml': {'train': 2}, 'header only': {'test': 1}}
    result = {}
    for part, todo in kinds.items():
        left = collections.defaultdict(list)
        for recording in recordings:
            if recording.part == part:
                left[recording.species].append(recording.media)
        for kind in todo:
            s = max(left, key=lambda s: (len(left[s]), -s))
            if len(left[s]) > useless.get(kind, {}).get(part, 0):
                result[left[s].pop()] = kind
    return result


def wav_name(species, media):
    return 'LIFECLEF%s_%s_XC_WAV_RN%d.wav' % (species.year, 'BIRDAMAZON' if species.year < '2017' else 'BIRD', media)


def write_wav(path, samples, rate, subtype='PCM_16'):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    soundfile.write(path, samples, rate, subtype, format='WAV')


def write_text(path, text, encoding='utf-8'):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w', encoding=encoding, newline='') as f:
        f.write(text)


def record(seed, one, species, sessions, dirt, out, options):
    """Write one recording and its XML."""
    rng = np.random.default_rng([seed, 3, one.media])
    mine = species[one.species]
    when, author, bird = sessions[one.session]
    wav = wav_name(mine, one.media)
    if one.part == 'test':
        folder, xml_folder = ('BirdCLEF2018MonophoneTest/data',) * 2
    elif mine.year < '2017':
        folder, xml_folder = 'TrainingSet/wav', 'TrainingSet/xml'
    else:
        folder, xml_folder = 'data', 'data'
    others = [species[s] for s in rng.permutation(len(species))[: rng.choice(3, p=[0.6, 0.3, 0.1])] if s != one.species]
    rate = int(dirt) if dirt in ('48000', '22050') else RATE
    seconds = (
        options.long
        if dirt == 'long' and options.long
        else np.exp(rng.uniform(np.log(options.shortest), np.log(options.longest)))
    )
    path = os.path.join(out, folder, wav[:-3] + ('WAV' if dirt == 'upper case' else 'wav'))
    if dirt == 'zero bytes':
        write_text(path, '')
    else:
        # a long recording in pieces of its own, else memory would grow with it
        pieces = [min(30, seconds - start) for start in np.arange(0, seconds, 30)]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        stereo = dirt == 'stereo' or rng.random() < 0.15
        subtype = {'24 bit': 'PCM_24', '8 bit': 'PCM_U8'}.get(dirt, 'PCM_16')
        with soundfile.SoundFile(path, 'w', rate, 2 if stereo else 1, subtype, format='WAV') as f:
            for piece in pieces if dirt != 'header only' else []:
                samples = scene(rng, mine, others, bird, piece, rate)
                if dirt == 'clipped':
                    samples = np.clip(8 * samples, -1, 1)
                f.write(np.stack([samples, np.float32(0.6) * np.roll(samples, 7)], 1) if stereo else samples)
        if dirt == 'truncated':
            os.truncate(path, os.path.getsize(path) * 2 // 3)
    rows = describe(
        rng, one.media, wav, None if one.part == 'test' else mine, when, author, one.session, others, mine.year
    )
    if dirt == 'synonym':
        rows = [(tag, 'Veteronym' if tag == 'Genus' else value) for tag, value in rows]
    text = xml_text(rows)
    if dirt == 'latin-1':
        text = text.replace(escape(AUTHORS[author]), 'Jörg Müller').replace('Demoland', 'Perú')
    elif dirt == 'bad xml':
        text = text.replace('</Audio>', '').replace('<Country>Demoland', '<Country>Trinidad & Tobago')
    if dirt != 'no xml':
        write_text(os.path.join(out, xml_folder, wav[:-3] + 'xml'), text, 'latin-1' if dirt == 'latin-1' else 'utf-8')


def soundscape(seed, media, species, folder, out, seconds):
    """Write a soundscape and its XML -> rows (media id, class id, start, end in seconds) of what sings where."""
    rng = np.random.default_rng([seed, 4, media])
    wav = 'LIFECLEF2018_BIRD_SOUNDSCAPE_WAV_RN%d.wav' % media
    samples = np.float32(0.02) * noise(rng, seconds * RATE, RATE)
    rows = []
    for start in range(0, seconds - 4, 5):
        length = min(5 * int(rng.choice([1, 1, 2])), seconds - start)
        if rng.random() < 0.75:
            s = int(rng.integers(len(species)))
            song = sing(species[s], rng, individual(rng), length, RATE)
            samples[start * RATE : start * RATE + len(song)] += song * np.float32(rng.uniform(0.15, 0.4))
            rows.append((media, species[s].class_id, start, start + length))
    write_wav(os.path.join(out, folder, wav), np.clip(samples, -1, 1), RATE)
    date, hour, latitude, longitude, elevation = happening(rng, species[int(rng.integers(len(species)))])
    # the organisers put these a folder deeper than the recordings
    write_text(
        os.path.join(out, folder, 'xml', wav[:-3] + 'xml'),
        xml_text(
            [
                ('MediaId', media),
                ('FileName', wav),
                ('Date', date.isoformat()),
                ('Time', '%02d:%02d' % (int(hour), int(hour % 1 * 60))),
                ('Latitude', f'{latitude:.4f}'),
                ('Longitude', f'{longitude:.4f}'),
                ('Elevation', elevation),
                ('Comments', ''),
            ]
        ),
    )
    return rows


def generate(out, options):
    """Write the whole source folder -> line that tells what is in it."""
    species = make_species(options.seed, options.species)
    recordings = plan(options.seed, species, options.recordings)
    dirt = choose_dirt(recordings)
    sessions = {}
    for one in recordings:
        if one.session not in sessions:
            rng = np.random.default_rng([options.seed, 5, one.session])
            sessions[one.session] = (
                happening(rng, species[one.species]),
                int(rng.integers(len(AUTHORS))),
                individual(rng),
            )
    truth, valid = [], []
    for one in tqdm(recordings, desc='recordings', disable=None):
        record(options.seed, one, species, sessions, dirt.get(one.media), out, options)
        truth.append((one.media, species[one.species].class_id, one.part))
        if one.part == 'valid':
            valid.append(f'train/{species[one.species].year}/{wav_name(species[one.species], one.media)}')
    media = recordings[-1].media
    for folder in ('val/data', 'test'):
        for _ in range(options.soundscapes):
            media += 1
            truth += soundscape(options.seed, media, species, folder, out, options.soundscape_seconds)
    # what a Mac leaves in archives
    write_text(os.path.join(out, 'TrainingSet/wav/._LIFECLEF2014_BIRDAMAZON_XC_WAV_RN1.wav'), '\0\5\26\7')
    write_text(os.path.join(out, 'TrainingSet/xml/._LIFECLEF2014_BIRDAMAZON_XC_WAV_RN1.xml'), '\0\5\26\7')
    write_text(os.path.join(out, 'valid_list'), ''.join(key + '\n' for key in valid))
    write_text(os.path.join(out, 'truth.tsv'), ''.join('\t'.join(map(str, row)) + '\n' for row in truth))
    return '%d recordings of %d species, %d of them for the test, and %d soundscapes' % (
        len(recordings),
        len(species),
        sum(one.part == 'test' for one in recordings),
        2 * options.soundscapes,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', metavar='OUT', help='folder to make')
    for name, default, text in (
        ('seed', 0, 'of all chance'),
        ('species', 12, 'number of species'),
        ('recordings', 200, 'number of recordings for training and test, at least 5 a species'),
        ('soundscapes', 2, 'soundscapes for validation, and as many for the test'),
        ('soundscape-seconds', 60, 'length of each'),
        ('long', 600, 'length of one long recording in seconds; 0: none'),
    ):
        parser.add_argument('--' + name, type=int, default=default, metavar='N', help='%s (%d)' % (text, default))
    parser.add_argument('--shortest', type=float, default=3, metavar='S', help='shortest recording in seconds (3)')
    parser.add_argument('--longest', type=float, default=15, metavar='S', help='longest of the others in seconds (15)')
    options = parser.parse_args()
    if not 2 <= options.species <= len(GENERA) * len(EPITHETS):
        parser.error('--species %d: expected 2 to %d' % (options.species, len(GENERA) * len(EPITHETS)))
    if options.recordings < 5 * options.species:
        parser.error(
            '--recordings %d: %d species need at least %d' % (options.recordings, options.species, 5 * options.species)
        )
    if options.seed < 0 or options.soundscapes < 0 or options.soundscape_seconds < 5 or options.long < 0:
        parser.error('expected seed, soundscapes and long from 0, soundscape-seconds from 5')
    if not 0.1 <= options.shortest <= options.longest <= 3600:
        parser.error(
            f'--shortest {options.shortest:g} --longest {options.longest:g}: expected 0.1 <= shortest <= longest <= 3600'
        )
    if os.path.exists(options.out):
        raise Problem(f'{options.out}: exists already; remove it or name another folder')
    aside = os.path.join(
        os.path.dirname(os.path.abspath(options.out)),
        '.%s.%d.part' % (os.path.basename(os.path.abspath(options.out)), os.getpid()),
    )
    try:
        os.makedirs(aside)
        told = generate(aside, options)
        os.rename(aside, options.out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f'{options.out}: {told}')


if __name__ == '__main__':
    program.run(main)
