"""The levels of the proof: one module for each."""
