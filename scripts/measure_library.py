"""Solve the library and the example cases, and write down how well each went.

    .venv/bin/python scripts/measure_library.py                  every problem, as it recommends
    .venv/bin/python scripts/measure_library.py --only heat wave --budget '30 s'

Each problem is solved by the command, in a process and a folder of its own; what is recorded comes
from the summary.json it writes. Rows of problems that are not measured this time stay as they are.
The table of the README is the one printed here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "baselines" / "library.json"
HEAD = ("problem", "relative L2 error", "reference known to", "seconds", "classical seconds")


def targets() -> list[str]:
    """The families of the library and the files of data/cases, as the command takes them."""
    names = sorted(path.stem for path in (ROOT / "problems" / "library").glob("*.yaml"))
    cases = sorted((ROOT / "data" / "cases").glob("*.yaml"))
    return names + [str(path.relative_to(ROOT)) for path in cases]


def measure(target: str, budget: str | None) -> dict[str, Any]:
    """One run of the command: a row of plain values, failures included."""
    command = ["residua", "solve", target]
    if budget is not None:
        command += ["--set", f"run.budget={budget}"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        done = subprocess.run(
            [sys.executable, "-m", *command, "--out", str(out), "--quiet"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        row: dict[str, Any] = {"command": shlex.join(command), "exit_code": done.returncode}
        if not (out / "summary.json").is_file():
            return row | {"failure": done.stderr.strip()[-500:]}
        summary = json.loads((out / "summary.json").read_text("utf-8"))
    kept = (
        "status",
        "relative_l2",
        "reference_error_bar",
        "seconds",
        "steps",
        "classical",
        "device",
    )
    return row | {key: summary[key] for key in (*kept, "threads", "versions")}


def machine() -> dict[str, Any]:
    """Where the figures were taken."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text("utf-8").splitlines()
        name = next(
            (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), name
        )
    return {"processor": name, "cores": os.cpu_count()}


def commit() -> str:
    """The commit that was measured, marked where files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown, one line for each problem."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for name, row in rows.items():
        if "failure" in row:
            lines.append((name, row["failure"].splitlines()[-1], "", "", ""))
            continue
        errors, bars = row["relative_l2"], row["reference_error_bar"]
        classical = row["classical"]["seconds_to_same_error"]
        lines.append(
            (
                name,
                _by_field(errors),
                _by_field(bars),
                f"{row['seconds']:.0f}",
                "not reached" if classical is None else f"{classical:.2g}",
            )
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _by_field(values: dict[str, float | None]) -> str:
    texts = {k: "none" if v is None else f"{v:.1e}" for k, v in values.items()}
    if len(texts) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{field} {text}" for field, text in texts.items())


def main() -> None:
    """Measure, merge with what is on file, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="problems or case files")
    parser.add_argument("--budget", help="wall time for each, such as '60 s'; default: its own")
    parser.add_argument("--table", action="store_true", help="print what is on file, run nothing")
    options = parser.parse_args()
    found = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {"rows": {}}
    rows = found["rows"]
    known = targets()
    chosen = [] if options.table else options.only or known
    for target in chosen:
        name = Path(target).stem
        row = measure(target, options.budget)
        rows[name] = row | {"commit": commit(), "machine": machine()}
        if found := row.get("relative_l2"):
            print(f"{name}: {_by_field(found)} in {row['seconds']:.0f} s", file=sys.stderr)
        order = [Path(t).stem for t in known]
        rows = {n: rows[n] for n in order if n in rows}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n", "utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
