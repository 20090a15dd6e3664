"""The command that draws synthetic anomalies of a folder of images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_anoseg.__main__ import run
from anomalib_anoseg.report.sheet import sheet


@pytest.mark.slow
def test_it_draws_a_folder(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    laws = ["--anomalies.synthetic_share=1", "--anomalies.patch_area=[0.05,0.1]"]
    tiles = ["--output=sheet.png", "--rows=2", "--columns=2", "--size=64"]
    assert run("sheet", [str(demo_root / "part/train/good"), *tiles, *laws]) == 0
    picture = Image.open(tmp_path / "sheet.png")
    assert picture.size == (6 * 68 + 4, 2 * 68 + 4)


def test_images_of_every_depth_and_none_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the same grey in 8 and 16 bits is the same tile; the sheet itself is no image."""
    grey = np.linspace(0, 255, 40 * 40).round().astype(np.uint8).reshape(40, 40)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "b.tif")
    (tmp_path / "c.png").write_bytes(b"no image")
    out = tmp_path / "sheet.png"
    for _ in range(2):
        assert sheet(tmp_path, out, rows=4, columns=1, size=40) == 1
        said = capsys.readouterr()
        assert said.out == f"2 images of {tmp_path}: {out}\n"
        assert said.err.startswith(f"{tmp_path / 'c.png'}: ")
        picture = np.asarray(Image.open(out))
        assert picture.shape == (2 * 44 + 4, 3 * 44 + 4, 3)
        np.testing.assert_allclose(picture[4:44, 4:44], picture[48:88, 4:44], atol=1)
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.tif").unlink()
    with pytest.raises(ValueError, match="no image could be read"):
        sheet(tmp_path, out)


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no images"):
        sheet(tmp_path)
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    for name in ("sheet.none", "sheet.psd"):  # the second of what Pillow reads and does not write
        with pytest.raises(ValueError, match="output must end as a picture"):
            sheet(tmp_path, tmp_path / name)
    with pytest.raises(ValueError, match="rows must"):
        sheet(tmp_path, rows=0)
