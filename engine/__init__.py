"""How a residual is computed and driven to zero: shared by every backend, knowing none."""
