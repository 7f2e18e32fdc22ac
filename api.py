"""The suite from Python: the same case, run folder and solution as the command gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Case, load_case, make_case
from .problems import registry
from .problems.problem import Problem
from .progress import reporter_for

if TYPE_CHECKING:
    from .solvers.solution import Solution

__all__ = ["load", "problem", "solve"]


def problem(name: str, **parameters: float) -> Problem:
    """A problem of the library, with some of its parameters changed.

    Raises:
        ConfigurationError: no such problem or parameter, or a value outside its range.
    """
    return registry.get(name, **parameters)


def solve(
    case: Case | Problem | Mapping[str, Any] | str | Path,
    *,
    solver: Mapping[str, Any] | str | None = None,
    run: Mapping[str, Any] | None = None,
    set: Sequence[str] = (),  # noqa: A002 - the name of the option of the command
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Solution:
    """Solve a case and return its solution, exactly as `residua solve` does.

    Args:
        case: a case file, the name of a library problem, a `Problem`, the mapping that would stand
            under `problem` in a
            file, or a ready `Case`.
        solver: what would stand under `solver`; for a problem, not for a case file.
        run: what would stand under `run`; for a problem, not for a case file.
        set: texts such as "solver.windows=4", for a case file or a name.
        out: run folder; runs/<name>-<hash> by default.
        resume: continue from the last checkpoint in the run folder.
        quiet: print nothing.

    Raises:
        ConfigurationError: something in the case is wrong.
        ResiduaError: the run could not be finished.
    """
    from .solvers.run import solve_case

    outcome = solve_case(
        _as_case(case, solver, run, set),
        out=None if out is None else Path(out),
        resume=resume,
        reporter=reporter_for(quiet=quiet),
    )
    return load(outcome.folder)


def _as_case(case: Any, solver: Any, run: Any, changes: Sequence[str]) -> Case:
    if isinstance(case, Case):
        return case
    if isinstance(case, Problem | Mapping):
        return make_case(case, solver, run)
    if solver is None and run is None:
        return load_case(case, changes)
    return make_case(str(case), solver, run)


def load(folder: str | Path) -> Solution:
    """The solution kept in a run folder.

    Raises:
        DataError: there is none, or it is damaged.
    """
    from .solvers.solution import load as read

    return read(folder)
