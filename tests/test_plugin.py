"""The plugin as users meet it: anomalib's own script in an environment with our wheel installed.

Each environment is a new venv that sees the libraries of this one, but whose anomalib-anoseg was
installed into it by pip, from a wheel or as an editable install.
"""

import csv
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).parents[1]
LIBRARIES = sysconfig.get_path("purelib")
SCRIPT = Path(sysconfig.get_path("scripts")) / "anomalib"
SMALL = [
    "--model.backbone=mobilenetv3_small_050",
    "--model.pre_processor=anomalib_anoseg.PreProcessor",
    "--model.pre_processor.image_size=[64,64]",
]
# One worker of pytest-xdist builds the environments and uses them.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("plugin")]


class Environment:
    """A venv with the plugin, and a folder to work in."""

    def __init__(self, folder: Path, target: Path | str, *options: str) -> None:
        venv.create(folder / "venv", with_pip=False)
        self.folder = folder
        self.python = folder / "venv/bin/python"
        self.site = next((folder / "venv/lib").glob("python*/site-packages"))
        # A path only: the start-up files of the libraries' own environment are not run.
        (self.site / "libraries.pth").write_text(LIBRARIES + "\n")
        self.pip(
            "install", "--no-deps", "--no-index", "--no-build-isolation", *options, str(target)
        )

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= {"COLUMNS": "200", "OMP_NUM_THREADS": "1"} | variables
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def anomalib(self, *arguments: str) -> str:
        done = self.run(str(SCRIPT), *arguments)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def script(self, code: str) -> str:
        done = self.run("-W", "error:anomalib-anoseg", "-c", code)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


def copy_source(folder: Path) -> Path:
    ignore = shutil.ignore_patterns(".*", "tests", "datasets", "results")
    return shutil.copytree(PROJECT, folder / "source", ignore=ignore)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = copy_source(tmp_path_factory.mktemp("build"))
    # The wheel is built from the sdist, as an index's users may have to.
    command = [sys.executable, "-m", "build", "--no-isolation", str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("wheel"), wheel)


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("editable")
    return Environment(folder, copy_source(folder), "--editable")


@pytest.fixture(scope="module")
def trained(installed: Environment, demo_root: Path) -> list[str]:
    """Train once with the bare name; return the arguments that name the model and the data.

    Without a memory, which takes time in each process; a folder of good images is trained with one.
    """
    arguments = ["--model", "AnoSeg", *SMALL, "--model.pre_trained=false", "--model.seed=7"]
    arguments += ["--trainer.accelerator=cpu"]
    data = ["--data=SurfaceDemo", f"--data.root={demo_root}", "--data.category=part"]
    installed.anomalib(
        "train", *arguments, *data, "--trainer.max_epochs=1", "--default_root_dir=results"
    )
    return [*arguments, *data]


def checkpoint(installed: Environment) -> str:
    root = "results/AnoSeg/SurfaceDemo/part/latest/weights/lightning/model.ckpt"
    return f"--ckpt_path={installed.folder / root}"


def test_train_writes_checkpoint_and_pictures(installed: Environment, trained: list[str]) -> None:
    del trained
    run = installed.folder / "results/AnoSeg/SurfaceDemo/part/latest"
    assert (run / "weights/lightning/model.ckpt").is_file()
    assert len(list(run.glob("images/*/*.png"))) == 4 + 2 * 6  # good, and two of six kinds


def test_configurations_travel_in_the_wheel(installed: Environment) -> None:
    shipped = installed.site / "anomalib_anoseg/configs"
    configs = {path.relative_to(PROJECT / "configs") for path in (PROJECT / "configs").rglob("*.*")}
    assert {path.relative_to(shipped) for path in shipped.rglob("*.*")} == configs
    for path in configs:
        assert (shipped / path).read_bytes() == (PROJECT / "configs" / path).read_bytes()
    # Also those that name other files.
    installed.script(f"""
from pathlib import Path
from anomalib.models import AnoSeg
for path in sorted(Path({str(shipped)!r}).glob("*.yaml")):
    AnoSeg.from_config(path)
""")


def test_fit_by_the_dotted_name_writes_the_same_weights(
    installed: Environment, trained: list[str]
) -> None:
    """Oracle: the run of the fixture, with the same seed and the bare name, bit for bit."""
    arguments = ["--model", "anomalib_anoseg.AnoSeg", *trained[2:]]
    root = installed.folder / "dotted"
    # anomalib parses this seed and does not use it.
    options = ["--seed_everything=5", "--trainer.max_epochs=1", f"--default_root_dir={root}"]
    installed.anomalib("fit", *arguments, *options)
    first, second = (
        torch.load(next(folder.rglob("model.ckpt")), weights_only=True)["state_dict"]
        for folder in (installed.folder / "results", root)
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_validate_and_test(installed: Environment, trained: list[str], command: str) -> None:
    output = installed.anomalib(command, *trained, checkpoint(installed))
    if command == "test":
        assert all(name in output for name in ("image_AUROC", "pixel_AUROC", "pixel_IoU"))


def test_predict(installed: Environment, trained: list[str], demo_root: Path) -> None:
    folder = demo_root / "part/test/hole"
    arguments = [a for a in trained if not a.startswith("--data")]
    installed.anomalib(
        "predict", *arguments, f"--data={folder}", checkpoint(installed), "--default_root_dir=seen"
    )
    assert len(list((installed.folder / "seen").rglob("*.png"))) == 2


@pytest.mark.parametrize(("kind", "file"), [("onnx", "model.onnx"), ("torch", "model.pt")])
def test_export(installed: Environment, trained: list[str], kind: str, file: str) -> None:
    """OpenVINO is exported and run in the next test."""
    arguments = [a for a in trained if not a.startswith("--data")]
    folder = installed.folder / kind
    installed.anomalib(
        "export", *arguments, checkpoint(installed), f"--export_type={kind}",
        f"--export_root={folder}",
    )  # fmt: skip
    assert list(folder.rglob(file))


def test_a_folder_of_good_images_is_enough(installed: Environment, demo_root: Path) -> None:
    """The second example of the README: nothing but good images, from training to OpenVINO."""
    good = demo_root / "part/train/good"
    data = ["--data=Folder", "--data.name=mine", f"--data.root={good.parent}"]
    data += ["--data.normal_dir=good", "--data.train_batch_size=4", "--data.num_workers=0"]
    model = ["--model=AnoSeg", *SMALL, "--model.seed=7", "--trainer.accelerator=cpu"]
    root = "--default_root_dir=only_good"
    output = installed.anomalib("train", *model, *data, "--trainer.max_epochs=2", root)
    assert output.count("left out") == 1
    run = installed.folder / "only_good/AnoSeg/mine/latest"
    trained = f"--ckpt_path={run / 'weights/lightning/model.ckpt'}"
    installed.anomalib("export", *model, trained, "--export_type=openvino", root)
    (exported,) = (installed.folder / "only_good").rglob("model.xml")
    installed.script(f"""
import numpy as np, torch
from anomalib.deploy import OpenVINOInferencer
from PIL import Image
from anomalib_anoseg import AnoSeg
path = {str(next((demo_root / "part/test/hole").glob("*.png")))!r}
image = np.asarray(Image.open(path).convert("RGB")).astype(np.float32) / 255
f32 = {{"INFERENCE_PRECISION_HINT": "f32"}}
seen = OpenVINOInferencer({str(exported)!r}, config=f32).predict(image)
model = AnoSeg.load_from_checkpoint({trained.partition("=")[2]!r}).eval()
assert 0 < model.post_processor._pixel_threshold < 1
assert model.post_processor._image_threshold != 0.5
expected = model(torch.from_numpy(image).movedim(-1, 0)[None])
np.testing.assert_allclose(np.squeeze(seen.anomaly_map), expected.anomaly_map.squeeze(), atol=1e-4)
assert (np.squeeze(seen.pred_mask) == (np.squeeze(seen.anomaly_map) > 0.5)).all()
assert bool(np.squeeze(seen.pred_label)) == bool(expected.pred_label)
""")


def test_metrics_and_anomalibs_post_processor_from_a_config(
    installed: Environment, trained: list[str]
) -> None:
    config = installed.folder / "metrics.yaml"
    config.write_text("""
model:
  class_path: AnoSeg
  init_args:
    post_processor:
      class_path: anomalib.post_processing.PostProcessor
    evaluator:
      class_path: anomalib.metrics.Evaluator
      init_args:
        test_metrics:
          - class_path: anomalib_anoseg.IoU
            init_args: {fields: [pred_mask, gt_mask], prefix: pixel_}
          - class_path: anomalib_anoseg.IoUMax
            init_args: {fields: [anomaly_map, gt_mask], prefix: pixel_}
          - class_path: anomalib_anoseg.IoUPerImage
            init_args: {fields: [pred_mask, gt_mask], prefix: pixel_}
""")
    output = installed.anomalib("test", "--config", str(config), *trained)
    for name in ("pixel_IoU", "pixel_IoUMax", "pixel_IoUPerImage"):
        assert name in output
    assert "image_AUROC" not in output  # not the default evaluator


def test_benchmark_takes_both_names(installed: Environment, demo_root: Path) -> None:
    config = installed.folder / "benchmark.yaml"
    config.write_text(f"""
accelerator: cpu
benchmark:
  seed: 7
  model:
    class_path:
      grid: [AnoSeg, anomalib_anoseg.AnoSeg]
    init_args:
      backbone: mobilenetv3_small_050
      max_epochs: 1
      pre_trained: false
      anomalies: {{patch_area: [0.02, 0.15]}}
  data:
    class_path: SurfaceDemo
    init_args:
      root: {demo_root}
      category: part
""")
    installed.anomalib("benchmark", "--config", str(config))
    # It exits with 0 even if every job failed: read what it wrote.
    (results,) = (installed.folder / "runs").rglob("*.csv")
    rows = list(csv.DictReader(results.open()))
    assert {row["model.class_path"] for row in rows} == {"AnoSeg", "anomalib_anoseg.AnoSeg"}
    assert all(float(row["pixel_AUROC"]) > 0 for row in rows)


def test_benchmark_in_a_spawned_worker(installed: Environment, demo_root: Path) -> None:
    """What anomalib does with several GPUs: jobs with their models are sent to new processes."""
    installed.script(f"""
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
init_args = {{"backbone": "mobilenetv3_small_050", "max_epochs": 1, "pre_trained": False}}
data = {{"root": {str(demo_root)!r}, "category": "part"}}
config = {{
    "seed": 7,
    "model": {{"class_path": "AnoSeg", "init_args": init_args}},
    "data": {{"class_path": "SurfaceDemo", "init_args": data}},
}}
(job,) = BenchmarkJobGenerator("cpu").generate_jobs(config, None)
with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
    named = "from anomalib.models import get_model; assert get_model('AnoSeg').name == 'AnoSeg'"
    pool.submit(exec, named).result()
    results = pool.submit(job.run).result()
assert results["pixel_AUROC"] > 0, results
""")


def test_help_lists_our_arguments(installed: Environment) -> None:
    output = installed.anomalib("train", "--model.help", "AnoSeg")
    for name in ("backbone", "decoder", "anomalies.patch_area", "adversarial_weight", "seed"):
        assert f"--model.init_args.{name}" in output or f"--model.{name}" in output
    assert "Encoder" in output or "encoder" in output
    assert "Makes a run repeatable" in output
    assert "Laws of the synthetic anomalies" in output  # a group of its own, with its own texts
    assert "Fewest and most patches" in output


def test_python_interface(installed: Environment, trained: list[str]) -> None:
    del trained
    config = installed.folder / "model.yaml"
    config.write_text("model:\n  class_path: AnoSeg\n  init_args:\n    decoder: paper\n")
    path = checkpoint(installed).partition("=")[2]
    installed.script(f"""
from anomalib.models import AnoSeg, get_model, list_models
assert "ano_seg" in list_models() and "AnoSeg" in list_models(case="pascal")
for name in ("AnoSeg", "ano_seg", {{"class_path": "AnoSeg"}},
             {{"class_path": "anomalib_anoseg.AnoSeg"}},
             {{"class_path": "anomalib_anoseg.lightning_model.AnoSeg"}}):
    assert type(get_model(name)) is AnoSeg, name
assert get_model("AnoSeg", decoder="paper").hparams.decoder == "paper"
assert AnoSeg.from_config({str(config)!r}).hparams.decoder == "paper"
loaded = AnoSeg.load_from_checkpoint({path!r}, weights_only=True)
assert loaded.hparams.seed == 7
assert list(loaded.pre_processor.transform.size) == [64, 64]
from anomalib.data import SurfaceDemo
import anomalib.models
assert "AnoSeg" in anomalib.models.__all__
try:
    anomalib.models.NoSuchModel
except AttributeError as error:
    assert "NoSuchModel" in str(error)
""")


def test_other_models_are_unaffected(installed: Environment) -> None:
    installed.script("""
from anomalib.models import Ganomaly, Padim, get_model, list_models
names = list_models()
assert {"padim", "patchcore", "draem", "ganomaly", "efficient_ad"} <= names and len(names) > 30
assert type(get_model("ganomaly")) is Ganomaly
assert type(get_model({"class_path": "Padim", "init_args": {"pre_trained": False}})) is Padim
""")


@pytest.mark.parametrize(
    "first",
    [
        "from anomalib_anoseg import AnoSeg",
        "from anomalib_anoseg.lightning_model import AnoSeg",
        "from anomalib_anoseg.data import SurfaceDemo",
        "from anomalib.engine import Engine",
    ],
)
def test_order_of_imports_does_not_matter(installed: Environment, first: str) -> None:
    installed.script(f"""
import warnings
warnings.filterwarnings("error", message="anomalib-anoseg")
{first}
from anomalib.models import AnoSeg, get_model
assert type(get_model("ano_seg")) is AnoSeg
""")


def test_an_import_that_was_interrupted_is_done_again(installed: Environment) -> None:
    """As in a notebook, by Ctrl-C in its seven seconds."""
    installed.script("""
import sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "anomalib.models.video":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
try:
    import anomalib.models
except KeyboardInterrupt:
    assert "anomalib.models" not in sys.modules
else:
    raise AssertionError
from anomalib.models import AnoSeg, get_model
assert type(get_model("ano_seg")) is AnoSeg
""")


LOADS_NOTHING = """
import sys
import anomalib_anoseg
heavy = {"typing", "torch", "anomalib", "numpy", "lightning", "importlib.metadata"}
assert not heavy & set(sys.modules)
"""


def test_importing_the_package_loads_nothing(installed: Environment) -> None:
    installed.script(LOADS_NOTHING)


def test_an_editable_install_differs_only_in_where_its_files_are(
    editable: Environment, demo_root: Path
) -> None:
    """So one run of the stock script stands for all that a wheel is tested for."""
    editable.script(LOADS_NOTHING)
    editable.anomalib(
        "train", "--model=AnoSeg", *SMALL, "--trainer.accelerator=cpu", "--data=SurfaceDemo",
        f"--data.root={demo_root}", "--data.category=part", "--trainer.max_epochs=1",
    )  # fmt: skip
    assert list(editable.folder.rglob("model.ckpt"))
    where = editable.script("import anomalib_anoseg; print(anomalib_anoseg.__file__)")
    assert Path(where.strip()).is_relative_to(editable.folder / "source")


LISTS = "from anomalib.models import list_models; assert ('ano_seg' in list_models()) is {}"


def test_environment_variable_turns_it_off(installed: Environment) -> None:
    done = installed.run("-c", LISTS.format(False), ANOMALIB_ANOSEG_DISABLE="1")
    assert done.returncode == 0, done.stderr
    assert "anoseg" not in done.stderr


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            """import importlib.metadata as m; real = m.version
m.version = lambda name: '2.6.1' if name == 'anomalib' else real(name)""",
            "found 2.6.1",
        ),
        ("import sys; sys.modules['anomalib_anoseg.torch_model'] = None", "torch_model"),
    ],
    ids=["older anomalib", "error in our code"],
)
def test_a_fault_of_ours_is_one_warning(installed: Environment, fault: str, says: str) -> None:
    done = installed.run("-c", f"{fault}\n{LISTS.format(False)}")
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "could not register AnoSeg" in line]
    assert len(warnings) == 1
    assert says in warnings[0]


def test_without_anomalib_nothing_happens(installed: Environment) -> None:
    code = "import sys; sys.path = [p for p in sys.path if p != {!r}]; import json"
    done = installed.run("-c", code.format(LIBRARIES))
    assert (done.returncode, done.stderr) == (0, "")
    # The hook is there and waits, yet the import fails as it would without us.
    done = installed.run("-c", code.format(LIBRARIES) + "; import anomalib.models")
    assert "ModuleNotFoundError: No module named 'anomalib'" in done.stderr
    assert "anoseg" not in done.stderr


def test_uninstalling_leaves_nothing_behind(wheel: Path, tmp_path: Path) -> None:
    installed = Environment(tmp_path, wheel)
    assert (installed.site / "anomalib_anoseg.pth").is_file()
    assert (installed.site / "anomalib_anoseg.start").is_file()
    installed.run("-c", "import anomalib_anoseg")
    installed.pip("uninstall", "--yes", "anomalib-anoseg")
    assert [path.name for path in installed.site.iterdir()] == ["libraries.pth"]
