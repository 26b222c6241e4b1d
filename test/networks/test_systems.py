"""Every row of the papers' tables can be built; its counts are the printed ones, or its note says how far off."""

import itertools

import pytest

from drive_seg import networks
from drive_seg.networks import counting
from drive_seg.networks.systems import BY_NAME, PAPER_SIZE, SYSTEMS, find, measure

EXACT = {
    "dsnet_0.5": 456_047,
    "dsnet_1.0": 910_447,
    "dsnet_1.5": 1_364_847,
    "dsnet_2.0": 1_819_247,
    "dsnet_add": 1_152_159,
    "dsnet_psp": 1_222_255,
    "dsnet_init": 910_528,
    "dsnet_nosf": 910_447,
    "dsnet_skip": 910_447,
    "dsnet_dila": 910_447,
}


@pytest.fixture(scope="module")
def costs():
    """Of all systems at 64 x 96 pixels, by name."""
    return {row["name"]: row for row in measure(SYSTEMS, (64, 96))}


def counted_by_paper_rules(name):
    (row,) = measure([BY_NAME[name]], PAPER_SIZE, paper_rules=True)
    return row


def test_names_are_unique_and_sources_are_given():
    assert len(BY_NAME) == len(SYSTEMS)
    assert all(system.source for system in SYSTEMS)
    assert {system.network for system in SYSTEMS} == set(networks.names())


def test_no_two_systems_are_the_same_network():
    keys = {(s.network, repr(sorted(s.options.items()))) for s in SYSTEMS}
    assert len(keys) == len(SYSTEMS)


def test_what_is_attached_is_the_only_difference_to_its_host():
    attached = [system for system in SYSTEMS if "+" in system.name]
    assert {system.network for system in attached} == set(networks.names()), "FBNet on every network"
    for system in attached:
        host = BY_NAME[system.name.split("+")[0]]
        added = {key: value for key, value in system.options.items() if key not in host.options}
        assert system.network == host.network and system.options == {**host.options, **added}
        assert "feature_balance" in added
        assert set(added) <= {"feature_balance", "feature_modulator"}


@pytest.mark.parametrize("system", [s for s in SYSTEMS if s.parameters], ids=lambda s: s.name)
def test_parameters_are_those_printed_or_the_note_tells_the_difference(system, costs):
    count = costs[system.name]["parameters"]
    digits = len(system.parameters.partition(".")[2])
    if f"{count / 1e6:.{digits}f}" != system.parameters:
        difference = 100 * (count / 1e6 / float(system.parameters) - 1)
        assert system.note.startswith(f"{difference:+.1f} %: "), difference


def test_exact_counts_of_dsnet(costs):
    assert {name: costs[name]["parameters"] for name in EXACT} == EXACT


def test_counts_that_are_met_within_bounds(costs):
    assert costs["dsnet_mbv2"]["parameters"] == pytest.approx(1.17e6, rel=0.03)
    assert 0.35e6 <= costs["enet"]["parameters"] <= 0.37e6
    assert 2.06e6 <= costs["erfnet"]["parameters"] <= 2.07e6


@pytest.mark.parametrize("name", [s.name for s in SYSTEMS if s.multiply_accumulates])
def test_multiply_accumulates_of_fbnets_table_2(name):
    row = counted_by_paper_rules(name)
    assert f"{row['multiply_accumulates'] / 1e9:.2f}" == BY_NAME[name].multiply_accumulates
    assert row["paper_multiply_accumulates"] == round(float(BY_NAME[name].multiply_accumulates) * 1e9)
    if "fbnet" in name:
        assert f"{row['added_multiply_accumulates'] / 1e9:.2f}" == "0.76"


def test_fbnet_at_res5_alone_adds_half_a_g_in_training_and_next_to_nothing_at_inference():
    assert counted_by_paper_rules("fcn_r50+fbnet_res5")["added_multiply_accumulates"] / 1e9 == pytest.approx(
        0.508, abs=5e-4
    )
    (row,) = measure([BY_NAME["fcn_r50+fbnet_res5"]], PAPER_SIZE)
    assert row["added_multiply_accumulates"] / 1e9 == pytest.approx(0.038, abs=5e-4)


def test_the_branches_of_training_are_counted_apart(costs):
    """Semantic Encoding of 32 codewords; FBNet's heads of 14 classes; DFN's three stage heads and Border Network."""
    assert costs["dsnet_1.0"]["training_parameters"] == 6_835
    assert costs["dsnet_1.0+fbnet_stage3"]["training_parameters"] == 6_835 + 129 * 14
    assert costs["deeplabv3plus_r50"]["training_parameters"] == 0
    assert costs["pspnet_r50+fbnet_res4_res5"]["training_parameters"] == (1025 + 2049) * 14
    assert costs["dfn_rrb"]["training_parameters"] == 0
    assert 0 < costs["dfn_sn"]["training_parameters"] < costs["dfn_sn_bn"]["training_parameters"]


def test_each_row_of_an_ablation_adds_something(costs):
    """IFBFNet's Table 2 and 3, DFN's Table 2: every part costs parameters or is a branch of training."""

    def whole(name):
        return costs[name]["parameters"] + costs[name]["training_parameters"]

    for backbone in ("r50", "r101"):
        row = [f"ifbfnet_{backbone}{part}" for part in ("_baseline", "_aspp", "_skip", "_balanced", "")]
        assert sorted(row, key=whole) == row and len({whole(name) for name in row}) == 5
    streams = ["ifbfnet_r101_spatial16", "ifbfnet_r101_spatial32", "ifbfnet_r101_spatial48", "ifbfnet_r101_spatial64"]
    streams += ["ifbfnet_r101", "ifbfnet_r101_spatial256"]
    assert sorted(streams, key=whole) == streams
    smooth = ["dfn_res101", "dfn_rrb", "dfn_rrb_gp", "dfn_rrb_gp_cab", "dfn_sn", "dfn_sn_bn"]
    for chain in (smooth, ["dfn_rrb", "dfn_rrb_ds", "dfn_rrb_gp_ds", "dfn_sn"]):
        assert all(whole(a) < whole(b) for a, b in itertools.pairwise(chain))


def test_measures_of_a_system_are_those_of_its_network():
    (row,) = measure([BY_NAME["enet"]], (72, 80), num_classes=5)
    network = networks.build("enet", 5)
    assert row["parameters"] == counting.parameters(network) == sum(p.numel() for p in network.parameters())
    assert row["multiply_accumulates"] == counting.multiply_accumulates(network, (72, 80))
    assert row["size"] == [72, 80] and row["classes"] == 5


def test_find_by_network_or_by_a_part_of_the_name():
    assert {s.network for s in find("enet")} == {"enet"}, "not DSNet's ablation of that name"
    assert [s.name for s in find("WR38")] == ["deeplabv3plus_wr38", "deeplabv3plus_wr38+fbnet_res5"]
    assert find() == list(SYSTEMS)
    with pytest.raises(ValueError, match="'pidnet'.*the networks are: deeplabv3plus, dfn"):
        find("pidnet")
