"""How hypothesis runs: at random on a developer's machine, always the same examples in CI.

`HYPOTHESIS_PROFILE=thorough` looks at 25 times as many.
"""

import os

from hypothesis import HealthCheck, settings

COMMON = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],
}

settings.register_profile("local", max_examples=100, **COMMON)
settings.register_profile("derandomized", max_examples=100, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=2500, **COMMON)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "derandomized" if os.environ.get("CI") else "local")
)
