"""The version of inspector, part of every report and of every key of the cache; and those of packages."""

__version__ = "0.1.0"


def installed(package: str) -> str | None:
    """The version of a package that is installed; None where it is not."""
    from importlib.metadata import PackageNotFoundError, version  # loads `email`: not at every start

    try:
        return version(package)
    except PackageNotFoundError:
        return None
