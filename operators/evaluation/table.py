"""What `residua evaluate` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["lines"]


def lines(numbers: Mapping[str, Any]) -> list[str]:
    """The table that the command prints."""
    row = numbers["relative_l2"]
    size = " x ".join(map(str, numbers["resolution"]))
    out = [
        f"{numbers['samples']} samples of {numbers['data']}, {size} nodes",
        "",
        "relative L2      mean    median  q05     q25     q75     q95     max",
        "  on the test    " + "  ".join(
            f"{row[k]:.1e}" for k in ("mean", "median", "q05", "q25", "q75", "q95", "max")
        ),
    ]  # fmt: skip
    for name, value in numbers["relative_l2_of_zero_skill"].items():
        if value is not None:
            out.append(f"  {name.replace('_', ' ')}: {value:.1e}")
    if numbers.get("coarse_alone") is not None:
        out.append(f"  the coarse solution that it corrects, alone: {numbers['coarse_alone']:.1e}")
    out += ["", "other grids      nodes   mean     times that of the same samples here"]
    for grid in numbers["resolutions"]:
        if grid["mean"] is None:
            out.append(f"  {grid['grid']:<15}{grid['nodes']:<8}{grid['source']}")
            continue
        ratio = grid["ratio_to_test_grid"]
        out.append(
            f"  {grid['grid']:<15}{grid['nodes']:<8}{grid['mean']:.1e}  {ratio:.2f}  "
            f"({grid['samples']} samples, {grid['source']})"
        )
    out += _tuned_lines(numbers.get("fine_tuned"))
    out += _rollout_lines(numbers["rollout"]) + _band_lines(numbers["conformal"])
    return out + _cost_lines(numbers) + _pdebench_lines(numbers.get("pdebench"))


def _rollout_lines(rollout: Any) -> list[str]:
    if not rollout:
        return []
    shown = sorted({0, len(rollout) // 4, len(rollout) // 2, len(rollout) - 1})
    out = ["", "rollout          mean     median   keeping the first instant"]
    for k in shown:
        row = rollout[k]
        out.append(
            f"  step {row['step']:<10}{row['mean']:.1e}  {row['median']:.1e}  "
            f"{row['first_instant_kept']:.1e}"
        )
    return out


def _tuned_lines(tuned: Any) -> list[str]:
    if not tuned:
        return []
    before, after = tuned["before"]["mean"], tuned["after"]["mean"]
    first, last = tuned["residual_before"], tuned["residual_after"]
    return [
        "",
        f"fine-tuned by the equation ({tuned['equation']}), {tuned['steps']} steps for each of "
        f"{tuned['samples']} samples, {tuned['seconds_per_sample']:.2g} s a sample",
        f"  relative L2    {before:.1e} before, {after:.1e} after",
        f"  residual       {first:.1e} before, {last:.1e} after",
    ]


def _band_lines(conformal: Any) -> list[str]:
    if not conformal:
        return []
    out = ["", f"bands by {conformal['calibration_samples']} calibration samples"]
    for band in conformal["bands"]:
        if band["relative_l2_bound"] is None:
            out.append(f"  {band['level']:.0%}: too few calibration samples")
            continue
        out.append(
            f"  {band['level']:.0%}: relative L2 below {band['relative_l2_bound']:.1e} "
            f"(kept by {band['coverage_of_bound']:.0%} of the test); everywhere within "
            f"{band['band_half_width']:.1e} of the field's size (by {band['coverage_of_band']:.0%})"
        )
    return out


def _cost_lines(numbers: Mapping[str, Any]) -> list[str]:
    cost, known = numbers["cost"], numbers["classical"]
    times = ", ".join(
        f"{1e3 * s:.3g} ms a sample at {k.replace('_', ' ')}"
        for k, s in cost["inference_seconds_per_sample"].items()
    )
    epoch = cost["seconds_per_epoch"]
    out = [
        "",
        f"operator: {cost['parameters']} parameters"
        + (f", {epoch:.3g} s an epoch" if epoch is not None else "")
        + f"; {times}; peak memory {cost['evaluation_peak_memory_mib']} MiB",
    ]
    if known["method"] is None:
        out.append(f"classical: {known['note']}")
    else:
        seconds = known["seconds_to_same_error"]
        said = "does not reach that error on these grids"
        if seconds is not None:
            said = f"needs {1e3 * seconds:.3g} ms a sample for that error"
        out.append(f"classical {known['method']}: {said}")
        out += [
            f"  {s['what']}: {s['error']:.1e} in {1e3 * s['seconds']:.3g} ms"
            for s in known["solves"]
        ]
    if known["floor_on_the_same_nodes"] is not None:
        out.append(f"floor on the operator's nodes: {known['floor_on_the_same_nodes']:.1e}")
    if known["median_error_bar_of_truth"] is not None:
        out.append(f"truth known to {known['median_error_bar_of_truth']:.1e} (median error bar)")
    return out


def _pdebench_lines(found: Any) -> list[str]:
    if not found:
        return []
    return ["", "PDEBench"] + [f"  {name:<22}{value:.3e}" for name, value in found.items()]
