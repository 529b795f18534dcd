"""Moving averages and means of networks."""

import numpy as np
import torch

from birdsong import config
from birdsong.networks import model
from birdsong.training import averaging


def small_network():
    return model.build(config.load([], ['arch=conv:2x3x3', 'arch.pool=mean', 'len_max=1']), 3)


def change(net, generator):
    """Change all weights and statistics. Returns copies of them as arrays by name."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator))
    return {name: tensor.double().numpy().copy() for name, tensor in net.state_dict().items()}


def test_the_moving_average_has_a_lower_decay_at_first_and_includes_the_statistics():
    net, generator = small_network(), torch.Generator().manual_seed(0)
    average = averaging.MovingAverage(net, 0.3)
    expected = {name: tensor.double().numpy().copy() for name, tensor in net.state_dict().items()}
    for earlier, decay in enumerate((1 / 10, 2 / 11, 3 / 12, 0.3, 0.3)):
        now = change(net, generator)
        average.update(earlier)
        expected = {name: decay * value + (1 - decay) * now[name] for name, value in expected.items()}
    found = average.net.state_dict()
    assert any(name.endswith('inv_std') for name in found) and not average.net.training
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_counters_are_those_of_the_network():
    net = torch.nn.BatchNorm2d(2)
    average = averaging.MovingAverage(net, 0.9)
    net(torch.rand(2, 2, 3, 3))
    average.update(100)
    assert average.net.num_batches_tracked == 1
    np.testing.assert_allclose(average.net.running_mean, 0.1 * net.running_mean, rtol=1e-6)
    arrays = [{'mean': np.float32([i, 4]), 'count': np.array(i)} for i in (1, 2, 6)]
    mean = averaging.mean(arrays)
    assert mean['mean'].tolist() == [3, 4] and mean['mean'].dtype == np.float32 and mean['count'] == 6
