"""Settings of the wrong type, out of range, or that do not fit together."""

from __future__ import annotations

from bad_base import Bad

VALUES = [
    Bad(
        "text for integer",
        "windows: 4",
        "windows: many",
        "windows: 6",
        ("solver.windows", "'many'", "whole number from 1 to 100"),
    ),
    Bad(
        "fraction for integer",
        "windows: 4",
        "windows: 4.5",
        "windows: 4.0",
        ("solver.windows", "4.5"),
    ),
    Bad("quoted number", "windows: 4", "windows: '4'", "windows: 4", ("solver.windows", "'4'")),
    Bad("boolean for integer", "seed: 0", "seed: true", "seed: 7", ("run.seed", "True")),
    Bad(
        "list for integer",
        "width: 20",
        "width: [20, 20]",
        "width: 32",
        ("solver.network.width", "[20, 20]"),
    ),
    Bad(
        "integer for mapping",
        "points:\n    interior: 500\n    sampler: sobol",
        "points: 500",
        "points: {interior: 500}",
        ("solver.points", "500", "interior"),
    ),
    Bad("zero", "width: 20", "width: 0", "width: 1", ("solver.network.width", "from 1 to")),
    Bad(
        "negative", "interior: 500", "interior: -5", "interior: 5", ("solver.points.interior", "-5")
    ),
    Bad(
        "too large",
        "interior: 500",
        "interior: 1e12",
        "interior: 1e5",
        ("solver.points.interior", "10000000"),
    ),
    Bad("negative seed", "seed: 0", "seed: -1", "seed: 1", ("run.seed", "-1")),
    Bad(
        "zero rate",
        "learning_rate: 1e-3",
        "learning_rate: 0",
        "learning_rate: 1E-4",
        ("solver.optimizer[0].learning_rate", "above 0"),
    ),
    Bad(
        "nan setting", "accuracy: 1e-3", "accuracy: .nan", "accuracy: null", ("run.accuracy", "nan")
    ),
    Bad(
        "infinite setting",
        "accuracy: 1e-3",
        "accuracy: .inf",
        "accuracy: 0.5",
        ("run.accuracy", "inf"),
    ),
    Bad(
        "unknown backend",
        "name: causal",
        "name: casual",
        "name: causal",
        ("solver.name", "'casual'", "'causal'"),
    ),
    Bad(
        "unknown activation",
        "activation: tanh",
        "activation: relu",
        "activation: sin",
        ("solver.network.activation", "'relu'", "'tanh'"),
    ),
    Bad(
        "unknown optimizer",
        "- gauss_newton",
        "- gauss_newtn",
        "- lbfgs",
        ("solver.optimizer[1]", "'gauss_newtn'", "'gauss_newton'"),
    ),
    Bad(
        "unknown sampler",
        "sampler: sobol",
        "sampler: sobl",
        "sampler: grid",
        ("solver.points.sampler", "'sobl'", "'sobol'"),
    ),
    Bad(
        "unknown dtype",
        "dtype: float64",
        "dtype: float16",
        "dtype: float32",
        ("run.dtype", "'float16'"),
    ),
    Bad(
        "unknown weighting",
        "{name: fixed,",
        "{name: fixd,",
        "{name: fixed,",
        ("solver.weighting", "'fixd'", "'fixed'"),
    ),
    Bad(
        "unknown loss term",
        "values: {initial: 10}",
        "values: {intial: 10}",
        "values: {residual: 10}",
        ("solver.weighting.values.intial", "'initial'"),
    ),
    Bad(
        "negative weight",
        "{initial: 10}",
        "{initial: -10}",
        "{boundary: 1}",
        ("solver.weighting.values.initial", "-10"),
    ),
    Bad(
        "unknown hard condition",
        "hard: false",
        "hard: [intial]",
        "hard: [initial]",
        ("solver.hard", "'intial'", "'initial'"),
    ),
    Bad(
        "unknown symmetry",
        "hard: false",
        "symmetry: {z: odd}",
        "symmetry: {x: odd}",
        ("solver.symmetry.z", ": x"),
    ),
    Bad(
        "epsilons fall",
        "[0.1, 1, 10]",
        "[10, 1]",
        "[1, 10]",
        ("solver.causal.epsilons", "increasing"),
    ),
    Bad(
        "stage without end",
        "name: adam, steps: 100, learning",
        "name: adam, learning",
        "name: adam, steps: 1, learning",
        ("solver.optimizer[0]", "no number of steps"),
    ),
    Bad(
        "adaptive never acts",
        "sampler: sobol",
        "{adaptive: rad, resample_every: 0}"[1:-1].replace(", ", "\n    "),
        "{adaptive: rad, resample_every: 10}"[1:-1].replace(", ", "\n    "),
        ("solver.points.adaptive", "resample_every"),
    ),
    Bad(
        "budget without unit word",
        "budget: 5 min",
        "budget: five minutes",
        "budget: 300",
        ("run.budget", "'five minutes'", "5 min"),
    ),
    Bad(
        "budget unit",
        "budget: 5 min",
        "budget: 5 parsec",
        "budget: 1.5 h",
        ("run.budget", "5 parsec"),
    ),
    Bad("negative budget", "budget: 5 min", "budget: -5 min", "budget: 90 s", ("run.budget",)),
    Bad("zero budget", "budget: 5 min", "budget: 0", "budget: 1", ("run.budget",)),
    Bad(
        "endless",
        "budget: 5 min\n  accuracy: 1e-3",
        "budget: none",
        "budget: none\n  steps: 5",
        ("run.budget", "steps"),
    ),
    Bad(
        "parent in name",
        "name: first-try",
        "name: ../first",
        "name: first",
        ("run.name", "letters"),
    ),
    Bad("dash name", "name: first-try", "name: -rf", "name: r-f", ("run.name", "dash")),
    Bad("dot name", "name: first-try", "name: .hidden", "name: a.b", ("run.name", "letters")),
    Bad(
        "long name",
        "name: first-try",
        "name: " + "a" * 101,
        "name: " + "a" * 100,
        ("run.name", "100"),
    ),
    Bad(
        "script name", "name: first-try", "name: <script>", "name: script", ("run.name", "letters")
    ),
    Bad(
        "shell name", "name: first-try", "name: $(reboot)", "name: reboot", ("run.name", "letters")
    ),
    Bad("device name", "name: first-try", "name: NUL", "name: NULL1", ("run.name", "letters")),
    Bad("newline name", "name: first-try", 'name: "a\\nb"', 'name: "a_b"', ("run.name", "letters")),
    Bad(
        "absolute folder", "name: first-try", "out: /etc", "out: runs/mine", ("run.out", "relative")
    ),
    Bad(
        "climbing folder",
        "name: first-try",
        "out: runs/../..",
        "out: runs/a/b",
        ("run.out", "relative"),
    ),
    Bad(
        "fresh points of a grid",
        "    sampler: sobol\n",
        "    adaptive: r3\n    sampler: grid\n",
        "    adaptive: r3\n",
        ("solver.points.sampler", "'r3' replaces points by fresh ones"),
        line=28,
    ),
    Bad(
        "series with a background",
        "    width: 20\n",
        "    kind: spectral\n    background: true\n",
        "    kind: spectral\n",
        ("solver.network.background", "'background: auto'"),
        line=21,
    ),
]
