"""The page: a function of its data, whole, safe, readable without JavaScript, the alarm first."""

import json
import re

import pytest
from report_runs import HOSTILE, Page, data_of, page_of

from knerex_jax.report.figures import figures
from knerex_jax.report.graph import HEIGHT, WIDTH, draw
from knerex_jax.report.html import render_report
from knerex_jax.report.view import node_views

LARGEST_MB = 3.0


def figures_in(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


@pytest.mark.parametrize("name", ["good", "bad", "estimated"])
def test_a_page_is_well_formed_small_and_loads_nothing(name, request):
    result = request.getfixturevalue(name)
    page = page_of(result)
    read = Page(page)
    assert page.startswith("<!doctype html>") and len(page.encode()) < LARGEST_MB * 1e6
    assert len(set(read.ids)) == len(read.ids)
    assert all(s.startswith("#") for s in read.sources), read.sources
    assert {s[1:] for s in read.sources} <= set(read.ids), "a link that leads nowhere"
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page[: page.index("</style>")])


@pytest.mark.parametrize("name", ["good", "bad", "estimated"])
def test_the_file_is_a_function_of_the_json_file(name, request):
    result = request.getfixturevalue(name)
    assert render_report(data_of(result)) == page_of(result) == render_report(result.report)


def test_the_summary_is_there_without_javascript(good):
    text = Page(page_of(good)).text
    assert f"{good.snr_db['y']:.1f} dB" in text and "No alarm" in text and "equal" in text
    assert "outlier_factor" in text and "only the mmse range method reads it" in text
    assert "Cost by node" in text and "Operator support" in text and "knerex ptq --p-onnx" in text
    assert "as a quan_config" in text and "share at y" in text, "the error budget"


def test_the_alarm_is_the_first_thing_after_the_name(bad):
    text = Page(page_of(bad)).text
    alarm = text.index("Alarm: look at this")
    assert text.index("output y is constant") < text.index("on the CPU") < text.index("SNR of y")
    assert alarm < text.index("output y is constant") and alarm < text.index("Requested and applied")
    assert '<section id="verdict" class="alarm">' in page_of(bad)


def test_without_a_budget_it_says_how_to_get_one(bad):
    assert "--error-budget true" in Page(page_of(bad)).text


def test_hostile_names_stay_text(good):
    page = page_of(good)
    read = Page(page)
    assert read.tags["script"] == 3 and HOSTILE in read.text
    assert "<script>window" not in page and "49" not in HOSTILE
    assert any(HOSTILE.replace("<", "&lt;").replace(">", "&gt;")[:20] in str(f) for f in figures_in(page).values())


def test_every_chart_place_has_its_figure(good):
    page = page_of(good)
    drawn = figures_in(page)
    assert set(re.findall(r'data-figure="([^"]+)"', page)) <= set(drawn)
    tensors = set(data_of(good)["tensors"])
    assert {f"codes:{t}" for t in tensors} <= set(drawn) and {f"values:{t}" for t in tensors} <= set(drawn)
    colours = set(re.findall(r'"\$([a-z]+[0-9]*)"', json.dumps(drawn)))
    assert colours and all(f"--{c}:" in page for c in colours), "a colour without a meaning"


def test_the_snr_chart_marks_the_first_bad_node(bad):
    report = data_of(bad)
    figure = figures(report, node_views(report))["snr"]
    assert any("first bad node: act" in a["text"] for a in figure["layout"]["annotations"])


@pytest.mark.parametrize("name", ["good", "estimated"])
def test_no_node_is_above_the_roof(name, request):
    roof, nodes = figures_in(page_of(request.getfixturevalue(name)))["roofline"]["data"]
    rate, peak = roof["y"][0] / roof["x"][0], roof["y"][-1]
    assert nodes["x"] and all(y <= 1.001 * min(peak, rate * x) for x, y in zip(nodes["x"], nodes["y"], strict=True))


def test_boxes_do_not_overlap_and_edges_go_down(good):
    nodes = node_views(data_of(good))
    drawing = draw(nodes)
    corners = list(drawing.boxes.values())
    for i, (x, y) in enumerate(corners):
        assert 0 <= x <= drawing.width - WIDTH and 0 <= y <= drawing.height - HEIGHT
        assert all(abs(x - u) >= WIDTH or abs(y - v) >= HEIGHT for u, v in corners[:i])
    wanted = {(a.id, b.id) for a in nodes for b in nodes if a.tensor in b.row.get("inputs", ())}
    assert set(drawing.edges) == wanted
    assert all(drawing.boxes[a][1] < drawing.boxes[b][1] for a, b in drawing.edges)


def test_an_old_report_without_the_new_sections_is_drawn(good):
    new = ("score", "layers", "tensors", "input_tensors", "schedule", "support", "error_budget", "outputs", "repeat")
    old = {k: v for k, v in data_of(good).items() if k not in (*new, "created", "first_bad", "hashes", "layer_samples")}
    old["nodes"] = [{k: v for k, v in n.items() if k not in ("reach", "outputs", "inputs")} for n in old["nodes"]]
    text = Page(render_report(old)).text
    assert "Requested and applied" in text and "No alarm" in text
