"""The element-wise half of a Taylor bundle's layer as one loop, compiled where it is needed."""
