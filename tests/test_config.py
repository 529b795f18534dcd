"""Settings: parsed as in 2018, and checked against the kinds in defaults.vars."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdsong import config
from birdsong.files import Problem

GOLDEN = ('misc/config',)


def test_values_are_parsed_as_by_the_original(golden):
    info, _ = golden('misc/config')
    for case in info['cases']:
        if 'key' in case:
            value = config.parse_assignments([case['line']])[case['key']]
            assert (type(value).__name__, repr(value)) == (case['type'], case['repr'])
        elif case['line'] is None:
            assert config.parse_assignments([]) == {}
        else:
            with pytest.raises(Problem, match='KEY=VALUE'):
                config.parse_assignments([case['line']])


def test_defaults_are_those_of_the_original(golden):
    info, _ = golden('misc/config')
    ours = config.load()
    assert {k: [type(ours[k]).__name__, repr(ours[k])] for k in info['defaults']} == info['defaults']


def test_every_setting_is_explained_and_its_default_is_of_its_kind():
    assert all(config.kinds().values())
    config.check(config.load())


def test_later_sources_override_earlier_ones(tmp_path):
    for name, value in (('a', 1), ('b', 2)):
        (tmp_path / name).write_text(f'# remark\n\nepochs={value}\nbatchsize={value}\n')
    settings = config.load([str(tmp_path / 'a'), str(tmp_path / 'b')], ['epochs=3'])
    assert (settings['epochs'], settings['batchsize'], settings['patience']) == (3, 2, 0)


@pytest.mark.parametrize(
    'line, words',
    [
        ('batchsze=16', 'did you mean batchsize'),
        ('qqqq=1', 'unknown setting'),
        ('batchsize=many', 'expected int'),
        ('batchsize=0', 'expected int 1..'),
        ('initial_eta=nan', 'expected number'),
        ('magscale=cube', 'pow_learn'),
        ('arch.pool=attention', 'attention:A'),
        ('eta_decay_every=1.5', 'trial_of_patience'),
        ('nonsense', 'KEY=VALUE'),
    ],
)
def test_a_setting_that_is_unknown_or_of_the_wrong_kind_is_refused(line, words):
    with pytest.raises(Problem, match=words):
        config.load(assignments=[line])


def test_written_settings_are_read_unchanged(tmp_path):
    settings = dict(config.load(), classes=7)
    config.write_vars(str(tmp_path / 'm.vars'), settings)
    assert config.read_vars(str(tmp_path / 'm.vars')) == settings


@given(st.text())
def test_any_text_is_parsed_or_refused_in_one_line(text):
    try:
        json.dumps(config.parse_assignments(text.split('\n')))
    except Problem as e:
        assert str(e)
