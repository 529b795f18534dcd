"""Architecture strings: what the layers compute, against the original; errors; shapes."""

import numpy as np
import pytest
import torch
from golden_layers import check, fill

from birdsong import config
from birdsong.files import Problem
from birdsong.networks import architecture

GOLDEN = (
    'layers/arch_Conv',
    'layers/arch_avgpool',
    'layers/arch_avgpool_stride',
    'layers/arch_conv',
    'layers/arch_conv_elu',
    'layers/arch_conv_groups',
    'layers/arch_conv_groups_bad',
    'layers/arch_conv_meanfree',
    'layers/arch_conv_neg',
    'layers/arch_conv_neg3',
    'layers/arch_conv_nobn',
    'layers/arch_conv_reeu',
    'layers/arch_conv_relu',
    'layers/arch_conv_stride',
    'layers/arch_convdrop_channels',
    'layers/arch_convdrop_groups',
    'layers/arch_dense_after_conv',
    'layers/arch_dense_after_groups',
    'layers/arch_groupdrop',
    'layers/arch_lme0.5pool',
    'layers/arch_lme1pool',
    'layers/arch_lme5pool',
    'layers/arch_pool',
    'layers/arch_pool_2x1',
    'layers/arch_pool_neg',
    'layers/arch_pool_stride',
    'layers/res_actbug_plain',
    'layers/res_actbug_start',
    'layers/res_dilated',
    'layers/res_dilated5x3',
    'layers/res_end',
    'layers/res_even',
    'layers/res_fewer',
    'layers/res_fewer_pool',
    'layers/res_nobn',
    'layers/res_plain',
    'layers/res_pool',
    'layers/res_same',
    'layers/res_slice',
    'layers/res_start',
    'layers/res_startend',
    'layers/res_stride1_2units',
    'layers/res_stride1_2units_same',
    'layers/res_stride_1unit',
    'layers/res_stride_2units',
)
FAILING = {'layers/arch_conv_groups_bad', 'layers/res_even'}
# cases that fail in the original, or intentionally differ from it
FIXED = {
    'layers/arch_dense_after_groups',
    'layers/res_stride1_2units',
    'layers/res_stride1_2units_same',
    'layers/res_stride_1unit',
    'layers/res_stride_2units',
}
RNG = np.random.default_rng(0)


def make(arch, *settings, channels=4, bands=14):
    """The layers of an architecture string in eval mode, and their Chain."""
    cfg = config.load([], [f'arch={arch}', *(s for setting in settings for s in setting.split())])
    chain = architecture.Chain(channels, bands)
    modules = architecture.make_layers(architecture.parse(cfg), cfg, 'arch', chain, RNG)
    return torch.nn.Sequential(*modules).eval(), chain


@pytest.mark.parametrize('case', [c for c in GOLDEN if c not in FAILING | FIXED])
def test_layers_compute_what_the_original_computes(golden, case):
    description, arrays = golden(case)
    net, chain = make(description['arch'], *description['settings'])
    fill(net, arrays)
    check(net, net, arrays, squeeze=arrays['out'].ndim == 2)
    assert chain.channels == arrays['out'].shape[1]
    if arrays['out'].ndim == 4:
        assert chain.bands == arrays['out'].shape[3]


@pytest.mark.parametrize(
    'case, named',
    [
        (
            'layers/arch_conv_groups_bad',
            'arch, layer 3 of 3, layer Conv:6x2x-1: '
            '8 channels in and 6 out cannot both be divided into arch.dense_groups=3',
        ),
        ('layers/res_even', 'arch, layer 1 of 1, layer resblock:1x6x2x2.*odd'),
    ],
)
def test_impossible_architectures_are_refused_as_in_the_original(golden, case, named):
    description, _ = golden(case)
    with pytest.raises(Problem, match=named):
        make(description['arch'], *description['settings'])


def test_groups_of_convolutions_do_not_leak_into_dense_layers(golden):
    description, _ = golden('layers/arch_dense_after_groups')
    net, chain = make(description['arch'], *description['settings'])
    assert net(torch.zeros(2, 4, 12, 14)).shape == (2, 5, 12, 1)
    assert net[1].linear.groups == 2


def test_dense_layers_apply_at_each_time_step():
    net, _ = make('dense:5', channels=3, bands=4)
    x = torch.randn(2, 3, 7, 4)
    together = net(x)
    for t in range(7):
        torch.testing.assert_close(together[:, :, t : t + 1], net(x[:, :, t : t + 1]))


@pytest.mark.parametrize(
    'case', ['layers/res_stride_2units', 'layers/res_stride1_2units', 'layers/res_stride1_2units_same']
)
@pytest.mark.parametrize('shortcut', ['project', 'pool', 'slice'])
def test_residual_blocks_can_have_strides(golden, case, shortcut):
    description, _ = golden(case)
    stride = int(description['arch'][-1])
    net, chain = make(description['arch'], f'resnet.shortcut={shortcut}')
    out = net(torch.randn(2, 4, 13, 14))
    assert out.shape == (2, chain.channels, -(-13 // stride), 14 // stride)
    assert chain.bands == 14 // stride


def test_a_single_residual_unit_takes_the_stride_and_without_it_equals_the_original(golden):
    description, arrays = golden('layers/res_stride_1unit')
    net, _ = make(description['arch'].replace('x2x2', ''))
    check(fill(net, arrays), net, arrays)
    strided, _ = make(description['arch'])
    assert strided(torch.zeros(2, 4, 12, 14)).shape == (2, 8, 6, 7)


@pytest.mark.parametrize(
    'arch, message',
    [
        ('conv:8x3x15', 'layer 1 of 1, layer conv:8x3x15: windows of 3x15 do not fit 4 channels x time x 14 bands'),
        ('conv:8x3x-15', 'do not fit'),
        ('pool:3x3,conv:8x3x5', 'layer 2 of 2.*4 channels x time x 4 bands'),
        ('conv:8x-1x3', 'fixed size in time'),
        ('conv:0x3x3', 'filter'),
        ('conv:8', 'sizes'),
        ('conv:8x3x3x2', 'sizes'),
        ('conv:8xax3', 'whole numbers'),
        ('konv:8x3x3', "no layer 'konv'"),
        ('resblock_begin:1x8x3x3', 'no layer'),
        ('groupdrop:3:0.5', '4 channels cannot be divided into 3 groups'),
        ('groupdrop:2', 'RATE'),
        ('lme0pool:2x2', 'sharpness'),
        ('conv:8x3x3,,pool:2x2', 'layer 2 of 3'),
    ],
)
def test_impossible_layers_are_refused_with_their_names(arch, message):
    with pytest.raises(Problem, match=message):
        make(arch)


def test_the_stride_of_a_residual_block_may_be_one_number():
    one, chain = make('resblock:2x4x3x3x2')
    two, expected = make('resblock:2x4x3x3x2x2')
    two.load_state_dict(one.state_dict())
    x = torch.rand(1, 4, 9, 14)
    assert torch.equal(one(x), two(x))
    assert (chain.channels, chain.bands) == (expected.channels, expected.bands) == (4, 7)


def test_pooling_over_all_of_time():
    net, _ = make('pool:-1x2')
    assert net(torch.zeros(1, 4, 9, 14)).shape == (1, 4, 1, 7)
    assert net(torch.zeros(1, 4, 5, 14)).shape == (1, 4, 1, 7)
