"""Which packages are installed, in which version. Nothing is imported to find out, and what reads their metadata only when it is asked."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec


def installed_version(distribution: str) -> str | None:
    """A distribution's version; None where it is not installed."""
    from importlib import metadata  # with the parsers of e-mail and zip files: a tenth of the time that the runtime takes to import

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def is_installed(distribution: str) -> bool:
    """Whether a distribution is installed."""
    return installed_version(distribution) is not None


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    return {name: version for name in distributions if (version := installed_version(name)) is not None}


def is_importable(package: str) -> bool:
    """Whether a package is there; a folder of its name on the path is a namespace without an origin, and does not count."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
