"""Two runs compared, in data, in a terminal and as a page; `knerex report`."""

import json

import pytest
from report_runs import Page, data_of, page_of, run, small_net

import knerex_jax as kx
from knerex_jax.cli import main
from knerex_jax.report.compare import compare_reports, read_report
from knerex_jax.report.html import render_comparison


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> kx.PTQResult:
    return run(small_net, tmp_path_factory.mktemp("wide"), datapath_bitwidth_mode="int16", weight_bitwidth_mode="int16")


@pytest.fixture(scope="module")
def compared(good, wide):
    return compare_reports(data_of(good), data_of(wide), ("narrow", "wide"))


def command(capsys, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, arguments)])
    return stop.value.code, capsys.readouterr().out


def test_it_finds_options_scores_and_nodes(compared, good, wide):
    assert compared["options"]["datapath_bitwidth_mode"] == ["int8", "int16"] and compared["same_model"]
    assert not {"p_output", "np_txt"} & set(compared["options"])
    assert compared["snr_db"]["y"] == [good.snr_db["y"], wide.snr_db["y"]]
    assert compared["performance"]["fps"] == [good.evaluation.fps, wide.evaluation.fps]
    nodes = {n["node"]: n for n in compared["nodes"]}
    assert nodes["branch"]["bits"] == [8, 15] and nodes["branch"]["weight_bits"] == [8, 15]
    assert nodes["branch"]["gain_db"] > 5


def test_a_run_does_not_differ_from_itself(good):
    same = compare_reports(data_of(good), data_of(good))
    assert same["options"] == {} and same["nodes"] == []


def test_the_page_of_a_comparison(compared):
    page = render_comparison(compared)
    read = Page(page)
    assert "script" not in read.tags and not read.sources
    assert "datapath_bitwidth_mode" in read.text and "8 → 15" in read.text and "+" in read.text


def test_the_command_draws_one_report_again(good, capsys, tmp_path):
    page = tmp_path / "again.html"
    assert command(capsys, good.paths["report_json"], "-o", page) == (0, f"{page}\n")
    assert page.read_text() == page_of(good)


def test_the_command_compares_two(good, wide, capsys, tmp_path):
    page = tmp_path / "both.html"
    folder = wide.paths["report_json"].parent
    code, text = command(capsys, good.paths["report_json"], folder, "-o", page)
    assert code == 0 and "SNR of y" in text and "datapath_bitwidth_mode" in text and Page(page.read_text()).text
    code, text = command(capsys, good.paths["report_json"], folder, "--json")
    assert code == 0 and json.loads(text)["snr_db"]["y"][1] == wide.snr_db["y"]


def test_what_is_no_report_is_named(tmp_path, capsys):
    (tmp_path / "list.json").write_text("[]")
    for path, said in ((tmp_path / "missing.json", "cannot read the report"), (tmp_path / "list.json", "not a report")):
        with pytest.raises(kx.ArtifactError, match=said):
            read_report(path)
        assert command(capsys, path)[0] == 1
