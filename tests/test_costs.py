"""Costs compared with those of the original: each example, their mean, gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from birdsong import config
from birdsong.files import Problem
from birdsong.training import costs
from helpers import build_network, random_spectrogram

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


# == Not in the 2018 system ==


def random_case(seed=0, shape=(5, 4), extreme=1.0):
    """(logits, targets between 0 and 1, targets of 0 and 1)."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(shape, generator=generator) * extreme).requires_grad_()
    soft = torch.rand(shape, generator=generator)
    return logits, soft, soft.round()


def sigmoid_outputs(logits, **more):
    return {'output': torch.sigmoid(logits.float()), 'logits': logits, **more}


def test_label_smoothing_lowers_positives_and_raises_negatives():
    logits, soft, hard = random_case()
    cfg = settings({'cost': 'ce', 'smooth_positives': 0.1, 'smooth_negatives': 0.02})
    for targets in hard, soft:
        found = costs.training_cost(
            sigmoid_outputs(logits), {'label': torch.zeros(5, dtype=torch.long), 'mixed_label': targets}, cfg
        )
        expected = F.binary_cross_entropy_with_logits(logits, targets * 0.9 + (1 - targets) * 0.02)
        torch.testing.assert_close(found, expected)


def test_validation_does_not_smooth():
    logits, _, _ = random_case()
    batch = {'label': torch.arange(5) % 4}
    found = [
        costs.validation_cost(sigmoid_outputs(logits), batch, settings({'cost': 'ce', **smoothing}))
        for smoothing in ({}, {'smooth_positives': 0.3})
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize('gamma', [0, 0.5, 1, 2])
def test_focal_cost_is_that_of_lin_for_labels_and_of_li_for_soft_targets(gamma):
    logits, soft, hard = random_case(extreme=3)
    cfg = settings({'cost': f'focal:{gamma}'})
    p = torch.sigmoid(logits.double())
    right = torch.where(hard == 1, p, 1 - p)
    lin = -((1 - right) ** gamma) * torch.log(right)
    li = (soft - p).abs() ** gamma * F.binary_cross_entropy(p, soft.double(), reduction='none')
    for targets, expected in ((hard, lin), (soft, li)):
        for given in logits, None:
            found = costs.cost(f'focal:{gamma}', torch.sigmoid(logits), targets, cfg, logits=given)
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_focal_cost_is_lowest_if_the_prediction_equals_a_soft_target():
    predictions = torch.arange(0.01, 1, 0.01)[:, None]
    found = costs.cost('focal:2', predictions, torch.full_like(predictions, 0.3), settings({}))
    assert predictions[found.argmin()].item() == pytest.approx(0.3)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('gamma', [0, 0.5, 1, 2])
def test_focal_cost_and_its_gradient_are_finite_and_push_saturated_errors_back(dtype, gamma):
    logits = torch.tensor([[200.0, -200.0, 200.0, -200.0, 0.0]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.5]])
    batch = {'label': torch.tensor([0]), 'mixed_label': targets}
    with torch.autocast('cpu', torch.bfloat16):
        loss = costs.training_cost(sigmoid_outputs(logits), batch, settings({'cost': f'focal:{gamma}'}))
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0] > 0 > logits.grad[0, 1] and logits.grad[0, 2:].abs().max() < 1e-3


@pytest.mark.parametrize('cost', ['focal:0.5', 'focal:2', 'ce'])
def test_gradients_are_finite_for_predictions_of_0_and_1(cost):
    predictions = torch.tensor([[1.0, 0.0, 1.0, 0.0]], requires_grad=True)
    cfg = settings({'cost': cost, 'smooth_positives': 0.1, 'smooth_negatives': 0.1})
    loss = costs.training_cost({'output': predictions}, {'label': torch.tensor([1])}, cfg)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(predictions.grad).all()


@pytest.mark.parametrize('overrides', [{'cost': 'focal:2'}, {'cost': 'ce', 'smooth_negatives': 1e-9}])
def test_background_species_are_targets_that_do_not_exceed_1(overrides):
    cfg = settings({'mix_fg_bg': 0.5, **overrides})
    outputs = {'output': torch.rand(2, 4)}
    batch = {'label': torch.tensor([0, 1])}
    batch['label_bg'] = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]).bool()
    found = costs.training_targets(outputs, batch, cfg)
    torch.testing.assert_close(found, torch.tensor([[1, 0, 0.5, 0], [0, 1, 0, 0]]))
    batch.update(mixed_label=torch.tensor([[0.7, 0.3, 0, 0]] * 2), label_bg=torch.tensor([[0.7, 0.3, 0.7, 0]] * 2))
    found = costs.training_targets(outputs, batch, cfg)
    torch.testing.assert_close(found[0], torch.tensor([0.7, 0.3, 0.35, 0]))
    pseudo = torch.full((2, 4), 0.5)
    assert costs.training_targets(outputs, batch, cfg, teacher=pseudo).max() == 1


def test_active_classes_replace_the_label_in_training_and_validation():
    logits, _, hard = random_case()
    hard[0] = 0
    batch = {'label': torch.zeros(5, dtype=torch.long), 'active': hard}
    cfg = settings({'cost': 'ce', 'segment_targets': 1})
    expected = F.binary_cross_entropy_with_logits(logits, hard)
    for compute in costs.training_cost, costs.validation_cost:
        torch.testing.assert_close(compute(sigmoid_outputs(logits), batch, cfg), expected)


@pytest.mark.parametrize(
    'network, overrides',
    [
        ('attention', ['arch.prepool=none', 'arch.output=sigmoid', 'cost=focal:1']),
        ('attention', ['arch.prepool=sigmoid', 'arch.output=linear', 'cost=ce']),
        ('plain', ['arch.output=sigmoid', 'cost=ce']),
        ('plain', ['arch.output=softmax', 'cost=softmax']),
    ],
)
def test_frame_cost_mixes_the_cost_of_the_pooled_output_with_that_of_the_maximum_over_time(network, overrides):
    net = build_network(network, *overrides)
    outputs = net(random_spectrogram(net, 200, 2))
    batch = {'label': torch.tensor([2, 0])}
    peak = outputs['maps'][:, :3].flatten(2).max(2).values
    if net.cfg['arch.output'] == 'sigmoid':
        peak = torch.sigmoid(peak)
    elif net.cfg['arch.output'] == 'softmax':
        peak = torch.softmax(peak, 1)
    parts = [
        costs.training_cost({'output': output}, batch, net.cfg | {'frame_cost': 0})
        for output in (outputs['output'], peak)
    ]
    assert parts[0] != parts[1]
    for share in 0, 0.5, 1:
        found = costs.training_cost(outputs, batch, net.cfg | {'frame_cost': share})
        torch.testing.assert_close(found, (1 - share) * parts[0] + share * parts[1], rtol=1e-4, atol=1e-6)
    found.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    'overrides, words',
    [
        ({'cost': 'focal:-1'}, 'exponent'),
        ({'cost': 'softmax', 'smooth_positives': 0.1}, 'does not fit cost=softmax'),
        ({'cost': 'ce_bgtopk:10', 'smooth_negatives': 0.1}, 'does not fit cost=ce_bgtopk:10'),
        ({'cost': 'ce', 'smooth_positives': 0.6, 'smooth_negatives': 0.4}, 'sum must be below 1'),
        ({'cost': 'ce', 'smooth_positives': 0.1, 'pred_clip': 0}, 'focal:0'),
        ({'cost': 'softmax', 'arch.output': 'softmax', 'segment_targets': 1}, 'arch.output=sigmoid'),
        ({'cost': 'ce', 'arch.output': 'softmax', 'segment_targets': 1}, 'arch.output=sigmoid'),
        ({'cost': 'attention_logsoftmax', 'frame_cost': 0.5}, 'attention_logsoftmax'),
        ({'cost': 'ce', 'arch_meta': 'full:3', 'frame_cost': 0.5}, 'audio alone'),
        ({'cost': 'ce', 'arch': '', 'frame_cost': 0.5}, 'audio alone'),
    ],
)
def test_settings_that_exclude_each_other_are_named_in_one_line(overrides, words):
    with pytest.raises(Problem, match=words) as e:
        costs.check(settings(overrides))
    assert '\n' not in str(e.value)
    costs.check(settings({}))
