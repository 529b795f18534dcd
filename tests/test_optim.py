"""Optimisers, and training runs of 20 steps compared with those of the original."""

import numpy as np
import pytest
import torch

from birdsong import config
from birdsong.files import Problem
from birdsong.networks import model
from birdsong.training import costs, optim

RUNS = (
    'adam_att_mixfgbg_ban',
    'adam_ce_bgtopk',
    'adam_combined',
    'adam_first_params_frozen',
    'adam_lme1',
    'adam_mel_learn',
    'adam_meta',
    'adam_res_l2',
    'nesterov_lme1',
)
GOLDEN = (
    'train/adam_att_mixfgbg_ban.run',
    'train/adam_att_mixfgbg_ban.run64',
    'train/adam_ce_bgtopk.run',
    'train/adam_ce_bgtopk.run64',
    'train/adam_combined.run',
    'train/adam_combined.run64',
    'train/adam_first_params_frozen.run',
    'train/adam_first_params_frozen.run64',
    'train/adam_lme1.run',
    'train/adam_lme1.run64',
    'train/adam_mel_learn.run',
    'train/adam_mel_learn.run64',
    'train/adam_meta.run',
    'train/adam_meta.run64',
    'train/adam_res_l2.run',
    'train/adam_res_l2.run64',
    'train/batches',
    'train/nesterov_lme1.run',
    'train/nesterov_lme1.run64',
)


def load_original(filename, classes, num_meta, precise, **overrides):
    cfg = dict(config.load([f'{filename}.vars']), **overrides)
    net = model.build(cfg, classes, num_meta)
    model.load(net, filename)
    return net.double() if precise else net, cfg


def run(golden_net, name, description, batches, precise):
    """Train as the original did: (training losses, validation losses, arrays after step 1, arrays after step 20)."""
    has_meta = 'input_meta=' in description['config']
    num_meta = batches['meta'].shape[-1] if has_meta else 0
    net, cfg = load_original(golden_net(f'train/{name}.init'), 7, num_meta, precise)
    teacher = (
        load_original(golden_net(f'train/{name}.ban'), 7, num_meta, precise)[0].eval()
        if name.endswith('_ban')
        else None
    )
    optimiser = optim.make_optimiser(net, cfg)
    dtype = torch.float64 if precise else torch.float32

    def get(i):
        batch = {k: torch.from_numpy(batches[k][i]) for k in ['label'] + description['extra_targets']}
        spect = torch.from_numpy(batches['spect'][i]).to(dtype)[:, :, : net.audio.front.bins] if net.audio else None
        return spect, torch.from_numpy(batches['meta'][i]).to(dtype) if has_meta else None, batch

    train, valid, stored = [], [], {}
    for step in range(20):
        spect, meta, batch = get(step % 4)
        net.train()
        taught = None
        if teacher is not None:
            with torch.no_grad():
                taught = teacher(spect, meta)['output']
        optimiser.zero_grad()
        loss = costs.training_cost(net(spect, meta), batch, cfg, taught)
        (loss + optim.l2_penalty(net, cfg)).backward()
        optimiser.step()
        train.append(loss.item())
        net.eval()
        spect, meta, batch = get(4)
        with torch.no_grad():
            valid.append(costs.validation_cost(net(spect, meta), batch, cfg).item())
        stored[step + 1] = model.original_arrays(net)
    return np.array(train), np.array(valid), stored[1], stored[20]


def compare(found, expected, train, valid, first, last):
    np.testing.assert_allclose(found[0], expected['train_loss'], atol=train, rtol=train)
    np.testing.assert_allclose(found[1], expected['valid_loss'], atol=valid, rtol=valid)
    for prefix, arrays, tolerance in (('step1_param', found[2], first), ('step20_param', found[3], last)):
        assert len(arrays) == sum(k.startswith(prefix) for k in expected)
        for i, array in enumerate(arrays):
            np.testing.assert_allclose(
                array, expected[f'{prefix}{int(i)}'], atol=tolerance, rtol=tolerance, err_msg=f'{prefix}{int(i)}'
            )


@pytest.mark.parametrize('name', RUNS)
def test_training_in_double_precision_follows_the_original_step_by_step(golden, golden_net, name):
    description, expected = golden(f'train/{name}.run64')
    _, batches = golden('train/batches')
    found = run(golden_net, name, description, batches, True)
    # the fixed filterbank is kept in float32
    compare(found, expected, 1e-6, 1e-5, 2e-6, 1e-4)


@pytest.mark.parametrize('name', RUNS)
def test_training_stays_as_close_to_the_original_as_float32_can(golden, golden_net, name):
    description, expected = golden(f'train/{name}.run')
    _, batches = golden('train/batches')
    found = run(golden_net, name, description, batches, False)
    # Rounding errors change which value is the maximum of a pooling window, and with it a gradient. In single precision
    # this happens after a few steps, which differ between machines. Metadata networks have no such windows.
    np.testing.assert_allclose(
        found[0][:4], expected['train_loss'][:4], rtol=3e-4 if name == 'adam_mel_learn' else 5e-5
    )
    if name == 'adam_meta':
        compare(found, expected, 1e-5, 1e-5, 1e-5, 1e-4)
    elif name.startswith('nesterov'):
        compare(found, expected, 1e-2, 2e-2, 1e-3, 2e-2)
    else:
        # The sign of a gradient near zero is random, so each step of Adam may be off by twice the learning rate, 0.001.
        compare(found, expected, 1e-2, 2e-2, 2e-3, 2 * 20 * 1e-3)
        off = np.concatenate([np.abs(array - expected[f'step1_param{i}']).ravel() for i, array in enumerate(found[2])])
        assert np.quantile(off, 0.95) < 1e-5


def parameters(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.double)) for s in shapes]


class Some(torch.nn.Module):
    def __init__(self, *shapes):
        super().__init__()
        self.list = torch.nn.ParameterList(parameters(*shapes))


def train(net, optimiser, steps, start=0, change=None):
    for t in range(start, start + steps):
        if change:
            optimiser.eta = change(t)
        optimiser.zero_grad()
        sum(((p - 0.1 * i) ** 4).sum() for i, p in enumerate(net.parameters())).backward()
        optimiser.step()


def test_adam_adds_epsilon_before_the_bias_correction():
    net = Some(())
    optimiser = optim.make_optimiser(net, config.load([], ['first_params=0', 'initial_eta=0.5']))
    p = net.list[0]
    start = p.item()
    p.grad = torch.full_like(p, 1e-8)
    optimiser.step()
    # m = 1e-9, v = 1e-19: sqrt(v) is no longer large against epsilon
    expected = start - 0.5 * np.sqrt(1 - 0.999) / (1 - 0.9) * 1e-9 / (np.sqrt(1e-19) + 1e-8)
    assert p.item() == pytest.approx(expected, rel=1e-12)


def test_adamw_is_that_of_torch_and_decays_neither_biases_nor_batch_normalisation():
    settings = ['learn_scheme=adamw', 'weight_decay=0.3', 'momentum=0.8', 'first_params_eta_scale=3', 'arch.pool=mean']
    nets = [model.build(config.load([], [*settings, 'arch=conv:2x3x3,Conv:4x3x-1']), 3).double() for _ in range(2)]
    optimiser = optim.make_optimiser(nets[0], nets[0].cfg)
    groups = []
    for i, (name, p) in enumerate(nets[1].named_parameters()):
        decay = 0.3 if name.endswith('weight') else 0.0
        groups.append({'params': [p], 'weight_decay': decay, 'lr': 0.003 if i == 0 else 0.001})
    assert {group['weight_decay'] for group in groups} == {0, 0.3}
    reference = torch.optim.AdamW(groups, betas=(0.8, 0.999), eps=1e-8)
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        for ours, theirs in zip(*(net.parameters() for net in nets), strict=True):
            # some gradients are so small that it matters where epsilon is added
            ours.grad = torch.randn(ours.shape, generator=generator, dtype=torch.double) * 10.0 ** -(2 * step)
            theirs.grad = ours.grad.clone()
        optimiser.step()
        reference.step()
    for (name, ours), theirs in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize('scheme', ['momentum', 'nesterov'])
def test_momentum_includes_the_rate_in_the_velocity(scheme):
    net = Some((3,))
    optimiser = optim.make_optimiser(net, config.load([], [f'learn_scheme={scheme}', 'first_params=0']))
    x, velocity = net.list[0].detach().numpy().copy(), np.zeros(3)
    for t in range(5):
        eta = 0.05 / (t + 1)
        gradient = 4 * x**3
        velocity = 0.9 * velocity - eta * gradient
        x = x + (velocity if scheme == 'momentum' else 0.9 * velocity - eta * gradient)
    train(net, optimiser, 5, change=lambda t: 0.05 / (t + 1))
    np.testing.assert_allclose(net.list[0].detach().numpy(), x, rtol=1e-12)


@pytest.mark.parametrize('scheme', ['adam', 'momentum', 'nesterov'])
@pytest.mark.parametrize('scale', [0, 0.5, 10])
def test_first_parameters_have_their_own_rate(scheme, scale):
    nets = [Some((2,), (3,), (4,)) for _ in range(3)]
    base = [f'learn_scheme={scheme}']
    for net, settings in zip(
        nets,
        (
            ['first_params=2', f'first_params_eta_scale={scale}'],
            ['first_params=0'],
            ['first_params=0', f'initial_eta={0.001 * scale:g}'],
        ),
        strict=True,
    ):
        train(net, optim.make_optimiser(net, config.load([], base + settings)), 3)
    ours, plain, scaled = ([p.detach() for p in net.list] for net in nets)
    assert torch.equal(ours[2], plain[2])
    for i in (0, 1):
        torch.testing.assert_close(ours[i], scaled[i])


def test_first_parameters_are_counted_over_trainable_arrays_in_the_originals_order():
    cfg = config.load(
        [],
        [
            'filterbank=mel_learn',
            'arch.mel_trainable=0',
            'magscale=pcen',
            'pcen_fix_alpha=1',
            'first_params=4',
            'first_params_eta_scale=0',
            'arch=conv:3x3x3,conv:4x3x-1',
            'arch.pool=mean',
            'arch.output=softmax',
            'cost=softmax',
        ],
    )
    net = model.build(cfg, 3)
    before = {k: p.detach().clone() for k, p in net.named_parameters()}
    optimiser = optim.make_optimiser(net, cfg)
    costs.training_cost(net(torch.rand(2, 9, 513) * 1e4), {'label': torch.tensor([0, 2])}, cfg).backward()
    optimiser.step()
    same = {k for k, p in net.named_parameters() if torch.equal(p, before[k])}
    # log_s, log_delta, log_r and the first convolution; the filterbank and alpha are frozen and not counted
    assert same == {
        'audio.front.filterbank.spaces',
        'audio.front.scale.log_s',
        'audio.front.scale.log_alpha',
        'audio.front.scale.log_delta',
        'audio.front.scale.log_r',
        'audio.layers.0.linear.weight',
    }


@pytest.mark.parametrize('scheme', ['adam', 'momentum', 'nesterov'])
def test_a_run_that_is_continued_equals_an_uninterrupted_one(scheme):
    cfg = config.load([], [f'learn_scheme={scheme}', 'first_params_eta_scale=3'])
    whole, first = Some((2,), (), (3, 2)), Some((2,), (), (3, 2))
    train(whole, optim.make_optimiser(whole, cfg), 8)
    before = optim.make_optimiser(first, cfg)
    train(first, before, 5)
    before.eta = cfg['initial_eta']
    after = optim.make_optimiser(first, dict(cfg, initial_eta=7))
    arrays = {k: v.copy() for k, v in before.state_arrays().items()}
    after.load_state_arrays(arrays)
    assert after.eta == cfg['initial_eta']
    train(first, after, 3, start=5)
    for a, b in zip(whole.list, first.list, strict=True):
        assert torch.equal(a, b)


def test_a_state_of_another_optimiser_or_network_is_refused():
    net = Some((2,), (3,))
    adam = optim.make_optimiser(net, config.load([]))
    nesterov = optim.make_optimiser(net, config.load([], ['learn_scheme=nesterov']))
    with pytest.raises(Problem, match='learn_scheme'):
        adam.load_state_arrays(nesterov.state_arrays())
    with pytest.raises(Problem, match='expected'):
        adam.load_state_arrays(optim.make_optimiser(Some((2,), (4,)), config.load([])).state_arrays())
    with pytest.raises(Problem, match='weight_decay=0.1: needs learn_scheme=adamw'):
        optim.make_optimiser(net, config.load([], ['weight_decay=0.1']))
    with pytest.raises(Problem, match='momentum=1'):
        optim.make_optimiser(net, config.load([], ['momentum=1']))


def test_weight_decay_is_off_by_default_and_counts_squares():
    net = model.build(config.load([], ['arch=conv:2x3x3', 'arch.pool=mean']), 3)
    assert optim.l2_penalty(net, net.cfg) == 0
    expected = 0.5 * (net.audio.layers[0].linear.weight.square().sum() + 2 + net.audio.head.weight.square().sum())
    torch.testing.assert_close(optim.l2_penalty(net, dict(net.cfg, l2_decay=0.5)), expected)
