"""Tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .compare import Change
from .targets import JAX, Verdict

__all__ = [
    "accuracy_run",
    "accuracy_table",
    "changes_table",
    "columns",
    "engine_heading",
    "engine_line",
    "engine_notes",
    "engine_summary",
    "race_table",
]

RowData = Mapping[str, Any]

MET = {"aim": "aim met", "must": "must met", "no": "NOT MET", None: ""}
HEAD = (
    "equation, width, dtype", "ms (median)", "/nested", "/DeepXDE", "/JAX", "of floor",
    "MiB", "/nested",
)  # fmt: skip
WIDTHS = (32, 14, 8, 9, 8, 9, 8, 8)


def columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line; the first column to the left, the others to the right."""
    first, *others = [
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return " ".join([first, *others]).rstrip()


def engine_heading(about: Mapping[str, Any], threads: int, device: str) -> str:
    """What the columns are."""
    return (
        f"{about['processor']}, {about['cores']} cores; device {device}, {threads} threads\n"
        "ratios are our time (memory) over theirs, of the minima over repetitions; /JAX: of its "
        "fastest\n\n" + columns(HEAD, WIDTHS)
    )


def engine_line(row: RowData) -> str:
    """One row as it is done; what failed or was left out follows in words."""
    if row["kind"] != "step":
        return _iteration_lines(row)
    ours, ratios = row["contenders"].get("residua", {}), row["ratios"]
    jax = [ratios[name]["minimum"] for name in JAX if name in ratios]
    floor = ratios.get("floor")
    memory = ratios.get("nested", {}).get("memory")
    cells = [
        row["name"],
        _time(ours),
        _ratio(ratios.get("nested", {}).get("minimum")),
        _ratio(ratios.get("deepxde", {}).get("minimum")),
        _ratio(max(jax, default=None)),
        "-" if floor is None else f"{1 / floor['minimum']:.0%}",
        _mebibytes(ours),
        _ratio(memory),
    ]
    return "\n".join([columns(cells, WIDTHS), *_complaints(row)])


def _iteration_lines(row: RowData) -> str:
    lines = []
    for name, entry in row["contenders"].items():
        ratio = row["ratios"].get(name, {}).get("minimum")
        says = "" if ratio is None else f"   ours / theirs {_ratio(ratio)}"
        lines.append(f"  {name:24}{_time(entry):>14} ms {_mebibytes(entry):>8} MiB{says}")
    return "\n".join([row["name"], *lines, *_complaints(row)])


def _complaints(row: RowData) -> list[str]:
    lines = [f"  ERROR: {row['error']}"] if row["error"] else []
    for name, entry in row["contenders"].items():
        if "failed" in entry and entry["failed"] != row["error"]:
            lines.append(f"  {name}: {entry['failed']}")
    return lines


def engine_notes(rows: Sequence[RowData]) -> list[str]:
    """Who was left out and why, once for each reason; which rows were disturbed."""
    left: dict[tuple[str, str], int] = {}
    disturbed = []
    for row in rows:
        for name, entry in row["contenders"].items():
            if "skipped" in entry:
                left[(name, entry["skipped"])] = left.get((name, entry["skipped"]), 0) + 1
        if any(abs(r["median"] / r["minimum"] - 1) > 0.15 for r in row["ratios"].values()):
            disturbed.append(row["name"])
    notes = [f"skipped in {count} rows: {name}: {why}" for (name, why), count in left.items()]
    if disturbed:
        notes.append(
            f"in {len(disturbed)} of {len(rows)} rows a ratio of medians differs from that of "
            "minima by more than 15 %: the machine was not quiet"
        )
    return notes


def engine_summary(verdicts: Sequence[Verdict]) -> str:
    """Issue 3's table with what was measured."""
    widths = (48, 6, 6, 8, 8, 14)
    lines = [
        columns(("worst of all rows against the goals", "must", "aim", "worst", "best", ""), widths)
    ]
    for verdict in verdicts:
        target = verdict.target
        says = MET.get(verdict.met, verdict.met)
        cells = [
            target.what,
            f"{target.must:.2f}",
            f"{target.aim:.2f}",
            _ratio(verdict.worst),
            _ratio(verdict.best),
            says,
        ]
        where = f"  ({verdict.where})" if verdict.where else ""
        lines.append(columns(cells, widths) + where)
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _time(entry: RowData) -> str:
    if "minimum" not in entry:
        return "-"
    return f"{1e3 * entry['minimum']:.1f} ({1e3 * entry['median']:.1f})"


def _mebibytes(entry: RowData) -> str:
    memory = entry.get("memory")
    return "-" if memory is None else f"{memory / 2**20:.1f}"


def accuracy_run(name: str, run: RowData) -> str:
    """One run as it is done."""
    seconds = "" if run.get("seconds") is None else f" in {run['seconds']:.0f} s"
    if "failure" in run:
        return f"{name}, seed {run['seed']}: FAILED{seconds}: {run['failure']}"
    return f"{name}, seed {run['seed']}: {_by_field(run.get('relative_l2'))}{seconds}"


ACCURACY_HEAD = (
    "problem", "must", "aim", "relative L2 error", "worst seed", "reference known to", "seconds",
    "classical method, seconds", "",
)  # fmt: skip


def accuracy_table(rows: Mapping[str, RowData]) -> str:
    """All rows in Markdown; errors are the median of the seeds."""
    lines = [ACCURACY_HEAD, ("---",) * len(ACCURACY_HEAD)]
    for name, row in rows.items():
        lines.append(
            (
                name,
                _scientific(row["must"], ""),
                _scientific(row["aim"], ""),
                _median(row),
                _scientific(row["worst"], "failed"),
                _scientific(row["reference_error_bar"], "none"),
                "" if row["seconds"] is None else f"{row['seconds']:.0f}",
                _classical(row),
                _says(row),
            )
        )
    return _markdown(lines)


def race_table(races: Mapping[str, RowData]) -> str:
    """All races in Markdown."""
    head = ("race", "peer's best error", "at second", "ours at second", "times sooner", "")
    lines = [head, ("---",) * len(head)]
    for name, race in races.items():
        ours = race["our_seconds"]
        lines.append(
            (
                name,
                _scientific(race["peer_error"], "none"),
                _plain(race["peer_seconds"]),
                "never" if ours == float("inf") else _plain(ours),
                _plain(race["sooner"]),
                MET.get(race["met"], race["met"]),
            )
        )
    return _markdown(lines)


def changes_table(changes: Sequence[Change]) -> str:
    """Regressions first, then what else moved by more than a tenth; the rest is counted."""
    moved = [c for c in changes if c.regression or not 0.9 <= _factor(c) <= 1.1]
    moved.sort(key=lambda c: (not c.regression, c.row))
    lines = []
    for change in moved:
        flag = "REGRESSION" if change.regression else "better" if _factor(change) < 1 else ""
        figures = f"{change.before:.3g} -> {change.after:.3g}"
        lines.append(columns((change.row, change.what, figures, flag), (34, 28, 24, 12)))
    return "\n".join([*lines, f"{len(changes) - len(moved)} figures within 10 %"])


def _factor(change: Change) -> float:
    if change.before == change.after:
        return 1.0
    return change.after / change.before if change.before else float("inf")


def _says(row: RowData) -> str:
    parts = [MET[row["met"]]]
    if row["reference_limited"]:
        parts.append("reference-limited")
    if row["failed"]:
        failure = next(run["failure"] for run in row["runs"] if "failure" in run)
        parts.append(f"{row['failed']} of {len(row['runs'])} failed: {failure}")
    return ", ".join(part for part in parts if part)


def _median(row: RowData) -> str:
    """The median, by field where there are several and one run."""
    if row["median"] is None or row["median"] == float("inf"):
        return "failed"
    if len(row["runs"]) == 1:
        return _by_field(row["runs"][0]["relative_l2"])
    return f"{row['median']:.1e}"


def _classical(row: RowData) -> str:
    """The classical method and its time for the error of the run in the middle."""
    told = [run["classical"] for run in row["runs"] if run.get("classical")]
    told = [found for found in told if found.get("method")]
    if not told:
        return "none"
    times = [found["seconds_to_same_error"] for found in told]
    known = sorted(t for t in times if t is not None)
    return f"{told[0]['method']}, {f'{known[len(known) // 2]:.2g}' if known else 'not reached'}"


def _by_field(values: Mapping[str, float | None] | None) -> str:
    if not values:
        return "no reference"
    texts = {k: "none" if v is None else f"{v:.1e}" for k, v in values.items()}
    if len(texts) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{field} {text}" for field, text in texts.items())


def _scientific(value: float | None, absent: str) -> str:
    if value is None:
        return absent
    return "failed" if value == float("inf") else f"{value:.1e}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
