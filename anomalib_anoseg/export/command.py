"""Export a trained model, with other thresholds if asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anomalib_anoseg.utils.checks import require_within

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule


def export(
    ckpt_path: Path,
    export_type: Literal["openvino", "onnx", "torch"] = "openvino",
    output: Path = Path("exported"),
    image_sensitivity: float | None = None,
    pixel_sensitivity: float | None = None,
    input_size: tuple[int, int] | None = None,
    tile_size: int | None = None,
    compression_type: Literal["FP16", "INT8", "INT8_PTQ", "INT8_ACQ"] | None = None,
    data: Path | None = None,
    max_drop: float = 0.01,
) -> int:
    """Export a checkpoint; sensitivities can be changed without another training.

    anomalib's own ``export`` takes them from the checkpoint, whatever ``--model.post_processor``
    says.

    Args:
        ckpt_path: What a training run left: ``.../weights/lightning/model.ckpt``.
        export_type: Format of the exported model.
        output: Folder that gets ``weights/<export_type>/model...``, as with anomalib's export.
        image_sensitivity: Above 0.5 more images are called defective, (0, 1); scores are cut at
            1 minus this. By default what the checkpoint says.
        pixel_sensitivity: The same for pixels.
        input_size: Fixed height and width of the images; left open by default.
        tile_size: Export a model of square tiles of this side for infer, which cuts images into
            them: memory then does not grow with the image. For a model whose images keep their own
            size.
        compression_type: Smaller weights, OpenVINO only. The last two need data.
        data: For INT8_PTQ and INT8_ACQ: a folder of good images, or a YAML file with class_path and
            init_args of a data module of anomalib.
        max_drop: How much of the metric INT8_ACQ may lose, [0, 1].

    Raises:
        ValueError: If an argument is outside its range, or missing, or the file is no checkpoint.
    """
    for name, value in {
        "image_sensitivity": image_sensitivity, "pixel_sensitivity": pixel_sensitivity
    }.items():  # fmt: skip
        if value is not None:
            require_within(name, value, 0, 1)
    if compression_type is not None and export_type != "openvino":
        msg = f"compression_type is for openvino, got {compression_type} with {export_type}"
        raise ValueError(msg)
    if tile_size is not None and (export_type == "torch" or input_size is not None):
        msg = "tile_size is for openvino and onnx, in place of input_size"
        raise ValueError(msg)
    if data is None and compression_type in {"INT8_PTQ", "INT8_ACQ"}:
        msg = f"{compression_type} is calibrated with good images: give --data, a folder of them"
        raise ValueError(msg)
    from anomalib.deploy import CompressionType

    # Further down than this package: a command is where everything meets.
    from anomalib_anoseg.lightning_model import AnoSeg

    model = AnoSeg.load_from_checkpoint(ckpt_path, map_location="cpu").eval()
    _set_sensitivities(model.post_processor, image_sensitivity, pixel_sensitivity)
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
            datamodule=data and datamodule(data),
            max_drop=max_drop,
        )
    print(path)  # noqa: T201
    return 0


def _set_sensitivities(post_processor: object, image: float | None, pixel: float | None) -> None:
    for name, value in (("image_sensitivity", image), ("pixel_sensitivity", pixel)):
        if value is None:
            continue
        if not hasattr(post_processor, name):
            msg = f"{name} needs a post-processor, which this model was trained without"
            raise ValueError(msg)
        setattr(post_processor, name, value)


def datamodule(path: Path) -> "AnomalibDataModule":
    """Return the good images of a folder, or the data module that a YAML file describes."""
    from anomalib.data import Folder, get_datamodule
    from omegaconf import OmegaConf

    if path.suffix in {".yaml", ".yml"}:
        config = OmegaConf.load(path)
        return get_datamodule(config if "data" in config else OmegaConf.create({"data": config}))
    return Folder(
        name=path.name, normal_dir=path.resolve(), test_split_mode="none", val_split_mode="none"
    )
