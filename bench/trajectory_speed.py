"""`residua bench trajectories`: integrators of ODEs and SDEs beside torchdiffeq, torchsde, diffrax.

Peers that are not installed are left out, and the row says so. Every row also measures how wrong
its contenders are, so that no speed is bought with accuracy unseen.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from ..operators.neural_de import ODE, PID, SDE, Dopri5, integrate
from ..operators.neural_de.implicit import Kvaerno5
from ..operators.neural_de.stochastic.integrate import integrate_sde
from .machine import commit, machine
from .timing import interleaved, ratio, steps_for

__all__ = ["ROWS", "benchmark", "line"]

REPETITIONS, ROW_SECONDS = 7, 40.0
WORKER = Path(__file__).parent / "workers" / "diffrax_worker.py"
SPAN, TOLERANCE, MU, BATCH = 7.6, 1e-5, 2.0, 256

Solve = Callable[[], Any]


def _oscillator(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack((v, MU * (1 - x * x) * v - x), dim=-1)


def van_der_pol(jax_python: Path | None) -> dict[str, Any]:
    """An oscillator of mu = 2, 256 samples, tolerances 1e-5, fifth order."""
    generator = torch.Generator().manual_seed(0)
    starts = 4 * torch.rand(BATCH, 2, generator=generator) - 2
    times = torch.tensor([0.0, SPAN])
    reference = np.stack([_reference(start) for start in starts.double().numpy()])
    control = PID(rtol=TOLERANCE, atol=TOLERANCE)

    def ours(path: Literal["auto", "eager"]) -> Solve:
        return lambda: integrate(
            ODE(_oscillator), starts, times, stepper=Dopri5(), controller=control, path=path
        )

    solves = {"residua": ours("auto"), "residua eager": ours("eager")}
    notes = []
    counted = Counted(_oscillator)
    if peer := _peer("torchdiffeq", notes):

        def theirs() -> Tensor:
            return peer.odeint(
                counted, starts, times, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5"
            )

        solves["torchdiffeq"] = theirs
    row = _timed(solves, notes)
    for name in ("residua", "residua eager"):
        found = solves[name]()
        steps = found.statistics.steps
        row["contenders"][name] |= {
            "steps": int(steps.max()), "mean_steps": float(steps.double().mean()),
            "error": _apart(found.states[:, -1], reference), "how": found.path,
        }  # fmt: skip
    if peer:
        counted.calls = 0
        final = solves["torchdiffeq"]()[-1]
        # Two evaluations choose the first step, six make each further one.
        row["contenders"]["torchdiffeq"] |= {
            "steps": (counted.calls - 2) // 6,
            "error": _apart(final, reference),
        }
    for name, found in _diffrax("van_der_pol", starts, jax_python, notes).items():
        row["contenders"][name] = {
            "seconds": found["seconds"], "steps": max(found["steps"]),
            "error": _apart(torch.tensor(found["final"]), reference),
        }  # fmt: skip
    return _compared(row, per_step=True)


class Counted(nn.Module):
    """A field that counts its calls."""

    def __init__(self, field: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.field, self.calls = field, 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The field."""
        self.calls += 1
        return self.field(t, y)


def _reference(start: Any) -> Any:
    def field(t: float, y: Any) -> list[float]:
        return [y[1], MU * (1 - y[0] ** 2) * y[1] - y[0]]

    return solve_ivp(field, (0, SPAN), start, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]


class Cubic(nn.Module):
    """dy/dt = N(y^3), the field that is fitted to a spiral."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.1)
                nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Rate of change."""
        return self.layers(y**3)


PATHS, STEPS = (1024, 4), 100


def euler_maruyama(jax_python: Path | None) -> dict[str, Any]:
    """Geometric Brownian motion, 1024 samples of four components, 100 steps of 0.01.

    The error is that of the mean over samples, of which chance makes some 0.4 per cent.
    """
    growth, noise = 0.5, 0.3
    start = torch.ones(PATHS)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    step = 1.0 / STEPS

    def drift(t: Tensor, y: Tensor) -> Tensor:
        return growth * y

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        return noise * y

    def ours(seed: int | None) -> Solve:
        return lambda: integrate_sde(
            SDE(drift, diffusion), start, times, step=step, noise=seed
        ).states[:, -1]

    def by_hand() -> Tensor:
        y, root = start, step**0.5
        for _ in range(STEPS):
            y = y + drift(times, y) * step + diffusion(times, y) * (torch.randn(PATHS) * root)
        return y

    solves: dict[str, Solve] = {
        "residua": ours(None), "residua seeded": ours(7), "loop by hand": by_hand
    }  # fmt: skip
    notes: list[str] = []
    if peer := _peer("torchsde", notes):
        equation = _Equation(drift, diffusion)
        # With times in single precision torchsde is sixty times slower (its issue 109).
        solves["torchsde"] = lambda: peer.sdeint(equation, start, times, dt=step, method="euler")[
            -1
        ]
    row = _timed(solves, notes)
    for name, solve in solves.items():
        mean = float(solve().mean())
        error = abs(mean / np.exp(growth) - 1)
        row["contenders"][name] |= {"steps": STEPS, "error": error}
    return _compared(row)


class _Equation(nn.Module):
    """An equation as torchsde takes it."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, drift: Any, diffusion: Any) -> None:
        super().__init__()
        self.f, self.g = drift, diffusion


def robertson(jax_python: Path | None) -> dict[str, Any]:
    """Three stiff reactions to t = 1e11, relative tolerance 1e-8, Kvaerno5."""
    start = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    times = torch.tensor([0.0, 1e11], dtype=torch.float64)
    control = PID(rtol=1e-8, atol=1e-10, p=0.3, i=0.4, first=2e-4)

    def field(t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        first, second = 0.04 * a - 1e4 * b * c, 3e7 * b * b
        return torch.stack((-first, first - second, second), dim=-1)

    def solve() -> Any:
        return integrate(ODE(field), start, times, stepper=Kvaerno5(), controller=control)

    notes: list[str] = []
    row = _timed({"residua": solve}, notes, repetitions=2)
    found = solve()
    reference = _robertson_reference()
    row["contenders"]["residua"] |= {
        "steps": int(found.statistics.steps[0]), "how": found.path,
        "error": _apart(found.states[:, -1], reference), "outcome": int(found.outcome[0]),
    }  # fmt: skip
    for name, other in _diffrax("robertson", None, jax_python, notes).items():
        row["contenders"][name] = {
            "seconds": other["seconds"], "steps": other["steps"][0],
            "error": _apart(torch.tensor(other["final"])[None], reference),
        }  # fmt: skip
    row = _compared(row)
    for name, other in row["ratios"].items():
        other["steps"] = row["contenders"]["residua"]["steps"] / row["contenders"][name]["steps"]
    return row


def gradients(jax_python: Path | None) -> dict[str, Any]:
    """Gradients by every adjoint: distance from autograd through the steps, and bytes alive."""
    from .trajectory_gradients import gradient_table

    began = time.perf_counter()
    found = gradient_table((100, 10_000))
    seconds = [time.perf_counter() - began]
    contenders = {name: {"seconds": seconds, **row} for name, row in found.items()}
    return {"contenders": contenders, "ratios": {}, "notes": ["seconds are of the whole table"]}


def _robertson_reference() -> Any:
    def field(t: float, y: Any) -> list[float]:
        first, second = 0.04 * y[0] - 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
        return [-first, first - second, second]

    found = solve_ivp(field, (0, 1e11), [1.0, 0.0, 0.0], method="Radau", rtol=1e-12, atol=1e-16)
    return found.y[:, -1][None]


SPIRAL_STEPS, WINDOW, WINDOWS = 500, 10, 20


def spiral(jax_python: Path | None) -> dict[str, Any]:
    """500 Adam steps on windows of the cubic spiral, fifth order at torchdiffeq's tolerances."""
    matrix = np.array([[-0.1, 2.0], [-2.0, -0.1]])
    times = np.linspace(0, 25, 1000)
    true = solve_ivp(
        lambda t, y: (y**3) @ matrix, (0, 25), [2.0, 0.0], t_eval=times, rtol=1e-10, atol=1e-12
    ).y.T
    data = torch.tensor(true, dtype=torch.float32)
    span = torch.tensor(times[:WINDOW], dtype=torch.float32)
    control = PID(rtol=1e-7, atol=1e-9)

    def ours(field: nn.Module, starts: Tensor) -> Tensor:
        found = integrate(ODE(field), starts, span, stepper=Dopri5(), controller=control)
        return found.states.transpose(0, 1)

    trains = {"residua": lambda: _fit(ours, data)}
    notes: list[str] = []
    if peer := _peer("torchdiffeq", notes):
        trains["torchdiffeq"] = lambda: _fit(
            lambda field, starts: peer.odeint(field, starts, span, method="dopri5"), data
        )
    row = _timed(trains, notes, repetitions=2)
    for name, train in trains.items():
        row["contenders"][name]["error"] = train()
    return _compared(row)


def _fit(solve: Callable[[nn.Module, Tensor], Tensor], data: Tensor) -> float:
    """Train as said in `spiral`; the mean absolute error of the last 50 steps."""
    field = Cubic(0)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(SPIRAL_STEPS):
        first = torch.randint(0, len(data) - WINDOW, (WINDOWS,), generator=generator)
        targets = torch.stack([data[first + k] for k in range(WINDOW)])
        loss = (solve(field, data[first]) - targets).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-50:]))


ROWS: Mapping[str, Callable[[Path | None], dict[str, Any]]] = {
    "van_der_pol": van_der_pol,
    "spiral": spiral,
    "euler_maruyama": euler_maruyama,
    "robertson": robertson,
    "gradients": gradients,
}


def _peer(name: str, notes: list[str]) -> Any:
    """A module, or None where it is not installed; then a note says so."""
    try:
        return importlib.import_module(name)
    except ImportError:
        notes.append(f"{name} is not installed")
        return None


def _timed(
    solves: Mapping[str, Solve], notes: list[str], repetitions: int = REPETITIONS
) -> dict[str, Any]:
    """Seconds of each contender, in turns, each the mean of as many solutions as fill some time."""

    def clock(solve: Solve, count: int) -> Callable[[], float]:
        def mean() -> float:
            began = time.perf_counter()
            for _ in range(count):
                solve()
            return (time.perf_counter() - began) / count

        return mean

    counts = {}
    for name, solve in solves.items():
        solve()
        counts[name] = steps_for(clock(solve, 1)())
    clocks = {name: clock(solve, counts[name]) for name, solve in solves.items()}
    times = interleaved(clocks, repetitions, least=2, limit=ROW_SECONDS)
    return {"contenders": {name: {"seconds": times[name]} for name in times}, "notes": notes}


def _diffrax(
    row: str, starts: Tensor | None, python: Path | None, notes: list[str]
) -> Mapping[str, Any]:
    """What its worker answers; nothing where there is no interpreter for it."""
    if python is None:
        notes.append("diffrax is left out: name an interpreter by --jax-python")
        return {}
    given = json.dumps([] if starts is None else starts.tolist())
    done = subprocess.run(
        [str(python), str(WORKER), row, str(REPETITIONS)],
        input=given, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        notes.append(f"diffrax: {done.stderr.strip().splitlines()[-1:]}")
        return {}
    return json.loads(done.stdout)


def _apart(found: Tensor, reference: Any) -> float:
    """Relative L2 distance of all samples together."""
    apart = found.double().numpy() - reference
    return float(np.linalg.norm(apart) / np.linalg.norm(reference))


def _compared(row: dict[str, Any], *, per_step: bool = False) -> dict[str, Any]:
    """Ratios of our times to everybody else's; with `per_step` also of times over steps."""
    ours = row["contenders"]["residua"]
    row["ratios"] = {}
    for name, other in row["contenders"].items():
        if name == "residua":
            continue
        # Of one length: a peer in another process was asked its own number of times.
        count = min(len(ours["seconds"]), len(other["seconds"]))
        found = ratio(ours["seconds"][:count], other["seconds"][:count])
        if per_step:
            found["per_step"] = found["minimum"] * other["steps"] / ours["steps"]
        row["ratios"][name] = found
    return row


def benchmark(
    *,
    only: Sequence[str] | None = None,
    threads: int | None = None,
    jax_python: Path | None = None,
    say: Callable[[str, dict[str, Any]], None] = lambda name, row: None,
) -> dict[str, Any]:
    """Measure the rows.

    Args:
        only: their names; None for all.
        threads: of the processor; all by default.
        jax_python: interpreter that has diffrax.
        say: called with every row when it is done.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    rows = {}
    try:
        for name, measure in ROWS.items():
            if only is None or name in only:
                rows[name] = measure(jax_python)
                say(name, rows[name])
    finally:
        torch.set_num_threads(before)
    return {
        "benchmark": "trajectories", "rows": rows, "machine": machine(), "commit": commit(),
        "threads": threads or before, "torch": torch.__version__,
    }  # fmt: skip


def line(name: str, row: Mapping[str, Any]) -> str:
    """A row for people."""
    parts = []
    for who, found in row["contenders"].items():
        seconds = min(found["seconds"])
        steps = f", {1e6 * seconds / found['steps']:.1f} us a step" if "steps" in found else ""
        error = f", error {found['error']:.1e}" if "error" in found else ""
        parts.append(f"{who} {1e3 * seconds:.2f} ms{steps}{error}")
        if found.get("saved_bytes"):
            kept = ", ".join(f"{b} bytes for {n} steps" for n, b in found["saved_bytes"].items())
            parts[-1] = f"{who}{error}, {kept}"
    ratios = [f"{who} {found['minimum']:.4f}" for who, found in row["ratios"].items()]
    if not ratios:
        return f"{name}: {'; '.join(parts)}"
    return f"{name}: {'; '.join(parts)}; ratio to {', '.join(ratios)}"
