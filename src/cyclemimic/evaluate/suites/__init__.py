"""Suites that come with this package, a file each."""
