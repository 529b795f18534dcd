"""report.py: what the page says, and that a headless Chromium shows it from disk, wide, narrow, printed and dark."""

import base64
import csv
import html
import importlib.resources
import io
import json
import os
import pathlib
import re

import numpy as np
import pytest

import browser
from birdsong.files import save_npz
from birdsong.scores import combination, metrics, predictions
from helpers import ROOT, Checkout, run_program, train_all, wav_bytes, write_lines

pytestmark = pytest.mark.slow

MARKUP = '<script>document.title="run"</script>&amp;"\''
CLASSES = ['amered', 'norcar', MARKUP, '=SUM(1)', 'weta']
COUNT, RATE = 40, 8000
KEYS = [f'some/r{i:02}.wav' for i in range(COUNT - 1)] + ['odd/<img src=x onerror="document.title=1">.wav']
TRUTH = np.arange(COUNT) % len(CLASSES)
BACKGROUND = [[(c + 1) % len(CLASSES)] if i % 4 == 0 else [] for i, c in enumerate(TRUTH)]
# Training recordings of each class.
TRAINED = (1, 3, 12, 30, 60)
MODELS = {'good': 2.5, 'fair': 1.5, 'weak': 0.5}
WEIGHTS = {'good': 0.75, 'fair': 0.25}


def scores_of(name):
    """Logits of a model for all recordings (COUNT, classes)."""
    scores = np.random.default_rng(len(name)).normal(size=(COUNT, len(CLASSES))).astype(np.float32)
    scores[np.arange(COUNT), TRUTH] += MODELS[name]
    return scores


def write_dataset(folder):
    """A dataset of short tones: all recordings for validation exist, those for training are only in the lists."""
    trained = [(f'train/{c}_{i}.wav', c) for c, count in enumerate(TRAINED) for i in range(count)]
    wave = 3000 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    for key in KEYS:
        path = folder / 'audio' / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav_bytes(wave.astype('<i2'), RATE))
    write_lines(folder / 'filelists/valid', KEYS)
    write_lines(folder / 'filelists/train', [key for key, _ in trained])
    write_lines(folder / 'filelists/groups.tsv', [f'{key}\t{i // 2}' for i, key in enumerate(KEYS)])
    write_lines(folder / 'labels/labelset', CLASSES)
    write_lines(folder / 'labels/fg.tsv', [f'{key}\t{c}' for key, c in [*zip(KEYS, TRUTH, strict=True), *trained]])
    background = (f'{key}\t{",".join(map(str, those))}' for key, those in zip(KEYS, BACKGROUND, strict=True))
    write_lines(folder / 'labels/bg.tsv', [*background, *(f'{key}\t' for key, _ in trained)])


def write_run(root, epochs=3, **settings):
    """The files of a finished training."""
    names = 'train_loss', 'valid_loss', 'valid_error', 'valid_map', 'rate', 'seconds'
    rows = [(2 / i, 3 / i, 0.5 / i, 1 - 0.5 / i, 0.01 * 0.1**i, 30) for i in range(1, epochs + 1)]
    record = {
        'settings': {'mel_bands': 40, **settings},
        'metrics': [{'epoch': i, **dict(zip(names, row, strict=True))} for i, row in enumerate(rows, 1)],
        'saved_epoch': 2,
        'device': MARKUP,
        'peak_memory_MB': 1234,
        'packages': {'torch': '2.0'},
        'started': '2026-01-02T03:04:05+00:00',
    }
    root.parent.mkdir(parents=True, exist_ok=True)
    root.with_name(f'{root.name}.run.json').write_text(json.dumps(record))
    save_npz(root.with_name(f'{root.name}.npz'), {'a': np.zeros(1)})
    write_lines(root.with_name(f'{root.name}.npz.vars'), ['mel_bands=40'])


def write_experiments(folder):
    """Three trained models with predictions, an ensemble, and a model without predictions."""
    for i, name in enumerate(MODELS):
        write_run(folder / name, seed=i)
        predictions.save(folder / f'{name}.pred.npz', KEYS, list(scores_of(name)))
    write_run(folder / 'new')
    lines = [f'{name}\t{weight}' for name, weight in WEIGHTS.items()]
    write_lines(folder / 'ensembles/both.tsv', ['# options: --softmax', *lines])


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """A copy of the project with a dataset, experiments, a calibration, and the page on them."""
    copy = Checkout(tmp_path_factory.mktemp('report') / 'project')
    copy.copy()
    write_dataset(copy.path / 'datasets/set')
    write_experiments(copy.experiments / 'set')
    names = ('--dataset=set', '--softmax', '--precision=0.7', '--samples=50', 'set/good.pred.npz')
    calibrated = copy.run('experiments/calibrate.py', *names, cwd=copy.experiments)
    assert calibrated.returncode == 0, calibrated.stderr
    done = report(copy, '--audio')
    assert done.returncode == 0, done.stderr
    assert 'experiments/set/report.html: report on set, ' in done.stderr
    return copy


def report(project, *options, dataset='set'):
    return project.run('experiments/report.py', '--dataset', dataset, '--samples', '50', *options)


def page_of(project, dataset='set'):
    return (project.experiments / dataset / 'report.html').read_text(encoding='utf-8')


def table(page, name):
    """The CSV file of a table as dicts, with numbers where possible; {} of no row if there is no such table."""
    link = re.search(rf'href="(data:text/csv[^"]*)" download="{re.escape(name)}\.csv"', page)[1]
    content = base64.b64decode(html.unescape(link).partition('base64,')[2]).decode('utf-8-sig')
    return list(csv.DictReader(io.StringIO(content)))


# == What the page says ==


def test_metrics_are_those_of_the_predictions_with_intervals_and_the_best_first(site):
    rows = table(page_of(site), 'models-table')
    assert [row['model'] for row in rows if row['kind'] == 'model'] == ['good', 'fair', 'weak']
    for name in MODELS:
        row = next(row for row in rows if row['model'] == name)
        expected = metrics.evaluate(scores_of(name), TRUTH, BACKGROUND, 1) | metrics.current(
            scores_of(name), TRUTH, BACKGROUND
        )
        for metric in 'MAP', 'MAP-bg', 'top-1', 'cmAP', 'ROC-AUC':
            assert float(row[metric]) == pytest.approx(expected[metric])
            assert float(row[f'{metric} low']) <= float(row[metric]) <= float(row[f'{metric} high'])
    both = sum(weight * combination.softmax(scores_of(name)) for name, weight in WEIGHTS.items())
    ensemble = next(row for row in rows if row['kind'] == 'ensemble')
    assert float(ensemble['MAP']) == pytest.approx(metrics.evaluate(both, TRUTH)['MAP'])
    assert float(ensemble['ROC-AUC']) == pytest.approx(metrics.current(both, TRUTH, BACKGROUND)['ROC-AUC'])


def test_the_summary_names_the_best_model_and_the_ensemble(site):
    rows = table(page_of(site), 'models-table')
    text = re.search(r'<div class="summary">(.*?)</div>', page_of(site), re.DOTALL)[1]
    assert '5 classes; 106 recordings for training and 40 recordings for validation.' in text
    best = next(row for row in rows if row['kind'] == 'model')
    assert f'The best model is good, with a MAP of {float(best["MAP"]):.3f} (' in text
    assert 'The best ensemble is both, with a MAP of ' in text and 'on 40 recordings of the list valid' in text
    assert 'Trainings: 4 finished.' in text


def test_trainings_are_listed_with_the_epoch_that_was_kept(site):
    rows = {row['model']: row for row in table(page_of(site), 'trainings')}
    assert set(rows) == {*MODELS, 'new'}
    one = rows['good']
    assert (one['state'], one['epochs'], one['kept epoch']) == ('finished', '3', '2')
    assert [float(one[name]) for name in ('MAP', 'error', 'loss', 'minutes')] == [0.75, 0.25, 1.5, 1.5]
    assert float(one['memory (MB)']) == 1234 and one['device'] == MARKUP
    labels = re.findall(r'role="img" aria-label="(.*?)"', page_of(site))
    assert 'good: loss over epochs: training from 2 to 0.667; validation from 3 to 1' in labels
    for title in 'MAP and error', 'learning rate':
        assert sum(label.startswith(f'good: {title} over epochs') for label in labels) == 1


def test_settings_that_differ_from_the_defaults_are_listed_common_ones_once(site):
    rows = [tuple(row.values()) for row in table(page_of(site), 'settings')]
    assert rows[0] == ('all models', 'mel_bands', '80', '40')
    assert ('weak', 'seed', '0', '2') in rows and ('good', 'seed', '0', '0') not in rows and len(rows) == 3


def test_weights_correlations_and_class_sizes(site):
    page = page_of(site)
    weights = {row['member']: row for row in table(page, 'weights')}
    assert {name: float(row['share (%)']) for name, row in weights.items()} == {'good': 75, 'fair': 25}
    found = table(page, 'correlations')
    names = [row['model'] for row in found]
    errors = [1 - 1 / metrics.per_recording(scores_of(name), TRUTH)[0] for name in names]
    values = [[float(row[name]) for name in names] for row in found]
    np.testing.assert_allclose(values, np.corrcoef(errors), atol=1e-12)
    sizes = table(page, 'class-size')
    bounds = [(int(row['training recordings per class']), int(row['at most'])) for row in sizes]
    assert bounds == [(1, 3), (12, 12), (30, 30), (60, 60)]
    own = TRUTH == 2
    expected = metrics.evaluate(scores_of('good')[own], TRUTH[own], None, 1)
    assert float(sizes[1]['MAP of good']) == pytest.approx(expected['MAP']) and sizes[1]['recordings evaluated'] == '8'


def test_a_calibration_is_shown_with_its_thresholds(site):
    page = page_of(site)
    with open(site.experiments / 'set/calibration/good.json') as f:
        about = json.load(f)
    diagram = about['held out']['diagram']
    assert sum(each['cases'] for each in diagram['after']) == COUNT * len(CLASSES)
    rows = {row['metric']: row for row in table(page, 'calibration0')}
    assert float(rows['log loss']['before']) == about['held out']['log loss']['before']['value']
    thresholds = [each['threshold'] for each in about['classes']]
    assert [float(row['threshold'] or 'nan') for row in table(page, 'thresholds0')] == pytest.approx(
        [np.nan if value is None else value for value in thresholds], nan_ok=True
    )
    assert 'Thresholds are for a precision of 0.7.' in page and 'before calibration: ' in page


def test_names_from_files_are_text_and_no_formulas(site):
    page = page_of(site)
    assert page.count('<script>') == 1 and '<img src=x' not in page and html.escape(MARKUP, quote=False)[:20] in page
    names = [row['class'] for row in table(page, 'thresholds0')]
    assert MARKUP in names and "'=SUM(1)" in names


def test_the_page_loads_nothing(site):
    page = page_of(site)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page)[1])
    assert "default-src 'none'" in policy and 'unsafe' not in policy and 'http' not in policy
    for address in re.findall(r'(?:href|src)="([^"]*)"', page):
        assert address.startswith(('#', 'data:')), address
    assert ' style="' not in page and len(page.encode()) < 20e6


def test_ids_are_unique_and_links_lead_somewhere(site):
    page = page_of(site)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    links = {html.unescape(link) for link in re.findall(r'href="#([^"]+)"', page)}
    assert links <= set(ids)
    titles = re.findall(r'<li><a href="#(\w+)"', page)
    assert [name for name in titles if not name.endswith('-title')][:5] == [
        'dataset',
        'training',
        'models',
        'classes',
        'calibration',
    ]


def test_equal_files_give_equal_pages_except_for_the_footer(site, tmp_path):
    done = report(site, '--audio', '--output', tmp_path / 'again/page.html')
    assert done.returncode == 0, done.stderr
    pages = [page_of(site), (tmp_path / 'again/page.html').read_text(encoding='utf-8')]
    first, second = (page.partition('<footer>') for page in pages)
    assert first[0] == second[0]
    for name in 'Revision', 'Command', 'Date', 'Versions':
        assert f'<dt>{name}</dt>' in first[2]
    assert 'report.py --dataset set --samples 50 --audio --output' in html.unescape(second[2])


# == Failed and running models, cross-validation, damaged files ==


def test_failed_and_waiting_models_are_shown_with_the_reason(project):
    (project.experiments / 'FAIL').write_text('plain')
    train_all(project)
    options = '--dataset=tiny', '--models=table.tsv', '--report', 'meta'
    done = project.run('experiments/eval_all.sh', *options, cwd=project.experiments)
    assert 'experiments/tiny/report.html: report on tiny' in done.stderr, done.output
    page = page_of(project, 'tiny')
    states = {row['model']: row['state'] for row in table(page, 'trainings')}
    assert states == {'plain': 'failed', 'student': 'waiting', 'meta': 'finished', 'both': 'waiting'}
    details = {row['model']: row['details'] for row in table(page, 'training-details')}
    assert 'the loss is not finite' in details['plain'] and details['student'] == 'for plain, which failed'
    assert 'the loss is not finite' in re.search(r'<pre[^>]*>(.*?)</pre>', page, re.DOTALL)[1]


@pytest.fixture
def folds(checkout):
    """A dataset with two folds and pooled predictions of two models."""
    main = checkout.path / 'datasets/cv'
    write_dataset(main)
    for number in 1, 2:
        fold = main.with_name(f'cv-fold{number}')
        write_lines(fold / 'filelists/valid', KEYS[number - 1 :: 2])
        write_lines(fold / 'filelists/train', KEYS[2 - number :: 2])
        for name in 'labels', 'audio':
            (fold / name).symlink_to(f'../cv/{name}')
        for name in 'good', 'fair':
            write_run(checkout.experiments / f'cv-fold{number}/{name}')
            scores = list(scores_of(name)[number - 1 :: 2])
            predictions.save(checkout.experiments / f'cv-fold{number}/{name}.pred.npz', KEYS[number - 1 :: 2], scores)
    return checkout


def test_a_cross_validation_is_shown_with_the_trainings_of_its_folds(folds):
    for program, *options in ('crossval.py', 'good', 'fair'), ('report.py',):
        done = folds.run(f'experiments/{program}', '--dataset=cv', '--samples=50', *options)
        assert done.returncode == 0, done.stderr
    page = page_of(folds, 'cv')
    recorded = json.loads((folds.experiments / 'cv/crossval/table.json').read_text())['metrics']
    rows = {row['model']: row for row in table(page, 'models-table')}
    assert set(rows) == set(recorded) == {'good', 'fair', 'ensemble', 'ensemble_equal'}
    for name, values in recorded.items():
        assert float(rows[name]['cmAP']) == values['cmAP']['pooled']
        assert float(rows[name]['MAP high']) == values['MAP']['high']
    assert '40 recordings, each held out in one fold' in page
    trainings = {(row['model'], row['dataset']) for row in table(page, 'trainings')}
    assert trainings == {(name, f'cv-fold{number}') for name in ('good', 'fair') for number in (1, 2)}
    assert {row['ensemble'] for row in table(page, 'weights')} == {'ensemble'}


def test_damaged_files_are_named_on_the_page_and_the_rest_is_shown(checkout):
    write_dataset(checkout.path / 'datasets/set')
    folder = checkout.experiments / 'set'
    write_experiments(folder)
    (folder / 'weak.pred.npz').write_bytes(b'nothing')
    (folder / 'fair.run.json').write_text('{"metrics": [1, {"epoch": "x", "valid_map": "y"}], "settings": 3}')
    (folder / 'ensembles/broken.tsv').write_text('good\tNaN\n')
    (folder / 'calibration').mkdir()
    (folder / 'calibration/bad.json').write_text('[' * 10000)
    done = report(checkout)
    assert done.returncode == 0, done.stderr
    page = page_of(checkout)
    assert [row['model'] for row in table(page, 'models-table') if row['kind'] == 'model'] == ['good', 'fair']
    for words in 'weak.pred.npz', 'broken.tsv, line 1', 'bad.json: not a calibration':
        assert words in page


def test_a_dataset_without_labels_and_models_has_a_page(checkout):
    write_lines(checkout.path / 'datasets/set/filelists/test', KEYS[:2])
    done = report(checkout)
    assert done.returncode == 0, done.stderr
    page = page_of(checkout)
    assert 'The dataset has no labels; 2 recordings for test.' in page and 'id="models"' not in page


@pytest.mark.parametrize(
    'options, words',
    [
        (['--dataset', 'nothing'], 'no dataset'),
        (['--clips', '-1'], '--clips=-1: expected 0 or more'),
        (['--models', 'nothing.tsv'], 'nothing.tsv: no such file'),
    ],
)
def test_options_that_are_not_possible_end_with_a_line(tiny_dataset, options, words):
    done = run_program('experiments/report.py', '--dataset', tiny_dataset, *options)
    assert done.returncode == 1 and words in done.stderr and done.stderr.count('\n') == 1


# == In a browser ==


@pytest.fixture
def window(tmp_path):
    with browser.chromium(tmp_path) as opened:
        yield opened
        # such as violations of the Content-Security-Policy
        assert opened.messages() == []


def open_page(window, site):
    window.open(site.experiments / 'set/report.html')


def column(window, name, index):
    """The texts of a column of a table as shown."""
    script = """return Array.from(document.querySelectorAll(`#${arguments[0]} tbody tr:not([hidden])`),
        (row) => row.cells[arguments[1]].textContent)"""
    return window.run(script, name, index)


def test_a_table_is_sorted_filtered_and_downloaded(site, window, tmp_path):
    window.resize(1100, 800)
    open_page(window, site)
    button = '#models-table thead th:nth-child(2) button'
    window.click(button)
    falling = column(window, 'models-table', 1)
    assert falling == sorted(falling, reverse=True)
    assert window.run('return document.querySelector(arguments[0]).ariaSort', '#models-table th:nth-child(2)') == (
        'descending'
    )
    window.click(button)
    assert column(window, 'models-table', 1) == falling[::-1]
    window.click('#models-table thead th:first-child button')
    names = column(window, 'models-table', 0)
    assert names == sorted(names)
    window.click('#models-table .download a')
    path = tmp_path / 'downloads/models-table.csv'
    while not path.exists():
        window.run('return 0')
    assert [row['model'] for row in csv.DictReader(io.StringIO(path.read_text('utf-8-sig')))] == [
        row['model'] for row in table(page_of(site), 'models-table')
    ]


def test_a_clip_is_played(site, window):
    open_page(window, site)
    window.run('document.querySelector("#classes audio").closest("details").open = true')
    window.run('document.querySelector("#classes audio").focus()')
    window.press('Space')
    window.wait('document.querySelector("#classes audio").currentTime > 0.1')
    assert 0.5 < window.run('return document.querySelector("#classes audio").duration') < 1.5


def test_a_link_to_a_folded_part_unfolds_it(site, window):
    open_page(window, site)
    name = window.run('return document.querySelector("#classes details[id]").id')
    assert not window.run('return document.getElementById(arguments[0]).open', name)
    window.run('location.hash = arguments[0]', name)
    window.wait(f'document.getElementById("{name}").open')


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', [375, 1100])
def test_no_page_is_wider_than_the_screen_and_axe_finds_no_fault(site, window, width, dark):
    pytest.importorskip('axe_core_python', reason='needs axe-core: pip install -r requirements.txt')
    axe = importlib.resources.files('axe_core_python').joinpath('axe.min.js').read_text(encoding='utf-8')
    window.resize(width, 800, dark)
    open_page(window, site)
    window.run('for (const each of document.querySelectorAll("details")) each.open = true')
    assert window.run('return document.documentElement.scrollWidth') <= width
    window.run(axe)
    found = window.run_until_done('const done = arguments[0]; axe.run().then(done)')
    assert len(found['passes']) > 20
    assert [(each['id'], each['nodes'][0]['html']) for each in found['violations']] == []


def test_without_javascript_everything_is_there_but_buttons(site, window):
    window.devtools('Emulation.setScriptExecutionDisabled', value=True)
    open_page(window, site)
    window.devtools('Emulation.setScriptExecutionDisabled', value=False)
    assert window.run('return document.querySelectorAll("button, .filter").length') == 0
    assert column(window, 'models-table', 0)[:1] and window.text('h1') == 'set'
    assert window.run('return document.querySelectorAll("a[download]").length') >= 8


def test_on_paper_everything_is_unfolded_and_nothing_is_to_be_clicked(site, window):
    open_page(window, site)
    folded = 'return document.querySelectorAll("details:not([open])").length'
    before = window.run(folded)
    window.run('dispatchEvent(new Event("beforeprint"))')
    assert before and window.run(folded) == 0
    window.run('dispatchEvent(new Event("afterprint"))')
    assert window.run(folded) == before
    window.devtools('Emulation.setEmulatedMedia', media='print')
    shown = 'return getComputedStyle(document.querySelector(arguments[0])).display'
    assert window.run(shown, '.download') == 'none' and window.run(shown, 'table') == 'table'
    content = window.devtools('Page.printToPDF', printBackground=True)['data']
    assert base64.b64decode(content).startswith(b'%PDF-')


def test_screenshots_for_the_readme(window):
    """Writes the screenshots of the README from the page of the demo, if the environment asks for it."""
    folder = os.environ.get('BIRDCLEF_SCREENSHOTS')
    page = ROOT / 'experiments/demo/report.html'
    if not folder or not page.exists():
        pytest.skip('set BIRDCLEF_SCREENSHOTS to a folder, and run experiments/demo.sh before')
    for name, part, *screen in ('report', 'models', 1000, 900), ('report_phone', 'curves-title', 375, 900, True):
        window.resize(*screen)
        window.open(page)
        window.run('document.getElementById(arguments[0]).scrollIntoView()', part)
        window.screenshot(pathlib.Path(folder) / f'{name}.png')
