"""The code follows the data: a module imports only from folders above its own."""

import ast
from pathlib import Path

import pytest

import knerex_jax

ROOT = Path(knerex_jax.__file__).parent
LAYERS = (
    "errors suggest files compilations ort_session metrics parallel graph fixedpoint program npu nef csim targets"
    " compiler ops passes lowering data calibrate quantize config_file emulator simulate refine artifacts npu_model"
    " runtime runner prepare dumps match probe verdict diagnose flow qat improve counts export deliver check"
    " performance report inference inferred dataset e2e api scores compat embedded zoo demo doctor sweep present"
    " onnx_backend conformance cli command ktc"
).split()
LONGEST_MODULE = 400


def modules() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p.name != "__init__.py" or p.parent != ROOT)


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Layers of this package that a module imports, inside functions too; type-checking imports do not count."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for n in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "knerex_jax" else [f"knerex_jax.{a.name}" for a in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("knerex_jax.")}
    return found


@pytest.mark.smoke
@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_upwards(path):
    mine = LAYERS.index(layer(path))
    below = [name for name in imported(path) if LAYERS.index(name) > mine]
    assert not below, f"{path.name} imports from below its own layer: {below}"


@pytest.mark.smoke
def test_modules_stay_short():
    long = {str(p.relative_to(ROOT)): n for p in modules() if (n := len(p.read_text().splitlines())) > LONGEST_MODULE}
    assert not long, f"look for the second subject hiding in {long}"


@pytest.mark.smoke
def test_graph_knows_neither_jax_nor_onnx():
    source = (ROOT / "graph" / "ir.py").read_text()
    assert "import jax" not in source and "import onnx" not in source
