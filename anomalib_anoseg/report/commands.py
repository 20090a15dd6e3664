"""The commands that write pages."""

from pathlib import Path

from anomalib_anoseg.report.comparison import compare, markdown
from anomalib_anoseg.report.pages import comparison_page, write
from anomalib_anoseg.report.runs import read_results


def report(results: list[Path], output: Path = Path("results/report.html")) -> int:
    """Compare models: a page, and the same tables in Markdown beside it.

    Args:
        results: CSV files of ``anomalib benchmark``, JSON files of ``benchmarks/``, or folders of
            them.
        output: The page to write.

    Returns:
        The exit status, 0.

    Raises:
        OSError: If there is no such file or folder.
        ValueError: If there are no results, or the page would be written over its own tables.
    """
    if output.suffix.lower() == ".md":
        msg = f"output is the page, and Markdown is written beside it: {output} is taken"
        raise ValueError(msg)
    found = read_results(results)
    tables = compare(found.runs)
    table = output.with_suffix(".md")
    write(table, markdown(tables, found.runs))
    write(output, comparison_page(found, tables))
    print(f"{output}\n{table}")  # noqa: T201
    return 0
