import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import Folder, ImageBatch, ImageItem, PredictDataset
from anomalib.data.datasets.image.folder import FolderDataset
from anomalib.data.errors import MisMatchError
from conftest import photographs, quiet_engine, segmenter
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import CenterCrop, Compose
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg, PreProcessor
from anomalib_anoseg.evaluation.evaluator import Evaluator
from anomalib_anoseg.evaluation.visualizer import ImageVisualizer
from anomalib_anoseg.export.quantization import calibration_samples
from anomalib_anoseg.training.data_check import DataCheck
from anomalib_anoseg.training.image_reading import ImageReading
from anomalib_anoseg.utils.images import read_image, to_8_bits
from anomalib_anoseg.utils.masks import check_mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Good images, one bad one and its mask."""
    for folder, count in (("good", 10), ("fine", 2), ("bad", 2)):
        (tmp_path / folder).mkdir()
        for index, image in enumerate(photographs(count)):
            save_image(image, tmp_path / folder / f"{index}.png")
    (tmp_path / "masks").mkdir()
    for index in range(2):
        mask = Image.new("L", (96, 96))
        ImageDraw.Draw(mask).rectangle((20, 30, 60, 50), fill=255)
        mask.save(tmp_path / f"masks/{index}.png")
    return tmp_path


def folder(root: Path, **arguments: Any) -> Folder:
    return Folder(
        **{
            "name": "own", "root": root, "normal_dir": "good", "normal_test_dir": "fine",
            "abnormal_dir": "bad", "mask_dir": "masks", "train_batch_size": 2, "num_workers": 0,
        } | arguments
    )  # fmt: skip


def test_a_mask_of_two_values_and_the_right_size_passes(root: Path) -> None:
    for value in (1, 128, 255):
        Image.new("L", (96, 96), value).save(root / "mask.png")
        check_mask(root / "bad/0.png", root / "mask.png")


def whole(root: Path) -> Folder:
    """All test images in both sets; by default anomalib draws lots."""
    return folder(root, val_split_mode="same_as_test")


def checked(
    stage: str, data: Folder | None = None, model: AnoSeg | None = None, **arguments: Any
) -> DataCheck:
    """Set up what Lightning sets up before a run, and no more."""
    trainer = Trainer(logger=False, accelerator="cpu", enable_model_summary=False)
    trainer.datamodule = data  # type: ignore[attr-defined]
    model = model or segmenter()
    if data is not None:
        data.setup()
    trainer._data_connector.attach_data(model, datamodule=data, **arguments)
    check = DataCheck()
    check.setup(trainer, model, stage)
    return check


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_mask_of_another_size_is_named(root: Path, stage: str) -> None:
    Image.new("L", (96, 48), 255).save(root / "masks/1.png")
    with pytest.raises(ValueError, match=r"masks/1.png has 48 x 96 pixels, .*bad/1.png has 96 x"):
        checked(stage, whole(root))


def as_jpeg(path: Path) -> None:
    mask = Image.new("L", (96, 96))
    ImageDraw.Draw(mask).ellipse((20, 30, 60, 50), fill=255)
    mask.save(path, format="JPEG")


@pytest.mark.parametrize(
    "spoil",
    [lambda path: Image.linear_gradient("L").resize((96, 96)).save(path), as_jpeg],
    ids=["gradient", "jpeg"],
)
def test_grey_in_a_test_mask_warns_in_fit_and_refuses_test(root: Path, spoil: Any) -> None:
    spoil(root / "masks/0.png")
    says = r"masks/0.png has \d+ grey values from [01] to 25\d, of which"
    with pytest.raises(ValueError, match=says):
        checked("test", whole(root))
    with pytest.warns(UserWarning, match=says + r".*\(1 such masks\); `test` refuses"):
        checked("fit", whole(root))


def test_pictures_that_are_passed_over_are_named(root: Path) -> None:
    """What Windows and telephones save; files that are no pictures are nobody's concern."""
    for name in ("a.jfif", "b.HEIC", "notes.txt"):
        (root / "good" / name).touch()
    with pytest.warns(UserWarning, match=r"2 pictures, such as .*good/a\.jfif, are passed over"):
        checked("fit", whole(root))


@pytest.mark.parametrize("size", [(32, 200), (200, 20)])
def test_an_image_that_is_too_small_is_named_before_training(
    root: Path, size: tuple[int, int]
) -> None:
    Image.new("RGB", size).save(root / "good/3.png")
    checked("fit", whole(root))  # resized
    small = rf"good/3\.png has {size[1]} x {size[0]} pixels, .* need 33 x 33"
    for stage in ("fit", "test"):
        data = whole(root) if stage == "fit" else folder(root, normal_test_dir="good")
        with pytest.raises(ValueError, match=small):
            checked(stage, data, model=segmenter(pre_processor=PreProcessor("native")))


@pytest.mark.parametrize("given", ["augmentations", "test_augmentations", "val_augmentations"])
def test_augmentations_of_test_images_are_questioned(root: Path, given: str) -> None:
    """Those of training are nobody's concern."""
    changes = Compose([CenterCrop(80)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked("fit", folder(root, train_augmentations=changes))
    with pytest.warns(UserWarning, match="give random ones as train_augmentations, and to the pre"):
        checked("fit", folder(root, **{given: changes}))


@pytest.mark.parametrize("images", [2, 4])
def test_defective_images_without_a_mask_are_counted(
    root: Path, tmp_path: Path, images: int
) -> None:
    """What anomalib says of one mask of two, and what NumPy says of two of four."""
    if images == 2:
        (root / "masks/1.png").unlink()
    for index in range(2, images):
        shutil.copy(root / "bad/0.png", root / f"bad/{index}.png")
    says = f"own has {images} defective images and {images // 2} masks: each needs one, of the"
    with pytest.raises((ValueError, MisMatchError), match=says):
        quiet_engine(tmp_path / "run").fit(segmenter(), datamodule=folder(root))


@pytest.mark.parametrize("name", ["abnormal_dir", "mask_dir"])
def test_a_folder_of_the_test_that_is_not_there_is_what_is_named(
    root: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(
        Exception, match=r"(?i)path.*exist|no.*found|Could not find|mismatch"
    ) as raised:
        quiet_engine(tmp_path / "run").fit(
            segmenter(), datamodule=folder(root, **{name: "nowhere"})
        )
    assert "each needs one" not in str(raised.value)


@pytest.mark.parametrize("mode", ["test_split_mode", "val_split_mode"])
def test_synthetic_splits_of_photos_that_are_turned_are_refused(root: Path, mode: str) -> None:
    """anomalib draws into what it has read, which it does not turn."""
    for path in (root / "good").iterdir():
        with_orientation(path.with_suffix(".jpg"), 6, Image.open(path))
        path.unlink()
    data = folder(
        root, normal_test_dir=None, abnormal_dir=None, mask_dir=None, **{mode: "synthetic"}
    )
    with pytest.raises(ValueError, match=r"is turned upright \(EXIF orientation 6\), and anomalib"):
        checked("fit", data)


@pytest.mark.parametrize("levels", [(64, 255), (16, 235), (1, 2)])
def test_two_values_of_which_none_is_0_mark_everything(root: Path, levels: tuple[int, int]) -> None:
    """Of a limited range, or numbers of classes: anomalib would take all of it for a defect."""
    values = np.full((96, 96), levels[0], np.uint8)
    values[30:50, 20:60] = levels[1]
    Image.fromarray(values).save(root / "masks/0.png")
    says = f"has 2 grey values from {levels[0]} to {levels[1]}, of which every one above 0"
    with pytest.raises(ValueError, match=says):
        check_mask(root / "bad/0.png", root / "masks/0.png")


def test_a_mask_that_cannot_be_read_is_named(root: Path) -> None:
    whole = (root / "masks/1.png").read_bytes()
    for content in (b"", b"hello", whole[:60]):
        (root / "masks/0.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot read .*masks/0.png: "):
            check_mask(root / "bad/0.png", root / "masks/0.png")


def test_masks_of_other_depths_pass(root: Path) -> None:
    """anomalib reads them rightly: whatever is above 0 is a defect."""
    zeros = np.zeros((96, 96))
    zeros[4:9, 4:9] = 1
    for kind in (np.uint16, np.int32, np.float32):
        Image.fromarray(zeros.astype(kind)).save(root / "mask.tif")
        check_mask(root / "bad/0.png", root / "mask.tif")


def in_alpha(shown: Image.Image) -> Image.Image:
    mask = Image.new("RGBA", shown.size, (255, 255, 255, 255))
    mask.putalpha(shown)
    return mask


def in_dark_blue(shown: Image.Image) -> Image.Image:
    return Image.merge("RGB", [*[Image.new("L", shown.size)] * 2, shown.point(lambda v: v and 2)])


def in_a_black_palette(shown: Image.Image) -> Image.Image:
    mask = shown.point(lambda value: value and 1).convert("P")
    mask.putpalette([0] * 768)
    return mask


def in_small_numbers(shown: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(shown, np.float32) / 510)


@pytest.mark.parametrize("paint", [in_alpha, in_dark_blue, in_a_black_palette, in_small_numbers])
def test_a_mask_that_says_nothing_in_grey_is_refused(
    root: Path, paint: Callable[[Image.Image], Image.Image]
) -> None:
    """anomalib would take the image for one without a defective pixel."""
    shown = Image.new("L", (96, 96))
    shown.paste(255, (4, 4, 9, 9))
    paint(shown).save(root / "mask.tif")
    with pytest.raises(ValueError, match=r"mask.tif is \d+ everywhere once it is grey"):
        check_mask(root / "bad/0.png", root / "mask.tif")
    for even in (0, 255):  # no defect, or nothing else
        Image.new("RGBA", (96, 96), (even, even, even, 255)).save(root / "mask.tif")
        check_mask(root / "bad/0.png", root / "mask.tif")


def with_orientation(path: Path, orientation: int, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)


def test_a_mask_must_be_as_upright_as_its_image(root: Path) -> None:
    photo, mask = root / "bad/0.png", root / "masks/0.png"
    with_orientation(photo, 6, Image.new("RGB", (60, 40)))  # 60 x 40 once it is upright
    Image.new("L", (40, 60), 255).save(mask)
    assert check_mask(photo, mask).orientation == 6
    Image.new("L", (60, 40), 255).save(mask)
    with pytest.raises(ValueError, match=r"has 60 x 40 once it is turned upright.*turn the mask"):
        check_mask(photo, mask)
    with_orientation(mask, 6, Image.new("L", (60, 40), 255))
    with pytest.raises(ValueError, match=r"masks/0.png has an EXIF orientation, 6"):
        check_mask(photo, mask)


def test_a_square_photo_that_is_turned_warns_of_its_mask(root: Path) -> None:
    with_orientation(root / "bad/1.png", 3, Image.new("RGB", (96, 96)))
    with pytest.warns(UserWarning, match=r"1 images with masks .*bad/1.png: .* drawn upright"):
        checked("fit", whole(root))


def test_image_and_mask_of_a_turned_photo_agree(root: Path) -> None:
    """The defect at a known place, seen through the data set: issue, "IoU 0.0"."""
    for size in ((96, 96), (96, 64)):
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).rectangle((5, 40, 30, 55), fill=255)
        mask.save(root / "masks/0.png")
        sideways = mask.convert("RGB").transpose(Image.Transpose.ROTATE_90)
        with_orientation(root / "bad/0.png", 6, sideways)
        data = whole(root)
        with pytest.warns(UserWarning, match="turned upright"):
            check = checked("test", data)
        (index,) = [i for i, p in enumerate(data.test_data.samples.image_path) if "bad/0" in p]
        item = data.test_data[index]
        assert torch.equal(item.image[0] > 0.5, item.gt_mask > 0)
        check.teardown(Trainer(logger=False), segmenter(), "test")


def deep(root: Path, highest: int = 65535) -> None:
    """Write all images again with 16 bits, as bright as the 8-bit ones if highest is 65535."""
    for path in [*root.glob("good/*"), *root.glob("fine/*"), *root.glob("bad/*")]:
        grey = np.asarray(Image.open(path).convert("L")).astype(np.float64) / 255
        Image.fromarray((grey * highest).round().astype(np.uint16)).save(path)


def test_deep_images_reach_every_loader_and_the_data_module_stays_as_it_was(root: Path) -> None:
    expected = {p: np.asarray(Image.open(p).convert("L")) / 255 for p in root.glob("good/*")}
    deep(root)
    data = whole(root)
    data.setup()
    kinds = [type(part) for part in (data.train_data, data.val_data, data.test_data)]
    for stage in ("fit", "test"):  # one engine after another
        check = checked(stage, data)
        part = data.train_data if stage == "fit" else data.test_data
        item = part.subsample([0])[0]  # as HeldOut does
        copy = pickle.loads(pickle.dumps(part))[0]  # noqa: S301 - as spawned workers do
        assert torch.equal(item.image, copy.image)
        if stage == "fit":
            np.testing.assert_allclose(item.image[1], expected[Path(item.image_path)], atol=1e-5)
        assert 0.2 < item.image.mean() < 0.8
        check.on_exception(Trainer(logger=False), segmenter(), RuntimeError())
        assert kinds == [type(part) for part in (data.train_data, data.val_data, data.test_data)]
    assert data.train_data[0].image.mean() > 0.99  # anomalib's own reader: white


def test_deep_images_are_predicted_from_loaders_and_paths(root: Path) -> None:
    deep(root)
    dataset = PredictDataset(root / "good")
    loader = DataLoader(dataset, batch_size=5, num_workers=1, collate_fn=dataset.collate_fn,
                        multiprocessing_context="fork")  # fmt: skip
    checked("predict", predict_dataloaders=[loader])
    batch = next(iter(loader))
    assert 0.2 < batch.image.mean() < 0.8


class Brighter(FolderDataset):
    """A user's own data set, on top of anomalib's."""

    def __getitem__(self, index: int) -> Any:
        item = super().__getitem__(index)
        item.image = item.image + 1
        return item


def test_a_users_own_data_set_reads_through_super(root: Path) -> None:
    deep(root)
    dataset = Brighter("own", root / "good", root=root)
    reading = ImageReading()
    reading.lend(dataset)
    assert 1.2 < dataset[0].image.mean() < 1.8
    reading.take_back()
    assert type(dataset) is Brighter


def test_pictures_show_images_as_they_were_read(root: Path) -> None:
    """Of 16 bits, and turned: the map lies where the defect is."""
    deep(root)
    with_orientation(root / "turned.png", 6, Image.linear_gradient("L").resize((96, 64)))
    item: dict[str, Any] = {"image": torch.zeros(3, 64, 64), "anomaly_map": torch.zeros(64, 64)}
    draw = ImageVisualizer(fields=["image"], overlay_fields=[], field_size=(64, 96),
                           text_config={"enable": False})  # fmt: skip
    for path in (root / "bad/0.png", root / "turned.png"):
        picture = draw.visualize(ImageItem(**item, image_path=str(path)))
        shown = np.asarray(picture.convert("RGB"))[:, :64]  # overlays follow on the right
        expected = Image.fromarray(to_8_bits(read_image(path))).resize((64, 96))
        assert (shown == np.asarray(expected)).all(), path
        assert 40 < shown.mean() < 215
    assert type(segmenter(visualizer=True).visualizer) is ImageVisualizer


@pytest.mark.parametrize("dark", [True, False])
def test_12_bits_in_files_of_16_warn(root: Path, dark: bool) -> None:
    deep(root, 4095 if dark else 2**14 - 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checked("fit", whole(root))
    says = [str(w.message) for w in caught if "12 bits stored in 16" in str(w.message)]
    assert len(says) == dark
    assert not dark or re.search(r"good/\d.png and \d+ other images use 6\.\d% of", says[0])


def test_synthetic_splits_of_deep_images_are_refused(root: Path) -> None:
    deep(root)
    with pytest.raises(ValueError, match=r"good/\d.png has more than 8 bits, from which anomalib"):
        checked("fit", folder(root, val_split_mode="synthetic"))


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("content", [b"", b"hello"], ids=["empty", "text"])
def test_a_file_that_is_no_image_is_refused_before_training(
    root: Path, content: bytes, stage: str
) -> None:
    (root / "bad/1.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*bad/1.png: not an image, or damaged"):
        checked(stage, whole(root))


def test_pages_after_the_first_are_named(root: Path) -> None:
    page = Image.new("L", (96, 96), 90)
    page.save(root / "good/film.tif", save_all=True, append_images=[page, page])
    with pytest.warns(UserWarning, match=r"film.tif has 3 pages, of which only the first is used"):
        checked("fit", whole(root))


def test_an_error_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, say: issue, "decode the data set twice"."""
    check = checked("fit", whole(root))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("looked at an image"))
    error = OSError(28, "No space left on device")
    check.on_exception(Trainer(logger=False), segmenter(), error)
    assert str(error) == "[Errno 28] No space left on device"


def other_arguments(path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "pytorch-lightning_version": "2.6"}, path)


def shortened(path: Path) -> None:
    torch.save(segmenter().state_dict(), path)
    path.write_bytes(path.read_bytes()[:20_000])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (other_arguments, "its weights are of another model, or of AnoSeg with other arguments"),
        (shortened, "not a checkpoint that can be read"),
        (lambda path: path.write_bytes(b""), "not a checkpoint that can be read"),
    ],
    ids=["other arguments", "truncated", "empty"],
)
def test_a_checkpoint_that_does_not_fit_is_named(
    root: Path, damage: Any, says: str, stage: str
) -> None:
    path = root / "model.ckpt"
    damage(path)
    with pytest.raises(Exception, match=f"cannot load {path}: {says}"):
        getattr(quiet_engine(root), stage)(
            segmenter(), datamodule=folder(root), ckpt_path=str(path)
        )


@pytest.mark.slow
def test_an_error_after_the_checkpoint_was_loaded_keeps_its_words(root: Path) -> None:
    """The file has gone meanwhile, which is not what is wrong."""

    class Fail(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            path.unlink()
            msg = "out of memory"
            raise RuntimeError(msg)

    engine = quiet_engine(root)
    engine.fit(segmenter(), datamodule=folder(root))
    path = Path(engine.trainer.checkpoint_callback.best_model_path)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        quiet_engine(root / "more", max_epochs=2, callbacks=[Fail()]).fit(
            segmenter(), datamodule=folder(root), ckpt_path=str(path)
        )


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "workers"), [(2, 0), (2, 1), (5, 0)], ids=["process", "worker", "held out"]
)
def test_an_image_that_is_torn_is_named_when_its_turn_comes(
    root: Path, workers: int, index: int
) -> None:
    truncated(root / f"good/{index}.png")
    with pytest.raises(ValueError, match=rf"cannot read .*{index}.png: .*(truncated|broken)"):
        quiet_engine(root).fit(segmenter(), datamodule=folder(root, num_workers=workers))


@pytest.fixture
def depths(root: Path) -> tuple[Path, Path]:
    """The same greys in 8 and in 16 bits."""
    shallow, deeper = root / "8", root / "16"
    for copy in (shallow, deeper):
        for part in ("good", "fine", "bad", "masks"):
            shutil.copytree(root / part, copy / part)
    for path in [p for p in root.glob("*/*.png") if p.parent.name != "masks"]:
        grey = np.asarray(Image.open(path).convert("L"))
        Image.fromarray(grey).save(shallow / path.relative_to(root))
        Image.fromarray(grey.astype(np.uint16) * 257).save(deeper / path.relative_to(root))
    return shallow, deeper


def test_8_bit_exports_are_calibrated_by_images_of_16_bits(
    depths: tuple[Path, Path], tmp_path: Path
) -> None:
    """Oracle: the same images in 8 bits. The data module is left as it was."""
    module = segmenter().eval()
    exported = ov.Core().read_model(module.to_openvino(tmp_path))
    of_both = []
    for copy in depths:
        data = folder(copy)
        samples = calibration_samples(module, data, exported)
        of_both.append(np.concatenate([sample.image for sample in samples]))
        assert type(data.train_data) is FolderDataset
    assert of_both[0].std() > 0.05
    np.testing.assert_allclose(*of_both, atol=1e-3)


@pytest.mark.slow
def test_training_on_16_bits_is_training_on_8(root: Path, depths: tuple[Path, Path]) -> None:
    """Figures and predictions are the same, but for rounding."""
    figures, scores = [], []
    for copy in depths:
        model, run, data = segmenter(seed=1), quiet_engine(root / "runs"), folder(copy)
        run.fit(model, datamodule=data)
        figures.append(run.test(model, datamodule=data)[0])
        predicted = run.predict(model, data_path=copy / "bad")
        scores.append(torch.cat([batch.pred_score for batch in predicted]))
    assert figures[0] == pytest.approx(figures[1], abs=0.01)
    torch.testing.assert_close(*scores, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_a_folder_without_images_is_named(root: Path) -> None:
    (root / "none").mkdir()
    with pytest.raises(RuntimeError, match=r"Found 0 .* images in .*none"):
        quiet_engine(root).fit(segmenter(), datamodule=folder(root, normal_dir="none"))


INCOMPLETE: dict[str, tuple[dict[str, Any], set[str]]] = {
    "no masks": ({"mask_dir": None}, {"image_AUROC", "image_F1Score"}),
    "no defects": ({"abnormal_dir": None, "mask_dir": None}, set()),
    "nothing": (
        {
            "abnormal_dir": None,
            "mask_dir": None,
            "normal_test_dir": None,
            "normal_split_ratio": 0.5,
        },
        set(),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "reported"), INCOMPLETE.values(), ids=INCOMPLETE.keys())
def test_metrics_that_do_not_exist_are_left_out_with_one_warning(
    root: Path, arguments: dict[str, Any], reported: set[str]
) -> None:
    data, run, trained = folder(root, **arguments), quiet_engine(root), segmenter()
    run.fit(trained, datamodule=data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (results,) = run.test(trained, datamodule=data) or ({},)
    assert set(results) == reported
    ours = [str(w.message) for w in caught if "left out" in str(w.message)]
    assert len(ours) == 1
    assert "pixel_IoU" in ours[0]
    assert ("image_AUROC" in ours[0]) == ("image_AUROC" not in reported)
    assert not [w for w in caught if "torchmetrics" in w.filename]


@pytest.mark.slow
def test_a_test_set_without_good_images_still_has_pixel_metrics(root: Path) -> None:
    data = folder(root, normal_test_dir="bad")  # their masks are not used
    trained = segmenter()
    run = quiet_engine(root)
    run.fit(trained, datamodule=data)
    data.test_data.samples = data.test_data.samples[data.test_data.samples.label_index == 1]
    with pytest.warns(UserWarning, match="left out image_AUROC"):
        (results,) = run.test(trained, dataloaders=data.test_dataloader())
    assert {"pixel_AUROC", "pixel_IoU", "pixel_IoUMax", "pixel_AUPRO"} <= set(results)
    assert "image_AUROC" not in results


def test_a_complete_test_set_warns_of_nothing() -> None:
    evaluator = Evaluator()
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4] = True
    maps = masks * 0.6 + 0.2 * torch.rand(2, 8, 8)
    batch = ImageBatch(
        image=torch.zeros(2, 3, 8, 8), anomaly_map=maps, pred_mask=masks, gt_mask=masks,
        pred_score=maps.amax((1, 2)), gt_label=masks[:, 0, 0], pred_label=masks[:, 0, 0],
    )  # fmt: skip
    for metric in evaluator.test_metrics:
        metric.update(batch)
    logged: dict[str, Any] = {}
    # Lightning gives callbacks the log of their module.
    evaluator.log = lambda name, metric: logged.setdefault(name, metric.compute())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator.on_test_epoch_end(Trainer(logger=False, accelerator="cpu"), segmenter())
    assert len(logged) == 8
    assert logged["pixel_IoU"] == 1
