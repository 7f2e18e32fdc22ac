"""The residual engine: Jacobian against automatic differentiation, exact fields, Laplacians."""

import pytest
import sympy
import torch

from residua.config import make_case
from residua.engine.networks.ansatz import SymbolicField
from residua.engine.networks.embedding import Embedding
from residua.engine.networks.field import Field
from residua.engine.networks.mlp import Mlp
from residua.engine.optimizers.gauss_newton import GaussNewton
from residua.engine.residuals import PointSet, ResidualEngine, interior_term
from residua.problems import registry
from residua.problems.equation import parse
from residua.problems.problem import Problem
from residua.solvers.causal import Causal
from residua.solvers.pinn import Pinn

SMALL = {
    "network": {"width": 6, "depth": 2, "harmonics": 2},
    "points": {"interior": 40, "boundary": 8, "initial": 12},
}
CASES = [
    ("burgers", {"hard": True}),
    ("burgers", {"hard": False}),
    ("allen_cahn", {"hard": True, "propagator": False}),
    ("allen_cahn", {"hard": True}),
    ("kdv", {"hard": ["initial"]}),
    ("poisson_2d", {"hard": True, "network": {"kind": "modified_mlp", "factorised": True}}),
    ("wave", {"hard": True}),
    ("lorenz", {"hard": False}),
]


def trainer(name, settings, backend="pinn"):
    solver = {"name": backend, **SMALL, **{k: v for k, v in settings.items() if k != "network"}}
    solver["network"] = {**SMALL["network"], **settings.get("network", {})}
    case = make_case(name, solver, {"budget": 10})
    return (Pinn if backend == "pinn" else Causal)(case, torch.device("cpu"))


@pytest.mark.parametrize("name, settings", CASES)
def test_the_jacobian_equals_automatic_differentiation(name, settings):
    member = trainer(name, settings)
    engine = member.engine
    residual, fast = engine.linearise(member.batch)
    assert torch.allclose(residual, engine.row_vector(member.batch), rtol=1e-12, atol=1e-14)
    slow = torch.zeros_like(fast)
    row = 0
    for key, points in member.batch.items():
        values = engine.residuals({key: points})[key] * points.weights.sqrt()[:, None]
        for value in values.flatten():
            gradients = torch.autograd.grad(
                value, engine.parameters, retain_graph=True, allow_unused=True
            )
            slow[row] = torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(engine.parameters, gradients, strict=True)
                ]
            )
            row += 1
    assert row == len(fast)
    assert (fast - slow).abs().max() <= 1e-11 * slow.abs().max()
    assert (1.001 * fast - slow).abs().max() > 1e-11 * slow.abs().max()


@pytest.mark.parametrize("name", ["heat", "wave", "advection", "poisson_2d", "helmholtz_2d"])
def test_the_residual_of_an_exact_solution_vanishes(name):
    problem = registry.get(name)
    exact = problem.reference_spec["exact"]
    trees = [problem.substituted(parse(exact[f], problem.namespace)) for f in problem.fields]
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(50, len(problem.coordinates), generator=generator, dtype=torch.float64)
    low = torch.tensor([b[0] for b in problem.bounds], dtype=torch.float64)
    high = torch.tensor([b[1] for b in problem.bounds], dtype=torch.float64)
    points = PointSet(low + (high - low) * unit, torch.ones(50, dtype=torch.float64))

    def size(fields):
        field = SymbolicField(problem.coordinates, fields)
        full = ResidualEngine(problem, field, [interior_term(problem)])
        return full.residuals({"interior": points})["interior"].abs().max()

    assert size(trees) <= 1e-9
    x = sympy.Symbol(problem.coordinates[0], real=True)
    assert size([tree + sympy.Rational(1, 100) * sympy.sin(2 * x) for tree in trees]) > 1e-3


def test_laplacians_are_collapsed_and_give_the_same_residual():
    member = trainer("poisson_2d", {})
    assert member.engine.algebra("interior").laplacian == (0, 1)
    plain = ResidualEngine(member.problem, member.current.field, member.terms, collapse=False)
    assert plain.algebra("interior").laplacian == ()
    one = member.engine.residuals(member.batch)["interior"]
    other = plain.residuals(member.batch)["interior"]
    assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


def plate(equation):
    """A network and the interior term of an equation in the plane and time."""
    problem = Problem.from_mapping(
        {
            "coordinates": {"x": [0, 1], "y": [0, 2], "t": [0, 1]},
            "fields": ["u"],
            "equations": [equation],
            "conditions": [
                {"where": "t = 0", "u": 0} | ({"u_t": 0} if "u_tt" in equation else {}),
                {"periodic": "x"},
                {"periodic": "y"},
            ],
            "reference": "none",
        }
    )
    generator = torch.Generator().manual_seed(0)
    embedding = Embedding(problem.bounds, periodic={}, generator=generator)
    field = Mlp(embedding, 1, width=8, depth=2, generator=generator).double()
    return problem, field, [interior_term(problem)]


@pytest.mark.parametrize(
    ("equation", "operator"),
    [
        ("u_tt + u_xxxx + 2*u_xxyy + u_yyyy + u*lap(u) + u_xy*u_t = x", "biharmonic"),
        ("u_t + u*(u_xxxx + 2*u_xxyy + u_yyyy)/3 = 0", "biharmonic"),
        ("u_tt + u_xxxx + u_xxyy + u_yyyy = 0", ""),  # not the bilaplacian
        ("u_tt + u_xxxx + 2*u_xxyy + u_yyyy + u_xxx = 0", ""),  # a third derivative on the way
        ("u_t + u_xxxx + 2*u_xxyy + u_yyyy + u_xxxx^2 = 0", ""),
        ("u_tt = u*lap(u) + u_x", "laplacian"),
        ("u_tt = u_xx + 2*u_yy", ""),
    ],
)
def test_what_is_collapsed_gives_the_same_residual(equation, operator):
    problem, field, terms = plate(equation)
    engine = ResidualEngine(problem, field, terms)
    plain = ResidualEngine(problem, field, terms, collapse=False)
    algebra = engine.algebra("interior")
    axes = {"biharmonic": algebra.biharmonic, "laplacian": algebra.laplacian}
    assert {name for name, found in axes.items() if found == (0, 1)} == ({operator} - {""})
    assert (algebra.channels < plain.algebra("interior").channels) == bool(operator)
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = {"interior": PointSet(points, torch.full((20,), 1 / 20, dtype=torch.float64))}
    one, other = (e.residuals(batch)["interior"].detach() for e in (engine, plain))
    assert torch.allclose(one, other, rtol=1e-11, atol=1e-11 * float(other.abs().max()))


@pytest.mark.parametrize("name", ["burgers", "wave", "allen_cahn", "poisson_2d", "klein_gordon"])
def test_hard_conditions_hold_to_rounding(name):
    member = trainer(name, {"hard": True})
    assert {term.kind for term in member.terms} == {"interior"}
    free = trainer(name, {"hard": False})
    with torch.no_grad():
        for kind, field in (("hard", member.current.field), ("soft", free.current.field)):
            engine = ResidualEngine(free.problem, field, free.terms)
            worst = max(
                float(values.abs().max())
                for key, values in engine.residuals(free.batch).items()
                if key != "interior"
            )
            if kind == "soft":
                assert worst > 1e-3
            else:  # the propagator keeps a kink only to its number of modes
                assert worst < (1e-2 if name == "allen_cahn" else 1e-10)


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_gauss_newton_converges_quadratically_on_a_zero_residual_problem(form):
    """Rosenbrock as least squares, (10 (y - x^2), 1 - x): the root is reached to rounding."""
    point = torch.nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))

    def residuals():
        return torch.stack([10 * (point[1] - point[0] ** 2), 1 - point[0]])

    def linearise():
        jacobian = torch.autograd.functional.jacobian(
            lambda p: torch.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]]), point.detach()
        )
        return residuals().detach(), jacobian

    optimizer = GaussNewton([point], residuals, linearise, form=form)
    values = [optimizer.step() for _ in range(40)]
    assert values[-1] < 1e-24
    assert all(b <= a for a, b in zip(values, values[1:], strict=False))

    def wrong():
        r, jacobian = linearise()
        return r, jacobian * torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)

    with torch.no_grad():
        point.copy_(torch.tensor([-1.2, 1.0]))
    twin = GaussNewton([point], residuals, wrong, form=form)
    assert min(twin.step() for _ in range(40)) > 1e-12


@pytest.mark.parametrize("name, settings", CASES)
def test_loss_and_gradient_by_blocks_are_those_of_the_whole(name, settings, monkeypatch):
    member = trainer(name, settings)
    engine = member.engine
    loss = engine.loss(member.batch)[0]
    whole = torch.autograd.grad(loss, engine.parameters, allow_unused=True)
    wanted = torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(engine.parameters, whole, strict=True)
        ]
    )
    for size in (7, 1000):
        monkeypatch.setattr(ResidualEngine, "block_size", lambda self, term, size=size: size)
        value, gradient = engine.loss_and_gradient(member.batch)
        assert value == pytest.approx(float(loss.detach()), rel=1e-13)
        assert (gradient - wanted).abs().max() <= 1e-13 * wanted.abs().max()
    r, jacobian = engine.linearise(member.batch)
    assert (2 * jacobian.T @ r - wanted).abs().max() <= 1e-11 * wanted.abs().max()
    # Wrong twin: without the factor 2 of the square.
    assert (jacobian.T @ r - wanted).abs().max() > 0.1 * wanted.abs().max()


class Times(Field):
    """A network times a trained number."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.factor = torch.nn.Parameter(torch.tensor([1.5], dtype=torch.float64))

    def jet(self, points, algebra, context=None):
        return self.factor * self.inner.jet(points, algebra, context)


def some_points(count=7):
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {
        "interior": PointSet(points, torch.full((count,), 1 / max(count, 1), dtype=torch.float64))
    }


def test_a_frozen_layer_does_not_stand_for_a_number_outside_the_layers():
    problem, field, terms = plate("u_t = u*lap(u) + u_x")
    field = Times(field)
    field.inner.readout.bias.requires_grad_(False)
    engine = ResidualEngine(problem, field, terms)
    r, jacobian = engine.linearise(some_points())
    _, gradient = engine.loss_and_gradient(some_points())
    assert torch.allclose(2 * jacobian.T @ r, gradient, rtol=1e-10)
    column = engine._offsets[field.factor]
    assert jacobian[:, column].abs().max() > 1e-3


@pytest.mark.parametrize("spoil", ["dtype", "layout", "shape", "none"])
def test_memory_that_does_not_fit_is_not_used_again(spoil):
    problem, field, terms = plate("u_t = u*lap(u) + u_x")
    engine = ResidualEngine(problem, field, terms)
    batch = some_points(40)
    _, expected = engine.linearise(batch)
    out = {
        "dtype": torch.empty(expected.shape, dtype=torch.float32),
        "layout": torch.empty(expected.T.shape, dtype=torch.float64).T,
        "shape": torch.empty(3, 3, dtype=torch.float64),
        "none": torch.empty_like(expected),
    }[spoil]
    _, jacobian = engine.linearise(batch, out=out)
    assert torch.equal(jacobian, expected)
    assert (jacobian is out) == (spoil == "none")


def test_no_points_have_no_residuals():
    problem, field, terms = plate("u_t = u*lap(u) + u_x")
    engine = ResidualEngine(problem, field, terms)
    assert engine.residuals(some_points(0))["interior"].shape == (0, 1)
    assert engine.loss_and_gradient(some_points(0))[0] == 0
