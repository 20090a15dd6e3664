"""Exported files that are complete, and say what they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

SECTION = "anoseg"  # of an OpenVINO model's rt_info


@contextmanager
def complete_files(folder: Path) -> Iterator[Path]:
    """Give a folder to write to; its files appear in the other one once all of them are complete.

    Args:
        folder: Made if needed. Files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".export-") as part:
        yield Path(part)
        files = [path for path in Path(part).rglob("*") if path.is_file()]
        # Weights before what refers to them.
        for path in sorted(files, key=lambda path: path.suffix in {".xml", ".onnx"}):
            final = folder / path.relative_to(part)
            final.parent.mkdir(parents=True, exist_ok=True)
            path.replace(final)


def write_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Put the metadata into an OpenVINO model's rt_info; weights stay as they are."""
    import openvino as ov

    model = ov.Core().read_model(path)
    for name, value in metadata.items():
        model.set_rt_info(value, [SECTION, name])
    with TemporaryDirectory(dir=path.parent) as part:
        # Weights that were compressed stay compressed.
        ov.save_model(model, Path(part) / path.name, compress_to_fp16=False)
        del model  # it maps the weights it was read from
        for file in (path.with_suffix(".bin"), path):
            (Path(part) / file.name).replace(file)
