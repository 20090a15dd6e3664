import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_anoseg import SurfaceDemo
from anomalib_anoseg.data import surface_demo
from anomalib_anoseg.data.defects import DEFECTS
from anomalib_anoseg.data.part import PLACES, Assembly, render

# Pixels 8, 58, 108 and 158 of the rows and columns of a first and of the last image: what the
# published figures were measured on.
PIXELS = {
    "train/good/000.png": [26, 34, 32, 24, 28, 169, 169, 163, 29, 189, 185, 156, 33, 175, 177, 99],
    "test/displaced/001.png": [
        32, 24, 32, 34, 27, 156, 163, 98, 23, 145, 152, 141, 24, 131, 135, 98,
    ],
}  # fmt: skip


def test_layout_is_mvtec_ads(demo_root: Path) -> None:
    kinds = {*DEFECTS, "missing", "displaced", "good"}
    assert {p.name for p in (demo_root / "part/test").iterdir()} == kinds
    datamodule = SurfaceDemo(demo_root)
    assert datamodule.category == "part"
    datamodule.prepare_data()
    datamodule.setup()
    assert len(datamodule.train_data) == 12
    assert not any(item.gt_label for item in datamodule.train_data)
    for item in datamodule.test_data:
        assert item.image.shape == (3, 192, 192)
        assert item.gt_mask.any() == item.gt_label


def test_masks_are_exact(demo_root: Path) -> None:
    """Oracle: the same scene without the defect, lit and exposed by the same draws."""
    for path in (demo_root / "part/ground_truth").rglob("*.png"):
        mask = np.asarray(Image.open(path))
        assert set(np.unique(mask)) == {0, 255}
        assert 20 < (mask > 0).sum() < 0.3 * mask.size
    rng = np.random.default_rng(0)
    scene = render(5, 192, Assembly())
    for draw in DEFECTS.values():
        defective = draw(rng, scene)
        changed = np.abs(defective - scene).max(-1) > 0
        assert 0 < changed.mean() < 0.3
        assert np.array_equal(defective[~changed], scene[~changed])


@pytest.mark.parametrize("fitting", PLACES)
def test_missing_and_displaced_fittings_change_their_place_only(fitting: str) -> None:
    good = render(3, 192, Assembly())
    row, column = (int(192 * share) for share in PLACES[fitting])
    for wrong in (
        Assembly(missing=frozenset({fitting})),
        Assembly(displaced={fitting: (0.05, 0.0)}),
    ):
        changed = np.abs(render(3, 192, wrong) - good).max(-1) > 6 / 255
        assert changed.any()
        rows, columns = np.nonzero(changed)
        assert np.abs(rows - row).max() < 40
        assert np.abs(columns - column).max() < 40


def test_no_image_is_written_twice(demo_root: Path) -> None:
    contents = [p.read_bytes() for p in (demo_root / "part").glob("t*/*/*.png")]
    assert len(set(contents)) == len(contents)


@pytest.mark.parametrize("name", PIXELS)
def test_its_pixels_stay_the_same(demo_root: Path, name: str) -> None:
    """But for one level: processors round differently."""
    pixels = np.asarray(Image.open(demo_root / "part" / name))[8::50, 8::50, 0].ravel().astype(int)
    assert np.abs(pixels - PIXELS[name]).max() <= 1


def test_it_is_written_once_and_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write(folder: Path, side: int) -> None:
        assert side == 192
        written.append(folder)
        (folder / "train").mkdir()
        if len(written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(surface_demo, "write_part", write)
    datamodule = SurfaceDemo(tmp_path / "new")
    with pytest.raises(KeyboardInterrupt):
        datamodule.prepare_data()
    assert list((tmp_path / "new").iterdir()) == []
    datamodule.prepare_data()
    datamodule.prepare_data()
    assert len(written) == 2
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["part"]
    shutil.rmtree(tmp_path / "new")


def test_another_process_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path, side: int) -> None:
        assert side == 192
        for place in (folder, tmp_path / "part"):
            (place / "train").mkdir(parents=True)

    monkeypatch.setattr(surface_demo, "write_part", write)
    SurfaceDemo(tmp_path).prepare_data()
    assert [p.name for p in tmp_path.iterdir()] == ["part"]


def test_unknown_category_is_named() -> None:
    with pytest.raises(ValueError, match="category must be 'part', got 'wood'"):
        SurfaceDemo(category="wood")  # type: ignore[arg-type]


def test_it_is_drawn_at_any_size_with_defects_as_wide_as_ever(tmp_path: Path) -> None:
    """Oracle: the mask of a scratch, which is as many pixels at 448 as at 192."""
    surface_demo.write_part(tmp_path, 448, surface_demo.Counts(1, 1, 1))
    masks = {
        kind: np.asarray(Image.open(tmp_path / f"ground_truth/{kind}/000_mask.png"))
        for kind in DEFECTS
    }
    assert {mask.shape for mask in masks.values()} == {(448, 448)}
    assert 58 * 2 < (masks["scratch"] > 0).sum() < 134 * 9
    assert (masks["hole"] > 0).sum() < 4 * 24**2


def test_another_size_has_a_folder_of_its_own() -> None:
    assert SurfaceDemo(side=448).category == "part_448"
    with pytest.raises(ValueError, match="side must satisfy 64 <= side"):
        SurfaceDemo(side=32)
