"""The shipped configurations of anomalib's benchmark: parsed, and built without a network."""

from pathlib import Path
from unittest.mock import patch

import pytest
import timm
import yaml
from anomalib.data import get_datamodule
from anomalib.models import get_model
from anomalib.pipelines import Benchmark
from anomalib.pipelines.components.utils import get_iterator_from_grid_dict

CONFIGS = sorted((Path(__file__).parents[1] / "configs/benchmark").glob("*.yaml"))


def jobs(path: Path) -> list[dict]:
    return [*get_iterator_from_grid_dict(yaml.safe_load(path.read_text())["benchmark"])]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_job_has_data_and_a_seed(path: Path) -> None:
    listed = jobs(path)
    assert len(listed) == len({str(job) for job in listed})
    for job in listed:
        assert isinstance(job["seed"], int)
        data = get_datamodule(job["data"])
        assert data.train_batch_size == job["data"]["init_args"]["train_batch_size"]
    if path.stem != "demo":
        models = {job["model"]["class_path"] for job in listed}
        assert len(listed) == 15 * 3 * len(models)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_anomalib_takes_it(path: Path) -> None:
    assert Benchmark()._setup_runners(yaml.safe_load(path.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_models_are_built(path: Path, tmp_path: Path) -> None:
    """With random weights where theirs would be downloaded."""
    create = timm.create_model
    built = {}
    with patch("timm.create_model", lambda *a, **k: create(*a, **{**k, "pretrained": False})):
        for job in jobs(path):
            model = dict(job["model"])
            if model["class_path"] in built:
                continue
            arguments = dict(model.get("init_args", {}))
            if "dtd_dir" in arguments:
                arguments["dtd_dir"] = str(tmp_path)  # an empty folder of textures
            built[model["class_path"]] = get_model(model | {"init_args": arguments})
    for name, model in built.items():
        assert type(model).__name__ == name


def test_models_of_one_file_report_the_same_metrics() -> None:
    """anomalib's benchmark fails at its end if they do not, so AnoSeg has a file of its own."""
    for path in CONFIGS:
        models = {job["model"]["class_path"] for job in jobs(path)}
        assert models == {"AnoSeg"} or "AnoSeg" not in models
