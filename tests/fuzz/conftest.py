"""`make fuzz`: new examples each time, as many as FUZZ_EXAMPLES says; `make test` takes a few, the same each time."""

from __future__ import annotations

import os

from hypothesis import Phase, settings

settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "2000")),
    derandomize=False,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    print_blob=True,
)
