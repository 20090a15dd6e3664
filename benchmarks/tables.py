"""Write the tables of README and docs/results.md from the files in benchmarks/results.

Usage: python benchmarks/tables.py [--write]
A table stands between ``<!-- results: NAME -->`` and ``<!-- end of results -->``, NAME being one of
rows.py. It has the lines that were run, and says which rows and seeds were not. A mean of
several rows and a line of README name no seeds, so they need every one. Without --write the
documents are only compared: exit status 1 if one differs.
"""

import argparse
import json
import re
import sys
import textwrap
from pathlib import Path
from statistics import mean
from string import ascii_lowercase
from typing import Any

from record import PROJECT, cell
from rows import TABLES, Line, Row, Table

RESULTS = PROJECT / "benchmarks/results"
DOCUMENTS = [PROJECT / "README.md", PROJECT / "docs/results.md"]
MARKED = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
DIGITS = {"threshold_gap": 2, "minutes": 2}  # 3 for all others

Runs = list[dict[str, Any]]


def rendered(document: str, results: Path = RESULTS) -> str:
    """Return a document with its tables as the results are."""
    return MARKED.sub(lambda m: m[1] + markdown(TABLES[m[2]], results) + m[3], document)


def markdown(table: Table, results: Path) -> str:
    """Return a table, where its figures come from, and what was not run."""
    runs = [(line, [read(row, results) for row in line.rows]) for line in table.lines]
    done = [(line, found) for line, found in runs if _enough(line, found, table)]
    if not done:
        return "" if table.readme else "Not run by `make results` yet.\n"
    head = [*table.heads, *table.columns.values()]
    body = [_cells(line, found, table) for line, found in done]
    if table.readme:
        return drawn([head, *body]) + "\n"
    origins = [_origin(*found) if len(found) == 1 else "" for _, found in done]
    letters = dict(zip(filter(None, dict.fromkeys(origins)), ascii_lowercase, strict=False))
    notes = [f"Run {letter}: {origin}." for origin, letter in letters.items()]
    if len(letters) == 1:
        notes = [f"All: {origin}." for origin in letters]
    else:
        head.append("run")
        body = [[*cells, letters.get(o, "")] for cells, o in zip(body, origins, strict=True)]
    missing = [_missing(row, results) for line in table.lines for row in line.rows]
    not_run = ", ".join(dict.fromkeys(filter(None, missing)))
    notes += [f"Not run: {not_run}."] if not_run else []
    wrapped = (textwrap.fill(n, 120, break_on_hyphens=False, break_long_words=False) for n in notes)
    return "\n\n".join([drawn([head, *body]), *wrapped]) + "\n"


def read(row: Row, results: Path) -> Runs:
    """Return the results of a row that are there, by seed."""
    files = [results / row.file(seed) for seed in row.seeds]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def _enough(line: Line, found: list[Runs], table: Table) -> bool:
    """Return whether a line may be shown: only one of a single row says which seeds it has."""
    if table.readme or len(found) > 1:
        return all(len(runs) == len(row.seeds) for row, runs in zip(line.rows, found, strict=True))
    return all(found)


def _missing(row: Row, results: Path) -> str:
    """Return a row's key with the seeds that were not run, if others were; nothing if all were."""
    seeds = [seed for seed in row.seeds if not (results / row.file(seed)).exists()]
    if not seeds:
        return ""
    return f"`{row.key}`" + (f" with {_seeds(seeds)}" if len(seeds) < len(row.seeds) else "")


def drawn(lines: list[list[str]]) -> str:
    """Return a Markdown table, the first line being its head."""
    head, *body = lines
    rule = "|" + "---|" * len(head)
    first, *others = ("| " + " | ".join(line) + " |" for line in (head, *body))
    return "\n".join([first, rule, *others])


def _cells(line: Line, found: list[Runs], table: Table) -> list[str]:
    """Return a line's cells: mean and deviation over seeds, or the mean of several rows' means."""
    cells = [*line.cells]
    for key in table.columns:
        digits = DIGITS.get(key, 3)
        values = [[run["metrics"][key] for run in runs if key in run["metrics"]] for runs in found]
        if len(values) > 1 or table.readme:
            values = [[mean(map(mean, values))] if all(values) else []]
        cells.append(cell(values[0], digits))
    return cells


def _origin(runs: Runs) -> str:
    """Return seeds, precision, device and commit of a line."""
    parts = [_seeds([run["seed"] for run in runs])]
    for key, before in (("precision", ""), ("device", ""), ("commit", "commit ")):
        said = sorted({run[key].replace(", 1 threads", ", 1 thread") for run in runs})
        parts.append(("commits " if before and len(said) > 1 else before) + " and ".join(said))
    at_once = max(run["at_once"] for run in runs)
    if at_once > 1:  # a bound for the minutes
        parts.append(f"{at_once} runs at once")
    return "; ".join(parts)


def _seeds(seeds: list[int]) -> str:
    listed = " and ".join(", ".join(map(str, seeds)).rsplit(", ", 1))
    return f"seed{'s' * (len(seeds) > 1)} {listed}"


def main() -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    stale = False
    for document in DOCUMENTS:
        text = document.read_text()
        new = rendered(text)
        if arguments.write:
            document.write_text(new)
        elif new != text:
            print(f"{document}: not as benchmarks/results, run benchmarks/tables.py --write")
            stale = True
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
