"""OpenVINO's cores come and go, and the next signal is handled all the same."""

import subprocess
import sys
from pathlib import Path

import openvino as ov
import pytest
from openvino import opset13 as ops

from anomalib_anoseg.utils.signal_stack import current_stack, kept_signal_stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there OpenVINO sets a stack")


def identity() -> ov.Model:
    image = ops.parameter([1, 3, -1, -1], name="input")
    return ov.Model([ops.result(image)], [image], "identity")


def test_cores_that_end_in_their_order_leave_the_stack_alone() -> None:
    """Oracle: identity. Without the guard the first one's stack is back, unmapped."""
    before = current_stack()
    with kept_signal_stack():
        first, second = (ov.Core().compile_model(identity(), "CPU") for _ in range(2))
        assert current_stack().pointer not in {None, before.pointer}  # or the guard can go
    del first
    del second
    after = current_stack()
    assert (after.pointer, after.flags, after.size) == (before.pointer, before.flags, before.size)


@pytest.mark.slow
def test_a_signal_after_the_second_segmenter(tmp_path: Path) -> None:
    code = f"""
import signal
from pathlib import Path
from test_inference import write_bright_spots
from anomalib_anoseg.inference.segmenter import Segmenter
path = write_bright_spots(Path({str(tmp_path / "model.xml")!r}))
for _ in range(2):
    segmenter = Segmenter(path)
del segmenter
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, [b"handled"]), done.stderr
