"""Networks between functions on grids: fields in and out, of shape (batch, channels, *nodes)."""
