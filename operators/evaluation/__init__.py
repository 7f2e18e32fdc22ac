"""`residua evaluate`: how wrong an operator is, where, how sure, and what else solves it."""
