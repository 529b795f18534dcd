"""review.py: which detections are chosen, the clips, and the page, which a headless Chromium opens from disk."""

import collections
import csv
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
import soundfile

import browser
from birdsong.findings import clips, formats, reviews, sampling
from birdsong.findings.formats import Finding
from helpers import run_program, write_lines
from shared import excerpts
from shared.conversion import Unreadable

MARKUP = '<script>document.title="run"</script>&amp;"\''
CLASSES = ['amered', '=sum;1', MARKUP, 'weta', 'rare']
LATIN = ['Setophaga ruticilla', '', MARKUP, 'Deinacrida rugosa', 'Strigops habroptila']
COMMON = ['American Redstart', '', f'{MARKUP} {"long" * 30}', 'Wētā', '']
RATE = 8000
ODD = '=a/<b>&"x" {{js}}.wav'


def finding(file, start, class_id='amered', score=0.5, **values):
    i = CLASSES.index(class_id) if class_id in CLASSES else 0
    names = LATIN[i] or class_id, COMMON[i] or class_id
    one = Finding(start, start + 2, *names, score, file, class_id, score, None, '', '', '', None, None, 'net')
    return one._replace(**values)


def write_findings(folder, found):
    folder.mkdir(exist_ok=True)
    with formats.writer('csv', str(folder / 'findings.csv'), '', 0) as add:
        for one in found:
            add(one.file, [one])


def tone(path, seconds, rate=RATE, channels=1, frequency=1000):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    soundfile.write(path, np.tile(wave[:, None], channels), rate)
    return path


@pytest.fixture
def found(tmp_path):
    """Recordings with detections, as identify.sh leaves them: their folder is named in identify.json."""
    recordings, out = tmp_path / 'field', tmp_path / 'out'
    tone(recordings / 'a.flac', 12)
    tone(recordings / ODD, 9, 22050, channels=2)
    write_lines(tmp_path / 'set/labels/labelset', CLASSES)
    write_lines(tmp_path / 'set/labels/labelset_latin', LATIN)
    write_lines(tmp_path / 'set/labels/labelset_common', COMMON)
    write_lines(tmp_path / 'set/filelists/valid', ['a.wav'])
    clock = dict(date='2025-02-27', time='01:00:02', zone='+02:00')
    rows = [finding('a.flac', 2 * i, CLASSES[i % 2], 0.3 + 0.1 * i, **clock) for i in range(5)]
    rows += [finding(ODD, i, CLASSES[2], 0.9 - 0.1 * i) for i in range(3)]
    write_findings(out, rows)
    (out / 'identify.json').write_text(json.dumps({'folder': str(recordings), 'dataset': str(tmp_path / 'set')}))
    return out


def review(found, *options):
    return run_program('experiments/review.py', found, *options)


def page_data(page):
    text = page.read_text(encoding='utf-8')
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def shown(folder):
    """(file, start, class id) of all detections on the pages, in their order."""
    pages = sorted(folder.glob('batch-*.html'), key=lambda page: int(page.stem[6:]))
    return [(one['file'], one['start'], one['cells'][3]) for page in pages for one in page_data(page)['detections']]


# == Choice ==


def many(count=4000, seed=0):
    """Detections of three classes, of which one is rare, in 40 recordings; low scores are frequent."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.5, 3, count)
    classes = rng.choice(['amered', 'weta', 'rare'], count, p=[0.79, 0.2, 0.01])
    return [
        finding(f'{rng.integers(40)}.wav', 2.0 * i, str(c), float(s))
        for i, (c, s) in enumerate(zip(classes, scores, strict=True))
    ]


def chosen(rows, kind, count, classes=None, seed=0):
    return [rows[i] for i in sampling.choose(sampling.candidates(rows, seed), kind, count, classes)]


def test_strata_have_equally_many_detections_of_each_class_and_range_of_scores():
    rows = many()
    picked = chosen(rows, 'strata', 100)
    assert len(set(picked)) == 100

    def cells(those):
        return collections.Counter((one.class_id, int(np.digitize(one.score, sampling.EDGES))) for one in those)

    existing, got = cells(rows), cells(picked)
    assert set(got) == set(existing)
    most = max(got.values())
    # less than in the fullest cell only where there are no more
    assert all(count >= most - 1 or count == existing[cell] for cell, count in got.items())
    full = next(cell for cell, count in got.items() if count == most and existing[cell] > 400)
    files = [one.file for one in picked if cells([one]) == {full: 1}]
    assert len(set(files)) == len(files)


def test_a_random_choice_is_uniform():
    rows = many(1000)
    counts = collections.Counter(one for seed in range(100) for one in chosen(rows, 'random', 300, seed=seed))
    times = np.array([counts[one] for one in rows])
    assert times.sum() == 30000 and times.min() > 8 and times.max() < 55  # 30 on average, standard deviation 4.6


def test_the_top_are_the_highest_scores_of_each_class():
    rows = many()
    picked = chosen(rows, 'top', 30)
    for name in 'amered', 'weta', 'rare':
        scores = sorted((one.score for one in rows if one.class_id == name), reverse=True)
        assert [one.score for one in picked if one.class_id == name] == scores[:10]
    assert [one.class_id for one in picked] == sorted(one.class_id for one in picked)


@pytest.mark.parametrize('kind', sampling.KINDS)
def test_the_choice_depends_on_the_seed_but_not_on_the_order_of_the_table(kind):
    rows = many(500)
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(500)]
    assert chosen(rows, kind, 50) == chosen(shuffled, kind, 50)
    assert (chosen(rows, kind, 50) == chosen(rows, kind, 50, seed=1)) == (kind == 'top')
    assert {one.class_id for one in chosen(rows, kind, 50, {'weta'})} == {'weta'}
    assert len(chosen(rows, kind, 900)) == 500 and not chosen(rows, kind, 5, {'else'})


# == Excerpts and clips ==


@pytest.mark.parametrize('suffix', ['wav', 'flac', 'mp3', 'ogg'])
def test_an_excerpt_is_the_part_of_the_recording(suffix, tmp_path):
    rng = np.random.default_rng(0)
    samples = np.cumsum(rng.normal(0, 0.01, (44100 * 6, 2)), axis=0) * np.exp(-np.arange(44100 * 6)[:, None] / 1e5)
    soundfile.write(tmp_path / f'a.{suffix}', np.clip(samples, -0.9, 0.9), 44100)
    whole = soundfile.read(tmp_path / f'a.{suffix}', dtype='float32')[0].mean(axis=1)
    part, rate = excerpts.read(str(tmp_path / f'a.{suffix}'), 2, 3.5)
    assert rate == 44100 and len(part) == 66150 and part.dtype == np.float32
    # in Ogg, libsndfile decodes the first milliseconds after a seek differently
    np.testing.assert_allclose(part[2000:], whole[88200 + 2000 : 88200 + 66150], atol=1e-4)
    assert len(excerpts.read(str(tmp_path / f'a.{suffix}'), 5, 60)[0]) == pytest.approx(44100, abs=2304)


def test_messages_of_decoders_are_not_shown(tmp_path, capfd, monkeypatch):
    path, seek = tone(tmp_path / 'a.wav', 3), soundfile.SoundFile.seek

    def complaining(*args):
        os.write(2, b'error: part2_3_length too large')
        return seek(*args)

    monkeypatch.setattr(soundfile.SoundFile, 'seek', complaining)
    assert len(excerpts.read(str(path), 1, 2)[0]) == RATE
    os.write(2, b'still open')
    assert capfd.readouterr().err == 'still open'


def test_reasons_why_an_excerpt_cannot_be_read(tmp_path):
    good = tone(tmp_path / 'a.wav', 3)
    (tmp_path / 'b.wav').write_bytes(b'')
    (tmp_path / 'c.wav').write_bytes(b'no sound')
    for name, words in ('a.wav', 'ends after 3.00 s'), ('b.wav', 'empty file'), ('c.wav', 'cannot be read'):
        with pytest.raises(Unreadable, match=words):
            excerpts.read(str(tmp_path / name), 3, 5)
    flac = tone(tmp_path / 'd.flac', 30, frequency=700)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    assert 0 < len(excerpts.read(str(flac), 10, 25)[0]) < 15 * RATE
    assert len(excerpts.read(str(good), 0, 2)[0]) == 2 * RATE


@pytest.mark.parametrize('rate, played', [(4000, 8000), (22050, 22050), (192000, 48000)])
def test_sounds_have_a_rate_that_browsers_play_and_equal_loudness(rate, played):
    samples = 0.01 * np.sin(2 * np.pi * 500 * np.arange(2 * rate) / rate) + 0.2
    sound, found_rate = soundfile.read(io.BytesIO(clips.flac(samples.astype(np.float32), rate)))
    assert found_rate == played and len(sound) == pytest.approx(2 * played, abs=2)
    assert np.abs(sound).max() == pytest.approx(clips.PEAK, abs=0.02) and abs(sound.mean()) < 1e-3
    assert sound[0] == sound[-1] == 0


def test_a_spectrogram_shows_a_tone_at_its_frequency(tmp_path):
    image = pytest.importorskip('PIL.Image', reason='needs Pillow, which comes with matplotlib')
    samples = np.random.default_rng(0).normal(0, 1e-3, 3 * 22050)
    samples[22050:44100] += np.sin(2 * np.pi * 3000 * np.arange(22050) / 22050)
    grey = np.array(image.open(io.BytesIO(clips.spectrogram(samples.astype(np.float32), 22050, 12000))))
    height, width = grey.shape
    assert 2.9 < width / clips.FPS < 3.1
    darkest = 1 - (grey[:, width // 3 : 2 * width // 3].mean(axis=1).argmin() + 0.5) / height
    assert 12000 * darkest == pytest.approx(3000, abs=50)
    assert grey[height - height // 4, width // 2] < grey[height - height // 4, width // 9]
    assert (grey[: int(height * (1 - 11025 / 12000)) - 1] == grey.max()).all()
    assert clips.spectrogram(np.zeros(10, np.float32), 48000, 12000).startswith(b'\x89PNG')


# == Files ==


def test_pages_and_clips_are_written_and_the_same_again(found):
    done = review(found, '--batch-size', '5')
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'8 detections on 2 pages. Open in a browser: {found}/review/batch-1.html\n'
    folder = found / 'review'
    names = {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}
    assert names == {'batch-1.html', 'batch-2.html', 'review.json', 'skipped.tsv'} | {
        f'clips/{i:04d}.{suffix}' for i in range(1, 9) for suffix in ('png', 'flac')
    }
    before = {name: (folder / name).read_bytes() for name in names}
    shutil.rmtree(folder)
    assert review(found / 'findings.csv', '--batch-size', '5').returncode == 0
    assert review(found, '--batch-size', '5').returncode == 0
    assert before == {name: (folder / name).read_bytes() for name in names}


def test_a_clip_has_seconds_around_the_detection(found):
    assert review(found, '--context', '1.5').returncode == 0
    for one in page_data(found / 'review/batch-1.html')['detections']:
        length = 12 if one['file'] == 'a.flac' else 9
        assert one['clip']['start'] == max(0, one['start'] - 1.5)
        assert one['clip']['end'] == pytest.approx(min(one['end'] + 1.5, length), abs=1e-3)
        info = soundfile.info(found / 'review' / one['clip']['sound'])
        assert info.duration == pytest.approx(one['clip']['end'] - one['clip']['start'], abs=1e-3)


def test_long_detections_are_cut(found, tmp_path):
    tone(tmp_path / 'field/long.wav', 100)
    write_findings(found, [finding('long.wav', 10, end=90)])
    assert review(found).returncode == 0
    assert page_data(found / 'review/batch-1.html')['detections'][0]['clip']['end'] == 10 + 30 + 3


def test_unreadable_recordings_are_listed_and_others_shown(found, tmp_path):
    (tmp_path / 'field/broken.wav').write_bytes(b'no sound')
    rows = [*formats.read(str(found / 'findings.csv'))]
    bad = ['broken.wav', 'missing.wav', '../out/findings.csv', '/etc/passwd']
    write_findings(found, [*(finding(name, 1) for name in bad), finding('a.flac', 900, 'weta'), *rows])
    done = review(found)
    assert done.returncode == 0 and '8 detections on 1 page; 5 left out: ' in done.stdout, done.stderr
    listed = dict(line.split('\t') for line in (found / 'review/skipped.tsv').read_text().splitlines())
    reasons = {name.split(',')[0]: why for name, why in listed.items()}
    assert reasons.keys() == {*bad, 'a.flac'}
    assert 'No such file' in reasons['missing.wav'] and 'cannot be read' in reasons['broken.wav']
    assert 'no path below the folder' in reasons['/etc/passwd'] == reasons['../out/findings.csv']
    assert 'ends after 12.00 s' in reasons['a.flac']
    assert sorted(page_data(found / 'review/batch-1.html')['problems']) == sorted(map(list, listed.items()))


def test_pages_of_other_findings_are_kept_without_force(found):
    assert review(found).returncode == 0
    before = shown(found / 'review')
    (found / 'review/my reviews.csv').write_text('mine')
    done = review(found, '--count', '3')
    assert done.returncode == 1 and 'has pages for other count; choose another --output' in done.stderr
    write_findings(found, [finding('a.flac', 1)])
    done = review(found)
    assert done.returncode == 1 and 'has pages for other findings; choose another --output' in done.stderr
    assert shown(found / 'review') == before
    assert review(found, '--output', found / 'second').returncode == 0
    assert review(found, '--force').returncode == 0
    assert shown(found / 'review') == shown(found / 'second') == [('a.flac', 1, 'amered')]
    assert len(list((found / 'review/clips').iterdir())) == 2
    assert (found / 'review/my reviews.csv').read_text() == 'mine'


def test_embedded_pages_need_no_files(found):
    assert review(found, '--embed').returncode == 0
    assert not list((found / 'review/clips').iterdir())
    for one in page_data(found / 'review/batch-1.html')['detections']:
        assert one['clip']['image'].startswith('data:image/png;base64,')
        assert one['clip']['sound'].startswith('data:audio/flac;base64,')


def test_findings_without_a_dataset_need_only_the_recordings(found, tmp_path):
    (found / 'identify.json').unlink()
    done = review(found)
    assert done.returncode == 1 and 'give it with --recordings FOLDER' in done.stderr
    done = review(found, '--recordings', tmp_path / 'field')
    assert done.returncode == 0 and 'note: only classes in the findings' in done.stderr
    classes = page_data(found / 'review/batch-1.html')['classes']
    assert [each[0] for each in classes] == sorted(CLASSES[:3]) and ['amered', LATIN[0], COMMON[0]] in classes


@pytest.mark.parametrize(
    'options, message',
    [
        (['--count', '0'], '--count=0: at least 1'),
        (['--batch-size', '-1'], '--batch-size=-1: at least 1'),
        (['--context', 'nan'], '--context=nan: give seconds'),
        (['--max-frequency', '3'], '--max-frequency=3: give a frequency in Hz'),
        (['--classes', 'sparrow'], "'sparrow' is no class of the dataset"),
        (['--classes', 'rare'], 'no detections of --classes=rare'),
        (['--recordings', 'nowhere'], 'nowhere: no such folder'),
        (['--recordings', '/'], 'none of 8 detections can be read'),
        (['--dataset', 'nowhere'], 'nowhere'),
        (['--output', '..'], 'contains other files than pages of review.py'),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message, found, monkeypatch):
    monkeypatch.chdir(found)
    done = review(found, *options)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1
    assert not (found / 'review').exists()


@pytest.mark.parametrize(
    'row, message',
    [
        (None, 'no detections; lower the --threshold'),
        (dict(score=1.5), 'row 2: the score 1.5 is not between 0 and 1'),
        (dict(end=1.0), 'row 2: a detection from 1 to 1 s is not possible'),
        (dict(class_id=''), 'row 2: no class'),
        (dict(file=''), 'row 2: no file'),
        (dict(class_id='else'), 'class else is not in'),
    ],
)
def test_bad_findings_are_refused_in_one_line(row, message, found):
    write_findings(found, [] if row is None else [finding('a.flac', 1.0)._replace(**row)])
    done = review(found)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1
    assert not (found / 'review').exists()


def test_no_text_ends_the_data_of_the_page(found):
    assert review(found).returncode == 0
    text = (found / 'review/batch-1.html').read_text()
    assert text.count('<script') == 2 and text.count('</script') == 2 and '<b>&' not in text
    data = page_data(found / 'review/batch-1.html')
    assert [MARKUP, LATIN[2], COMMON[2]] in data['classes'] and ODD in {one['file'] for one in data['detections']}


# == In a browser ==


@pytest.fixture
def window(tmp_path):
    with browser.chromium(tmp_path) as opened:
        yield opened
        # such as violations of the Content-Security-Policy
        assert opened.messages() == []


def downloaded(window, tmp_path):
    """The path of the table that the page has just saved."""
    path = tmp_path / 'downloads' / re.search(r'review-\S+\.csv', window.text('#status'))[0]
    while not path.exists():  # the browser renames the file when it is complete
        window.run('return 0')
    return path


@pytest.mark.slow
def test_what_is_pressed_is_kept_saved_and_calibrated(found, window, tmp_path):
    assert review(found, '--select', 'top').returncode == 0
    page = found / 'review/batch-1.html'
    order = page_data(page)['detections']
    window.open(page)
    window.press('Space')
    window.wait('document.getElementById("sound").currentTime > 0.1')
    assert window.text('#play-name') == 'Pause'
    window.press('d', 'r', '2', 'u')
    assert window.text('#progress') == 'Detection 4 of 8; 3 reviewed'
    window.press('o', *'weta', 'Enter')  # accents need not be typed
    window.press('o', *'=Moa, "big"', 'Enter')
    window.press('o', 'Escape', 'w', 'z', 'r')
    window.press('Left', 'Left', 'p', 'n')
    window.reload()
    assert window.text('#progress') == 'Detection 5 of 8; 6 reviewed'
    assert window.text('#counts') == '2 right, 1 wrong, 1 unsure, 2 other'
    assert window.text('#other-name') == '=Moa, "big"'
    window.press('s')
    path = downloaded(window, tmp_path)
    saved = reviews.read(path)
    assert [(each.verdict, each.other) for each in saved] == [
        ('right', ''),
        ('wrong', ''),
        ('unsure', ''),
        ('other', 'weta'),
        ('other', '=Moa, "big"'),
        ('right', ''),
    ]
    findings = {
        (one.file, one.start, one.end, one.class_id, one.score) for one in formats.read(f'{found}/findings.csv')
    }
    for each, one in zip(saved, order, strict=False):
        assert (each.file, each.start) == (one['file'], one['start']) and each.batch == page_data(page)['id']
        assert each[:5] in findings
    with open(path, newline='') as f:
        rows = list(csv.reader(f))
    assert tuple(rows[0]) == reviews.COLUMNS
    assert not [cell for row in rows for cell in row if cell.startswith('=')]
    options = '--dataset', tmp_path / 'set', '--reviewed', path, '--folds', '0', '--output', tmp_path / 'c.json'
    done = run_program('experiments/calibrate.py', *options)
    assert done.returncode == 0 and '5 reviewed detections' in done.stdout, done.stderr


@pytest.mark.slow
def test_saved_reviews_can_be_continued_elsewhere(found, window, tmp_path):
    assert review(found).returncode == 0
    shutil.copytree(found / 'review', tmp_path / 'elsewhere')
    window.open(found / 'review/batch-1.html')
    window.press('r', 'w', 'o', *'the "big", one', 'Enter', 's')
    path = downloaded(window, tmp_path)
    first = path.read_text()
    window.run('localStorage.clear()')
    window.open(tmp_path / 'elsewhere/batch-1.html')
    assert window.text('#progress') == 'Detection 1 of 8; 0 reviewed'
    # as a spreadsheet would write it, with other quotes and numbers, and a row of another batch
    rows = list(csv.reader(io.StringIO(first)))
    changed = io.StringIO()
    csv.writer(changed, quoting=csv.QUOTE_ALL).writerows(
        [rows[0], ['x.wav', *rows[1][1:]], *([row[0], f'{float(row[1]):g}', *row[2:]] for row in rows[1:])]
    )
    (tmp_path / 'changed.csv').write_text('\ufeff' + changed.getvalue(), encoding='utf-8', newline='')
    window.choose_file('#load', tmp_path / 'changed.csv')
    window.wait('document.getElementById("status").textContent.startsWith("Loaded")')
    assert window.text('#status') == 'Loaded 3 reviews; 1 rows are not about this batch, or have no verdict.'
    path.unlink()
    window.press('s')
    assert downloaded(window, tmp_path).read_text() == first
    (tmp_path / 'changed.csv').write_text('File,Class\nx,y\n')
    window.choose_file('#load', tmp_path / 'changed.csv')
    window.wait('document.getElementById("status").className === "alert"')
    assert window.text('#status') == 'This is not a table of reviews that this page has saved.'
    window.press('z')
    assert window.text('#progress') == 'Detection 1 of 8; 0 reviewed'


@pytest.mark.slow
def test_texts_stay_texts_and_nothing_overflows_a_phone(found, window, tmp_path):
    (tmp_path / 'field/broken<b>.wav').touch()
    write_findings(found, [finding('broken<b>.wav', 0), *formats.read(str(found / 'findings.csv'))])
    assert review(found, '--select', 'top', '--embed', '--blind', '--batch-size', '7').returncode == 0
    window.resize(360, 640)
    window.open(found / 'review/batch-1.html')
    names = set()
    for i in range(7):
        assert window.run('return document.documentElement.scrollWidth') == 360
        window.wait('document.getElementById("image").naturalWidth > 100')
        names |= {window.text('#common'), window.text('#file'), window.text('#scientific')}
        window.press('Right')
        assert window.text('#progress').startswith(f'Detection {min(i + 2, 7)} of 7')
    assert {MARKUP, COMMON[2], ODD} <= names and window.run('return document.title') == 'Review: out, batch 1'
    assert 'broken<b>.wav' in window.text('#problems ul') and window.run('return document.scripts.length') == 2
    assert not window.run('return document.getElementById("confidence").checkVisibility()')
    window.press('?', 'o')
    sizes = window.run(
        """return [...document.querySelectorAll('button, .button, a, summary, input[type=text], [role=option]')]
            .filter(each => each.checkVisibility()).map(each => each.getBoundingClientRect())
            .map(({width, height}) => Math.min(width, height))"""
    )
    assert len(sizes) > 15 and min(sizes) >= 44
    assert window.run('return document.documentElement.scrollWidth') == 360
    window.press('Escape')
    window.click('#unsure')
    # Space plays after a click, but does not press the button again
    window.press('Space')
    window.wait('document.getElementById("sound").currentTime > 0.1')
    assert window.text('#counts') == '1 unsure'
    window.press('Tab', 'Tab', 'Tab', 'Tab')
    assert window.run('return document.activeElement.id') == 'right'
    assert window.run('return getComputedStyle(document.activeElement).outlineStyle') == 'solid'
    window.press('Space')
    assert window.text('#counts') == '1 right, 1 unsure'
    window.click('#batch-after')
    assert window.text('#progress') == 'Detection 1 of 1; 0 reviewed'
