"""`python -m cls_exporter ...` is `cls-export ...` where the console script is not on the PATH."""

from __future__ import annotations

import sys

from cls_exporter.start import cls_export

if __name__ == "__main__":
    sys.exit(cls_export())
