"""What is to be solved. Values only: no network, no optimiser, no device."""

from .problem import Parameter, Problem
from .registry import get, names, register
from .transforms import manufactured

__all__ = ["Parameter", "Problem", "get", "manufactured", "names", "register"]
