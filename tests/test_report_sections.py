"""The sections of a report on the dataset and on its classes."""

import base64
import csv
import dataclasses
import html.parser
import io
import re

import numpy as np
import pytest

from birdsong.data.dataset import Dataset
from birdsong.findings import clips
from birdsong.report import class_recordings, class_section, dataset_section, dates, examples, figures, world_map
from birdsong.report.source import Best, Model, Options, Source
from birdsong.scores import metrics, predictions
from helpers import SHARED, wav_bytes, write_lines

RATE = 16000
HOSTILE = '<script>alert(1)</script>"\'&'


class Page(html.parser.HTMLParser):
    """What a section contains: tables by id, as rows of texts; ids, links, images, alternative texts, all text."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.files, self.tags, self.links, self.labels, self.ids, self.text = {}, {}, [], [], [], [], ''
        self.rows = self.name = None
        self.feed(str(text))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [attrs[name] for name in ('href',) if name in attrs]
        self.labels += [attrs[name] for name in ('aria-label', 'alt') if name in attrs]
        self.ids += [attrs[name] for name in ('id',) if name in attrs]
        if 'download' in attrs:
            self.files[attrs['download']] = attrs['href']
        if attrs.get('class') == 'table':
            self.name = attrs['id']
        if tag == 'table':
            self.rows = self.tables[self.name] = []
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()

    def handle_endtag(self, tag):
        if tag == 'table':
            self.rows = None

    def table(self, name):
        """Rows as dicts from the titles of the columns."""
        titles, *rows = self.tables[name]
        return [dict(zip(titles, row, strict=True)) for row in rows]

    def csv(self, name):
        """Rows of the CSV file of a table, as dicts."""
        content = base64.b64decode(self.files[f'{name}.csv'].partition(',')[2]).decode('utf-8-sig')
        return list(csv.DictReader(io.StringIO(content)))

    def label(self, start):
        return next(label for label in self.labels if label.startswith(start))


def tone(seconds, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    return wav_bytes((8000 * np.sin(2 * np.pi * 2000 * t) + 500 * rng.normal(size=len(t))).astype('<i2'), RATE)


def make(folder, recordings, classes, meta=None):
    """A dataset: {key: (list, class index, seconds)}, class ids, {key: fields of meta.tsv}."""
    for i, (key, (_, _, seconds)) in enumerate(recordings.items()):
        path = folder / 'audio' / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tone(seconds, i))
    for name in {part for part, _, _ in recordings.values()}:
        write_lines(folder / 'filelists' / name, [key for key, value in recordings.items() if value[0] == name])
    write_lines(folder / 'labels' / 'labelset', classes)
    write_lines(folder / 'labels' / 'fg.tsv', [f'{key}\t{label}' for key, (_, label, _) in recordings.items()])
    if meta is not None:
        write_lines(folder / 'labels' / 'meta.tsv', ['\t'.join((key, *fields)) for key, fields in meta.items()])
    return Dataset(folder)


def source(dataset, scores=None, filename=None, folder='', pooled=False, **options):
    """What a report on a dataset and a single model with these scores for the validation list is about."""
    values = {field.name: [] for field in dataclasses.fields(Source)}
    values |= {
        'dataset': dataset,
        'folder': str(folder),
        'filelist': 'valid',
        'pooled': pooled,
        'options': Options(**options),
    }
    values |= {'truth': np.empty(0, np.int64), 'background': None, 'groups': None, 'best': None}
    if scores is not None:
        scores = np.array(scores, np.float32)
        model = Model('net', filename, scores)
        files = dataset.filelist('valid')
        truth = np.array([dataset.labels()[key] for key in files])
        values |= {'files': files, 'truth': truth, 'models': [model], 'best': Best('net', scores, [(model, 1)], False)}
    return Source(**values)


def described(dataset):
    return Page(dataset_section.write(source(dataset)))


def judged(dataset, scores, **options):
    return Page(class_section.write(source(dataset, scores, **options)))


# == The dataset ==


def test_recordings_and_hours_add_up(tmp_path):
    recordings = {
        'a/1.wav': ('train', 0, 1.5),
        'a/2.wav': ('train', 0, 2.5),
        'b/1.wav': ('train', 1, 6),
        'b/2.wav': ('valid', 1, 3),
    }
    page = described(make(tmp_path / 'd', recordings, ['ant', 'bee', 'cat']))
    lists = {row['list']: row for row in page.table('lists')}
    assert [lists[name]['recordings'] for name in ('train', 'valid', 'all, each once')] == ['3', '1', '4']
    assert lists['train']['median (s)'] == '2.5' and lists['all, each once']['longest (s)'] == '6.0'
    classes = page.table('amounts')
    assert [row['class'] for row in classes] == ['ant', 'bee', 'cat']
    assert [row['recordings'] for row in classes] == ['2', '2', '0']
    assert [row['valid: recordings'] for row in classes] == ['0', '1', '0']
    hours = {row['list']: float(row['hours']) for row in page.csv('lists')}
    assert hours['train'] == pytest.approx(10 / 3600) and hours['all, each once'] == pytest.approx(13 / 3600)
    assert sum(float(row['hours']) for row in page.csv('amounts')) == pytest.approx(13 / 3600)
    assert 'The most are 2 of ant, the fewest 0 of cat; the median is 2.' in page.label('Bar chart of the labelled')
    assert '4 recordings of 13 s in all in 2 lists; 3 classes.' in page.text


def test_what_is_not_known_is_said_in_a_sentence_and_not_drawn(tmp_path):
    page = described(make(tmp_path / 'd', {'1.wav': ('train', 0, 1)}, ['ant']))
    assert 'The places, dates and times of day of the recordings are not known.' in page.text
    assert 'Which recordings belong together' in page.text and 'repaired and left out nothing' in page.text
    assert not [
        label for label in page.labels if label.startswith(('Map', 'Clock', 'Bar chart of recordings over the year'))
    ]


def test_calendar_and_clock_count_dates_and_times(tmp_path):
    meta = {
        '1.wav': ('2024-01-31', '06:59:00', '', '', ''),
        '2.wav': ('2023-02-01', '06:00:00', '', '', ''),
        '3.wav': ('2023-02-28', '23:59:59', '', '', ''),
        '4.wav': ('', '', '', '', ''),
    }
    page = described(make(tmp_path / 'd', {key: ('train', 0, 1) for key in meta}, ['ant'], meta))
    assert 'Jan 1, Feb 2, Mar 0' in page.label('Bar chart of recordings over the year')
    assert page.label('Clock').endswith('6:00 2, 23:00 1.')
    assert 'The places of the recordings are not known.' in page.text


def test_every_day_of_the_year_is_in_one_bar_of_the_calendar():
    assert dates.of_days(np.arange(1.0, 366)).tolist() == [5] * 73
    assert dates.of_months(np.arange(1.0, 366)).tolist() == np.diff(dates.STARTS).tolist()


def test_the_map_shows_recordings_where_they_were_made(tmp_path):
    places = {'vienna.wav': (48.2, 16.4), 'sydney.wav': (-33.9, 151.2), 'quito.wav': (-0.2, -78.5)}
    latitudes, longitudes = np.array(list(places.values())).T
    shown = world_map.frame(latitudes, longitudes)
    with figures.style():
        drawing, axes = figures.axes(8, 4)
        world_map.draw(axes, shown, world_map.places(shown, latitudes, longitudes))
        drawing.draw_without_rendering()
        points = {
            key: axes.transAxes.inverted().transform(axes.transData.transform((world_map.within(shown, lon), lat)))
            for key, (lat, lon) in places.items()
        }
        drawn = [point for line in axes.lines for point in line.get_xydata()]
    assert sorted(map(tuple, drawn)) == sorted((world_map.within(shown, lon), lat) for lat, lon in places.values())
    assert points['quito.wav'][0] < points['vienna.wav'][0] < points['sydney.wav'][0]
    assert points['sydney.wav'][1] < points['quito.wav'][1] < points['vienna.wav'][1]
    # a share of the height and width of the map
    expected = (48.2 - shown.south) / (shown.north - shown.south)
    assert points['vienna.wav'][1] == pytest.approx(expected, abs=1e-6)
    assert all(0.03 < value < 0.97 for point in points.values() for value in point)

    meta = {key: ('', '', str(lat), str(lon), '') for key, (lat, lon) in places.items()}
    page = described(make(tmp_path / 'd', {key: ('train', 0, 1) for key in meta}, ['ant'], meta))
    assert page.label('Map of the places of 3 recordings').count('33.9° S, 78.5° W') == 1


@pytest.mark.parametrize(
    ('latitude', 'longitude', 'is_land'),
    [(48.2, 16.4, True), (-25, 134, True), (-80, 20, True), (66, -170.5, True), (0, -30, False), (42, 51, False)],
)
def test_the_outline_of_the_land_is_in_its_place(latitude, longitude, is_land):
    from matplotlib.path import Path

    around = [
        Path(ring + (turn, 0)).contains_point((longitude, latitude)) for ring in world_map.land() for turn in (-360, 0)
    ]
    assert sum(around) % 2 == is_land


def test_a_map_over_the_180th_meridian_is_not_as_wide_as_the_world():
    latitudes, longitudes = np.array([-18.1, -13.8]), np.array([178.4, -171.8])  # Fiji, Samoa
    shown = world_map.frame(latitudes, longitudes)
    assert shown.east - shown.west < 20
    found = world_map.places(shown, latitudes, longitudes)
    assert sorted(found.longitudes) == pytest.approx([178.4, 188.2])


@pytest.mark.parametrize('places', [[(48.2, 16.4)], [(90, 0), (-90, 180)], [(0, -180), (0, 180)], [(0, 0), (0, 179)]])
def test_every_map_contains_its_places(places):
    latitudes, longitudes = np.array(places, float).T
    shown = world_map.frame(latitudes, longitudes)
    found = world_map.places(shown, latitudes, longitudes)
    assert found.counts.sum() == len(places)
    assert shown.west <= found.longitudes.min() and found.longitudes.max() <= shown.east
    assert shown.south <= found.latitudes.min() and found.latitudes.max() <= shown.north
    assert -90 <= shown.south < shown.north <= 90 and 0 < shown.east - shown.west <= 360


def test_repairs_are_summed_by_kind(tmp_path):
    dataset = make(tmp_path / 'd', {'1.wav': ('train', 0, 1)}, ['ant'])
    write_lines(
        tmp_path / 'd' / 'audio' / 'repairs.tsv',
        ['a/1.wav\t17 samples clip\tthe rest is kept', 'a/2.wav\t4 samples clip\tthe rest is kept', 'unfinished'],
    )
    rows = ["1.wav\tTime '24:10:00'\t00:10:00", "2.wav\tTime '1 am'\t01:00:00", "3.wav\tTime 'dawn'\tdropped"]
    write_lines(tmp_path / 'd' / 'labels' / 'repairs.tsv', rows)
    found = [
        (row['what'], row['problem'], row['cases'], row['what was done']) for row in described(dataset).table('repairs')
    ]
    assert found == [
        ('metadata', 'time', '2', 'corrected'),
        ('metadata', 'time', '1', 'dropped'),
        ('audio', '… samples clip', '2', 'the rest is kept'),
    ]


def test_groups_that_are_in_several_lists_are_counted(tmp_path):
    recordings = {f'{i}.wav': ('train' if i < 4 else 'valid', 0, 1) for i in range(6)}
    dataset = make(tmp_path / 'd', recordings, ['ant'])
    groups = ['a', 'a', 'd', 'b', 'b', 'c']
    write_lines(tmp_path / 'd' / 'filelists' / 'groups.tsv', [f'{i}.wav\t{g}' for i, g in enumerate(groups)])
    page = described(dataset)
    assert [list(row.values()) for row in page.table('groups')] == [
        ['train', '4', '3', '2', '1'],
        ['valid', '2', '2', '1', '1'],
    ]
    assert '4 groups of recordings that belong together: the largest has 2 recordings' in page.text
    assert 'groups.tsv' not in [row['list'] for row in page.table('lists')]


def test_recordings_that_cannot_be_read_are_named_and_the_others_counted(tmp_path):
    dataset = make(tmp_path / 'd', {f'{i}.wav': ('valid', 0, 2) for i in range(3)}, ['ant', 'bee'])
    (tmp_path / 'd' / 'audio' / '1.wav').write_bytes(tone(2)[:1000])
    (tmp_path / 'd' / 'audio' / '2.wav').unlink()
    page = described(dataset)
    assert 'audio/1.wav: truncated' in page.text and 'audio/2.wav: no such recording' in page.text
    assert str(tmp_path) not in page.text
    assert page.table('lists')[0]['recordings'] == '3' and page.table('lists')[0]['longest (s)'] == '2.0'
    page = judged(dataset, [[1, 0], [0, 1], [0, 1]])
    assert page.text.count('It cannot be shown') == 2 and page.tags.count('img') == 1


def test_a_dataset_of_metadata_alone_has_no_hours(tmp_path):
    folder = tmp_path / 'd'
    keys = ['1.wav', '2.wav']
    write_lines(folder / 'filelists' / 'valid', keys)
    write_lines(folder / 'labels' / 'labelset', ['ant', 'bee'])
    write_lines(folder / 'labels' / 'fg.tsv', [f'{key}\t{i}' for i, key in enumerate(keys)])
    write_lines(folder / 'labels' / 'meta.tsv', [f'{key}\t\t\t10\t20\t' for key in keys])
    page = described(Dataset(folder))
    assert '2 recordings without audio' in page.text and page.label('Map')
    assert [list(row) for row in page.table('amounts')] == [['class', 'name', 'valid: recordings', 'recordings']] * 2
    page = judged(Dataset(folder), [[1, 0], [1, 0]])
    assert 'no recordings to show' in page.text and 'img' not in page.tags and 'recording-1' in page.ids


def number(text):
    try:
        return float(text)
    except ValueError:
        return np.nan


def test_thousands_of_places_fit_on_a_map():
    filename = SHARED / 'data' / 'metadata' / 'birdclef2022_train_metadata.csv'
    if not filename.exists():
        pytest.skip(f'needs {filename}')
    with open(filename, encoding='utf-8', newline='') as f:
        rows = list(csv.DictReader(f))
    latitudes, longitudes = (np.array([number(row[name]) for row in rows]) for name in ('latitude', 'longitude'))
    there = world_map.possible(latitudes, longitudes)
    shown = world_map.frame(latitudes[there], longitudes[there])
    found = world_map.places(shown, latitudes[there], longitudes[there])
    assert found.counts.sum() == np.isfinite(latitudes).sum() == 14852
    with figures.style():
        drawing, axes = figures.axes(8.6, 4.6)
        world_map.draw(axes, shown, found)
        assert len(figures.svg(drawing, 'places')) < 300_000


# == Classes ==


def test_best_typical_and_worst_recordings_of_a_class():
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3], [0.1, 0.9], [0.3, 0.1]])
    truth = np.array([0, 0, 0, 0, 0, 1])
    found = examples.scored(scores, truth, None)
    assert examples.of_class(found, 0, 3) == [(0, 'best'), (2, 'typical'), (4, 'worst')]
    assert examples.of_class(found, 0, 1) == [(4, 'worst')]
    assert examples.of_class(found, 0, 2) == [(0, 'best'), (4, 'worst')]
    assert [row for row, _ in examples.of_class(found, 0, 9)] == [0, 3, 2, 1, 4]
    assert examples.of_class(found, 1, 3) == [(5, 'the only one')]
    assert examples.of_class(found, 0, 0) == []


def test_false_alarms_and_missed_background_of_a_class():
    with_class = np.array([2, 1, 0, 0, 1])
    assert examples.errors(np.array([0.9, 0.3, 0.2, 0.6, 0.8]), with_class) == [
        (3, 'false alarm'),
        (1, 'missed in the background'),
    ]
    assert examples.errors(np.array([0.9, 0.7, 0.2, 0.6, 0.8]), with_class) == []
    assert examples.errors(np.array([0.5, 0.7, 0.2, 0.6, 0.8]), with_class) == [(3, 'false alarm')]
    assert examples.errors(np.array([0.5]), np.array([2])) == []


def test_costs_of_recordings_add_up_to_what_a_metric_lacks():
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=(40, 6)), rng.integers(6, size=40)
    background = [rng.choice(6, 2, replace=False).tolist() for _ in truth]
    found = examples.scored(scores, truth, background)
    values = metrics.evaluate(scores, truth, background)
    costs = examples.costs(found)
    assert {name: cost.sum() for name, cost in costs.items()} == pytest.approx(
        {name: 1 - values[name] for name in ('MAP', 'top-1', 'MAP-bg')}
    )
    worst = examples.costliest(found, costs['MAP'], 5)
    assert found.ranks[worst].tolist() == sorted(found.ranks.tolist(), reverse=True)[:5]


def valid_dataset(folder, truth, classes, seconds=1.0):
    return make(folder, {f'{i:03}.wav': ('valid', c, seconds) for i, c in enumerate(truth)}, classes)


def test_metrics_lead_to_the_recordings_that_cost_most(tmp_path):
    dataset = valid_dataset(tmp_path / 'd', [0, 0, 1, 1], ['ant', 'bee', 'cat'])
    page = judged(dataset, [[3, 1, 0], [0, 1, 2], [0, 1, 0], [2, 1, 0]])
    assert {'#costs-MAP', '#costs-top-1', '#classes-table'} <= set(page.links)
    assert {'costs-MAP', 'costs-top-1', 'classes-table'} <= set(page.ids)
    rows = page.table('costs-MAP')
    assert [row['recording'] for row in rows] == ['001.wav', '003.wav']
    assert [row['cost (MAP)'] for row in rows] == ['0.1667', '0.1250']
    inside = [link[1:] for link in page.links if link.startswith('#')]
    assert set(inside) <= set(page.ids) and 'recording-1' in inside


def test_frequent_confusions_are_listed_first(tmp_path):
    dataset = valid_dataset(tmp_path / 'd', [0, 0, 0, 1, 1, 2], ['ant', 'bee', 'cat'])
    scores = np.eye(3)[[1, 1, 0, 1, 0, 2]]
    page = judged(dataset, scores)
    assert [list(row.values()) for row in page.table('confusions')] == [
        ['ant', 'bee', '2', '0.67'],
        ['bee', 'ant', '1', '0.50'],
    ]
    assert 'ant as bee: 2; bee as ant: 1' in page.label('Matrix of confusions of 2 classes: 3 recordings')
    assert [row['class'] for row in page.table('classes-table')][-1] == 'cat'


def test_a_perfect_model_has_no_confusions(tmp_path):
    page = judged(valid_dataset(tmp_path / 'd', [0, 1], ['ant', 'bee']), np.eye(2))
    assert 'confusions' not in page.tables and 'costs-MAP' not in page.tables
    assert 'Each recording has the highest score for its class.' in page.text


def test_a_single_class(tmp_path):
    dataset = valid_dataset(tmp_path / 'd', [0, 0], ['ant'])
    page = judged(dataset, [[0.2], [0.4]])
    assert page.table('classes-table')[0]['AP'] == '1.000' and page.tags.count('details') == 1
    assert 'highest of the others' not in page.text


def test_no_scores_give_no_section(tmp_path):
    assert str(class_section.write(source(valid_dataset(tmp_path / 'd', [0], ['ant'])))) == ''


def test_hostile_names_are_text(tmp_path):
    key = HOSTILE.replace('/', '') + '.wav'
    dataset = make(tmp_path / 'd', {key: ('valid', 0, 1), 'b.wav': ('valid', 1, 1)}, [HOSTILE, '$\\frac{1}{0}$'])
    write_lines(tmp_path / 'd' / 'labels' / 'labelset_common', [f'A {HOSTILE}', '日本'])
    for page in described(dataset), judged(dataset, [[0, 1], [1, 0]]):
        assert 'script' not in page.tags
        assert HOSTILE in page.text
    assert page.label(f'Spectrogram of {key}')


def test_sounds_and_spectrograms_are_in_the_page(tmp_path):
    dataset = valid_dataset(tmp_path / 'd', [0, 1], ['ant', 'bee'])
    assert 'audio' not in judged(dataset, np.eye(2)).tags
    text = str(class_section.write(source(dataset, np.eye(2), audio=True)))
    assert len(re.findall('src="data:audio/mpeg;base64,[A-Za-z0-9+/=]{1000,}"', text)) == 2
    assert len(re.findall('src="data:image/jpeg;base64,[A-Za-z0-9+/=]{1000,}"', text)) == 2
    assert '0.0 to 1.0 of 1.0 s, 0 to 8.0 kHz' in text


def test_the_worst_classes_are_shown_first_within_the_size_limit(tmp_path, monkeypatch):
    dataset = valid_dataset(tmp_path / 'd', list(range(8)) * 2, [f'class{c}' for c in range(8)])
    scores = np.eye(8)[list(range(8)) * 2]
    scores[5] = scores[13] = np.eye(8)[0]
    whole = len(str(class_section.write(source(dataset, scores))))
    monkeypatch.setattr(class_recordings, 'BUDGET', 2000)
    monkeypatch.setattr(class_recordings, 'MOST_SECTIONS', 6)
    text = str(class_section.write(source(dataset, scores)))
    page = Page(text)
    assert page.ids.index('class-5') < page.ids.index('class-1')
    assert 'Only 6 of 8 classes have a section' in page.text
    left_out = re.search(r'The spectrograms of (\d+) recordings were left out', page.text)
    shown = [name for name in page.ids if name.startswith('recording-')]
    assert page.tags.count('img') + int(left_out[1]) == len(shown) and len(text) < whole - 4000
    assert len(page.table('classes-table')) == 8


def test_recordings_that_cost_most_are_shown_before_others(tmp_path, monkeypatch):
    dataset = valid_dataset(tmp_path / 'd', [0, 0, 1, 1, 2], ['ant', 'bee', 'cat'])
    monkeypatch.setattr(class_recordings, 'BUDGET', 1)
    # bee has the lowest average precision, but only the recording of cat has a higher score for another class
    page = judged(dataset, [[5, 4, 0], [5, 4, 0], [0, 1, 0], [0, 1, 0], [0.5, 0, 0.4]])
    assert page.ids.index('class-1') < page.ids.index('class-2')
    assert [label[:22] for label in page.labels if 'pectrogram' in label] == ['Spectrogram of 004.wav']


def test_scores_over_time_are_those_of_the_rows_of_a_prediction_file(tmp_path):
    dataset = valid_dataset(tmp_path / 'd', [0, 1], ['ant', 'bee'], seconds=40)
    starts = np.arange(0, 40, 2.0)
    rows = np.full((20, 2), 0.1, np.float32)
    rows[15, 0] = 0.9
    filename = str(tmp_path / 'net.pred.npz')
    times = np.concatenate([starts, starts]), np.concatenate([starts + 2, starts + 2])
    predictions.save(filename, dataset.filelist('valid'), np.concatenate([rows, rows[:, ::-1]]), [0, 20, 40], *times)
    text = class_section.write(source(dataset, [[0.9, 0.1], [0.1, 0.9]], filename))
    page = Page(text)
    label = page.label('Scores over time, from 0 to 1. ant')
    assert 'ant: highest 0.90 at 31.0 s. bee: highest 0.10' in label and 'attention' not in label
    # the excerpt is around the highest score
    assert '26.0 to 36.0 of 40.0 s' in page.text and 'rows in the predictions of net' in page.text


def write_network(folder, rate):
    """A network of two classes with attention and random weights, whose name is net."""
    from birdsong import config
    from birdsong.networks import model
    from helpers import randomise

    settings = ['arch=conv:4x3x3,pool:3x3,Conv:8x3x-1', 'arch.pool=attention:2', 'arch.output=softmax', 'len_min=1']
    settings += ['frame_len=256', 'mel_bands=20', 'mel_max=7000', f'sample_rate={rate}', 'classes=2']
    cfg = config.load([], settings)
    model.save(randomise(model.build(cfg, 2, 0)), folder / 'net.npz')
    config.write_vars(folder / 'net.npz.vars', cfg)


def test_a_network_computes_scores_over_time_and_attention(tmp_path):
    pytest.importorskip('torch')
    from birdsong.report import over_time

    dataset = valid_dataset(tmp_path / 'd', [0, 1], ['ant', 'bee'], seconds=3)
    write_network(tmp_path, RATE)
    curves = over_time.Networks(dataset, {'000.wav': str(tmp_path / 'net.npz')})('000.wav')
    assert curves.scores.sum(axis=1) == pytest.approx(np.ones(len(curves.seconds)))
    assert 0 < curves.seconds[0] < 0.2 and 2.8 < curves.seconds[-1] < 3 == curves.length
    assert curves.attention[1].mean() == pytest.approx(1) and curves.attention[1].std() > 0
    text = class_section.write(source(dataset, np.eye(2), folder=tmp_path, over_time=True))
    label = next(label for label in Page(text).labels if label.startswith('Scores over time'))
    assert f'ant: highest {curves.scores[:, 0].max():.2f} at ' in label and 'grey area is the attention' in label
    assert str(text).count('<polygon') == 2 and 'outputs of net for each position' in text
    assert '<polyline' not in class_section.write(source(dataset, np.eye(2), folder=tmp_path))


def test_in_a_cross_validation_each_recording_is_shown_to_the_network_of_its_fold(tmp_path):
    pytest.importorskip('torch')
    dataset = valid_dataset(tmp_path / 'd', [0, 1], ['ant', 'bee'], seconds=3)
    for number, (held_out, trained) in enumerate((('000.wav', '001.wav'), ('001.wav', '000.wav')), 1):
        write_lines(tmp_path / f'd-fold{number}' / 'filelists' / 'valid', [held_out])
        write_lines(tmp_path / f'd-fold{number}' / 'filelists' / 'train', [trained])
    (tmp_path / 'experiments' / 'd-fold2').mkdir(parents=True)
    write_network(tmp_path / 'experiments' / 'd-fold2', RATE)
    folder = tmp_path / 'experiments' / 'd'
    text = str(class_section.write(source(dataset, np.eye(2), folder=folder, pooled=True, over_time=True)))
    without, having = (text[text.index(f'id="recording-{row}"') :].partition('</figure>')[0] for row in (0, 1))
    assert '<polyline' in having and '<polyline' not in without
    assert 'recordings in the cross-validation of the class' in text


def test_a_network_that_cannot_be_used_does_not_hide_the_recordings(tmp_path):
    pytest.importorskip('torch')
    dataset = valid_dataset(tmp_path / 'd', [0, 1], ['ant', 'bee'])
    write_network(tmp_path, 22050)
    page = Page(class_section.write(source(dataset, np.eye(2), folder=tmp_path, over_time=True)))
    assert page.text.count('There are no scores over time: ') == 2 == page.tags.count('img')
    assert 'the model was trained at 22050 Hz' in page.text


def test_an_mp3_and_a_jpeg_of_an_excerpt_can_be_decoded():
    import soundfile
    from PIL import Image

    t = np.arange(3 * 22050) / 22050
    samples = 0.01 * np.sin(2 * np.pi * 3000 * t)
    sound, rate = soundfile.read(io.BytesIO(clips.mp3(samples, 22050)))
    assert rate == 22050 and len(sound) / rate == pytest.approx(3, abs=0.1)
    assert np.abs(sound).max() == pytest.approx(clips.PEAK, abs=0.1)
    assert soundfile.read(io.BytesIO(clips.mp3(samples, 96000)))[1] == 48000
    image = np.array(Image.open(io.BytesIO(clips.jpeg(clips.levels(samples, 22050, 11025, 0.0116, 100)))))
    assert image.shape[1] <= 101
    # 3 kHz is dark, other frequencies are light
    height = len(image)
    assert np.median(image, axis=1).argmin() == pytest.approx(height * (1 - 3000 / 11025), abs=2)
