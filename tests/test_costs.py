"""Costs compared with those of the original: each example, their mean, gradients."""

import numpy as np
import pytest
import torch

from birdsong import config
from birdsong.files import Problem
from birdsong.training import costs

GOLDEN = ('costs/costs',)


def settings(overrides):
    return config.load([], ['{}={}'.format(*item) for item in overrides.items()])


def prepare(case, arrays):
    """(outputs, batch, leaves by name) of a golden case."""
    leaves = {name: torch.from_numpy(arrays[name]).requires_grad_() for name in case['preds']}
    main = leaves[case['preds'][0]]
    outputs = {'output': main.flatten(2) if main.ndim == 4 else main}
    for name, value in leaves.items():
        if name == 'attention':
            outputs['attention'] = value.flatten(2)
        elif name == 'sigmoid2':
            outputs['output_bg'] = value
    batch = {name: torch.from_numpy(arrays[name]) for name in case['targets']}
    return outputs, batch, leaves


def test_costs_equal_the_originals(golden):
    description, arrays = golden('costs/costs')
    assert len(description['cases']) == 60
    for case in description['cases']:
        cfg = settings(case['cfg'])
        outputs, batch, leaves = prepare(case, arrays)
        if case['designation'] == 'train':
            mean = costs.training_cost(outputs, batch, cfg)
        else:
            mean = costs.validation_cost(outputs, batch, cfg)
        assert mean.item() == pytest.approx(case['mean'], rel=1e-5), case
        mean.backward()
        for name, leaf in leaves.items():
            expected = arrays.get(f'{case["key"]}_grad_{name}')
            if expected is None:
                continue
            found = leaf.grad.numpy() if leaf.grad is not None else np.zeros_like(expected)
            np.testing.assert_allclose(
                found, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max(), err_msg=str(case)
            )


def test_costs_of_each_example_equal_the_originals(golden):
    description, arrays = golden('costs/costs')
    checked = 0
    for case in description['cases']:
        cfg = settings(case['cfg'])
        if cfg['cost'] == 'none' or cfg['cost_bg']:
            continue
        outputs, batch, _ = prepare(case, arrays)
        targets = costs.training_targets(
            outputs,
            batch if case['designation'] == 'train' else {'label': batch['label']},
            cfg if case['designation'] == 'train' else dict(cfg, mix_fg_bg=0),
        )
        found = costs.cost(cfg['cost'], outputs['output'], targets, cfg, outputs.get('attention'))
        if 'weight' in batch and case['designation'] == 'train':
            found = found * batch['weight'].view((-1,) + (1,) * (found.ndim - 1))
        expected = arrays[case['key']]
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=2e-5, atol=1e-6, err_msg=str(case))
        checked += 1
    assert checked > 50


def test_a_teacher_has_the_same_weight_as_pseudo_labels(golden):
    _, arrays = golden('costs/costs')
    cfg = settings({'cost': 'softmax', 'pred_clip': 0})
    outputs = {'output': torch.from_numpy(arrays['softmax'])}
    batch = {'label': torch.from_numpy(arrays['label'])}
    pseudo = torch.from_numpy(arrays['pseudo_label'])
    torch.testing.assert_close(
        costs.training_cost(outputs, batch, cfg, pseudo),
        costs.training_cost(outputs, dict(batch, pseudo_label=pseudo), cfg),
    )
    torch.testing.assert_close(
        costs.validation_cost(outputs, dict(batch, pseudo_label=pseudo), cfg),
        costs.validation_cost(outputs, batch, cfg),
    )


def test_softmax_of_large_logits_neither_overflows_nor_loses_its_gradient():
    logits = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    cfg = settings({'cost': 'softmax', 'pred_clip': 0, 'arch.output': 'softmax'})
    loss = costs.training_cost(
        {'output': torch.softmax(logits, 1), 'logits': logits}, {'label': torch.tensor([2])}, cfg
    )
    loss.backward()
    assert loss.item() == 400
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, 0.0, -1.0]]))


@pytest.mark.parametrize('cost', ['ce', 'ce_bgtopk:2'])
def test_saturated_predictions_are_clipped(cost):
    predictions = torch.tensor([[1.0, 0.0, 1.0, 0.0]], requires_grad=True)
    cfg = settings({'cost': cost})
    loss = costs.training_cost({'output': predictions}, {'label': torch.tensor([1])}, cfg)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(predictions.grad).all()


def test_more_than_all_classes_cannot_be_left_out():
    predictions = torch.rand(2, 4)
    targets = torch.eye(4)[:2]
    cfg = settings({})
    torch.testing.assert_close(
        costs.cost('ce_bgtopk:9', predictions, targets, cfg), costs.cost('ce_bgtopk:4', predictions, targets, cfg)
    )


@pytest.mark.parametrize(
    'overrides, shape, message',
    [
        ({'cost': 'softmax'}, (2, 3, 5), 'arch.pool'),
        ({'cost': 'attention_logsoftmax'}, (2, 3), 'arch.pool'),
        ({'cost': 'softmax', 'cost_bg': 'ce'}, (2, 3), 'arch.output_bg=sigmoid'),
    ],
)
def test_costs_that_do_not_fit_the_network_are_named(overrides, shape, message):
    with pytest.raises(Problem, match=message):
        costs.training_cost(
            {'output': torch.rand(shape), 'attention': torch.rand(2, 2, 5)},
            {'label': torch.tensor([0, 1])},
            settings(overrides),
        )


def test_loss_is_computed_in_float32_under_autocast():
    cfg = settings({'cost': 'softmax', 'pred_clip': 0, 'arch.output': 'softmax'})
    with torch.autocast('cpu', torch.bfloat16):
        logits = torch.randn(2, 3).bfloat16()
        loss = costs.training_cost(
            {'output': torch.softmax(logits, 1), 'logits': logits}, {'label': torch.tensor([0, 2])}, cfg
        )
    assert loss.dtype == torch.float32
