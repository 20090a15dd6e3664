"""The oldest and the newest versions that are supported: ``nox``, with nox and uv installed."""

import nox

nox.options.default_venv_backend = "uv"
THREADS = {"OMP_NUM_THREADS": "1"}  # as in the Makefile: two processes, a core each
TESTS = ("python", "-m", "pytest", "--numprocesses", "2", "--dist", "loadgroup")
TESTS += ("--max-worker-restart", "0")  # one that crashes ends the run


def run_tests(session: nox.Session) -> None:
    """Run all of tests/, which is more than ``make test``, and no notebooks."""
    session.run(*TESTS, *session.posargs, env=THREADS)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Test with the oldest release of everything that pyproject.toml names."""
    session.install("pip")  # which the tests call; in the next line it would be that of 2008
    session.install("--resolution", "lowest-direct", "--editable", ".[dev]")
    run_tests(session)


@nox.session(python="3.12")
def newest(session: nox.Session) -> None:
    """Test with whatever is newest today."""
    session.install("pip", "--upgrade", "--editable", ".[dev]")
    run_tests(session)
