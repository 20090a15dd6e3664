"""What the documents publish: which runs, and which tables are made of them."""

from itertools import product
from pathlib import Path
from typing import NamedTuple

from record import stem

SEEDS = (0, 1, 7)
STEPS = (50, 100, 200, 400)  # of trainings of their own: the learning rate ends with each
IMAGES = (5, 10, 20, 50, 200)
CURVES = ("bottle", "bdp01", "gla01")  # data that learning curves are drawn of
PAPERS = ("bdp01", "brg02", "flr01", "fvn02", "gla01")
MODELS = ("AnoSeg", "Padim", "Patchcore", "Stfpm", "Supersimplenet")
ANY, HALF = "trainer.accelerator=auto", "trainer.precision=bf16-mixed"


class Row(NamedTuple):
    """One model on one category, trained once per seed.

    Attributes:
        key: What ``make results ROWS=...`` calls it.
        folder: Where its files are, under benchmarks/results.
        category: Folder of the data.
        config: Name of the shipped configuration.
        seeds: Of its runs.
        changed: Settings that differ from the configuration.
        model: One of anomalib's, or ours.
        steps: In the name of the settings, if they are fewer than the configuration's.
        images: Good images to train on, all if None.
    """

    key: str
    folder: str
    category: str
    config: str
    seeds: tuple[int, ...]
    changed: tuple[str, ...]
    model: str = "AnoSeg"
    steps: int | None = None
    images: int | None = None

    @property
    def name(self) -> str:
        """Return what results call the settings."""
        return f"{self.model}, {self.steps} steps" if self.steps else self.model

    def arguments(self, seed: int, more: list[str]) -> list[str]:
        """Return those of accuracy.py, with more settings changed."""
        steps = [f"trainer.max_steps={self.steps}"] if self.steps else []
        return [
            "--model", self.model, "--name", self.name, "--categories", self.category,
            "--config", f"configs/{self.config}.yaml", "--seeds", str(seed),
            *(["--images", str(self.images)] if self.images else []),
            "--set", *self.changed, *steps, *more,
        ]  # fmt: skip

    def file(self, seed: int) -> Path:
        """Return where the result of a run is, under benchmarks/results."""
        return Path(self.folder, stem(self.name, self.category, self.images, seed) + ".json")


class Data(NamedTuple):
    """Label, folder, configuration, pixels of a side and number of good images."""

    label: str
    category: str
    config: str
    pixels: str
    good: int


DATA = {
    "demo": Data("SurfaceDemo, part", "part", "fast", "128", 100),
    "bottle": Data("MVTec AD, bottle", "bottle", "cpu", "256", 209),
    "tiles": Data("magnetic tiles", "magnetic_tile", "cpu", "256", 762),
    **{paper: Data(f"paper {paper}", paper, "fast", "128", 32) for paper in PAPERS},
}
DEFAULT = {
    key: Row(key, "default", data.category, data.config, SEEDS, (HALF, ANY))
    for key, data in DATA.items()
}
SIZE = "model.init_args.pre_processor.init_args.image_size"
CPU = {  # with minutes that a reader without a GPU can expect
    "demo": Row("cpu/demo", "cpu", "part", "cpu", (7,), (f"{SIZE}=[128,128]",)),  # make demo
    "bottle": Row("cpu/bottle", "cpu", "bottle", "cpu", (7,), (HALF,)),
}
# Models beside each other are trained on one machine, in float32.
BESIDE = {
    (key, model): Row(
        f"peers/{key}/{model}", "peers", data.category, data.config, (7,), (ANY,), model
    )
    for (key, data), model in product(DATA.items(), MODELS)
}
FEWER = {
    (key, model, count): Row(
        f"images/{key}/{model}/{count}", "images", DATA[key].category, DATA[key].config, SEEDS,
        (HALF, ANY) if model == "AnoSeg" else (ANY,), model, images=count,
    )
    for key, model, count in product(CURVES, ("AnoSeg", "Patchcore"), IMAGES)
    if count < DATA[key].good
}  # fmt: skip
SHORTER = {
    (key, steps): DEFAULT[key]._replace(key=f"steps/{key}/{steps}", folder="steps", steps=steps)
    for key, steps in product(CURVES, STEPS)
}
ROWS = [
    row
    for rows in (DEFAULT, CPU, BESIDE, FEWER, SHORTER)
    for row in rows.values()
]  # fmt: skip


class Line(NamedTuple):
    """First cells, and the row that the figures come from, or several for their mean."""

    cells: tuple[str, ...]
    rows: list[Row]


class Table(NamedTuple):
    """Heads of the first cells, metrics by name with their heads, and lines."""

    heads: tuple[str, ...]
    columns: dict[str, str]
    lines: list[Line]
    readme: bool = False  # means alone: spread, seeds, device and commit are in the other document


FIGURES = {
    "image_AUROC": "image AUROC", "image_F1Score": "image F1", "pixel_AUROC": "pixel AUROC",
    "pixel_AUPR": "AP", "pixel_AUPRO": "AUPRO", "pixel_IoU": "IoU", "pixel_IoUMax": "best IoU",
}  # fmt: skip
BEST = {key: FIGURES[key] for key in FIGURES if key not in {"image_F1Score", "pixel_IoU"}}
CURVE = {key: FIGURES[key] for key in ("pixel_AUPR", "pixel_IoUMax", "image_AUROC")}
MINUTES = {"minutes": "minutes"}


def _lines(rows: dict[str, Row]) -> list[Line]:
    return [Line((DATA[key].label, DATA[key].pixels), [row]) for key, row in rows.items()]


def _papers_by(model: str) -> list[Row]:
    return [BESIDE[paper, model] for paper in PAPERS]


_five = [DEFAULT[paper] for paper in PAPERS]
_in_short = {key: row for key, row in DEFAULT.items() if key not in PAPERS}
TABLES = {
    "readme": Table(
        ("data", "pixels"),
        {key: FIGURES[key] for key in FIGURES if key != "image_F1Score"},
        [
            *_lines(_in_short),
            Line(("PIPED, five kinds of paper", "128"), _five),
            *(
                Line((f"PIPED by {model}, same encoder", "128"), _papers_by(model))
                for model in MODELS[1:]
            ),
        ],
        readme=True,
    ),
    "default": Table(
        ("data", "pixels"),
        FIGURES | {"threshold_gap": "kept"},  # runs may share a machine: minutes are those of CPU
        [*_lines(DEFAULT), Line(("five papers, mean", "128"), _five)],
    ),
    "cpu": Table(("data", "pixels"), FIGURES | MINUTES, _lines(CPU)),
    "peers": Table(
        ("data", "pixels", "model"),
        BEST,  # as of the default
        [
            *(
                Line((DATA[key].label, DATA[key].pixels, model), [row])
                for (key, model), row in BESIDE.items()
            ),
            *(Line(("five papers, mean", "128", model), _papers_by(model)) for model in MODELS),
        ],
    ),
    "images": Table(
        ("data", "model", "good images"),
        CURVE | MINUTES,
        [
            Line((DATA[key].label, model, str(count or DATA[key].good)), [row])
            for key, model in product(CURVES, ("AnoSeg", "Patchcore"))
            for count, row in [
                *((count, row) for (*of, count), row in FEWER.items() if of == [key, model]),
                (None, DEFAULT[key] if model == "AnoSeg" else BESIDE[key, model]),
            ]
        ],
    ),
    "steps": Table(
        ("data", "model", "steps"),
        CURVE | MINUTES,
        [
            Line((DATA[key].label, row.model, steps), [row])
            for key in CURVES
            for steps, row in [
                *((str(steps), SHORTER[key, steps]) for steps in STEPS),
                ("800", DEFAULT[key]),
                ("-", BESIDE[key, "Padim"]),
                ("-", BESIDE[key, "Patchcore"]),
            ]
        ],
    ),
}
