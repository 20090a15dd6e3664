import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from anomalib_anoseg.report.sheet import contact_sheet


@pytest.mark.slow
def test_it_draws_a_folder(demo_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "anomalib_anoseg.report.sheet", demo_root / "part/train/good"]
    laws = ["--anomalies.synthetic_share=1", "--anomalies.patch_area=[0.05,0.1]"]
    subprocess.run(
        [*command, "--output=sheet.png", "--rows=2", "--columns=2", "--size=64", *laws],
        cwd=tmp_path,
        check=True,
    )
    picture = Image.open(tmp_path / "sheet.png")
    assert picture.size == (6 * 68 + 4, 2 * 68 + 4)


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"under {tmp_path}"):
        contact_sheet(tmp_path)
