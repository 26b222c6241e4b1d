"""DFN against the figures and the tables of its paper."""

import pytest
import torch
import torch.nn.functional as F

from drive_seg import networks
from drive_seg.networks.dfn import BorderNetwork, ChannelAttentionBlock, Head, RefinementResidualBlock, SmoothNetwork
from drive_seg.networks.layers import training_only_branches
from drive_seg.networks.network import Stage

OFF = dict.fromkeys(("refinement", "global_pooling", "channel_attention", "deep_supervision", "border_network"), False)
RRB = {**OFF, "refinement": True}
GP = {**RRB, "global_pooling": True}
CAB = {**GP, "channel_attention": True}
DS = {"deep_supervision": True}
BN = {"border_network": True}

ROWS = {
    "Res-101": OFF,
    "Res-101+RRB": RRB,
    "Res-101+RRB+GP": GP,
    "Res-101+RRB+GP+CAB": CAB,
    "Res-101+RRB+DS": RRB | DS,
    "Res-101+RRB+GP+DS": GP | DS,
    "Res-101+RRB+GP+CAB+DS": CAB | DS,
    "Res-101+SN+BN": CAB | DS | BN,
}
"""Tables 2 and 3; "Res-101+SN" is the last row but one."""

every_row = pytest.mark.parametrize("options", ROWS.values(), ids=ROWS)

ENCODED = {"res2": Stage(4, 4), "res3": Stage(5, 8), "res4": Stage(6, 16), "res5": Stage(7, 32)}
SIZES = {"res2": (17, 25), "res3": (9, 13), "res4": (5, 7), "res5": (3, 4)}
"""Of an image of 65 x 97."""


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def small(**options):
    return networks.build("dfn", 5, **{"backbone": "resnet50", "width": 8, "border_width": 4, **options})


def features():
    return {name: torch.randn(2, ENCODED[name].channels, *SIZES[name]) for name in ENCODED}


def unbalanced(_stage, x):
    return x


def rrb_parameters(c_in, width):
    return c_in * width + 9 * width**2 + 2 * width + 9 * width**2


HEAD = rrb_parameters(512, 171) + 171 * 19 + 19
PARTS = {
    "refinement": sum(rrb_parameters(c_in, 512) + rrb_parameters(512, 512) for c_in in (256, 512, 1024, 2048)) + HEAD,
    "global_pooling": 2048 * 512 + 2 * 512,
    "channel_attention": 1024 * 512 + 512 + 512 * 512 + 512,
    "border_network": sum(rrb_parameters(c_in, 21) for c_in in (256, 512, 1024, 2048))
    + 3 * rrb_parameters(21, 21)
    + 4 * (rrb_parameters(21, 9) + 9 + 1),
}


@every_row
def test_a_row_of_tables_2_and_3_has_the_parts_it_names_and_no_other(options):
    with torch.device("meta"):
        network = networks.build("dfn", 19, **options)
    expected = PARTS["refinement"] if options["refinement"] else 2048 * 19 + 19
    expected += options["global_pooling"] * PARTS["global_pooling"]
    expected += 4 * options["channel_attention"] * PARTS["channel_attention"]
    expected += 3 * options["deep_supervision"] * HEAD
    expected += options["border_network"] * PARTS["border_network"]
    assert parameters(network) - parameters(network.encoder) == expected
    # the Res-101 of torchvision without its classifier of 1000 classes
    assert parameters(network.encoder) == 44_549_160 - 2048 * 1000 - 1000


def test_the_default_is_the_last_row():
    with torch.device("meta"):
        default, last = networks.build("dfn", 19), networks.build("dfn", 19, **ROWS["Res-101+SN+BN"])
    assert [(k, v.shape) for k, v in default.state_dict().items()] == [
        (k, v.shape) for k, v in last.state_dict().items()
    ]


def test_rrb_is_fig_2b():
    block = RefinementResidualBlock(3, 4).eval()
    x = torch.randn(2, 3, 5, 6)
    unified = F.conv2d(x, block.unify.weight)
    first, bn, _ = block.refine[0]
    refined = F.conv2d(F.relu(bn(F.conv2d(unified, first.weight, padding=1))), block.refine[1].weight, padding=1)
    torch.testing.assert_close(block(x), F.relu(unified + refined))
    signed = RefinementResidualBlock(3, 4, activate=False).eval()
    signed.load_state_dict(block.state_dict())
    torch.testing.assert_close(signed(x), unified + refined)


def test_cab_is_fig_2c():
    block = ChannelAttentionBlock(3)
    low, high = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    first, _, second, _ = block.attention
    expected = torch.empty_like(low)
    for b in range(2):
        pooled = torch.cat((low, high), dim=1)[b].mean(dim=(1, 2))
        hidden = (first.weight[:, :, 0, 0] @ pooled + first.bias).clamp(min=0)
        alpha = 1 / (1 + torch.exp(-(second.weight[:, :, 0, 0] @ hidden + second.bias)))
        for c in range(3):
            expected[b, c] = alpha[c] * low[b, c] + high[b, c]
    torch.testing.assert_close(block(low, high), expected)


@pytest.mark.parametrize("channel_attention", [False, True])
@pytest.mark.parametrize("global_pooling", [False, True])
def test_smooth_network_goes_top_down(global_pooling, channel_attention):
    torch.manual_seed(0)
    network = SmoothNetwork(ENCODED, 8, global_pooling, channel_attention).eval()
    encoded = features()
    high = None
    if global_pooling:
        high = network.global_pooling(encoded["res5"])
        assert high.shape == (2, 8, 1, 1)
    expected = {}
    for stage in ("res5", "res4", "res3", "res2"):
        x = network.before[stage](encoded[stage])
        if high is not None:
            high = F.interpolate(high, SIZES[stage], mode="bilinear", align_corners=False)
            x = network.fusion[stage](x, high) if channel_attention else x + high
        high = expected[f"smooth{stage[-1]}"] = network.after[stage](x)
    smooth = network(encoded, unbalanced)
    assert list(smooth) == ["smooth5", "smooth4", "smooth3", "smooth2"] == list(network.stages)
    for name, x in smooth.items():
        torch.testing.assert_close(x, expected[name])


def test_border_network_goes_bottom_up():
    torch.manual_seed(0)
    network = BorderNetwork(ENCODED, 4).eval()
    encoded = {name: x.requires_grad_() for name, x in features().items()}
    borders = network(encoded)
    assert [tuple(border.shape) for border in borders] == 4 * [(2, 1, *SIZES["res2"])]
    for i, border in enumerate(borders):
        gradients = torch.autograd.grad(border.sum(), list(encoded.values()), allow_unused=True, retain_graph=True)
        assert [g is not None and bool(g.any()) for g in gradients] == [j <= i for j in range(4)]


@every_row
def test_training_outputs_and_gradients_of_each_row(options):
    torch.manual_seed(0)
    network = small(**options).train()
    output = network(torch.randn(2, 3, 64, 96))
    assert output.logits.shape == (2, 5, 64, 96)
    assert [tuple(x.shape) for x in output.stage_logits] == 3 * options["deep_supervision"] * [(2, 5, 64, 96)]
    assert [tuple(x.shape) for x in output.border_logits] == 4 * options["border_network"] * [(2, 1, 64, 96)]
    supervised = (output.logits, *output.stage_logits, *output.border_logits)
    sum((x * torch.randn_like(x)).mean() for x in supervised).backward()
    assert [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_stage_logits_are_of_smooth5_to_smooth3_and_logits_of_smooth2():
    torch.manual_seed(0)
    network = small().train()
    smooth = {}

    def note(stage, x):
        smooth[stage] = x
        return x

    output = network.segment(torch.randn(2, 3, 65, 97), note)
    coarse = ("smooth5", "smooth4", "smooth3")
    for name, logits in zip((*coarse, "smooth2"), (*output.stage_logits, output.logits), strict=True):
        head = network.head if name == "smooth2" else network.stage_heads[name]
        torch.testing.assert_close(logits, F.interpolate(head(smooth[name]), (65, 97), mode="bilinear"))


def test_stages_have_the_shapes_that_they_promise():
    network = small().eval()
    seen = {}
    with torch.no_grad():
        network.segment(torch.randn(1, 3, 65, 97), lambda stage, x: seen.setdefault(stage, x))
    assert list(seen) == list(network.stages) == [*SIZES, "smooth5", "smooth4", "smooth3", "smooth2"]
    for name, x in seen.items():
        assert x.shape == (1, network.stages[name].channels, *SIZES[f"res{name[-1]}"])
        assert network.stages[name].stride == 2 ** int(name[-1])


def test_an_encoder_of_lower_output_stride_fits():
    network = small(output_stride=8).eval()
    assert [network.stages[f"smooth{i}"].stride for i in (5, 4, 3, 2)] == [8, 8, 8, 4]
    with torch.no_grad():
        assert network(torch.randn(1, 3, 65, 70)).shape == (1, 5, 65, 70)


def test_only_the_finest_head_runs_on_the_vehicle():
    network = small().eval()
    assert {name for name, _, _ in training_only_branches(network)} == {"stage_heads", "border_network"}
    ran = []
    for name, part in network.named_modules():
        if isinstance(part, Head):
            part.register_forward_hook(lambda *_, name=name: ran.append(name))
    with torch.no_grad():
        network(torch.randn(1, 3, 64, 64))
    assert ran == ["head"]


def test_options_that_stand_on_the_refinement_are_refused_without_it():
    with pytest.raises(ValueError, match="no stages for global_pooling, channel_attention, deep_supervision: turn"):
        small(refinement=False)
    with pytest.raises(ValueError, match="no stages for deep_supervision: turn"):
        small(**OFF | DS)
    with pytest.raises(ValueError, match="border_width 0 is not 1 or more"):
        small(border_width=0)
