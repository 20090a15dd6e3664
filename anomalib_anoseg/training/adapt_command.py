"""The command that adapts a trained model to new good images."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib_anoseg.inference.files import images_below
from anomalib_anoseg.utils.files import require_place

if TYPE_CHECKING:
    from anomalib_anoseg.training.adaptation import Adaptation

YAML = (".yaml", ".yml")
EPILOG = """Of five new images four are remembered, beside those that were before. By the fifth, and
by synthetic anomalies made from them, decision and thresholds are set again. Nothing is trained,
and the old images are not needed. What is remembered already is left out.

exit status: 0 the checkpoint is written; 2 wrong arguments or input, and nothing is written but,
where only the export fails, the checkpoint; 130 interrupted.
"""


def adapt(
    ckpt_path: Path, data: Path, output: Path | None = None, export: Path | None = None
) -> int:
    """Let a model call new good parts, or parts under another lamp, good without a new training.

    Args:
        ckpt_path: What a training run left: ``.../weights/lightning/model.ckpt``.
        data: A folder of new good images, or a YAML file with class_path and init_args of a data
            module of anomalib, whose training images are taken. 50 are a good number.
        output: The new checkpoint; by default ``model-adapted.ckpt`` beside the other one, which is
            replaced only if it is named here.
        export: Folder that gets ``weights/openvino/model.xml`` of the new model. Not exported by
            default.

    Raises:
        FileNotFoundError: If there is no checkpoint, no folder, or no image in it.
        ValueError: If there are too few new images, one cannot be read, or the file is no
            checkpoint that can be adapted.
    """
    started = time.perf_counter()
    output = output or ckpt_path.with_name(f"{ckpt_path.stem}-adapted{ckpt_path.suffix}")
    _refuse_places(output, export)
    # Further down than this package: a command is where everything meets.
    from anomalib_anoseg.lightning_model import AnoSeg
    from anomalib_anoseg.training import adaptation
    from anomalib_anoseg.training.checkpoint_io import WholeCheckpoints

    model = AnoSeg.load_from_checkpoint(ckpt_path, map_location="cpu").eval()
    _refuse_other_thresholds(ckpt_path, model.post_processor)
    changes = adaptation.adapt(model, _good_images(data))
    WholeCheckpoints().save_checkpoint(adaptation.adapted_checkpoint(ckpt_path, model), output)
    print(_summary(changes, remembers=model.model.memory is not None))  # noqa: T201
    print(f"{output}, in {time.perf_counter() - started:.0f} s")  # noqa: T201
    if export is not None:
        print(model.to_openvino(export))  # noqa: T201
    return 0


def _refuse_places(output: Path, export: Path | None) -> None:
    """Refuse where nothing can be written before minutes were spent."""
    require_place(output)
    if export is not None and export.exists() and not export.is_dir():
        msg = f"export must be a folder, got the file {export}"
        raise ValueError(msg)


def _refuse_other_thresholds(ckpt_path: Path, post_processor: Any) -> None:
    from anomalib_anoseg.post_processor import PostProcessor

    if not isinstance(post_processor, PostProcessor):
        msg = (
            f"{ckpt_path}: adapt sets thresholds by good images, as anomalib_anoseg.PostProcessor "
            f"does; this model was trained with {type(post_processor).__name__}"
        )
        raise ValueError(msg)  # noqa: TRY004 - of the checkpoint, not of the caller's code


def _good_images(data: Path) -> Any:
    """Return a data set of the images, of which each has a header that can be read."""
    from anomalib_anoseg.data.cases import datamodule, set_up
    from anomalib_anoseg.training.image_reading import ImageReading
    from anomalib_anoseg.utils.image_header import read_header

    images = None
    if data.suffix not in YAML:
        images = {str(path) for path in images_below(data.resolve())}
    module = datamodule(data)
    set_up(module, "fit")
    source = module.train_data
    paths = [*source.samples.image_path]
    if images is not None:  # without the pictures of an earlier infer
        source = source.subsample([i for i, path in enumerate(paths) if path in images])
    ImageReading().lend(source)
    for path in source.samples.image_path:
        read_header(Path(path))
    return source


def _summary(changes: "Adaptation", *, remembers: bool) -> str:
    """Return what changed, a line each."""
    division, before, after = changes.division, changes.before, changes.after
    judged = len(division.held_out)
    rows = {
        "new good images": f"{len(division.remembered)} remembered, "
        f"{judged} set{'s' if judged == 1 else ''} thresholds",
        "left out": f"{division.left_out} that are remembered already, or copies of others",
        "memory": f"{before.rows} rows, now {after.rows}, of which {changes.new_rows} are new"
        if remembers
        else "none: only thresholds are set again",
        "image threshold": f"{before.image_threshold:.3f}, now {after.image_threshold:.3f}",
        "pixel threshold": f"{before.pixel_threshold:.3f}, now {after.pixel_threshold:.3f}",
        "called defective": f"{before.false_alarms}, now {after.false_alarms}, of the {judged} "
        "good images that set thresholds",
        "": f"{before.found}, now {after.found}, of {after.synthetic} synthetic anomalies "
        "made from them",
    }
    if not division.left_out:
        del rows["left out"]
    return "\n".join(f"{name:<18}{text}" for name, text in rows.items())
