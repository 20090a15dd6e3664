"""What the plugin costs where it is not used: every Python process, and anomalib's own start.

Usage: python benchmarks/startup.py
Prints medians over runs that alternate between the two sides, then what building AnoSeg takes.
"""

import os
import statistics
import subprocess
import sys
import time

RUNS = 41
# -S reads no .pth file. Both sides load os and add the folder, as site would; they differ only in
# the line of anomalib_anoseg.pth.
HOOK = "import os, sys; sys.path.insert(0, {!r}); {}"
INSTALL = "import anomalib_anoseg.startup; anomalib_anoseg.startup.install()"

HELP = "from anomalib.cli.cli import main; main()"
BUILD = """
import time
from anomalib.models import AnoSeg
times = []
for _ in range(8):
    start = time.perf_counter()
    AnoSeg()
    times.append(time.perf_counter() - start)
print(f"{sorted(times[1:])[3]:.2f} s, median of 7")
"""


def seconds(*command: str, disabled: bool = False) -> float:
    """Time one process."""
    environment = {**os.environ, "ANOMALIB_ANOSEG_DISABLE": "1" if disabled else "0"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


def compare(
    name: str, runs: int, with_hook: list[str], without: list[str], **disable: bool
) -> None:
    """Print the median difference of two commands that run in turn."""
    seconds(*with_hook), seconds(*without)  # warm the caches of the disk
    differences, base = [], []
    for _ in range(runs):
        base.append(seconds(*without, **disable))
        differences.append(seconds(*with_hook) - base[-1])
    middle = statistics.median(differences) * 1e3
    share = 100 * middle / (statistics.median(base) * 1e3)
    print(f"{name}: {middle:+.2f} ms ({share:+.1f} %), median of {runs} pairs")


if __name__ == "__main__":
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    compare(
        "interpreter start",
        RUNS,
        ["-S", "-c", HOOK.format(root, INSTALL)],
        ["-S", "-c", HOOK.format(root, "pass")],
    )
    package = "import anomalib_anoseg"
    compare(
        package,
        RUNS,
        ["-S", "-c", HOOK.format(root, package)],
        ["-S", "-c", HOOK.format(root, "pass")],
    )
    models = ["-W", "ignore", "-c", "import anomalib.models"]
    compare("import anomalib.models", 7, models, models, disabled=True)
    command = ["-W", "ignore", "-c", "import sys; sys.argv[1:] = ['--help']; " + HELP]
    compare("anomalib --help", 7, command, command, disabled=True)
    print(
        "AnoSeg():",
        subprocess.check_output([sys.executable, "-W", "ignore", "-c", BUILD], text=True),
    )
