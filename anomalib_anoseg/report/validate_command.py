"""The command that holds an exported file against its checkpoint."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from anomalib_anoseg.data.cases import Case, read_cases
from anomalib_anoseg.inference.exported import ExportedModel
from anomalib_anoseg.inference.journal import without_results
from anomalib_anoseg.inference.segmenter import Segmenter
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.lightning_model import AnoSeg
from anomalib_anoseg.report.agreement import SIDES, Agreement, answers
from anomalib_anoseg.report.examples import thresholds_of
from anomalib_anoseg.report.runs import METRICS
from anomalib_anoseg.report.scale import Scales, other_scales, rescale
from anomalib_anoseg.report.threshold_choice import choices
from anomalib_anoseg.training.remembering import warn_if_remembered
from anomalib_anoseg.utils.checks import require_not_negative
from anomalib_anoseg.utils.files import complete_file
from anomalib_anoseg.utils.image_header import read_header
from anomalib_anoseg.utils.masks import check_mask

EPILOG = """The checkpoint runs in torch, the export as infer runs it. Maps and scores are in
[0, 1], labels and masks are cut by each side's own thresholds; small defects, which infer may leave
out, count here. What infer has drawn below the folder is not taken. Only --output is written, and
nothing is changed: a proposed threshold is applied by the command that is printed.

exit status: 0 no map and no score differs by more than the tolerance; 1 one does, or an image could
not be judged; 2 wrong arguments or input; 130 interrupted.
"""


def validate(
    ckpt_path: Path,
    model: Path,
    data: Path,
    tolerance: float = 0.001,
    output: Path | None = None,
    device: str = "CPU",
    precision: Literal["default", "f32"] = "f32",
) -> int:
    """Hold an exported model against its checkpoint, on images as the line takes them.

    Prints how far maps and scores are apart, which labels and how many pixels of masks flip; with
    labels, the figures of both, what the thresholds do to defective and good images, and a
    threshold that would do better.

    Args:
        ckpt_path: What a training run left: ``.../weights/lightning/model.ckpt``.
        model: The .xml or .onnx that was exported from it, in any precision.
        data: A folder of images; one as MVTec AD's, with labels in test/good and test/<kind> and
            masks in ground_truth/<kind>; or a YAML file with class_path and init_args of a data
            module of anomalib.
        tolerance: The largest difference of a map or a score that is accepted, [0, 1].
        output: A JSON file with all of it.
        device: OpenVINO's name of a device: CPU, GPU, NPU, AUTO.
        precision: "f32" computes as torch does; "default" lets the device choose, as infer does.

    Returns:
        The exit status.

    Raises:
        OSError: If a file is missing.
        ValueError: If a file is not what it should be, the export is of another checkpoint, or a
            mask cannot be that of its image.
    """
    require_not_negative("tolerance", tolerance)
    cases = _cases(data)
    segmenter = Segmenter(model, device, precision)
    checkpoint = AnoSeg.load_from_checkpoint(ckpt_path, map_location="cpu").eval()
    warn_if_remembered(checkpoint.remembered, [case.path for case in cases])
    own, cuts = thresholds_of(checkpoint), segmenter.model.thresholds
    post: Any = checkpoint.post_processor
    scales = other_scales(post, segmenter.model)
    if scales is not None:
        own = scales.own.to(scales.exported, own)
        rescale(post, scales.exported)
    thresholds = own, cuts
    has_masks = any(case.mask for case in cases)
    agreement = Agreement(thresholds, has_masks, checkpoint.model.region)
    failures: dict[str, str] = {}

    def failed(name: str, reason: str) -> None:
        failures[name] = reason
        tqdm.write(f"{name}: {reason}", file=sys.stderr)

    pairs = answers(checkpoint, segmenter, cases, failed)
    for pair in tqdm(pairs, total=len(cases), unit="image"):
        agreement.add(pair)
    if not agreement.images:
        msg = f"{data}: no image could be judged"
        raise ValueError(msg)
    about = {"ckpt_path": str(ckpt_path), "model_file": str(model), "data": str(data)}
    about |= {"device": device, "precision": precision}
    found = _found(agreement, thresholds, tolerance, scales) | {
        "false_alarm_rate": _rate(segmenter.model),
        "errors": failures,
    }
    print("\n".join(_lines(about, found)))  # noqa: T201
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        with complete_file(output) as part:
            part.write_text(json.dumps(about | found, indent=2) + "\n", encoding="utf-8")
    return 0 if found["agrees"] and not failures else 1


def _cases(data: Path) -> list[Case]:
    cases = read_cases(data)
    if data.is_dir():
        kept = {*without_results(data, [case.path for case in cases], None)}
        cases = [case for case in cases if case.path in kept]
    for case in cases:
        if case.mask is not None and _can_be_read(case.path):
            check_mask(case.path, case.mask)
    return cases


def _can_be_read(path: Path) -> bool:
    """Return whether an image is what it should be; else it is named where it is judged."""
    try:
        read_header(path)
    except (OSError, ValueError):
        return False
    return True


def _rate(model: ExportedModel) -> float | None:
    """Return the false-alarm rate that the image threshold was set for, if for one."""
    said = model.false_alarms(model.thresholds.image)
    asked: float | None = said["asked"] if said else None
    return asked


def _found(
    agreement: Agreement,
    thresholds: tuple[Thresholds, Thresholds],
    tolerance: float,
    scales: Scales | None,
) -> dict[str, Any]:
    """Return everything that was measured, as JSON holds it."""
    differences = agreement.differences
    found: dict[str, Any] = {
        "images": agreement.images,
        "tolerance": tolerance,
        "agrees": all(one.largest <= tolerance for one in differences.values()),
        **{name: one._asdict() for name, one in differences.items()},
        "flipped_labels": agreement.flipped,
        "flipped_mask_pixels": agreement.flipped_pixels,
        "thresholds": {s: cuts._asdict() for s, cuts in zip(SIDES, thresholds, strict=True)},
    }
    good, bad = agreement.scores[False], agreement.scores[True]
    if good or bad:
        options = choices(good, bad, thresholds[1].image)

        def sensitivities(image: float) -> Thresholds:
            """Return what an export of the checkpoint has to be given to cut like this one."""
            cuts = thresholds[1]._replace(image=image)
            if scales is not None:
                cuts = scales.exported.to(scales.own, cuts)
            return cuts._replace(image=round(1 - cuts.image, 8), pixel=round(1 - cuts.pixel, 8))

        found |= {
            "good": len(good),
            "defective": len(bad),
            "figures": agreement.figures(),
            "wrong": agreement.wrong,
            "choices": [
                choice._asdict() | {"sensitivity": sensitivities(choice.threshold).image}
                for choice in options
            ],
            "pixel_sensitivity": sensitivities(thresholds[1].image).pixel,
        }
    return found


def _lines(about: dict[str, str], found: dict[str, Any]) -> list[str]:
    """Return what is printed."""
    verdict = "within" if found["agrees"] else "PAST"
    lines = [
        f"{found['images']} images, {about['ckpt_path']} and",
        f"{about['model_file']} on {about['device']}, precision {about['precision']}",
        f"{'difference':<22}{'largest':>11}{'mean':>11}  of",
        *(
            f"{name:<22}{found[name]['largest']:>11.2g}{found[name]['mean']:>11.2g}"
            f"  {found[name]['file']}"
            for name in ("map", "score")
        ),
        f"{verdict} the tolerance of {found['tolerance']:g}",
        " ".join(["labels flipped:", str(len(found["flipped_labels"])), *found["flipped_labels"]]),
        f"pixels of masks flipped: {found['flipped_mask_pixels']:.4%}",
    ]
    if smallest := found["thresholds"]["export"]["smallest_defect"]:
        lines.append(f"infer also leaves out defects under {smallest} pixels, not counted here")
    return lines + (_figures(found) + _choices(about, found) if "figures" in found else [])


def _figures(found: dict[str, Any]) -> list[str]:
    """Return both sides' thresholds, errors and metrics beside each other."""
    rows: list[tuple[str, Any]] = [
        (f"{kind} threshold", [found["thresholds"][side][kind] for side in SIDES])
        for kind in ("image", "pixel")
    ]
    rows += [
        (f"misses of {found['defective']}", [found["wrong"][side]["misses"] for side in SIDES]),
        (f"false alarms of {found['good']}", [found["wrong"][s]["false_alarms"] for s in SIDES]),
    ]
    rows += [
        (name, [f"{found['figures'][side][key]:.4f}" for side in SIDES])
        for key, name in METRICS.items()
        if key in found["figures"][SIDES[0]]
    ]
    head = f"\n{'figure':<22}" + "".join(f"{side:>11}" for side in SIDES)
    return [
        head,
        *(f"{name:<22}" + "".join(f"{value:>11}" for value in values) for name, values in rows),
    ]


def _choices(about: dict[str, str], found: dict[str, Any]) -> list[str]:
    """Return what else the image threshold could be, and the command that would make it so."""
    options = {choice["name"]: choice for choice in found["choices"]}
    if len(options) == 1:
        return ["\nto propose a threshold, good and defective images are both needed"]
    head = f"{'image threshold':<18}{'':>10}{'sensitivity':>13}{'misses':>8}{'false alarms':>14}"
    lines = [
        f"\n{head}",
        *(
            f"{choice['name']:<18}{choice['threshold']:>10.8g}{choice['sensitivity']:>13.8g}"
            f"{choice['misses']:>8}{choice['false_alarms']:>14}"
            for choice in options.values()
        ),
    ]
    now, proposed = options["now"], options["proposed"]
    if (now["misses"], now["false_alarms"]) == (proposed["misses"], proposed["false_alarms"]):
        return [*lines, "the proposed one does no better on these images"]
    ends = "It ends the promise of a false-alarm rate of {:g}: a sensitivity takes its place."
    once = f"infer --image_threshold {proposed['threshold']:.8g}"
    return [
        *lines,
        "Nothing was changed. The proposal fits these images; on others it will do a little worse.",
        "To apply it, with the other options of your export:",
        f"  {_export_command(about, found, proposed['sensitivity'])}",
        *([ends.format(rate)] if (rate := found["false_alarm_rate"]) is not None else []),
        f"Or, for one run: {once}",
    ]


def _export_command(about: dict[str, str], found: dict[str, Any], sensitivity: float) -> str:
    words = ["anomalib-anoseg", "export", "--ckpt_path", about["ckpt_path"]]
    if Path(about["model_file"]).suffix == ".onnx":
        words += ["--export_type", "onnx"]
    words += ["--image_sensitivity", f"{sensitivity:.8g}"]
    # What the export has of its own, and another would lose.
    ours, theirs = (found["thresholds"][side] for side in SIDES)
    if ours["pixel"] != theirs["pixel"]:
        words += ["--pixel_sensitivity", f"{found['pixel_sensitivity']:.8g}"]
    if ours["smallest_defect"] != theirs["smallest_defect"]:
        words += ["--smallest_defect", str(theirs["smallest_defect"])]
    return shlex.join(words)
