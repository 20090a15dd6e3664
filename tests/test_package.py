import re
from pathlib import Path

import pytest

import anomalib_anoseg

PROJECT = Path(__file__).parents[1]


def test_public_names() -> None:
    assert anomalib_anoseg.__all__ == [
        "AnoSeg", "AnoSegModel", "AnomalyGenerator", "Discriminator", "Evaluator", "IoU",
        "IoUMax", "IoUPerImage", "PostProcessor", "PreProcessor", "SurfaceDemo",
    ]  # fmt: skip
    for name in anomalib_anoseg.__all__:
        assert getattr(anomalib_anoseg, name).__name__ == name
    assert set(anomalib_anoseg.__all__) <= set(dir(anomalib_anoseg))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        anomalib_anoseg.Nothing  # noqa: B018


def test_constraints_name_no_host() -> None:
    for line in (PROJECT / "constraints.txt").read_text().splitlines():
        pin = r"[a-z0-9-]+==[a-z0-9.+]+(; python_version (<|>=) \"3.\d+\")?"
        assert re.fullmatch(rf"#.*|{pin}", line), line
