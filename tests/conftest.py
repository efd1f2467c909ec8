"""Tests share compiled programs: both workers, the commands that tests start, and the next run of the tests."""

from knerex_jax.compilations import keep_compilations

keep_compilations()
