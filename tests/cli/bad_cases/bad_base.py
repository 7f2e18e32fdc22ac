"""Bad case files, each one edit away from a good one.

A row replaces one piece of a valid file by something wrong, names words that the message must hold,
and gives a right replacement: the twin that must be accepted, so that no row passes only because
everything is refused. The message must name the line of the edit (LINE), another one, or none.
"""

from __future__ import annotations

from dataclasses import dataclass

BURGERS = """\
problem:
  title: Burgers in a box
  coordinates:
    x: [-1, 1]
    t: [0, 1]
  fields: [u]
  parameters:
    nu: {value: 0.01/pi, range: [1e-4, 1]}
  equations:
    - u_t + u*u_x = nu*u_xx
  conditions:
    - {where: t = 0, u: -sin(pi*x)}
    - {where: x = -1, u: 0}
    - {where: x = 1, u: 0}
  reference: auto
solver:
  name: causal
  windows: 4
  network:
    width: 20
    activation: tanh
  optimizer:
    - {name: adam, steps: 100, learning_rate: 1e-3}
    - gauss_newton
  points:
    interior: 500
    sampler: sobol
  weighting: {name: fixed, values: {initial: 10}}
  causal: {epsilons: [0.1, 1, 10]}
  hard: false
run:
  name: first-try
  seed: 0
  dtype: float64
  budget: 5 min
  accuracy: 1e-3
"""

WAVE = """\
problem:
  coordinates: {x: [0, 1], t: [0, 1]}
  fields: [u]
  equations: [u_tt = u_xx]
  conditions:
    - {where: t = 0, u: sin(pi*x), u_t: 0}
    - {where: [x = 0, x = 1], u: 0}
run: {budget: 90 s}
"""

LIBRARY = """\
problem:
  name: burgers
  parameters: {nu: 0.02}
run:
  budget: 1 min
"""

FIRST = "problem:\n  title"  # how BURGERS begins
LINE = -1  # the message names the line of the edit


@dataclass(frozen=True)
class Bad:
    """One bad file: `old` in `base` becomes `new`; with `good` in its place it is accepted."""

    id: str
    old: str
    new: str
    good: str
    says: tuple[str, ...]
    base: str = BURGERS
    line: int | None = LINE

    @property
    def text(self) -> str:
        return self.base.replace(self.old, self.new, 1)

    @property
    def twin(self) -> str:
        return self.base.replace(self.old, self.good, 1)

    @property
    def expected_line(self) -> int | None:
        if self.line != LINE:
            return self.line
        return self.base[: self.base.index(self.old)].count("\n") + 1
