"""Formulas for a learned field: sparse regression and evolution."""
