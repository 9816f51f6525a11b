"""Benchmarks: each figure is a ratio to a bare limit that is measured in the same run."""
