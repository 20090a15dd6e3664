import re
from pathlib import Path
from shutil import copytree

import pytest

import anomalib_anoseg

PROJECT = Path(__file__).parents[1]


def test_public_names() -> None:
    assert anomalib_anoseg.__all__ == [
        "AnoSeg", "AnoSegModel", "Anomalies", "AnomalyGenerator", "Discriminator", "Evaluator",
        "IoU", "IoUMax", "IoUPerImage", "PostProcessor", "PreProcessor", "SurfaceDemo", "Variation",
    ]  # fmt: skip
    for name in anomalib_anoseg.__all__:
        assert getattr(anomalib_anoseg, name).__name__ == name
    assert set(anomalib_anoseg.__all__) <= set(dir(anomalib_anoseg))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        anomalib_anoseg.Nothing  # noqa: B018


@pytest.mark.parametrize("path", [*PROJECT.glob("*.md")], ids=lambda path: path.name)
def test_links_and_pictures_of_the_documents_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (PROJECT / target).exists(), target


def test_commands_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    readme = (PROJECT / "README.md").read_text()
    assert set(re.findall(r"make ([a-z]+)", readme)) <= targets


def test_constraints_name_no_host() -> None:
    for line in (PROJECT / "constraints.txt").read_text().splitlines():
        pin = r"[a-z0-9-]+==[a-z0-9.+]+(; python_version (<|>=) \"3.\d+\")?"
        assert re.fullmatch(rf"#.*|{pin}", line), line


@pytest.mark.slow
def test_python_of_the_readme_runs(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a few images of the demo in the folders that it names, for one epoch."""
    readme = (PROJECT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    images = tmp_path / "images"
    copytree(demo_root / "part/train/good", images / "good")
    copytree(demo_root / "part/test/hole", images / "bad")
    copytree(demo_root / "part/ground_truth/hole", images / "masks")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("max_epochs=200", "max_epochs=1"), {})  # noqa: S102
    assert list((tmp_path / "results/AnoSeg").rglob("model.ckpt"))
    assert list((tmp_path / "results/AnoSeg").rglob("*.png"))
