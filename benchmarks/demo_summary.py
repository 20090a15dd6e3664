"""Print what the demo has reached and where its pictures are.

Usage: python benchmarks/demo_summary.py RUN LOGS
"""

import csv
import sys
from pathlib import Path

from anomalib_anoseg.report.runs import METRICS

if __name__ == "__main__":
    run, logs = (Path(argument).resolve() for argument in sys.argv[1:])
    # Lightning's CSV logger writes one row per moment, and leaves empty what was not logged in it.
    metrics = max(logs.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    rows = list(csv.DictReader(metrics.open()))
    (tested,) = (row for row in rows if row.get("image_AUROC"))
    print(f"\nPictures (image | ground truth | anomaly map | mask): {run / 'images'}")
    print(f"All metrics: {metrics}\n")
    for key, name in METRICS.items():
        print(f"{name:>25} {float(tested[key]):.3f}")
