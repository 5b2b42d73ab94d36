"""Fixtures of the tests of certificates; what they are made of is in `conftest_cert`."""

from conftest_cert import pki

__all__ = ["pki"]
