"""The page of a report: its sections, contents list and footer, in one HTML file that loads nothing else."""

import functools
import html
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from birdsong.page_policy import policy
from birdsong.report import tables

TEMPLATES = os.path.join(os.path.dirname(__file__), 'templates')


class Section(NamedTuple):
    """A section of the page: an id, a title, and what is below it."""

    name: str
    title: str
    body: Markup

    @property
    def parts(self) -> list['Part']:
        """Its parts with a heading and an id, for the contents list."""
        found = re.findall(r'<h3 id="([^"]+)">(.*?)</h3>', self.body)
        return [Part(html.unescape(name), html.unescape(title)) for name, title in found]


class Part(NamedTuple):
    """A part of a section: an id and a title."""

    name: str
    title: str


@functools.cache
def environment() -> jinja2.Environment:
    """The templates. All texts are escaped, and names that are not given are errors."""
    result = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    result.globals.update(shown=tables.shown, is_number=tables.is_number, csv_link=tables.as_link)
    return result


def render(template: str, **values: object) -> Markup:
    """A part of the page from a template."""
    return Markup(environment().get_template(template).render(values))


def document(title: str, summary: Sequence[str], sections: Sequence[Section], about: Mapping[str, str]) -> str:
    """The page, without sections that have nothing to show. `about` are the lines of its footer."""
    parts = {kind: read(f'page.{kind}') for kind in ('css', 'js')}
    return (
        environment()
        .get_template('page.html')
        .render(
            title=title,
            summary=summary,
            sections=[each for each in sections if each.body],
            about=about,
            policy=policy(parts['js'], parts['css'], ('data:',)),
            css=Markup(parts['css']),
            js=Markup(parts['js']),
        )
    )


def read(name: str) -> str:
    """A file in the folder of the templates."""
    with open(os.path.join(TEMPLATES, name), encoding='utf-8') as f:
        return f.read()
