"""Additive Runge-Kutta steppers: of a sum of two fields, one is treated implicitly.

For an equation whose stiff part is cheap to solve for, and whose other part is not stiff but costly
or not differentiable: the Jacobian is that of the implicit field alone.

Source: Kennedy and Carpenter, Applied Numerical Mathematics 44 (2003).
"""

from __future__ import annotations

from typing import Any

from ...errors import ConfigurationError
from .implicit import DiagonallyImplicit
from .implicit_tableaus import KENCARP4
from .newton import Field
from .terms import SplitODE

__all__ = ["ImplicitExplicit", "KenCarp4"]


class ImplicitExplicit(DiagonallyImplicit):
    """A step of a `SplitODE` by the coefficients of an additive tableau; arguments as there."""

    def split(self, term: Any) -> tuple[Field | None, Field]:
        """The two fields of a `SplitODE`.

        Raises:
            ConfigurationError: the term is not split.
        """
        if not isinstance(term, SplitODE):
            raise ConfigurationError(
                f"{self!r} treats one part of a field implicitly.",
                found=type(term).__name__,
                advice="write SplitODE(explicit, implicit), or choose Kvaerno5() for a whole field",
            )
        return term.explicit, term.implicit


class KenCarp4(ImplicitExplicit):
    """Kennedy and Carpenter's ARK4(3)6L[2]SA: order 4, the implicit part L-stable."""

    def __init__(self, **options: Any) -> None:
        super().__init__(KENCARP4, **options)
