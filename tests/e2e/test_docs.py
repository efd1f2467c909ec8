"""docs/simulator.md runs as it stands."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "simulator.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hooks, digits, dump = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    names: dict = {}
    exec(hooks, {"__name__": "hooks"})
    exec(digits, names)
    exec(dump, names)
    said = capsys.readouterr().out
    assert "8 {'float': 1.0, 'fixed': 1.0, 'nef': 1.0}" in said and "pool1.out" in said
    assert names["codes"].shape == (16, 14, 14) and len(list((tmp_path / "simulated" / "pictures").iterdir())) == 8
