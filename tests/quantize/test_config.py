from dataclasses import replace

import pytest

from knerex_jax.errors import ConfigError
from knerex_jax.quantize.config import PTQConfig, make_config

SEED_PARAMETERS = (
    "p_onnx np_txt platform optimize datapath_range_method data_analysis_pct data_analysis_threads"
    " datapath_bitwidth_mode weight_bitwidth_mode model_in_bitwidth_mode model_out_bitwidth_mode percentile"
    " outlier_factor quantize_mode quan_config fm_cut p_output weight_bandwidth dma_bandwidth mode"
    " export_dynasty_dump"
).split()


def test_published_parameters_come_first_under_their_names():
    assert [*PTQConfig.__dataclass_fields__][:21] == SEED_PARAMETERS


@pytest.mark.parametrize("spelled", ["int16", "15", "16", 15, 16])
def test_width_synonyms_mean_int16(spelled):
    config = PTQConfig(datapath_bitwidth_mode=spelled)
    assert config.datapath_bitwidth_mode == "int16"
    assert config.widths.data == 15


def test_platform_may_be_a_number():
    assert PTQConfig(platform=520).target.name == "520"
    assert PTQConfig(platform="KL720").target.name == "720"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"platform": "521"}, ["521", "520"]),
        ({"platfrom": "720"}, ["platfrom", "did you mean 'platform'"]),
        ({"platform": "520", "datapath_bitwidth_mode": "int16"}, ["520", "int16", "int8"]),
        ({"platform": "520", "weight_bitwidth_mode": "int16"}, ["520", "int16"]),
        ({"platform": "720", "weight_bitwidth_mode": "int4"}, ["720", "int4"]),
        ({"datapath_bitwidth_mode": "int4"}, ["4 bits"]),
        ({"cpu_node_bitwidth_mode": "int4"}, ["4 bits", "cpu_node_bitwidth_mode"]),
        ({"const_in_bitwidth_mode": "4"}, ["4 bits", "const_in_bitwidth_mode"]),
        ({"platform": "520", "cpu_node_bitwidth_mode": "int16"}, ["520", "cpu_node_bitwidth_mode", "int16"]),
        ({"cpu_node_bitwidth_mode": "int9"}, ["int9", "use one of"]),
        ({"const_in_bitwidth_mode": "mix light"}, ["mix light", "use one of"]),
        ({"datapath_bitwidth_mode": "int9"}, ["int9"]),
        ({"model_in_bitwidth_mode": "mix light"}, ["mix light", "use one of"]),
        ({"datapath_range_method": "mse"}, ["did you mean 'mmse'"]),
        ({"optimize": 7}, ["between 0 and 4"]),
        ({"fm_cut": "performance"}, ["announced", "deep_search"]),
        ({"fm_cut": "deep_serch"}, ["did you mean 'deep_search'"]),
        ({"input_fmt": "HW4C8B"}, ["input_fmt", "1W16C8B"]),
        ({"model_version": "00001"}, ["hexadecimal"]),
        ({"model_id": 0}, ["model_id"]),
        ({"quantize_mode": "sigmoid"}, ["did you mean 'post_sigmoid'"]),
        ({"quan_config": {"a": {"radx": 1}}}, ["did you mean 'radix'"]),
        ({"sigmoid_outputs": 3}, ["sigmoid_outputs", "first,second"]),
        ({"sigmoid_outputs": "scores,"}, ["sigmoid_outputs", "first,second"]),
        ({"dump_samples": 0}, ["dump_samples", "at least 1"]),
        ({"weight_bandwidth": 0}, ["weight_bandwidth", "at least"]),
        ({"data_analysis_pct": 1.2}, ["between 0 and 1"]),
        ({"data_analysis_pct": 0.9999999, "percentage_16b": 0.999999}, ["percentage_16b"]),
        ({"data_analysis_threads": 0}, ["at least 1"]),
        ({"outlier_factor": 0.5}, ["at least 1"]),
        ({"batch_size": "many"}, ["number"]),
    ],
)
def test_what_cannot_be_honoured_is_an_error_with_a_fix(options, words):
    with pytest.raises(ConfigError) as caught:
        make_config(**options)
    for word in [*words, "fix:"]:
        assert word in str(caught.value)


def test_the_16_bit_cut_follows_a_wider_8_bit_cut():
    assert PTQConfig().wide_pct == 0.999999
    assert PTQConfig(data_analysis_pct=1.0).wide_pct == 1.0  # advised for detectors


def test_headroom_of_16_bit_data_is_2_bits_unless_asked_for():
    assert PTQConfig().applied()["headroom_16b"] == 2 and PTQConfig().to_json()["headroom_16b"] is None
    assert PTQConfig(headroom_16b=0.5).applied()["headroom_16b"] == 0.5
    with pytest.raises(ConfigError, match="headroom_16b"):
        PTQConfig(headroom_16b=-1)


def test_unused_knobs_are_noted():
    notes = PTQConfig(outlier_factor=1.5).notes()
    assert {n.where: n.applied for n in notes} == {"outlier_factor": "unused"}
    assert {n.where: n.applied for n in PTQConfig(sigmoid_outputs="a, b").notes()} == {"sigmoid_outputs": "unused"}
    notes = PTQConfig(flops_ratio=0.7, mixbw_debug=True).notes()
    assert {n.where: n.applied for n in notes} == {"flops_ratio": "unused", "mixbw_debug": "unused"}
    ranked = {"datapath_bitwidth_mode": "mixbw", "weight_bitwidth_mode": "int16"}
    named = {n.where for n in PTQConfig(**ranked, flops_ratio=0.7, mixbw_debug=True).notes()}
    assert named.isdisjoint({"flops_ratio", "mixbw_debug"})
    assert PTQConfig(mode=1).notes() == ()
    assert PTQConfig(mode=1, devices=2, sigmoid_outputs=["a"], quantize_mode="post_sigmoid").notes() == ()
    for options in ({"mode": 0}, {"counts": "counts.npz"}):
        (note,) = PTQConfig(devices=2, **options).notes()
        assert (note.where, note.requested, note.applied) == ("devices", "2", "unused")
    assert PTQConfig(mode=1, datapath_range_method="mmse", outlier_factor=1.5, percentile=0.01).notes() == ()


def test_width_of_the_cpu_follows_the_datapath_and_that_of_constants_is_16_bits():
    config = PTQConfig(datapath_bitwidth_mode="int16")
    assert (config.widths.cpu, config.widths.constants) == (15, 15)
    assert (config.applied()["cpu_node_bitwidth_mode"], config.applied()["const_in_bitwidth_mode"]) == (
        "int16",
        "int16",
    )
    config = replace(config, datapath_bitwidth_mode="int8", const_in_bitwidth_mode=8)
    assert (config.widths.cpu, config.widths.constants) == (8, 8)
    assert PTQConfig(cpu_node_bitwidth_mode=16).widths.cpu == 15
    assert config.to_json()["cpu_node_bitwidth_mode"] is None


def test_constants_of_520_have_8_bits_with_a_note_only_if_16_were_asked_for():
    assert PTQConfig(platform="520", mode=1).notes() == ()
    assert PTQConfig(platform="520", mode=1).applied()["const_in_bitwidth_mode"] == "int8"
    assert PTQConfig(platform="720", mode=1, const_in_bitwidth_mode="int16").notes() == ()
    (note,) = PTQConfig(platform="520", mode=1, const_in_bitwidth_mode="int16").notes()
    assert (note.where, note.requested, note.applied) == ("const_in_bitwidth_mode", "int16", "int8")
    assert "520" in note.why


def test_a_cut_search_is_implied_by_optimize_and_never_done_on_520():
    assert [PTQConfig(optimize=n).applied_cut for n in range(5)] == ["default", "default", "deep_search"] + [
        "default",
        "deep_search",
    ]
    assert PTQConfig(fm_cut="deep_search").applied_cut == "deep_search" and PTQConfig(optimize=4).notes() == ()
    for options in ({"optimize": 4}, {"fm_cut": "deep_search"}):
        config = PTQConfig(platform="520", **options)
        assert config.applied_cut == "default" and len(config.notes()) == 1
    assert [PTQConfig(optimize=n).bias_mode for n in (1, 2, 3, 4)] == ["parallel"] * 2 + ["sequential"] * 2
