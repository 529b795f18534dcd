"""The section of a report on the dataset: its recordings and hours, lengths, places, dates, repairs and groups."""

import numpy as np
from markupsafe import Markup

from birdsong.data import folds, metadata
from birdsong.files import Problem
from birdsong.findings import species
from birdsong.report import class_sizes, contents, dates, figures, groups, page, repairs, world_map
from birdsong.report.contents import Contents
from birdsong.report.figures import Figure
from birdsong.report.source import Source
from birdsong.report.tables import Column, Table
from birdsong.report.words import count, duration

# Rows of the table of repairs, and recordings that cannot be read of which the reason is shown.
MOST_REPAIRS, MOST_FAULTS = 40, 20
# Size of the map in inches; it is less high if the places are in a wide area.
MAP_WIDTH, MAP_HEIGHT = 7.1, 4.4
# Lengths are drawn on a logarithmic axis if the longest is more than this times the shortest.
WIDE_RANGE = 20


def write(source: Source) -> Markup:
    """The section as HTML."""
    found, notes = contents.read(source.dataset), []
    known, problem = _metadata(source.dataset, found.keys)
    notes += [problem] * bool(problem)
    group_tables, group_notes = _groups(source, found)
    repair_table, repair_notes = _repairs(source)
    with figures.style():
        sizes, lengths, calendar = _sizes(source, found), _lengths(found), _calendar(known)
        around = _places(known), _clock(known)
    # in the order in which two fit side by side
    shown = [sizes, lengths, *around, calendar] if lengths else [sizes, calendar, *around]
    return page.render(
        'dataset.html',
        summary=_summary(source, found),
        tables=[_lists(source, found), *_classes(source, found), *_rates(found), *group_tables, *repair_table],
        figures=[one for one in shown if one],
        notes=found.problems + notes + _unknown(source, found, known) + group_notes + repair_notes,
        faults=found.headers.faults[:MOST_FAULTS],
        more_faults=max(0, len(found.headers.faults) - MOST_FAULTS),
    )


# == Recordings and hours ==


def _summary(source: Source, found: Contents) -> str:
    classes = source.dataset.num_classes if source.dataset.has_labels else 0
    hours = duration(np.nansum(found.headers.seconds)) if source.dataset.has_audio else ''
    return (
        f'{count(len(found.keys), "recording")}{f" of {hours} in all" if hours else " without audio"} in '
        f'{count(len(found.lists), "list")}; {count(classes, "class", "es")}.'
    )


def _lists(source: Source, found: Contents) -> Table:
    """The lists, and all recordings together."""
    columns = [Column('list'), Column('recordings', 0), Column('labelled', 0), Column('classes', 0)]
    if source.dataset.has_audio:
        columns.append(Column('hours', 2))
        columns += [Column(title, 1) for title in ('shortest (s)', 'median (s)', 'longest (s)')]
    rows = []
    for name, those in (*found.lists.items(), ('all, each once', np.arange(len(found.keys)))):
        seconds, classes = found.headers.seconds[those], found.classes[those]
        seconds, labelled = seconds[~np.isnan(seconds)], classes[classes >= 0]
        values = [name, len(those), len(labelled), len(np.unique(labelled))]
        if len(seconds):
            values += [seconds.sum() / 3600, seconds.min(), np.median(seconds), seconds.max()]
        rows.append(values + [None] * (len(columns) - len(values)))
    what = ', hours, and lengths of recordings' if source.dataset.has_audio else ''
    return Table('lists', f'Lists of the dataset: recordings{what}.', columns, rows)


def _classes(source: Source, found: Contents) -> list[Table]:
    """Recordings and hours of each class, the class with the most recordings first."""
    if not source.dataset.has_labels:
        return []
    names = species.of(source.dataset)
    amounts = contents.amounts(found, len(names))
    numbers = np.concatenate([amounts.recordings, amounts.recordings.sum(axis=1, keepdims=True)], axis=1)
    hours = np.concatenate([amounts.hours, amounts.hours.sum(axis=1, keepdims=True)], axis=1)
    columns = [Column('class'), Column('name')]
    for prefix in [*(f'{name}: ' for name in amounts.lists), '']:
        columns.append(Column(f'{prefix}recordings', 0))
        columns += [Column(f'{prefix}hours', 2)] * source.dataset.has_audio
    rows = []
    for c in np.argsort(-numbers[:, -1], kind='stable').tolist():
        values = numbers[c].tolist()
        if source.dataset.has_audio:
            values = [value for pair in zip(values, hours[c].tolist(), strict=True) for value in pair]
        rows.append([names[c].class_id, names[c].common_name, *values])
    what = 'recordings and hours' if source.dataset.has_audio else 'recordings'
    caption = f'Labelled {what} of each class and list, the class with the most recordings first.'
    return [Table('amounts', caption, columns, rows)]


def _rates(found: Contents) -> list[Table]:
    """Sample rates, if there are several."""
    rates, counts = np.unique(found.headers.rates[found.headers.rates > 0], return_counts=True)
    if len(rates) < 2:
        return []
    rows = [[str(rate), number] for rate, number in zip(rates.tolist(), counts.tolist(), strict=True)]
    return [Table('rates', 'Sample rates of the recordings.', [Column('Hz'), Column('recordings', 0)], rows)]


def _sizes(source: Source, found: Contents) -> Figure | None:
    """Recordings of each class."""
    if not source.dataset.has_labels:
        return None
    labelset = source.dataset.labelset
    return class_sizes.figure(contents.amounts(found, len(labelset)), labelset)


def _lengths(found: Contents) -> Figure | None:
    """Histogram of the lengths."""
    seconds = found.headers.seconds[found.headers.seconds > 0]
    if not len(seconds):
        return None
    low, high = seconds.min(), seconds.max()
    wide = high > WIDE_RANGE * low
    edges = np.geomspace(low, high, 31) if wide else np.linspace(0, high * (1 + 1e-9), 31)
    drawing, axes = figures.axes(4.4, 2.4)
    counts, _, _ = axes.hist(seconds, edges)
    axes.set(xlabel='length of a recording (s)', ylabel='recordings')
    if wide:
        figures.logarithmic(axes.xaxis)
    axes.yaxis.get_major_locator().set_params(integer=True)
    most = int(np.argmax(counts))
    text = (
        f'Histogram of the lengths of {count(len(seconds), "recording")}, from {low:.3g} to {high:.3g} s, with a '
        f'median of {np.median(seconds):.3g} s. The highest bar is at {edges[most]:.3g} to {edges[most + 1]:.3g} s: '
        f'{count(int(counts[most]), "recording")}.'
    )
    caption = f'Lengths of the recordings. The median is {np.median(seconds):.3g} s.'
    return Figure(figures.svg(drawing, 'lengths'), text, caption)


# == Places, dates and times ==


def _metadata(dataset, keys: list[str]) -> tuple[np.ndarray, str]:
    """Values (N, sources), NaN where unknown, and why they cannot be read."""
    try:
        table = dataset.metadata()
    except (Problem, OSError) as e:
        missing = isinstance(e, Problem) and str(e).endswith('no such file')
        table, problem = {}, '' if missing else str(e)
    else:
        problem = ''
    return metadata.numbers([table.get(key, {}) for key in keys], metadata.SOURCES), problem


def _column(known: np.ndarray, name: str) -> np.ndarray:
    return known[:, metadata.SOURCES.index(name)]


def _places(known: np.ndarray) -> Figure | None:
    """Map of the recordings."""
    latitudes, longitudes = _column(known, 'latitude'), _column(known, 'longitude')
    there = world_map.possible(latitudes, longitudes)
    if not there.any():
        return None
    latitudes, longitudes = latitudes[there], longitudes[there]
    shown = world_map.frame(latitudes, longitudes)
    circles = world_map.places(shown, latitudes, longitudes)
    height = (shown.north - shown.south) * shown.aspect / (shown.east - shown.west) * MAP_WIDTH
    drawing, axes = figures.axes(MAP_WIDTH, min(height, MAP_HEIGHT))
    world_map.draw(axes, shown, circles)
    west, east = world_map.narrowest(longitudes)
    largest = int(np.argmax(circles.counts))
    where = world_map.position(circles.latitudes[largest], circles.longitudes[largest])
    text = (
        f'Map of the places of {count(len(latitudes), "recording")} of {len(there)}, from '
        f'{world_map.position(latitudes.min(), west)} to {world_map.position(latitudes.max(), east)}. '
        f'The largest circle, {count(int(circles.counts[largest]), "recording")}, is at {where}.'
    )
    caption = (
        f'Places of {count(len(latitudes), "recording")}'
        f'{f"; those of {len(there) - len(latitudes)} others are not known" if len(latitudes) < len(there) else ""}. '
        f'The larger a circle, the more recordings: the largest is {count(int(circles.counts[largest]), "recording")} '
        f'near {where}. Coastlines: Natural Earth.'
    )
    return Figure(figures.svg(drawing, 'places'), text, caption)


def _calendar(known: np.ndarray) -> Figure | None:
    """The days of the year on which recordings were made."""
    days = _column(known, 'date')
    if np.isnan(days).all():
        return None
    drawing, axes = figures.axes(5.2, 2.4)
    dates.draw_calendar(axes, dates.of_days(days))
    months = dates.of_months(days)
    listed = ', '.join(f'{name} {number}' for name, number in zip(dates.MONTHS, months.tolist(), strict=True))
    text = f'Bar chart of recordings over the year. Recordings per month: {listed}.'
    caption = f'Days of the year of {_known(int(months.sum()), len(days), "date")}.'
    return Figure(figures.svg(drawing, 'calendar'), text, caption)


def _clock(known: np.ndarray) -> Figure | None:
    """The times of day at which recordings were made."""
    minutes = _column(known, 'time')
    if np.isnan(minutes).all():
        return None
    hours = dates.of_hours(minutes)
    drawing, axes = figures.axes(3.1, 3.1, projection='polar')
    dates.draw_clock(axes, hours)
    listed = ', '.join(f'{hour}:00 {number}' for hour, number in enumerate(hours.tolist()) if number)
    text = f'Clock of 24 hours with the times of recordings. Recordings from each full hour: {listed}.'
    caption = f'Local times of {_known(int(hours.sum()), len(minutes), "time")}. Midnight is at the top.'
    return Figure(figures.svg(drawing, 'clock'), text, caption)


def _known(number: int, total: int, what: str) -> str:
    if number == total:
        return 'all recordings'
    return f'{count(number, "recording")}; {total - number} {"has" if total - number == 1 else "have"} no {what}'


def _unknown(source: Source, found: Contents, known: np.ndarray) -> list[str]:
    """Sentences on what is not known, and therefore not shown."""
    notes, missing = [], []
    if not world_map.possible(_column(known, 'latitude'), _column(known, 'longitude')).any():
        missing.append('places')
    missing += [
        name
        for source_name, name in (('date', 'dates'), ('time', 'times of day'))
        if np.isnan(_column(known, source_name)).all()
    ]
    if missing:
        listed = ' and '.join(filter(None, [', '.join(missing[:-1]), missing[-1]]))
        notes.append(f'The {listed} of the recordings are not known.')
    rates = np.unique(found.headers.rates[found.headers.rates > 0])
    if len(rates) == 1:
        notes.append(f'All recordings were converted to {rates[0]} Hz; the sample rates of the sources are not stored.')
    return notes


# == Groups and repairs ==


def _groups(source: Source, found: Contents) -> tuple[list[Table], list[str]]:
    try:
        known = folds.groups(source.dataset, found.keys)
    except (Problem, OSError) as e:
        return [], [str(e)]
    if not known:
        return [], ['Which recordings belong together (filelists/groups.tsv) is not known.']
    columns = [Column('list'), Column('recordings', 0), Column('groups', 0), Column('largest group (recordings)', 0)]
    columns.append(Column('groups also in other lists', 0))
    splits = groups.splits(found, known)
    sizes = groups.sizes(known)
    shared = sum(split.shared for split in splits)
    note = f'Each of {count(len(sizes), "recording")} is a group of its own.'
    if sizes[0] > 1:
        note = (
            f'{count(len(sizes), "group")} of recordings that belong together: the largest has '
            f'{count(int(sizes[0]), "recording")}, and {int((sizes == 1).sum())} have a single one. '
            f'{"Some groups are" if shared else "No group is"} in several lists.'
        )
    caption = 'Groups of recordings that belong together, and how they were split over the lists.'
    return [Table('groups', caption, columns, [list(split) for split in splits])], [note]


def _repairs(source: Source) -> tuple[list[Table], list[str]]:
    kinds, problems = repairs.read(source.dataset.path)
    if not kinds:
        return [], problems or ['The preparation repaired and left out nothing.']
    columns = [Column('what'), Column('problem'), Column('cases', 0), Column('what was done'), Column('an example')]
    rows = [[one.about, one.problem, one.count, one.done, one.example] for one in kinds[:MOST_REPAIRS]]
    left = sum(one.count for one in kinds[MOST_REPAIRS:])
    problems += [f'{left} repairs of rarer kinds are not shown.'] * bool(left)
    caption = 'Repairs by kind: what the preparation corrected or left out.'
    return [Table('repairs', caption, columns, rows)], problems
