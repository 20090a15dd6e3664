"""anomalib's export, with files that are complete and say what they are."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType
from anomalib.models.components.base.export_mixin import ExportMixin as AnomalibExportMixin
from torch.export import Dim

from anomalib_anoseg import __version__
from anomalib_anoseg.export.tile import TileModel
from anomalib_anoseg.utils.files import complete_files

logger = logging.getLogger(__name__)
LARGE_DROP = 0.1
# Pixels at least where the size is left open, which are also the example's: torch.export fails from
# 33 on, and that of torch 2.10 where a resize has nothing to do in one direction.
OPEN_SIDES = (64, 96, 128)
# anomalib's names. The normalized ones are where labels and masks are cut, with and without
# normalisation, and where a client may cut if the model itself makes none.
THRESHOLDS = (
    "image_threshold",
    "pixel_threshold",
    "normalized_image_threshold",
    "normalized_pixel_threshold",
)


class ExportMixin(AnomalibExportMixin):
    """Exports of AnoSeg; arguments and names of files are anomalib's.

    Attributes:
        trained_on: Name of the data module and its category, empty if unknown.
    """

    model: Any
    trained_on: str
    pre_processor: Any
    post_processor: Any

    def to_torch(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:
        """Export as anomalib does; a file is complete or not there."""
        with complete_files(Path(export_root)) as part:
            path = super().to_torch(part, *args, **kwargs)
        return Path(export_root) / path.relative_to(part)

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        tile_size: int | None = None,
        **kwargs: Any,
    ) -> Path:
        """Export as anomalib does; a file is complete or not there.

        With opset 18 by default: the exporter makes nothing older, and fails to convert it to
        anomalib's 14 with a traceback.

        Args:
            export_root: Folder that gets ``weights/onnx/...``.
            model_file_name: Without suffix.
            input_size: Fixed height and width of the images; left open by default.
            tile_size: Side of a square tile: exports :class:`TileModel` instead, for infer.
            kwargs: For ``torch.onnx.export``.

        Raises:
            ValueError: If both sizes are given, or the model cannot judge tiles.
        """
        kwargs = {"opset_version": 18} | kwargs
        if tile_size is not None:
            if input_size is not None:
                msg = (
                    f"a model of tiles takes tiles of {tile_size} x {tile_size} pixels and images "
                    f"of any size: give tile_size without input_size, got {input_size}"
                )
                raise ValueError(msg)
            return self._tile_to_onnx(Path(export_root), model_file_name, tile_size, kwargs)
        if input_size is None:
            # anomalib's example for an open size is 32 x 32, which the network refuses.
            side = next(side for side in OPEN_SIDES if side not in self._network_size())
            input_size = (side, side)
            height, width = (Dim(name, min=side) for name in ("height", "width"))
            kwargs = {"dynamic_shapes": ({0: Dim("batch"), 2: height, 3: width},)} | kwargs
        with complete_files(Path(export_root)) as part:
            path = super().to_onnx(part, model_file_name, input_size, **kwargs)
            write_onnx_metadata(path, self._metadata())
        return Path(export_root) / path.relative_to(part)

    def _tile_to_onnx(
        self, export_root: Path, name: str, side: int, kwargs: dict[str, Any]
    ) -> Path:
        model: Any = TileModel(self, side).eval()
        device = next(model.parameters()).device
        place = torch.tensor([[0.0, 0.0, side, side]], device=device)
        example = torch.zeros(1, 3, side, side, device=device), place
        answer = model(*example)._asdict()
        with complete_files(export_root) as part:
            folder = part / "weights" / "onnx"
            folder.mkdir(parents=True, exist_ok=True)
            torch.onnx.export(
                model,
                example,
                folder / f"{name}.onnx",
                input_names=["input", "place"],
                output_names=[key for key, value in answer.items() if value is not None],
                **{"dynamo": True} | kwargs,
            )
            write_onnx_metadata(folder / f"{name}.onnx", self._metadata())
        return export_root / "weights" / "onnx" / f"{name}.onnx"

    def to_openvino(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:
        """Export as anomalib does; a file is complete or not there, and says what it is.

        The ``rt_info`` of the model has a section "anoseg" with model, version, the size that the
        network sees, the data it was trained on, both thresholds as raw probabilities, and both
        normalized thresholds: what the exported scores and maps are cut at. ``good_scores`` are
        those of the good images that set the thresholds, in order and in the units of the exported
        score; ``false_alarm_rate`` is the share of good images that will be called defective,
        ``false_alarm_interval`` the ends of its 90 % interval, and ``false_alarm_rate_asked`` what
        the threshold was set for, if for a rate; those with ``mask_`` before say the same of good
        images whose mask has any pixel; ``smallest_defect`` is what infer leaves out, and
        ``inspected_share`` how much of each image is looked at, if not all of it. The
        ``metadata_props`` of an ONNX file say the same, as "anoseg.image_threshold" and so on.
        """
        with complete_files(Path(export_root)) as part:
            path = super().to_openvino(part, *args, **kwargs)
            write_openvino_metadata(path, self._metadata())
        return Path(export_root) / path.relative_to(part)

    def _network_size(self) -> tuple[int, ...]:
        """Return height and width that the pre-processor resizes to, () if it leaves them alone."""
        return tuple(getattr(getattr(self.pre_processor, "transform", None), "size", None) or ())

    def _metadata(self) -> dict[str, str]:
        metadata = {"model": "AnoSeg", "version": __version__, "data": self.trained_on}
        if size := self._network_size():
            metadata["input_size"] = " ".join(map(str, size))
        if self.model.region is not None:
            metadata["inspected_share"] = f"{self.model.region.share:.6g}"
        for name in THRESHOLDS:
            if hasattr(self.post_processor, name):
                metadata[name] = f"{float(getattr(self.post_processor, name)):.8g}"
        if hasattr(self.post_processor, "export_metadata"):  # anomalib's has none
            metadata |= self.post_processor.export_metadata()
        return metadata

    def _compress_ov_model(
        self,
        model: Any,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Any = None,
        task: Any = None,
        max_drop: float = 0.01,
    ) -> Any:
        """Quantise as :mod:`.quantization` does where activations are quantised."""
        from anomalib_anoseg.export.quantization import quantize

        if compression_type not in {CompressionType.INT8_PTQ, CompressionType.INT8_ACQ}:
            return super()._compress_ov_model(model, compression_type)
        # anomalib's own words, which its tests know.
        if datamodule is None:
            msg = f"Datamodule must be provided for OpenVINO {compression_type.name} compression"
            raise ValueError(msg)
        if not 0 <= max_drop <= 1:
            msg = f"max_drop must be between 0 and 1, got {max_drop}"
            raise ValueError(msg)
        if max_drop > LARGE_DROP:
            logger.warning("max_drop=%s is a large value: usual are 0.01 to 0.03", max_drop)
        del task
        drop = max_drop if compression_type == CompressionType.INT8_ACQ else None
        return quantize(model, self, datamodule, metric, drop)


def write_onnx_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Put the metadata into an ONNX model's metadata_props."""
    import onnx

    from anomalib_anoseg.inference.exported import SECTION

    model = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(
        model, {f"{SECTION}.{name}": value for name, value in metadata.items()}
    )
    onnx.save(model, path)


def write_openvino_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Put the metadata into an OpenVINO model's rt_info; weights stay as they are.

    A digest of the weights goes with it: a model whose two files are of two exports is no model.
    """
    import openvino as ov

    from anomalib_anoseg.inference.exported import SECTION, WEIGHTS, digest

    model = ov.Core().read_model(path)
    for name, value in metadata.items():
        model.set_rt_info(value, [SECTION, name])
    with TemporaryDirectory(dir=path.parent) as part:
        # Weights that were compressed stay compressed.
        saved = Path(part) / path.name
        ov.save_model(model, saved, compress_to_fp16=False)
        model.set_rt_info(digest(saved.with_suffix(".bin")), [SECTION, WEIGHTS])
        ov.save_model(model, saved, compress_to_fp16=False)  # which gives the same weights
        del model  # it maps the weights it was read from
        for file in (path.with_suffix(".bin"), path):
            (Path(part) / file.name).replace(file)
