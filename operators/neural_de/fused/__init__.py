"""Integration of small systems in compiled code, forward and reverse."""
