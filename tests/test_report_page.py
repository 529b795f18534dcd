"""The parts of report.py that all sections use: tables, figures and the page."""

import base64
import csv
import html
import io
import re
import xml.etree.ElementTree as ET

import pytest

from birdsong.report import figures, page, tables
from birdsong.report.tables import Cell, Column, Table

MARKUP = '<script>alert("1")</script>&\''


def rendered(table):
    return str(page.environment().from_string('{% from "macros.html" import table %}{{ table(it) }}').render(it=table))


def cells(text):
    """The texts of the cells of each row of the body."""
    rows = re.findall(r'<tr>(.*?)</tr>', text.partition('<tbody>')[2], re.DOTALL)
    return [
        [html.unescape(cell) for cell in re.findall(r'<t[hd][^>]*>\s*(.*?)</t[hd]>', row, re.DOTALL)] for row in rows
    ]


def test_a_table_shows_texts_and_its_csv_file_has_the_values():
    columns = Column('name'), Column('count', 0), Column('share', 2), Column('low', 1, hidden=True)
    rows = [(MARKUP, 12345, Cell(0.123456, '0.12 ±'), -1.5), ('=1+1', None, float('nan'), 2), ('b', -0.001, -2.0, 3)]
    table = Table('some', 'A caption', columns, rows)
    text = rendered(table)
    assert cells(text) == [[MARKUP, '12\u202f345', '0.12 ±'], ['=1+1', '', ''], ['b', '0', '−2.00']]
    assert '<script' not in text and 'data-value="0.123456"' in text
    link = html.unescape(re.search(r'href="(data:[^"]*)" download="some.csv"', text)[1])
    content = base64.b64decode(link.partition('base64,')[2]).decode('utf-8-sig')
    assert list(csv.reader(io.StringIO(content))) == [
        ['name', 'count', 'share', 'low'],
        [MARKUP, '12345', '0.123456', '-1.5'],
        ["'=1+1", '', '', '2'],
        ['b', '-0.001', '-2.0', '3'],
    ]


def test_columns_without_values_can_be_left_out():
    table = Table('some', '', [Column('a'), Column('b'), Column('c', 0)], [['x', '', None], ['y', None, float('nan')]])
    left = tables.without_empty_columns(table)
    assert [column.title for column in left.columns] == ['a'] and left.rows == [['x'], ['y']]


def drawn(name):
    with figures.style():
        drawing, axes = figures.axes()
        axes.plot([1, 2], [1, 100], label=MARKUP)
        axes.set_title('$x$ 種')
        axes.legend()
        figures.logarithmic(axes.yaxis)
        return figures.svg(drawing, name)


def test_a_figure_has_the_colour_of_the_page_its_texts_and_no_styles():
    text = drawn('one')
    root = ET.fromstring(text)
    texts = [each.text for each in root.iter('{http://www.w3.org/2000/svg}text')]
    assert MARKUP in texts and '$x$ 種' in texts and '100' in texts
    assert figures.TEXT not in text and 'fill="currentColor"' in text and 'style' not in text
    assert not list(root.iter('{http://www.w3.org/2000/svg}style'))


def test_figures_are_reproducible_and_their_ids_differ():
    first, second = drawn('one'), drawn('two')
    assert first == drawn('one')
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    for text, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([\w-]+)', text)) <= own


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize('background', re.findall(r'--back: (#\w{6})', page.read('page.css')))
def test_all_colours_of_lines_can_be_seen_on_both_backgrounds(background):
    for colour in figures.COLOURS:
        low, high = sorted((luminance(colour), luminance(background)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_the_page_lists_sections_that_have_something_to_show():
    sections = [
        page.Section('a', 'First', page.Markup('<h3 id="part">A &amp; B</h3>')),
        page.Section('b', 'Second', page.Markup('')),
    ]
    text = page.document(MARKUP, [MARKUP], sections, {'Command': MARKUP})
    assert text.count('<script>') == 1 and html.escape(MARKUP, quote=False)[:10] in text
    assert re.findall(r'<a href="#(\w+)">(.*?)</a>', text.partition('<nav')[2].partition('</nav>')[0]) == [
        ('a', 'First'),
        ('part', 'A &amp; B'),
    ]
    assert 'id="b"' not in text
