"""`residua bench operators`: data made, operators trained and measured, each by its own command.

A ladder is a YAML file::

    data:                 # by name: what `residua data generate` is asked for
      darcy_64: {family: darcy, resolution: 64, samples: 1300, splits: {train: [0, 1000], ...}}
    cases:
      - name: darcy_mgno
        data: darcy_64    # one of the names above; network, training, run as in a case file
        network: {name: mgno}
        must: 1e-2        # mean relative L2 error on the test, median of the seeds
    contests:             # two cases: error over error, parameters over parameters
      - {name: darcy, ours: darcy_mgno, rival: darcy_fno, must: 1.0, aim: 0.5, parameters: 0.34}
    transfers:            # error on another grid over that on the trained one
      - {name: finer, case: darcy_mgno, grid: double, must: 1.5, aim: 1.1}
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import yaml_source
from ..errors import ConfigurationError
from ..execution.options import NAME
from ..operators.case import make_case
from ..operators.datasets import Request
from ..overrides import merged
from ..typed import build, nearest, option, plain
from .machine import commit, machine

__all__ = ["LADDER", "Ladder", "line", "load", "run_ladder", "verdicts"]

LADDER = Path(__file__).parent / "operators.yaml"
SAYS = "write a plain name of up to 100 letters"


@dataclass(frozen=True)
class Data:
    """A request for a file."""

    family: str = option("", "name of a generator")
    resolution: int = option(64, "nodes per coordinate", low=5)
    samples: int = option(1200, "how many", low=1)
    seed: int = option(0, "of everything random", low=0)
    settings: Mapping[str, float] = option(dict, "of the generator")
    splits: Mapping[str, tuple[int, ...]] = option(dict, "first sample and end by name", low=0)


@dataclass(frozen=True)
class Goal:
    """A case and what is asked of it."""

    name: str = option("", "of the row", pattern=NAME, pattern_says=SAYS)
    data: str = option("", "name of the data")
    map: Literal["auto", "pairs", "steps"] = option("auto", "as in a case file")
    coarse: int | None = option(None, "as in a case file", low=3)
    must: float | None = option(None, "error that has to be reached", above=0.0)
    aim: float | None = option(None, "error that should be reached", above=0.0)


@dataclass(frozen=True)
class Contest:
    """Two cases at the same budget."""

    name: str = option("", "of the contest", pattern=NAME, pattern_says=SAYS)
    ours: str = option("", "name of a case")
    rival: str = option("", "name of a case")
    must: float = option(1.0, "error over error that has to be reached", above=0.0)
    aim: float = option(1.0, "error over error that should be reached", above=0.0)
    parameters: float = option(1.0, "parameters over parameters, at most", above=0.0)


@dataclass(frozen=True)
class Transfer:
    """A case on another grid."""

    name: str = option("", "of the transfer", pattern=NAME, pattern_says=SAYS)
    case: str = option("", "name of a case")
    grid: Literal["half", "double", "odd"] = option("double", "where it is tested")
    must: float = option(1.0, "error over error that has to be reached", above=0.0)
    aim: float = option(1.0, "error over error that should be reached", above=0.0)


@dataclass(frozen=True)
class Ladder:
    """A file of data, cases, contests and transfers."""

    title: str
    data: Mapping[str, Data]
    goals: Sequence[Goal]
    written: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    contests: Sequence[Contest] = ()
    transfers: Sequence[Transfer] = ()


def load(path: Path) -> Ladder:
    """Read and check a ladder.

    Raises:
        ConfigurationError: with file and line.
    """
    source = yaml_source.load(path)
    try:
        return _ladder(source.data)
    except ConfigurationError as error:
        if error.file is not None:
            raise
        raise error.located(source.file, source.line(error.path)) from None


def _ladder(value: Any) -> Ladder:
    keys = ("title", "data", "cases", "contests", "transfers")
    if not isinstance(value, Mapping):
        raise ConfigurationError("", found=value, advice=f"write a mapping of {', '.join(keys)}")
    for key in value:
        if key not in keys:
            raise ConfigurationError(
                f"unknown key '{key}'", path=(key,), advice=nearest(str(key), keys)
            )
    data = {k: build(Data, v, ("data", k)) for k, v in (value.get("data") or {}).items()}
    goals, written = [], {}
    for number, entry in enumerate(value.get("cases") or []):
        path = ("cases", number)
        if not isinstance(entry, Mapping):
            raise ConfigurationError("", path=path, found=entry, advice="write a mapping")
        sections = {k: entry[k] for k in ("network", "training", "run") if k in entry}
        goal = build(Goal, {k: v for k, v in entry.items() if k not in sections}, path)
        if goal.data not in data:
            raise ConfigurationError(
                "there are no such data", path=(*path, "data"), found=goal.data,
                advice=nearest(goal.data, data),
            )  # fmt: skip
        case = {"data": {"file": "x.h5", "map": goal.map, "coarse": goal.coarse}, **sections}
        try:
            make_case(case)
        except ConfigurationError as error:
            raise error.under(*path) from None
        goals.append(goal)
        written[goal.name] = case
    names = [goal.name for goal in goals]
    contests = _named(Contest, value, "contests", ("ours", "rival"), names)
    transfers = _named(Transfer, value, "transfers", ("case",), names)
    return Ladder(str(value.get("title", "")), data, goals, written, contests, transfers)


def _named(kind: Any, value: Any, key: str, fields: Sequence[str], names: Sequence[str]) -> list:
    found = []
    for number, entry in enumerate(value.get(key) or []):
        made = build(kind, entry, (key, number))
        for name in fields:
            if getattr(made, name) not in names:
                raise ConfigurationError(
                    "no case has this name", path=(key, number, name), found=getattr(made, name),
                    advice=nearest(getattr(made, name), names),
                )  # fmt: skip
        found.append(made)
    return found


def run_ladder(
    ladder: Ladder,
    seeds: Sequence[int],
    *,
    folder: Path,
    only: Sequence[str] | None = None,
    budget: float | None = None,
    threads: int | None = None,
    found: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
    save: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Train and measure every case with every seed.

    Args:
        ladder: what.
        seeds: of the runs.
        folder: where data and runs lie; data that are there are used again.
        only: names of cases; None for all.
        budget: seconds for each run instead of the case's own.
        threads: of each run.
        found: results of earlier runs, whose other rows stay.
        say: called with a line for every run.
        save: called with all results so far.

    Raises:
        ConfigurationError: `only` names no case, or data cannot be made.
    """
    names = [goal.name for goal in ladder.goals]
    for name in only or ():
        if name not in names:
            raise ConfigurationError(
                "no case of the ladder has this name", found=name, advice=nearest(name, names)
            )
    results = found or {"benchmark": "operators", "ladder": ladder.title, "rows": {}}
    for goal in ladder.goals:
        if only is not None and goal.name not in only:
            continue
        file = _made(ladder.data[goal.data], goal.data, folder)
        row: dict[str, Any] = {"case": dict(ladder.written[goal.name]), "runs": []}
        row |= {"must": goal.must, "aim": goal.aim, "machine": machine(), "commit": commit()}
        results["rows"][goal.name] = row
        for seed in seeds:
            case = merged(row["case"], {"data": {"file": str(file)}, "run": {"seed": seed}})
            extra = {"budget": budget, "threads": threads}
            case = merged(case, {"run": {k: v for k, v in extra.items() if v is not None}})
            row["runs"].append(_measured(case, folder / f"{goal.name}-{seed}"))
            say(line(goal.name, seed, row["runs"][-1]))
            save(results)
    results["verdicts"] = verdicts(ladder, results["rows"])
    save(results)
    return results


def _made(data: Data, name: str, folder: Path) -> Path:
    """The file of data, made where it is missing."""
    path = folder.absolute() / f"{name}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    request = Request(data.family, data.resolution, data.seed, dict(data.settings))
    request.description()
    settings = [f"--set={k}={v:g}" for k, v in data.settings.items()]
    splits = [f"{k}={first}:{end}" for k, (first, end) in data.splits.items()]
    command = [
        "data", "generate", data.family, "--samples", str(data.samples), "--resolution",
        str(data.resolution), "--seed", str(data.seed), "--out", str(path), *settings,
        *(["--split", *splits] if splits else []),
    ]  # fmt: skip
    done = _command(command)
    if done.returncode:
        raise ConfigurationError(f"data '{name}' cannot be made: {done.stderr.strip()}")
    return path


def _measured(case: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One run: what its summary and its evaluation say, or why there is none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".yaml")
    file.write_text(yaml_source.dump(plain(case)), encoding="utf-8")
    out = ["--out", str(folder), "--quiet"]
    for command in (
        ["train", str(file), "--overwrite", *out],
        ["evaluate", str(folder), "--quiet"],
    ):
        done = _command(command)
        if done.returncode:
            return {"error": done.stderr.strip() or f"exit code {done.returncode}"}
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    evaluation = json.loads((folder / "evaluation.json").read_text("utf-8"))
    kept = ("status", "seconds", "epochs", "seconds_per_epoch", "trained_parameters", "threads")
    return {
        **{key: summary.get(key) for key in kept},
        "relative_l2": evaluation["relative_l2"],
        "resolutions": {grid["grid"]: grid for grid in evaluation["resolutions"]},
        "classical": evaluation["classical"],
        "inference_seconds_per_sample": evaluation["cost"]["inference_seconds_per_sample"],
    }


def _command(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "residua", *arguments], capture_output=True, text=True, check=False
    )


def verdicts(ladder: Ladder, rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was asked, what was measured, and whether it is enough; medians of the seeds.

    A case that failed with one seed counts as infinitely wrong with it.
    """
    found = []
    for goal in ladder.goals:
        if goal.must is not None and goal.name in rows:
            error = _median(rows[goal.name], "error")
            found.append(_verdict(goal.name, error, goal.must, goal.aim))
    for contest in ladder.contests:
        if contest.ours in rows and contest.rival in rows:
            ours, rival = rows[contest.ours], rows[contest.rival]
            value = _median(ours, "error") / _median(rival, "error")
            size = _median(ours, "parameters") / _median(rival, "parameters")
            entry = _verdict(f"{contest.name}: error over error", value, contest.must, contest.aim)
            if size > contest.parameters:
                entry["verdict"] = f"too large: {size:.2f} of the parameters"
            found.append({**entry, "parameters": size})
    for transfer in ladder.transfers:
        if transfer.case in rows:
            value = _median(rows[transfer.case], transfer.grid)
            found.append(_verdict(transfer.name, value, transfer.must, transfer.aim))
    return found


def _verdict(what: str, value: float, must: float, aim: float | None) -> dict[str, Any]:
    word = "missed" if not value <= must else "reached"
    if word == "reached" and aim is not None and value <= aim:
        word = "aim reached"
    return {"what": what, "value": value, "must": must, "aim": aim, "verdict": word}


def _median(row: Mapping[str, Any], what: str) -> float:
    def value(run: Mapping[str, Any]) -> float:
        if "error" in run:
            return float("inf")
        if what == "error":
            return run["relative_l2"]["mean"]
        if what == "parameters":
            return run["trained_parameters"]
        grid = run["resolutions"].get(what, {})
        ratio = grid.get("ratio_to_test_grid")
        return float("inf") if ratio is None else ratio

    return statistics.median(value(run) for run in row["runs"])


def line(name: str, seed: int, run: Mapping[str, Any]) -> str:
    """A run for people."""
    if "error" in run:
        return f"{name} seed {seed}: {run['error']}"
    return (
        f"{name} seed {seed}: relative L2 {run['relative_l2']['mean']:.2e}, "
        f"{run['trained_parameters']} parameters, {run['epochs']:.1f} epochs in "
        f"{run['seconds']:.0f} s"
    )
