"""A grid of settings: the same figures as single runs, one calibration, resumed where it stopped."""

import csv
import pickle
from dataclasses import replace

import onnx
import pytest
from tiny import tiny_npz, tiny_onnx, unsteady

import knerex_jax as kx
from knerex_jax import flow
from knerex_jax.cli import main
from knerex_jax.quantize.config import make_config
from knerex_jax.sweep import cell as cells
from knerex_jax.sweep import run
from knerex_jax.sweep.cell import run_cell, share
from knerex_jax.sweep.grid import grouped, read_sweep
from knerex_jax.sweep.run import run_sweep

GRID = """
out = "results"
[base]
p_onnx = "tiny.onnx"
np_txt = "d.npz"
datapath_range_method = "mmse"
percentile = 0.05
[grid]
outlier_factor = [1.0, 3.0]
datapath_bitwidth_mode = ["int8", "int16", "int12"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sweep")
    tiny_onnx(made)
    tiny_npz(made / "d.npz", 8)
    (made / "sweep.toml").write_text(GRID)
    return made


@pytest.fixture(scope="module")
def first(folder):
    return run_sweep(read_sweep(folder / "sweep.toml"))


def table(folder):
    with (folder / "results" / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def timeless(row):
    return {name: value for name, value in row.items() if name != "seconds"}


def test_every_combination_has_a_row_and_failures_do_not_end_it(first, folder):
    assert len(first) == 6 and len({row["key"] for row in first}) == 6
    failed = [row for row in first if row["status"] != "ok"]
    assert [row["datapath_bitwidth_mode"] for row in failed] == ["int12", "int12"]
    assert all("ConfigError: 'int12' is not a value" in row["error"] for row in failed)
    assert {row["tries"] for row in first} == {1}, "what is wrong with the settings is not tried again"
    assert [row["key"] for row in table(folder)] == [row["key"] for row in first]
    assert list(table(folder)[0])[-5:] == ["fps", "weight_bytes", "tries", "seconds", "error"]


def test_a_cell_says_what_a_run_of_its_own_says(first, folder, tmp_path):
    row = next(r for r in first if r["datapath_bitwidth_mode"] == "int8")
    asked = next(c for c in read_sweep(folder / "sweep.toml").cells if c.key == row["key"])
    result = kx.run_ptq(make_config(**asked.options), p_output=tmp_path, mode=1)
    assert row["snr_db"] == round(min(result.snr_db.values()), 2)
    assert row["fps"] == round(result.evaluation.fps, 2)
    assert row["weight_bytes"] == result.report["compiled"]["bytes"]["weight"] > 0


def test_finished_cells_are_skipped_and_failed_ones_tried_again(first, folder, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(run, "run_cell", lambda cell, shared: ran.append(cell) or run_cell(cell, shared))
    with pytest.raises(SystemExit) as caught:
        main(["sweep", str(folder / "sweep.toml")])
    said = capsys.readouterr().out
    assert caught.value.code == 1 and said.count("failed:") == 2
    assert [c.setting["datapath_bitwidth_mode"] for c in ran] == ["int12", "int12"]
    assert [r["snr_db"] for r in table(folder)] == [str(r.get("snr_db", "")) for r in first]


def test_cells_that_can_share_are_calibrated_once_and_are_plain_data(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(cells, "measure", lambda *a, **k: calls.append(1) or flow.measure(*a, **k))
    path = folder / "platforms.toml"
    path.write_text(GRID.split("[grid]")[0] + '[grid]\nplatform = ["520", "720"]\noutlier_factor = [1.0, 3.0]\n')
    groups = grouped(read_sweep(path).cells)
    assert [[c.setting["platform"] for c in group] for group in groups] == [["520"] * 2, ["720"] * 2]
    group = groups[1]
    shared = share([make_config(**c.options) for c in group])
    sent, received = pickle.loads(pickle.dumps((group[0], shared)))
    row = run_cell(sent, received)
    assert calls == [1] and row["status"] == "ok" and row["snr_db"] > 20


def test_a_cell_that_learns_runs_the_whole_flow(folder):
    path = folder / "learn.toml"
    path.write_text(GRID.replace('out = "results"', 'out = "learned"').split("[grid]")[0] + "[grid]\noptimize = [1]\n")
    (row,) = run_sweep(read_sweep(path))
    assert row["status"] == "ok" and row["optimize"] == 1 and row["snr_db"] > 20


def test_workers_make_the_same_table_and_a_killed_one_counts_as_a_try(first, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "unsteady.py").write_text(unsteady("d.npz"))
    asked = read_sweep("sweep.toml")
    few = tuple(c for c in asked.cells if c.setting["datapath_bitwidth_mode"] != "int16")
    rows = run_sweep(replace(asked, cells=few, out=folder / "workers"), workers=2)
    assert [timeless(r) for r in rows] == [timeless(r) for r in first if r["datapath_bitwidth_mode"] != "int16"]
    cases = """
out = "unsteady"
[base]
p_onnx = "tiny.onnx"
[[case]]
np_txt = "unsteady:data"
[[case]]
np_txt = "unsteady:never"
"""
    (folder / "unsteady.toml").write_text(cases)
    done, lost = run_sweep(read_sweep("unsteady.toml"), workers=2)
    assert (done["status"], done["tries"]) == ("ok", 2) and done["snr_db"] > 20
    assert (lost["status"], lost["tries"]) == ("failed", 2)
    assert lost["error"] == "the worker process ended with exit code -9"
    assert sorted(p.name for p in (folder / "unsteady").iterdir()) == ["sweep.csv", "sweep.html"]


def test_the_page_shows_curves_best_and_failures(first, folder):
    page = (folder / "results" / "sweep.html").read_text()
    assert "4 of 6 done, 2 failed" in page and page.count("<polyline") == 2 and page.count(">best<") == 1
    assert "http" not in page.replace("http://www.w3.org", "") and "&#39;int12&#39; is not a value" in page


def test_keys_do_not_depend_on_where_the_work_happens(folder, monkeypatch):
    here = [cell.key for cell in read_sweep(folder / "sweep.toml").cells]
    monkeypatch.chdir(folder)
    assert [cell.key for cell in read_sweep("sweep.toml").cells] == here


def test_whatever_file_a_cell_names_decides_its_key(tmp_path):
    model = onnx.load(tiny_onnx(tmp_path))
    onnx.save(model, tmp_path / "tiny.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    tiny_npz(tmp_path / "d.npz", 8)
    (tmp_path / "q.json").write_text("{}")
    (tmp_path / "ip.json").write_text("{}")
    base = 'p_onnx = "tiny.onnx"\nnp_txt = "d.npz"\nquan_config = "q.json"\nip_config = "ip.json"\n'
    (tmp_path / "sweep.toml").write_text(f"[base]\n{base}[grid]\noutlier_factor = [1.0]\n")

    def key():
        return read_sweep(tmp_path / "sweep.toml").cells[0].key

    keys = [key(), key()]
    assert keys[0] == keys[1]
    for name in ("weights", "d.npz", "q.json", "ip.json", "tiny.onnx"):
        with (tmp_path / name).open("ab") as file:
            file.write(b" ")
        keys.append(key())
    assert len(set(keys)) == 6


def test_cases_change_together(folder):
    path = folder / "cases.toml"
    path.write_text(
        '[base]\nnp_txt = "d.npz"\n[grid]\noutlier_factor = [1.0, 2.0]\n'
        '[[case]]\np_onnx = "tiny.onnx"\nplatform = "520"\n[[case]]\np_onnx = "other.onnx"\nplatform = "720"\n'
    )
    asked = read_sweep(path)
    assert [tuple(c.setting.values()) for c in asked.cells] == [
        ("tiny.onnx", "520", 1.0), ("tiny.onnx", "520", 2.0), ("other.onnx", "720", 1.0), ("other.onnx", "720", 2.0),
    ]  # fmt: skip
    path.write_text('[[case]]\nplatform = "520"\n[[case]]\nlayout = "NCHW"\n')
    with pytest.raises(kx.ConfigError, match="same options") as told:
        read_sweep(path)
    assert told.value.fix == "give platform of number 1 and layout of number 2 in each"
