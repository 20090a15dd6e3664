"""New good images for a trained model.

Oracles: what was remembered and what was held out by their numbers; copies of what was remembered;
the model in memory beside the one that was read again; the file as it was.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import Folder
from conftest import photographs, quiet_engine, remembering_model, segmenter
from torch import Tensor
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.__main__ import main
from anomalib_anoseg.networks.level import Level
from anomalib_anoseg.report.nearest import compare
from anomalib_anoseg.training import adaptation
from anomalib_anoseg.training.adapt_command import adapt
from anomalib_anoseg.training.adaptation import CHANGED, divide
from anomalib_anoseg.training.content import number_of
from anomalib_anoseg.utils.images import read_image

SIDE = 64
LAMP = torch.tensor([0.6, 0.5, 0.4]).view(3, 1, 1)


def parts(folder: Path, count: int, light: Tensor | float = 1.0, seed: int = 0) -> Path:
    """Write good parts: all alike but for some noise, under a light."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        plate = photographs(1, height=SIDE, width=SIDE)[0]
        torch.manual_seed(seed)
        for index in range(count):
            image = (plate + 0.03 * torch.randn_like(plate)) * light
            save_image(image.clamp(0, 1), folder / f"{index:02}.png")
    return folder


def read(path: Path | str) -> Tensor:
    return torch.from_numpy(read_image(Path(path))).permute(2, 0, 1)[None].float() / 255


def read_all(folder: Path) -> Tensor:
    return torch.cat([read(path) for path in sorted(folder.iterdir())])


def save(model: AnoSeg, path: Path) -> Path:
    content: dict[str, Any] = {
        "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.6.0", "optimizer_states": [{"state": torch.ones(3)}],
    }  # fmt: skip
    model.on_save_checkpoint(content)
    torch.save(content, path)
    return path


def load(path: Path) -> AnoSeg:
    return AnoSeg.load_from_checkpoint(path, map_location="cpu").eval()


def levels(model: AnoSeg) -> list[Level]:
    assert model.model.memory is not None
    return [level for level in model.model.memory.levels if isinstance(level, Level)]


def owners(model: AnoSeg) -> set[int]:
    return {number for level in levels(model) for number in level.owner.tolist()}


def numbers(folder: Path) -> set[int]:
    return {number_of(str(path)) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with old and new good parts, and a model that remembers the old ones.

    Its networks are not trained: they see nothing, and the memory decides alone.
    """
    folder = tmp_path_factory.mktemp("adapt")
    old = parts(folder / "old", 10)
    parts(folder / "new", 10, LAMP, seed=3)
    model = remembering_model(seed=0)
    for _ in range(20):  # batch statistics that fit
        model.train().model(read_all(old))
    memory = model.eval().model.memory
    assert memory is not None
    model.remembered = {number_of(str(path)): str(path) for path in sorted(old.iterdir())[:8]}
    memory.fill([(read_all(old)[:8], torch.tensor([*model.remembered]))], 8)
    post_processor: Any = model.post_processor
    with torch.no_grad():
        post_processor.fit(model, [*read_all(old)[8:].split(1)])
    save(model, folder / "model.ckpt")
    adapt(folder / "model.ckpt", folder / "new", folder / "adapted.ckpt")
    return folder


@pytest.fixture(scope="module")
def before(workplace: Path) -> AnoSeg:
    return load(workplace / "model.ckpt")


@pytest.fixture(scope="module")
def after(workplace: Path) -> AnoSeg:
    return load(workplace / "adapted.ckpt")


def distances(model: AnoSeg, folder: Path) -> float:
    assert model.model.memory is not None
    return float(
        sum(d[:, -1].mean() for d in model.model.memory(read_all(folder)).differences.values())
    )


def alarms(model: AnoSeg, folder: Path) -> int:
    with torch.no_grad():
        return int(model(read_all(folder)).pred_label.sum())


def test_new_parts_are_good_and_the_old_ones_stay_so(
    workplace: Path, before: AnoSeg, after: AnoSeg
) -> None:
    assert alarms(before, workplace / "new") == 10
    assert alarms(after, workplace / "new") == 0
    assert alarms(before, workplace / "old") == alarms(after, workplace / "old") == 0


def test_both_are_remembered_within_the_bound(
    workplace: Path, before: AnoSeg, after: AnoSeg
) -> None:
    for level, old in zip(levels(after), levels(before), strict=True):
        assert len(level.rows) == len(old.rows) == 100
        new = torch.isin(level.owner, torch.tensor([*numbers(workplace / "new")]))
        assert 10 < new.sum() < 90
        kept = level.rows[~new]  # each is one of those before, and nothing was made up
        assert (kept[:, None] == old.rows).all(-1).any(1).all()


def test_distances_of_new_parts_fall_to_those_of_old_ones(
    workplace: Path, before: AnoSeg, after: AnoSeg
) -> None:
    new, old = workplace / "new", workplace / "old"
    assert distances(before, new) > 1.5 * distances(before, old)
    assert distances(after, new) < 1.2 * distances(after, old)
    assert distances(after, old) < 1.3 * distances(before, old)


def test_none_is_remembered_and_sets_thresholds(workplace: Path, after: AnoSeg) -> None:
    new = [number_of(str(path)) for path in sorted((workplace / "new").iterdir())]
    held_out = {new[2], new[7]}  # a fifth, evenly spread
    assert owners(after) & set(new) <= set(new) - held_out
    assert after.remembered.keys() & set(new) == set(new) - held_out
    assert after.remembered.keys() >= owners(after)


def test_a_division_by_hand(tmp_path: Path) -> None:
    paths = []
    for index in range(12):
        path = tmp_path / f"{index:02}"
        path.write_text(str(0 if index == 11 else index))  # the last is a copy of the first
        paths.append(str(path))
    known = {number_of(paths[0])}
    assert divide(paths[:10], [], 0.2) == ([0, 1, 3, 4, 5, 6, 8, 9], [2, 7], 0)
    assert divide(paths[::-1][2:], [], 0.2) == ([9, 8, 6, 5, 4, 3, 1, 0], [7, 2], 0)
    assert divide(paths, known, 0.2) == ([1, 2, 4, 5, 6, 7, 9, 10], [3, 8], 2)
    assert divide(paths[:2], [], 0.2) == ([0], [1], 0)
    assert divide(paths[:2], [], 1) == ([], [0, 1], 0)


def test_the_page_finds_the_new_image(workplace: Path, after: AnoSeg) -> None:
    path = workplace / "new/00.png"
    anomaly_map = torch.zeros(1, SIDE, SIDE)
    anomaly_map[:, 20:25, 30:35] = 1
    (found,) = compare(after, read(path), anomaly_map, 0.5)
    assert (found.name.partition("/")[0], found.problem) == ("new", "")
    assert found.there.crop is not None


def test_all_else_in_the_checkpoint_stays(workplace: Path) -> None:
    """So that a run can be resumed from it."""
    old, new = (torch.load(workplace / f"{name}.ckpt") for name in ("model", "adapted"))
    assert old.keys() == new.keys()
    (kept,), (expected,) = new["optimizer_states"], old["optimizer_states"]
    assert torch.equal(kept["state"], expected["state"])
    for name in old.keys() - {"state_dict", "anoseg_remembered", "optimizer_states"}:
        assert new[name] == old[name], name
    assert old["state_dict"].keys() == new["state_dict"].keys()
    for name, value in old["state_dict"].items():
        if not name.startswith(CHANGED):
            assert torch.equal(new["state_dict"][name], value), name


def test_the_checkpoint_is_the_model_that_was_adapted(workplace: Path, after: AnoSeg) -> None:
    model = load(workplace / "model.ckpt")
    data = Folder("new", workplace / "new", test_split_mode="none", val_split_mode="none")
    data.setup("fit")
    adaptation.adapt(model, data.train_data)
    with torch.no_grad():
        expected, got = (m(read_all(workplace / "new")) for m in (model, after))
    for name in ("pred_score", "anomaly_map", "pred_mask"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name


def test_a_second_time_nothing_is_left_to_adapt_to(workplace: Path, tmp_path: Path) -> None:
    """The two images that set thresholds are new to it; then one is remembered, and the other
    alone is too few.
    """
    twice = tmp_path / "twice.ckpt"
    assert adapt(workplace / "adapted.ckpt", workplace / "new", twice) == 0
    with pytest.raises(ValueError, match="of these 10 the model does not know 1, copies apart"):
        adapt(twice, workplace / "new", twice)


def test_what_is_printed_and_written(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One image is of another size, and is resized."""
    new = parts(tmp_path / "new", 4, LAMP, seed=4)
    save_image(torch.nn.functional.interpolate(read(new / "00.png"), (90, 130)), new / "00.png")
    checkpoint = tmp_path / "model.ckpt"
    content = (workplace / "model.ckpt").read_bytes()
    checkpoint.write_bytes(content)
    assert adapt(checkpoint, new) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "new good images   3 remembered, 1 sets thresholds"
    assert lines[1].startswith("memory            300 rows, now 300, of which ")
    assert "1, now 0, of the 1 good images that set thresholds" in lines[4]
    assert lines[-1].startswith(str(tmp_path / "model-adapted.ckpt"))
    assert checkpoint.read_bytes() == content


def test_the_old_checkpoint_is_replaced_only_by_name(workplace: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes((workplace / "model.ckpt").read_bytes())
    described = tmp_path / "data.yaml"
    described.write_text(
        "class_path: anomalib.data.Folder\n"
        f"init_args:\n  name: own\n  normal_dir: {workplace}/new\n  test_split_mode: none\n"
        "  val_split_mode: none\n"
    )
    assert adapt(checkpoint, described, checkpoint) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"data.yaml", "model.ckpt"}
    expected = torch.load(workplace / "adapted.ckpt")["state_dict"]  # of a folder, a run before
    torch.testing.assert_close(torch.load(checkpoint)["state_dict"], expected, rtol=0, atol=0)


def test_pictures_of_an_earlier_infer_are_no_parts(workplace: Path, tmp_path: Path) -> None:
    """They lie where infer was told to write, below the images."""
    from anomalib_anoseg.inference.journal import JOURNAL

    new = parts(tmp_path / "new", 10, LAMP, seed=3)
    parts(new / "results/masks", 3, seed=5)
    (new / "results" / JOURNAL).touch()
    output = tmp_path / "adapted.ckpt"
    assert adapt(workplace / "model.ckpt", new, output) == 0
    assert not owners(load(output)) & numbers(new / "results/masks")


def test_a_model_without_a_memory_gets_thresholds(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save(segmenter(seed=0), tmp_path / "model.ckpt")
    assert adapt(checkpoint, workplace / "new") == 0
    output = capsys.readouterr().out
    assert "0 remembered, 10 set thresholds" in output
    assert "none: only thresholds are set again" in output
    old, new = load(checkpoint), load(tmp_path / "model-adapted.ckpt")
    torch.testing.assert_close(new.model.state_dict(), old.model.state_dict(), rtol=0, atol=0)
    assert any(
        float(getattr(new.post_processor, name)) != 0.5
        for name in ("image_threshold", "pixel_threshold")
    )


def broken(folder: Path) -> Path:
    (parts(folder, 3, seed=5) / "01.png").write_bytes(b"\x89PNG\r\n")
    return folder


def cut(folder: Path) -> Path:
    """Return a folder with an image whose header is whole."""
    path = parts(folder, 3, seed=5) / "01.png"
    path.write_bytes(path.read_bytes()[:-500])
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    (folder / "notes.txt").touch()
    return folder


def alike(folder: Path) -> Path:
    parts(folder, 2, seed=5)
    (folder / "01.png").write_bytes((folder / "00.png").read_bytes())
    return folder


def of(content: str, folder: Path) -> Path:
    path = folder.with_suffix(".yaml")
    path.write_text(content)
    return path


WRONG_DATA = {
    "nothing": (lambda folder: folder, "no such folder"),
    "empty": (empty, "no images"),
    "broken": (broken, "01.png"),
    "cut": (cut, "01.png"),
    "one": (lambda folder: parts(folder, 1, seed=5), "does not know 1, copies apart"),
    "alike": (alike, "does not know 1, copies apart"),
    "no file": (lambda folder: folder.with_suffix(".yaml"), "data.yaml"),
    "no class": (lambda folder: of("class_path: anomalib.data.Nothing", folder), "data.yaml"),
    "no mapping": (lambda folder: of("nothing", folder), "data.yaml"),
    "no images": (
        lambda folder: of(
            "class_path: Folder\ninit_args: {name: own, normal_dir: /nowhere}", folder
        ),
        "nowhere",
    ),
}


def ends(monkeypatch: pytest.MonkeyPatch, *arguments: Path | str) -> int:
    monkeypatch.setattr(sys, "argv", ["anomalib-anoseg", "adapt", *map(str, arguments)])
    return main()


@pytest.mark.parametrize("kind", WRONG_DATA)
def test_wrong_data_end_it_and_nothing_is_written(
    kind: str, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make, words = WRONG_DATA[kind]
    output = tmp_path / "adapted.ckpt"
    data = tmp_path / kind.replace(" ", "_") / "data"  # the number of a file is kept by its name
    data.parent.mkdir()
    arguments = (
        "--ckpt_path", workplace / "model.ckpt", "--data", make(data),
        "--output", output, "--export", tmp_path / "export",
    )  # fmt: skip
    assert ends(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ")
    assert words in line
    assert not output.exists()
    assert not (tmp_path / "export").exists()


def test_other_wrong_arguments(workplace: Path, tmp_path: Path) -> None:
    new, checkpoint = workplace / "new", workplace / "model.ckpt"
    file = tmp_path / "file.ckpt"
    with pytest.raises(FileNotFoundError, match=r"file.ckpt: no such file"):
        adapt(file, new)
    file.write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"file.ckpt: not a checkpoint of AnoSeg"):
        adapt(file, new)
    with pytest.raises(ValueError, match=r"output must be a file.*got the folder"):
        adapt(checkpoint, new, tmp_path)
    with pytest.raises(ValueError, match="export must be a folder, got the file"):
        adapt(checkpoint, new, tmp_path / "adapted.ckpt", file)
    bare = save(segmenter(post_processor=False), tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match=r"sets thresholds by good images.*NoneType"):
        adapt(bare, new)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.ckpt", "file.ckpt"]


@pytest.mark.slow
def test_the_export_answers_as_the_checkpoint(workplace: Path, tmp_path: Path) -> None:
    output = tmp_path / "adapted.ckpt"
    adapt(workplace / "model.ckpt", workplace / "new", output, tmp_path / "export")
    path = tmp_path / "export/weights/openvino/model.xml"
    graph = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = torch.cat([read_all(workplace / name)[:2] for name in ("old", "new")])
    with torch.no_grad():
        expected = load(output)(images)
    got = graph(images.numpy())
    np.testing.assert_allclose(got["pred_score"], expected.pred_score, atol=1e-4)
    np.testing.assert_allclose(got["anomaly_map"], expected.anomaly_map, atol=1e-4)


@pytest.mark.slow
def test_a_run_is_resumed_and_tested_from_it(tmp_path: Path) -> None:
    """Oracle: Lightning takes it as it takes its own, and the memory stays as it was adapted."""
    old, new = parts(tmp_path / "old", 6), parts(tmp_path / "new", 5, LAMP)
    data = Folder("own", old, test_split_mode="none", val_split_mode="none", num_workers=0)
    engine = quiet_engine(tmp_path / "run")
    engine.fit(remembering_model(seed=0), datamodule=data)
    adapted = tmp_path / "adapted.ckpt"
    adapt(Path(engine.best_model_path), new, adapted)
    rows = levels(load(adapted))[0].rows
    resumed = remembering_model(seed=0)
    again = quiet_engine(tmp_path / "again", max_epochs=2)
    again.fit(resumed, datamodule=data, ckpt_path=adapted)
    assert torch.equal(levels(resumed)[0].rows, rows)
    assert again.trainer.current_epoch == 2
    seen = quiet_engine(tmp_path / "p").predict(
        remembering_model(), dataset=None, data_path=new, ckpt_path=adapted
    )
    assert seen is not None
