"""Settings for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# A first call may compile, so no example is timed.  In CI the examples are the same on every run.
settings.register_profile("tensorchain", deadline=None, derandomize="CI" in os.environ)
settings.register_profile("thorough", deadline=None, max_examples=3000)
settings.load_profile("tensorchain")
