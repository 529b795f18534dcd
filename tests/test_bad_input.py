"""Bad input for every program: one clear line, exit status 1, nothing overwritten, nothing run.

Errors of a single program are tested in its own module; this module tests those that can occur with several programs.
"""

import os
import pickle
import re
import runpy
import shutil
import sys
import wave
import zipfile

import numpy as np
import pytest

from birdsong import config, files
from birdsong.data import audio
from birdsong.scores import predictions
from helpers import ROOT
from shared.recordings import Recording, write_recordings
from shared.tables import table
from shared.xml_fields import FIELDS

CLASSES = 3
KEYS = {
    'train': [f'train/2014/LIFECLEF2014_X_RN{int(n)}.wav' for n in range(1, 7)],
    'valid': [f'train/2014/LIFECLEF2014_X_RN{int(n)}.wav' for n in range(7, 10)],
    'test': [f'test/LIFECLEF2018_X_RN{int(n)}.wav' for n in range(10, 12)],
}
SETTINGS = [
    'arch=conv:2x3x3x2x2,pool:3x3,Conv:3x3x-1',
    'arch.pool=logmeanexp:1',
    'arch.output=softmax',
    'cost=softmax',
    'mel_bands=20',
    'epochs=1',
    'epochsize=1',
    'batchsize=2',
    'len_min=0.5',
    'len_max=1',
    'bg_threads=0',
]
VARS = [x for setting in SETTINGS for x in ('--var', setting)]
BEFORE = b'what was there before'
# Program -> its folder and a command that would work, in a copy of `world`.
DATASETS = 'datasets/birdclef/'
PROGRAMS = {
    'train': ('experiments', ['--dataset', './set', '--validate', '--keep-state', '--device=cpu', *VARS, 'out.npz']),
    'predict': ('experiments', ['--dataset', './set', '--device=cpu', 'model.npz', 'out.npz']),
    'eval': (
        'experiments',
        [
            '--dataset',
            './set',
            '--labelfile-background=bg.tsv',
            '--json=out.json',
            '--per-class=out.tsv',
            'p.pred.npz:0.5',
        ],
    ),
    'blender': (
        'experiments',
        ['--dataset', './set', '--labelfile-background=bg.tsv', '--output=out.tsv', 'p.pred.npz'],
    ),
    'submit_csv': ('experiments', ['--dataset', './set', 't.pred.npz', 'out.csv']),
    'findings': (
        'experiments',
        ['--dataset', './set', '--softmax', '--filelist=test', '--output=out.csv', 't.pred.npz'],
    ),
    'model_to_fcn': ('experiments', ['model.npz', 'out.npz', '--window=1']),
    'list_models': ('experiments', ['--models=models.tsv']),
    'convert': (f'{DATASETS}audio', ['source', '--dataset=./set', '--jobs=1']),
    'collect': ('datasets', ['source', '--dataset=./set']),
    'recreate': (f'{DATASETS}labels', ['--dataset=./set']),
    'split': (f'{DATASETS}filelists', ['--dataset=./set', '--valid-list=list']),
    'validate': ('datasets', ['./set']),
    'generate': ('datasets/demo', ['new', '--species=2', '--recordings=10']),
}
STEPS = 'collect', 'recreate', 'convert', 'split'
XML = '<Audio><ClassId>c%d</ClassId><Genus>Avis</Genus><Species>s%d</Species></Audio>'


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_wav(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), 'wb') as f:
        f.setparams((1, 2, 22050, 0, 'NONE', ''))
        f.writeframes(np.asarray(samples, '<i2').tobytes())


def save(path, keys, classes=CLASSES):
    rng = np.random.default_rng(0)
    predictions.save(path, keys, [rng.normal(size=(1, classes)) for _ in keys])


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    """A folder with everything that the programs need."""
    from birdsong.networks import model

    here = tmp_path_factory.mktemp('good')
    rng, labelled = np.random.default_rng(0), KEYS['train'] + KEYS['valid']
    for name, keys in KEYS.items():
        write(here / 'set/filelists' / name, ''.join(f'{key}\n' for key in keys))
        for key in keys:
            write_wav(here / 'set/audio' / key, rng.normal(0, 1000, 22050))
    write(here / 'set/labels/labelset', 'c0\nc1\nc2\n')
    write(here / 'set/labels/fg.tsv', ''.join(f'{key}\t{int(i % 3)}\n' for i, key in enumerate(labelled)))
    write(here / 'set/labels/bg.tsv', ''.join(f'{key}\t{int((i + 1) % 3)}\n' for i, key in enumerate(labelled)))
    write(here / 'set/labels/meta.tsv', ''.join(f'{key}\t2014-01-02\t07:00:00\t1.5\t-60\t100\n' for key in labelled))
    for i, key in enumerate(labelled):
        base = os.path.basename(key)[: -len('.wav')]
        write(here / 'source/data' / (f'{base}.xml'), XML % (i % 3, i % 3))
        write_wav(here / 'source/data' / (f'{base}.wav'), rng.normal(0, 1000, 2205))
    rows = [['path', *FIELDS]] + [[key, f'c{i % 3}', 'Avis', f's{i % 3}', *10 * ['']] for i, key in enumerate(labelled)]
    write(here / 'set/xml/recordings.tsv', table(rows))
    write_recordings(
        str(here / 'set'),
        [
            Recording(key, f'data/{os.path.basename(key)}', 'train', f'c{i % 3}', f'Avis s{i % 3}')
            for i, key in enumerate(labelled)
        ],
    )
    write(here / 'set/preparation.json', '{}')
    write(here / 'list', KEYS['valid'][0])
    write(here / 'models.tsv', 'a\tdummy\nb\tdummy\tban=a\n')
    cfg = dict(config.load([], SETTINGS), classes=CLASSES)
    net = model.build(cfg, CLASSES, 0)
    model.save(net, str(here / 'model.npz'))
    config.write_vars(str(here / 'model.npz.vars'), cfg)
    save(here / 'p.pred.npz', KEYS['valid'])
    save(here / 'l.pred.npz', KEYS['train'])
    save(here / 't.pred.npz', KEYS['test'])
    return here


@pytest.fixture
def world(good, tmp_path, monkeypatch):
    """A copy of `good` to work in."""
    shutil.copytree(good, tmp_path / 'here')
    monkeypatch.chdir(tmp_path / 'here')
    return tmp_path / 'here'


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a program in this process: (exit status, lines on stderr)."""

    def call(name, arguments):
        path = ROOT / PROGRAMS[name][0] / (f'{name}.py')
        monkeypatch.setattr(sys, 'argv', [str(path), *arguments])
        monkeypatch.setattr(sys, 'path', list(sys.path))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name='__main__')
        said, code = capsys.readouterr().err, end.value.code
        return (1, said.splitlines() + code.splitlines()) if isinstance(code, str) else (code or 0, said.splitlines())

    return call


# -- Damage to files --


def cut(name):
    def damage(here):
        content = (here / name).read_bytes()
        (here / name).write_bytes(content[: len(content) // 2])

    return damage


def put(name, content):
    return lambda here: write(here / name, content)


def remove(name):
    return lambda here: os.unlink(here / name)


def folder(name):
    """A folder where a file is expected."""

    def damage(here):
        os.unlink(here / name)
        os.mkdir(here / name)

    return damage


def device(name):
    """A link to a device where a file is expected."""

    def damage(here):
        os.unlink(here / name)
        os.symlink('/dev/null', here / name)

    return damage


def append(name, line):
    return lambda here: write(here / name, (here / name).read_bytes() + line.encode() + b'\n')


def bomb(name):
    """A file of 60 kB that unpacks to 60 MB."""

    def damage(here):
        with zipfile.ZipFile(here / name, 'w', zipfile.ZIP_DEFLATED) as z, z.open('scores.npy', 'w') as f:
            np.lib.format.write_array_header_1_0(f, {'descr': '<f4', 'fortran_order': False, 'shape': (70, 1 << 18)})
            for _ in range(70):
                f.write(bytes(1 << 20))

    return damage


class Hostile:
    def __reduce__(self):
        return os.mkdir, ('run',)


def hostile(name):
    """A pickle that makes a folder when it is read."""
    return lambda here: write(here / name, pickle.dumps({KEYS['valid'][0]: Hostile()}, 2))


def objects(name):
    """An .npz with that pickle in it."""
    return lambda here: np.savez(open(here / name, 'wb'), scores=np.array([Hostile()], object))


def not_finite(name):
    """NaN in all floating point arrays."""

    def damage(here):
        with np.load(here / name) as f:
            arrays = dict(f)
        for value in arrays.values():
            if value.dtype.kind == 'f':
                value[...] = np.nan
        files.save_npz(here / name, arrays)

    return damage


def predicted(name, keys=KEYS['valid'], classes=CLASSES):
    return lambda here: save(here / name, keys, classes)


AUDIO = 'set/audio/'
TRAINED, VALID, TEST = (AUDIO + KEYS[name][0] for name in ('train', 'valid', 'test'))
NOT_TEXT = b'a\xff\xfe\x80\n'
PSEUDO = '--var=pseudo_labels=l.pred.npz:softmax'
OTHER = [f'train/2014/LIFECLEF2014_Y_RN{int(n)}.wav' for n in range(3)]

# Program, damage, text of the message, further arguments.
CASES = [
    # recordings
    *(
        (name, damage(wav), words)
        for name, wav in (('train', TRAINED), ('train', VALID), ('predict', VALID), ('validate', TEST))
        for damage, words in (
            (cut, 'RN.*(truncated|samples|ends)'),
            (lambda f: put(f, b''), 'RN.*(empty|not a WAVE)'),
            (remove, 'no such recording|missing'),
            (folder, 'RN'),
        )
    ),
    ('train', lambda here: write_wav(here / TRAINED, []), 'no samples'),
    ('convert', lambda here: shutil.rmtree(here / 'set/audio') or write(here / 'set/audio', b''), 'set/audio'),
    # lists
    *(
        (name, append(f'set/filelists/{which}', 'train/none.wav'), 'none.wav')
        for name, which in (
            ('train', 'train'),
            ('train', 'valid'),
            ('predict', 'valid'),
            ('validate', 'test'),
            ('eval', 'valid'),
            ('blender', 'valid'),
        )
    ),
    *((n, append('set/filelists/test', 'test/none_RN99.wav'), 'none_RN99.wav') for n in ('submit_csv', 'findings')),
    *(
        (name, damage(f'set/filelists/{which}'), words)
        for name, which in (
            ('train', 'train'),
            ('predict', 'valid'),
            ('eval', 'valid'),
            ('blender', 'valid'),
            ('submit_csv', 'test'),
            ('findings', 'test'),
            ('validate', 'valid'),
        )
        for damage, words in (
            (lambda f: put(f, NOT_TEXT), 'filelists/.*: not UTF-8'),
            (lambda f: put(f, b''), 'filelists/.*(empty|nothing|no recordings)'),
            (folder, 'filelists/'),
        )
    ),
    ('split', put('list', NOT_TEXT), 'list: not UTF-8'),
    ('split', folder('list'), 'list'),
    # labels
    *(
        (name, damage, words)
        for name in ('train', 'eval', 'blender', 'validate')
        for damage, words in (
            (put('set/labels/fg.tsv', f'{KEYS["train"][0]}\t0\n'), 'fg.tsv'),
            (put('set/labels/labelset', 'c0\n'), 'fg.tsv'),
            (put('set/labels/fg.tsv', 'no table\n'), 'fg.tsv'),
            (put('set/labels/fg.tsv', NOT_TEXT), 'fg.tsv: not UTF-8'),
            (put('set/labels/labelset', b''), 'labelset'),
            (append('set/labels/fg.tsv', f'{KEYS["valid"][0]}\tc1'), 'fg.tsv'),
        )
    ),
    *(
        (name, damage, 'bg.tsv')
        for name in ('eval', 'blender', 'validate')
        for damage in (
            put('set/labels/bg.tsv', 'x\ty\tz\n'),
            put('set/labels/bg.tsv', NOT_TEXT),
            append('set/labels/bg.tsv', f'{OTHER[0]}\t1,x'),
        )
    ),
    ('train', put('set/labels/bg.tsv', 'x\ty\n'), 'bg.tsv', '--var=mix_fg_bg=0.5'),
    *(
        (name, put('set/labels/meta.tsv', content), 'meta.tsv', *more)
        for content in (b'x\n', NOT_TEXT)
        for name, *more in (('validate',), ('findings',), ('train', '--var=input_meta=date', '--var=arch_meta=full:4'))
    ),
    *((name, put('set/recordings.tsv', NOT_TEXT), 'recordings.tsv: not UTF-8') for name in (*STEPS, 'findings')),
    *((name, put('set/recordings.tsv', 'x\ty\n'), 'recordings.tsv: no column') for name in (*STEPS, 'findings')),
    ('collect', put('set/xml/recordings.tsv', NOT_TEXT), 'recordings.tsv: not UTF-8'),
    *((name, put('set/preparation.json', NOT_TEXT), 'preparation.json: not JSON') for name in ('collect', 'split')),
    ('collect', lambda here: shutil.rmtree(here / 'source') or write(here / 'source', b''), 'source'),
    ('split', put('set/labels/fg.tsv', NOT_TEXT), 'fg.tsv: not UTF-8'),
    # settings and tables
    *(
        (name, lambda here: None, words, *more)
        for name in ('train', 'predict', 'model_to_fcn')
        for words, *more in (
            ('mel_bands=many', '--var=mel_bands=many'),
            ('unknown setting mel_band', '--var=mel_band=3'),
            ('KEY=VALUE', '--var=mel_bands'),
            ('none.vars: no such file', '--vars=none.vars'),
            ('model.npz: not UTF-8', '--vars=model.npz'),
            ('set', '--vars=set'),
        )
    ),
    *(
        (name, damage, words)
        for name in ('predict', 'model_to_fcn')
        for damage, words in (
            (put('model.npz.vars', NOT_TEXT), 'vars: not UTF-8'),
            (put('model.npz.vars', 'fps=fast\n'), 'fps=fast'),
            (remove('model.npz.vars'), 'vars'),
        )
    ),
    ('list_models', put('models.tsv', NOT_TEXT), 'models.tsv: not UTF-8'),
    ('list_models', folder('models.tsv'), 'models.tsv'),
    # models
    *(
        (name, damage('model.npz'), 'model.npz', *more)
        for damage in (cut, bomb, hostile, objects, folder, lambda f: put(f, b''))
        for name, *more in (
            ('predict',),
            ('model_to_fcn',),
            ('train', '--var=init_from=model.npz'),
            ('train', '--var=ban=model.npz'),
        )
    ),
    *((name, not_finite('model.npz'), 'finite') for name in ('predict', 'model_to_fcn')),
    # states to continue from
    *(
        ('train', damage, 'out.state')
        for damage in (put('out.state', b''), bomb('out.state'), objects('out.state'), hostile('out.state'))
    ),
    # predictions
    *(
        (name, damage(filename), words, *more)
        for name, filename, *more in (
            ('eval', 'p.pred.npz'),
            ('blender', 'p.pred.npz'),
            ('submit_csv', 't.pred.npz'),
            ('findings', 't.pred.npz'),
            ('train', 'l.pred.npz', PSEUDO),
        )
        for damage, words in (
            (cut, 'not a complete'),
            (bomb, 'would unpack|not a complete'),
            (hostile, 'mkdir'),
            (objects, 'pred.npz: '),
            (not_finite, 'not finite'),
            (folder, 'pred.npz: '),
            (lambda f: put(f, b''), 'pred.npz: '),
            (remove, 'no such file'),
            (lambda f: predicted(f, OTHER), 'another dataset|no predictions for|recordings are missing'),
        )
    ),
    ('eval', predicted('p.pred.npz', classes=4), '4 classes'),
    ('blender', predicted('p.pred.npz', classes=4), '4 classes'),
    *((name, predicted('t.pred.npz', KEYS['test'], 4), '4 classes') for name in ('submit_csv', 'findings')),
    *(
        ('findings', put(name, NOT_TEXT), f'{name}: {words}', f'--{option}={name}')
        for name, option, words in (
            ('names', 'classes', 'not UTF-8'),
            ('limits.csv', 'threshold', 'not a CSV table'),
            ('curves.json', 'calibration', 'not a calibration'),
        )
    ),
    # devices and pipes
    *(
        (name, device(filename), 'a pipe or a device', *more)
        for name, filename, *more in (
            ('train', 'set/filelists/train'),
            ('train', TRAINED),
            ('train', 'l.pred.npz', PSEUDO),
            ('predict', 'model.npz'),
            ('predict', 'model.npz.vars'),
            ('eval', 'p.pred.npz'),
            ('eval', 'set/labels/fg.tsv'),
            ('blender', 'set/labels/bg.tsv'),
            ('list_models', 'models.tsv'),
            ('split', 'list'),
            ('recreate', 'set/recordings.tsv'),
            ('collect', 'set/preparation.json'),
            ('validate', 'set/labels/labelset'),
        )
    ),
    *((name, device('out.csv'), 'out.csv: a pipe or a device') for name in ('submit_csv', 'findings')),
    # where results are written
    ('generate', put('new', BEFORE), 'exists already'),
]
CASES = [(name, damage, words, more) for name, damage, words, *more in CASES]


@pytest.mark.parametrize('read', [files.read_lines, files.load_npz, audio.read_header, predictions.load])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(read, tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(files.Problem, match='pipe: a pipe or a device'):
        read(str(tmp_path / 'pipe'))


def contents(here):
    return {str(path.relative_to(here)): path.read_bytes() if path.is_file() else None for path in here.rglob('*')}


@pytest.mark.parametrize('name', PROGRAMS)
def test_the_command_works_with_correct_input(name, world, run):
    code, said = run(name, PROGRAMS[name][1])
    assert code == 0, said


@pytest.mark.parametrize('number', range(len(CASES)), ids=lambda i: f'{CASES[i][0]}-{int(i)}')
def test_bad_input_is_one_line_and_nothing_is_overwritten(number, world, run):
    name, damage, words, more = CASES[number]
    for result in ('out.npz', 'out.npz.vars', 'out.json', 'out.tsv', 'out.csv'):
        write(world / result, BEFORE)
    damage(world)
    before = contents(world)
    code, said = run(name, PROGRAMS[name][1] + more)
    # if blender.py can read no member, it prints why each was skipped
    lines = [line for line in said if not line.startswith('blender.py: skipped: ')]
    # validate.py prints the first fault of each kind
    assert code == 1 and (len(lines) == 1 or name == 'validate' and 1 < len(lines) <= 2), said
    assert all(line.startswith(f'{name}.py: ') for line in lines)
    assert re.search(words, ' '.join(said)), said
    after = contents(world)
    assert {path: after.get(path) for path in before} == before
    # the index of headers may be new, but no other file
    assert set(after) - set(before) <= {'set/index.npz'}, set(after) - set(before)
