"""Metadata as numbers and as the input of networks."""

import numpy as np
import pytest
from scipy import stats

from birdsong import config
from birdsong.data import metadata
from birdsong.data.dataset import Dataset
from birdsong.files import Problem

GOLDEN = (
    'data/dates_times',
    'data/encode_metadata',
    'data/metadata',
)
ALL_META = 'input_meta=date,time,latitude,longitude,elevation'
# A date without a month counts as missing; in the original, it was the end of December of the previous year.
MENDED = 'train/LIFECLEF2014_BIRDAMAZON_XC_WAV_RN12.wav'


def test_golden_dates_and_times(golden):
    cases, _ = golden('data/dates_times')
    for name in ('day_of_year', 'minute_of_day'):
        for text, expected in cases[name].items():
            mended = name == 'day_of_year' and text in ('0000-00-00', '2010-0-5', '2010-00-00')
            if isinstance(expected, dict) or mended:
                with pytest.raises(ValueError):
                    getattr(metadata, name)(text)
            else:
                assert getattr(metadata, name)(text) == expected


def test_golden_metadata(golden, golden_dataset):
    dataset = Dataset(golden_dataset)
    cases, arrays = golden('data/metadata')
    table = dataset.metadata()
    for case in cases['cases']:
        cfg = config.load([], case['config'].split())
        names = metadata.sources(cfg)
        assert metadata.size(cfg) == case['declared_shape'][1]
        rows = metadata.encode(metadata.numbers([table[key] for key in cases['files']], names), cfg)
        for key, raw, row, expected in zip(cases['files'], case['raw'], rows, arrays[case['key']], strict=True):
            if key == MENDED:
                raw.pop('date', None)
                if 'date' in names:
                    assert row[names.index('date')] == 0
            else:
                np.testing.assert_allclose(row, expected, atol=2e-6)
            assert {name: table[key][name] for name in names if name in table[key]} == raw


def test_golden_encoding(golden):
    cases, arrays = golden('data/encode_metadata')
    for size in (12, 3):
        cfg = config.load([], [ALL_META] + [f'input_meta.{name}_encoding.size={size}' for name in ('date', 'time')])
        ours = metadata.encode(metadata.numbers(cases['raw'], metadata.sources(cfg)), cfg)
        assert ours.dtype == cases['dtype_of_each']
        np.testing.assert_allclose(ours, arrays[f'enc{size}'], atol=2e-6)


def test_elevations_are_upper_bounds_and_may_be_negative():
    for text, expected in (
        ('340', 340),
        ('0-50', 50),
        ('1200-1900', 1900),
        ('-5', -5),
        ('-20--5', -5),
        ('-20 - 30', 30),
        ('12.5', 12.5),
    ):
        assert metadata.upper_elevation(text) == expected
    for text in ('', 'high', '1-2-3', 'nan', 'inf', '5-'):
        with pytest.raises(ValueError):
            metadata.upper_elevation(text)


def test_values_that_cannot_be_read_are_missing(tmp_path):
    table = tmp_path / 'meta.tsv'
    table.write_text('a.wav\t2010\tnoon\tnorth\t-70.5\t?\nb.wav\t2010-05\t\t\t\t\n')
    assert metadata.read_table(table) == {'a.wav': {'longitude': -70.5}, 'b.wav': {}}
    table.write_text('a.wav\t2010-01-01\n')
    with pytest.raises(Problem, match='meta.tsv, line 1'):
        metadata.read_table(table)


@pytest.mark.parametrize('value', ['date,tide', 'date,date'])
def test_wrong_sources_are_refused(value):
    with pytest.raises(Problem, match='input_meta'):
        metadata.size(config.load([], [f'input_meta={value}']))


def test_dropout_and_noise_are_as_strong_as_set():
    cfg = config.load([], [ALL_META, 'input_meta.dropout=0.3'])
    values = np.full((6000, 5), 100.0)
    values[::2, 1] = np.nan
    before = values.copy()
    result = metadata.distort(values, cfg, np.random.default_rng(0))
    np.testing.assert_array_equal(values, before)
    assert np.isnan(result[::2, 1]).all()
    present = ~np.isnan(values)
    assert abs(np.isnan(result[present]).mean() - 0.3) < 0.01
    for i, deviation in enumerate((7, 10, 1, 1, 20)):
        noise = result[:, i][~np.isnan(result[:, i])] - 100
        assert stats.kstest(noise / deviation, 'norm').pvalue > 1e-3
    still = config.load([], [ALL_META] + [f'input_meta.{name}_noise=0' for name in metadata.SOURCES])
    np.testing.assert_array_equal(metadata.distort(values, still, np.random.default_rng(0)), values)
