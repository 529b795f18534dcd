"""Files of pretrained weights are read without running code in them. timm is not needed for that."""

import os
import pickle
import sys

import pytest
import torch

from birdsong.files import Problem
from birdsong.networks.backbone import read_weights


class Hostile:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_file_of_weights_that_runs_code_is_refused(tmp_path):
    torch.save({'conv_stem.weight': Hostile(str(tmp_path / 'made'))}, tmp_path / 'torch.pt')
    (tmp_path / 'plain.bin').write_bytes(pickle.dumps(Hostile(str(tmp_path / 'made')), 2))
    (tmp_path / 'list.pth').write_bytes(b'')
    for name in ('torch.pt', 'plain.bin', 'list.pth'):
        with pytest.raises(Problem, match=f'{name}: not a file of weights') as refused:
            read_weights(str(tmp_path / name))
        assert '\n' not in str(refused.value)
    assert not (tmp_path / 'made').exists()
    torch.load(tmp_path / 'torch.pt', weights_only=False)
    assert (tmp_path / 'made').exists()  # so the file was hostile


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    pytest.importorskip('safetensors', reason='needs safetensors')
    (tmp_path / 'short.safetensors').write_bytes(b'\x09')
    with pytest.raises(Problem, match='short.safetensors: not a file of weights'):
        read_weights(str(tmp_path / 'short.safetensors'))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(Problem, match='pip install safetensors'):
        read_weights(str(tmp_path / 'w.safetensors'))


def test_arrays_are_read(tmp_path):
    torch.save({'a': torch.ones(2), 'b.num_batches_tracked': torch.tensor(3)}, tmp_path / 'w.pt')
    found = read_weights(str(tmp_path / 'w.pt'))
    assert list(found) == ['a'] and torch.equal(found['a'], torch.ones(2))
