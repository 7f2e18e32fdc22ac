"""Functions given by data: Fourier series and samples, usable by name in every expression."""

from .call import GivenCall
from .function import GIVEN, Given
from .section import few, files, located, mapping_of, read, references_of
from .series import Series
from .spline import Spline

__all__ = [
    "GIVEN",
    "Given",
    "GivenCall",
    "Series",
    "Spline",
    "few",
    "files",
    "located",
    "mapping_of",
    "read",
    "references_of",
]
