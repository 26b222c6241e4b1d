"""What compilers are shown computes what the folded network does."""

import pytest
import torch

from drive_seg import networks
from drive_seg.networks.channels_last import ForCompiler, join, max_pool_places, max_unpool_places
from drive_seg.networks.fold import fold
from drive_seg.networks.fold.channels import join as join_planes
from drive_seg.networks.fold.unpooling import max_pool_places as pool_planes
from drive_seg.networks.fold.unpooling import max_unpool_places as unpool_planes

SYSTEMS = {
    "dsnet": {"unpool": "one_hot", "feature_balance": ["stage1", "stage3"]},
    "enet": {"unpool": "one_hot"},
    "erfnet": {},
}


def made(name):
    torch.manual_seed(1)
    network = fold(networks.build(name, 11, **SYSTEMS[name]))
    return network, torch.randn(2, 3, 64, 96)


@pytest.mark.parametrize("name", SYSTEMS)
def test_logits_are_those_of_the_folded_network(name):
    network, image = made(name)
    other = ForCompiler(network)
    with torch.inference_mode():
        wanted, got = network(image), other(image.to(memory_format=torch.channels_last))
    assert (wanted - got).abs().max() <= 1e-4 * wanted.std()
    assert all(getattr(part, "join", None) is not join for part in network.modules()), "it is left as it was"


@pytest.mark.parametrize("name", SYSTEMS)
def test_half_precision_takes_and_gives_float32(name):
    network, image = made(name)
    other = ForCompiler(network, torch.bfloat16)
    dtypes = {parameter.dtype for parameter in other.parameters()}
    assert dtypes == ({torch.float32, torch.bfloat16} if name == "dsnet" else {torch.bfloat16})
    with torch.inference_mode():
        wanted, got = network(image), other(image)
    assert got.dtype == torch.float32 and got.shape == wanted.shape
    assert (wanted.argmax(1) == got.argmax(1)).float().mean() > 0.8, "fresh weights leave many pixels undecided"


def test_joining_pooling_and_un_pooling_are_the_same_to_the_last_bit():
    torch.manual_seed(2)
    x = torch.randint(0, 3, (2, 5, 8, 12)).float()  # whole numbers tie
    assert torch.equal(join([x, x[:, 1:3]]), join_planes([x, x[:, 1:3]]))
    (pooled, where), (wanted, places) = max_pool_places(x), pool_planes(x)
    assert torch.equal(pooled, wanted) and torch.equal(where, places)
    y = torch.randn_like(pooled)
    assert torch.equal(max_unpool_places(y, where), unpool_planes(y, where))
