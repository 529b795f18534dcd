"""Global pooling: compared with the original; at once, block by block, over sliding windows."""

import pytest
import torch
from golden_layers import check

from birdsong.networks import pooling

GOLDEN = (
    'layers/attention_pool',
    'layers/attention_pool_freq3',
    'layers/globalmax',
    'layers/logmeanexp_1',
    'layers/logmeanexp_5',
    'layers/noisy_or',
)
KINDS = ['max', 'mean', 'logmeanexp:1', 'logmeanexp:5', 'noisy-or', 'attention:2']


@pytest.mark.parametrize(
    'name, pool',
    [
        ('globalmax', 'max'),
        ('logmeanexp_1', 'logmeanexp:1'),
        ('logmeanexp_5', 'logmeanexp:5'),
        ('noisy_or', 'noisy-or'),
    ],
)
def test_global_pooling(golden, name, pool):
    _, arrays = golden(f'layers/{name}')
    check(pooling.make_global_pooling(pool), None, arrays)


@pytest.mark.parametrize('name', ['attention_pool', 'attention_pool_freq3'])
def test_attention_pooling(golden, name):
    _, arrays = golden(f'layers/{name}')
    pool = pooling.make_global_pooling(f'attention:{int(arrays["x1"].shape[1])}')
    check(lambda x, attention: pool(torch.cat([x, attention], 1)), None, arrays)


@pytest.mark.parametrize('pool', [*KINDS, 'attention_nopool:2', 'none'])
@pytest.mark.parametrize('bands', [1, 3])
def test_pooling_block_by_block_equals_pooling_at_once(pool, bands):
    generator = torch.Generator().manual_seed(0)
    maps = (
        torch.rand(2, 6, 50, bands, generator=generator)
        if pool == 'noisy-or'
        else 30 * torch.randn(2, 6, 50, bands, generator=generator)
    )
    pool = pooling.make_global_pooling(pool)
    streaming = pooling.PoolingStream(pool)
    for start, stop in ((0, 1), (1, 20), (20, 27), (27, 50)):
        streaming.add(maps[:, :, start:stop])
    torch.testing.assert_close(streaming.result(), pool(maps), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('count', range(1, 20))
@pytest.mark.parametrize('spacing', [1, 3])
def test_sliding_by_doubling_equals_sliding(count, spacing):
    x = torch.randn(2, 3, 80)
    expected = torch.stack(
        [x[..., t : t + (count - 1) * spacing + 1 : spacing].sum(-1) for t in range(80 - (count - 1) * spacing)], -1
    )
    torch.testing.assert_close(pooling.slide(x, count, spacing, torch.add), expected)


@pytest.mark.parametrize('pool', KINDS)
@pytest.mark.parametrize('spacing', [1, 3])
def test_pooling_of_sliding_windows_equals_pooling_of_each_window(pool, spacing):
    pool = pooling.make_global_pooling(pool)
    maps = torch.rand(2, 6, 50, 1, generator=torch.Generator().manual_seed(0))
    sliding = pooling.SlidingPooling(pool, 7, spacing)
    found = [sliding.push(maps[:, :, start:stop]) for start, stop in ((0, 1), (1, 20), (20, 27), (27, 50))]
    found = torch.cat([part for part in found if part is not None], 2)
    span = 6 * spacing + 1
    expected = torch.stack([pool(maps[:, :, t : t + span : spacing]) for t in range(50 - span + 1)], 2)
    torch.testing.assert_close(found, expected)
    assert sliding.end() is None


@pytest.mark.parametrize('pool', KINDS)
def test_a_recording_shorter_than_a_window_is_pooled_as_one_window(pool):
    pool = pooling.make_global_pooling(pool)
    maps = torch.rand(2, 6, 5, 1)
    sliding = pooling.SlidingPooling(pool, 7, 1)
    assert sliding.push(maps) is None
    torch.testing.assert_close(sliding.end()[..., 0], pool(maps))
