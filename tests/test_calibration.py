"""Calibrations: probabilities of scores, classes of the dataset, and the file."""

import json

import numpy as np
import pytest

from birdsong.files import Problem
from birdsong.findings import calibration
from birdsong.findings.calibration import Calibration, logits


def some_calibration(kind='outputs'):
    return Calibration(
        ['a', 'b', 'c'],
        np.array([1.0, 0.5, 0.0]),
        np.array([0.0, -1.0, -3.0]),
        kind,
        0.7,
        -1.5,
        np.array([0.9, 0.25, np.nan]),
        np.array([0.01, 0.1, np.nan]),
        np.array([0.95, 0.8, np.nan]),
        np.array([40, 20, 0]),
        np.array([10, 3, 0]),
        {'dataset': 'some'},
    )


def plain_softmax(scores):
    parts = np.exp(scores - scores.max(axis=1, keepdims=True))
    return parts / parts.sum(axis=1, keepdims=True)


def test_probabilities_are_the_logistic_curves_of_the_outputs():
    outputs = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 1.0]])
    found = some_calibration().probabilities(outputs)
    curves = [lambda p: p, lambda p: 1 / (1 + np.e * np.sqrt((1 - p) / p)), lambda p: np.full(2, 1 / (1 + np.exp(3)))]
    for c, curve in enumerate(curves):
        assert found[:, c] == pytest.approx(curve(outputs[:, c]))


def test_softmax_and_sigmoid_are_applied_to_scores_that_need_them():
    scores = np.random.default_rng(0).normal(0, 3, (50, 4)).astype(np.float32)
    outputs = plain_softmax(scores.astype(float))
    assert logits(scores, 'softmax') == pytest.approx(np.log(outputs / (1 - outputs)), abs=1e-6)
    assert logits(scores, 'sigmoid') == pytest.approx(scores, abs=1e-6)


def test_logits_are_exact_for_outputs_that_round_to_one_and_limited():
    assert logits([[15.0, 0.0]], 'softmax').tolist() == [[15, -15]]
    assert logits([[99.0, 0.0]], 'softmax').tolist() == [[16, -16]]
    assert logits([[5.0]], 'softmax').tolist() == [[16]]
    assert logits([[0.0, 1.0]], 'outputs').tolist() == [[-16, 16]]


@pytest.mark.parametrize(
    'kind, scores, message',
    [
        ('outputs', [[0.3, -2.0, 5.0]], 'scores from -2 to 5 are no probabilities; give --softmax'),
        ('softmax', [[0.2, 0.3, 0.5]], 'outputs of a softmax already; leave out --softmax'),
        ('outputs', [[0.3, 0.2]], r'scores of shape \(1, 2\), but the calibration has 3 classes'),
    ],
)
def test_scores_of_another_kind_are_refused(kind, scores, message):
    with pytest.raises(Problem, match=message):
        some_calibration(kind).probabilities(np.array(scores))


def test_a_file_holds_everything(tmp_path):
    some_calibration().save(tmp_path / 'c.json')
    loaded, first = calibration.load(tmp_path / 'c.json'), (tmp_path / 'c.json').read_bytes()
    loaded.save(tmp_path / 'd.json')
    assert (tmp_path / 'd.json').read_bytes() == first
    for name, value in vars(some_calibration()).items():
        np.testing.assert_array_equal(getattr(loaded, name), value)


def test_new_classes_get_the_common_curve_with_a_note(capsys):
    found = some_calibration().for_classes(['new', 'b', 'a', 'c'], 'c.json')
    assert found.classes == ['new', 'b', 'a', 'c']
    assert found.slopes.tolist() == [0.7, 0.5, 1, 0] and found.intercepts.tolist() == [-1.5, -1, 0, -3]
    np.testing.assert_array_equal(found.thresholds, [np.nan, 0.25, 0.9, np.nan])
    assert found.cases.tolist() == [0, 20, 40, 0]
    note = capsys.readouterr().err
    assert note.startswith('note: c.json: no curves of 1 of 4 classes, such as new, ') and note.count('\n') == 1
    assert some_calibration().for_classes(['a', 'b', 'c']).classes == ['a', 'b', 'c'] and not capsys.readouterr().err


def test_classes_of_another_dataset_are_refused():
    with pytest.raises(Problem, match='c.json: 1 of its 3 classes, such as c, are not classes of this dataset'):
        some_calibration().for_classes(['a', 'b', 'd'], 'c.json')


def change(content, path, value):
    for name in path[:-1]:
        content = content[name]
    content[path[-1]] = value


@pytest.mark.parametrize(
    'path, value, message',
    [
        (['classes', 0, 'slope'], -0.1, 'slope of a is -0.1'),
        (['classes', 1, 'slope'], True, 'slope of b is True, not a number'),
        (['classes', 1, 'intercept'], float('nan'), 'intercept of b is nan'),
        (['classes', 1, 'intercept'], '1', "intercept of b is '1', not a number"),
        (['classes', 1, 'intercept'], 10**400, 'OverflowError'),
        (['classes', 2, 'threshold'], 1.5, 'threshold of c is 1.5'),
        (['classes', 2, 'class'], 'a', 'class ids are missing or repeated'),
        (['classes', 2, 'class'], 3, 'class ids are missing or repeated'),
        (['classes'], [], 'class ids are missing'),
        (['classes'], 5, 'TypeError'),
        (['common', 'slope'], None, 'slope of the common curve is None'),
        (['scores'], 'logits', '"scores" must be one of softmax, sigmoid, outputs'),
        (['format'], 'other', 'no "format"'),
    ],
)
def test_impossible_values_are_refused_in_one_line(path, value, message, tmp_path):
    some_calibration().save(tmp_path / 'c.json')
    content = json.loads((tmp_path / 'c.json').read_text())
    change(content, path, value)
    (tmp_path / 'c.json').write_text(json.dumps(content))
    with pytest.raises(Problem, match=message) as found:
        calibration.load(tmp_path / 'c.json')
    assert str(found.value).startswith(f'{tmp_path}/c.json: not a calibration') and '\n' not in str(found.value)


@pytest.mark.parametrize('text', [b'', b'{', b'[]', b'[' * 100000, b'\xff', b'PK\3\4'])
def test_files_that_are_no_calibration_are_refused(text, tmp_path):
    (tmp_path / 'c.json').write_bytes(text)
    with pytest.raises(Problem, match='not a calibration'):
        calibration.load(tmp_path / 'c.json')
    with pytest.raises(Problem, match='no such file; create it with calibrate.py'):
        calibration.load(tmp_path / 'none.json')
