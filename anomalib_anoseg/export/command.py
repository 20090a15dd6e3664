"""Export a trained model, with other thresholds if asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anomalib_anoseg.utils.checks import (
    require_not_negative,
    require_rate,
    require_whole,
    require_within,
)

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule


def export(
    ckpt_path: Path,
    export_type: Literal["openvino", "onnx", "torch"] = "openvino",
    output: Path = Path("exported"),
    image_sensitivity: float | None = None,
    pixel_sensitivity: float | None = None,
    false_alarm_rate: float | None = None,
    mask_false_alarm_rate: float | None = None,
    smallest_defect: int | None = None,
    input_size: tuple[int, int] | None = None,
    tile_size: int | None = None,
    compression_type: Literal["FP16", "INT8", "INT8_PTQ", "INT8_ACQ"] | None = None,
    data: Path | None = None,
    max_drop: float | None = None,
) -> int:
    """Export a checkpoint; its thresholds can be changed without data or another training.

    anomalib's own ``export`` takes them from the checkpoint, whatever ``--model.post_processor``
    says.

    Args:
        ckpt_path: What a training run left: ``.../weights/lightning/model.ckpt``.
        export_type: Format of the exported model.
        output: Folder that gets ``weights/<export_type>/model...``, as with anomalib's export.
        image_sensitivity: Above 0.5 more images are called defective, [0, 1]; scores are cut at
            1 minus this. By default what the checkpoint says.
        pixel_sensitivity: The same for pixels.
        false_alarm_rate: Share of good images that may be called defective, (0, 1): sets the image
            threshold anew, by the scores of good images in the checkpoint. Not beside
            image_sensitivity.
        mask_false_alarm_rate: Share of good images that may have a pixel in their mask, (0, 1):
            likewise for the pixel threshold. Not beside pixel_sensitivity.
        smallest_defect: Pixels of an image; what infer leaves out by default.
        input_size: Fixed height and width of the images; left open by default.
        tile_size: Export a model of square tiles of this side for infer, which cuts images into
            them: memory then does not grow with the image. For a model whose images keep their own
            size.
        compression_type: Smaller weights, OpenVINO only. The last two need data.
        data: For INT8_PTQ and INT8_ACQ: a folder of good images, or a YAML file with class_path and
            init_args of a data module of anomalib.
        max_drop: How much of the metric INT8_ACQ may lose, [0, 1]; 0.01 by default.

    Raises:
        ValueError: If an argument is outside its range, or missing, or one that nothing here would
            use; or if the file is no checkpoint.
    """
    given = {
        "image_sensitivity": image_sensitivity,
        "pixel_sensitivity": pixel_sensitivity,
        "false_alarm_rate": false_alarm_rate,
        "mask_false_alarm_rate": mask_false_alarm_rate,
        "smallest_defect": smallest_defect,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    _check(settings)
    _check_compression(compression_type, export_type, data, max_drop)
    if tile_size is not None and (export_type == "torch" or input_size is not None):
        msg = "tile_size is for openvino and onnx, in place of input_size"
        raise ValueError(msg)
    if input_size is not None and (export_type == "torch" or min(input_size) < 1):
        msg = f"input_size is for openvino and onnx, two numbers of at least 1, got {input_size}"
        raise ValueError(msg)
    from anomalib.deploy import CompressionType

    # Further down than this package: a command is where everything meets.
    from anomalib_anoseg.lightning_model import AnoSeg

    model = AnoSeg.load_from_checkpoint(ckpt_path, map_location="cpu").eval()
    _change(model.post_processor, settings)
    if export_type == "torch":
        path = model.to_torch(output)
    elif export_type == "onnx":
        path = model.to_onnx(output, input_size=input_size, tile_size=tile_size)
    else:
        path = model.to_openvino(
            output,
            input_size=input_size,
            onnx_kwargs={"tile_size": tile_size},
            compression_type=compression_type and CompressionType[compression_type],
            datamodule=data and _good_images(data),
            **({} if max_drop is None else {"max_drop": max_drop}),
        )
    print(path)  # noqa: T201
    return 0


CALIBRATED = ("INT8_PTQ", "INT8_ACQ")
# Each moves a threshold that a sensitivity moves, too.
RATES = {
    "false_alarm_rate": ("image", "image_sensitivity"),
    "mask_false_alarm_rate": ("pixel", "pixel_sensitivity"),
}


def _check(settings: dict[str, Any]) -> None:
    for rate, (level, sensitivity) in RATES.items():
        if sensitivity in settings:
            require_within(sensitivity, settings[sensitivity], 0, 1)
        if rate in settings:
            require_rate(rate, settings[rate], level, settings.get(sensitivity))
    if "smallest_defect" in settings:
        require_whole("smallest_defect", settings["smallest_defect"])
        require_not_negative("smallest_defect", settings["smallest_defect"])


def _check_compression(
    compression_type: str | None, export_type: str, data: Path | None, max_drop: float | None
) -> None:
    """Refuse a compression that lacks something, and what it would not look at."""
    if compression_type is not None and export_type != "openvino":
        msg = f"compression_type is for openvino, got {compression_type} with {export_type}"
        raise ValueError(msg)
    calibrated = compression_type in CALIBRATED
    if calibrated and data is None:
        msg = f"{compression_type} is calibrated with good images: give --data, a folder of them"
        raise ValueError(msg)
    got = compression_type or "none"
    if data is not None and not calibrated:
        msg = f"--data is for --compression_type {' and '.join(CALIBRATED)}, got {got}"
        raise ValueError(msg)
    if max_drop is not None and compression_type != "INT8_ACQ":
        msg = f"--max_drop is for --compression_type INT8_ACQ, got {got}"
        raise ValueError(msg)


def _good_images(data: Path) -> "AnomalibDataModule":
    """Return what to calibrate with.

    Raises:
        ValueError: If a folder holds more than good images.
    """
    from anomalib_anoseg.data.cases import datamodule
    from anomalib_anoseg.inference.journal import without_results
    from anomalib_anoseg.utils.images import find_images

    if data.is_dir():
        images = find_images(data)
        drawn = sorted({*images} - {*without_results(data, images, None)})
        if drawn:
            msg = f"{data} holds pictures that infer has drawn, such as {drawn[0]}: move them away"
            raise ValueError(msg)
    return datamodule(data)


def _change(post_processor: Any, settings: dict[str, Any]) -> None:
    """Change settings of a post-processor, and the thresholds that follow from them."""
    for name, value in settings.items():
        if not hasattr(post_processor, name):
            msg = f"{name} needs a post-processor of AnoSeg, which this model was trained without"
            raise ValueError(msg)
        setattr(post_processor, name, value)
    for rate, (_, sensitivity) in RATES.items():
        if rate in settings:
            _require_good_images(rate, post_processor)
            setattr(post_processor, sensitivity, 0.5)
        elif sensitivity in settings and hasattr(post_processor, rate):
            setattr(post_processor, rate, None)  # the threshold is moved, its promise ends
    levels = [level for rate, (level, _) in RATES.items() if rate in settings]
    if levels:
        post_processor.set_thresholds(*levels)
        post_processor.report()


def _require_good_images(rate: str, post_processor: Any) -> None:
    if not len(post_processor.good_scores):
        msg = (
            f"{rate} needs the scores of good images, and the checkpoint has none: train with a "
            "data module of anomalib"
        )
        raise ValueError(msg)
