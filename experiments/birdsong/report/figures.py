"""Figures of a report: matplotlib draws them, and they become SVG inside the page, in the colours of its text."""

import contextlib
import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Axes and texts have this colour, which becomes that of the text of the page.
TEXT = '#010203'
# Distinguishable for the colour-blind (after Okabe and Ito 2008), with a contrast of at least 3 on white and on black.
COLOURS = ('#0a77b8', '#d05f05', '#008f6b', '#b5609a', '#8a7a00', '#7f7f7f', '#2e8b9e', '#c2504f')
STYLES = ('-', '--', ':', '-.')
SETTINGS = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'birdsong',
    'text.parse_math': False,
    'font.size': 9,
    'axes.titlesize': 9,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.alpha': 0.18,
    'grid.linewidth': 0.6,
    'axes.linewidth': 0.7,
    'lines.linewidth': 1.5,
    'legend.frameon': False,
    'legend.fontsize': 8,
    'figure.facecolor': 'none',
    'axes.facecolor': 'none',
    'savefig.facecolor': 'none',
    **dict.fromkeys(
        ('text.color', 'axes.labelcolor', 'axes.edgecolor', 'axes.titlecolor', 'xtick.color', 'ytick.color'), TEXT
    ),
    'grid.color': TEXT,
    'axes.prop_cycle': matplotlib.cycler(linestyle=STYLES) * matplotlib.cycler(color=COLOURS),
}
# Around axes with short numbers: left, bottom, right, top, in inches.
MARGINS = (0.55, 0.45, 0.08, 0.25)
SVG, XLINK = 'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'


class Figure(NamedTuple):
    """A figure with a caption. `text` says what it shows to those who do not see it."""

    svg: Markup
    text: str
    caption: str = ''


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the page; without warnings about characters that the font does not have."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Glyph .* missing from')
        yield


def axes(width: float = 3.4, height: float = 2.4, numbers_only: bool = False, **options: str) -> tuple[Drawing, Axes]:
    """An empty figure with one pair of axes; size in inches, of 96 pixels each on the page. Call it in `style()`.

    `options` are those of matplotlib's add_subplot, such as projection='polar'.
    numbers_only: the labels of the y axis are short numbers, so that the margins are known, which is faster.
    """
    if not numbers_only:
        drawing = Drawing(figsize=(width, height), layout='constrained')
        return drawing, drawing.add_subplot(**options)
    drawing = Drawing(figsize=(width, height))
    left, bottom, right, top = (
        inches / size for inches, size in zip(MARGINS, (width, height, width, height), strict=True)
    )
    return drawing, drawing.add_axes((left, bottom, 1 - left - right, 1 - bottom - top), **options)


def logarithmic(axis: Axis) -> None:
    """Make an axis logarithmic, with plain numbers."""
    axis.axes.set(**{f'{axis.axis_name}scale': 'log'})
    low, high = axis.get_view_interval()
    few = high < 30 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axis.set_minor_formatter(NullFormatter())


def short(name: str, length: int = 36) -> str:
    """A name that fits beside axes, with dots in its middle if it is longer."""
    half = (length - 1) // 2
    return name if len(name) <= length else f'{name[:half]}…{name[-half:]}'


def square(x: float, y: float, side: float, colour: str, alpha: float) -> Rectangle:
    """A filled square with its centre at x, y."""
    return Rectangle((x - side / 2, y - side / 2), side, side, color=colour, alpha=alpha, linewidth=0)


def svg(drawing: Drawing, name: str) -> Markup:
    """The figure as SVG element. `name` is an id that no other figure of the page has. Call it in `style()`."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format='svg', metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None})
    ET.register_namespace('', SVG)
    ET.register_namespace('xlink', XLINK)
    root = ET.fromstring(buffer.getvalue())
    _tidy(root, name)
    return Markup(ET.tostring(root, encoding='unicode'))


def _tidy(root, name):
    """Remove what the page has already, and replace styles, which its policy does not allow, by attributes."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f'{{{SVG}}}metadata', f'{{{SVG}}}style'):
                parent.remove(child)
    used = {name for e in root.iter() for v in e.attrib.values() for name in re.findall(r'^(?:url\()?#([\w-]+)\)?$', v)}
    for element in root.iter():
        for key, value in _declarations(element.attrib.pop('style', '')):
            element.set(key, value)
        if element.get('id') in used:
            element.set('id', f'{name}-{element.get("id")}')
        else:
            element.attrib.pop('id', None)
        for key, value in element.attrib.items():
            if value == TEXT:
                element.set(key, 'currentColor')
            elif key in ('d', 'x', 'y', 'transform'):
                element.set(key, _short(value))
            reference = re.fullmatch(r'(url\()?#([\w-]+)(\))?', value)
            if reference and reference[2] in used and key != 'id':
                element.set(key, value.replace('#', f'#{name}-'))
    width, height = (float(root.get(key).removesuffix('pt')) for key in ('width', 'height'))
    root.set('width', f'{width * 96 / 72:.0f}')
    root.set('height', f'{height * 96 / 72:.0f}')
    root.attrib.pop('version', None)
    root.set('aria-hidden', 'true')
    root.set('focusable', 'false')


def _declarations(text):
    """Attributes from the declarations of a style, without fonts: the page has its own."""
    for declaration in filter(None, map(str.strip, text.split(';'))):
        key, _, value = (part.strip() for part in declaration.partition(':'))
        if key == 'font':
            size = re.search(r'([\d.]+)px', value)
            yield 'font-size', size[1]
            if 'bold' in value or '700' in value.split():
                yield 'font-weight', 'bold'
        elif key != 'font-family':
            yield key, value


def _short(text):
    """Coordinates with two decimals."""
    return re.sub(r'(\.\d\d)\d+', r'\1', ' '.join(text.split()))
