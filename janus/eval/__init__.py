"""Benchmarks behind one small interface: raw answers first, scores after."""
