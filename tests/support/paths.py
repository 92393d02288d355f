"""Where the tests find what is not code."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The folder of the project."""

DATA = ROOT / "tests" / "data"
RECORDED = DATA / "recorded"
"""What frameworks themselves computed or wrote."""

SAMPLES = ROOT / "sample_models"
