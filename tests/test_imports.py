"""Imports go one way: each module takes from layers below its own, or from its own folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "anomalib_anoseg"
# Lowest first. A module imports from lower layers and from its own folder; modules of one layer
# do not know each other.
LAYERS = (
    {"utils"},
    {"synthesis", "networks", "training", "evaluation", "inference", "data"}
    | {"pre_processor", "loss"},
    {"anomaly_generator", "torch_model"},
    {"calibration"},
    {"post_processor", "export"},
    {"lightning_model"},
    {"report"},
)
# Reach whatever they offer, and nobody reaches them.
COMMANDS = ("export.command", "training.adapt_command")
ABOVE_ALL = {"__init__", "__main__", "plugin", *COMMANDS}
ALLOWED = {
    name: set().union(*LAYERS[:level]) for level, layer in enumerate(LAYERS) for name in layer
}
ALLOWED["startup"] = {"plugin"}


def imported(source: str) -> Iterator[str]:
    """Yield the full name of everything that a module imports, at its top or later."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{name.name}" for name in node.names)


def upward(module: str, source: str) -> list[str]:
    """Return the imports of a module, such as ``export.quantization``, that it may not have."""
    home = module.partition(".")[0]
    if module in ABOVE_ALL:
        return []
    assert home in ALLOWED, f"{module} has no layer"
    wrong = []
    for name in imported(source):
        top, _, inside = name.partition(".")
        down = inside.partition(".")[0] in ALLOWED[home] | {home, "__version__"}
        up = not down or inside.startswith(COMMANDS)
        if (top == "anomalib_anoseg" and up) or top in {"", "tests", "benchmarks", "conftest"}:
            wrong.append(name)
    return wrong


MODULES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    assert upward(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("utils.files", "from anomalib_anoseg.loss import segmentation_loss"),
        ("synthesis.draws", "from anomalib_anoseg.networks import segmentation"),  # one layer
        ("export.quantization", "def f():\n    import anomalib_anoseg.lightning_model"),
        ("lightning_model", "from anomalib_anoseg import AnoSeg"),
        ("inference.frames", "from anomalib_anoseg.evaluation import metrics"),
        ("export.quantization", "from anomalib_anoseg.export.command import export"),
        ("report.pages", "from benchmarks import accuracy"),
        ("report.pages", "from . import plots"),
    ],
)
def test_an_upward_import_is_found(module: str, source: str) -> None:
    assert len(upward(module, source)) == 1


def test_inference_needs_neither_torch_nor_anomalib() -> None:
    for module, path in MODULES.items():
        if module.startswith(("inference", "utils.files")):
            tops = {name.partition(".")[0] for name in imported(path.read_text())}
            assert not tops & {"torch", "torchvision", "anomalib", "lightning"}, module
