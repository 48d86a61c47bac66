"""Builds and checks bundles for hosts without a network."""

from storage.errors import ReportedError


class BundleError(ReportedError):
    """A bundle cannot be built, or a host's libraries cannot be linked into it."""
