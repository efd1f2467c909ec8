"""Tests share compiled programs: both workers, the commands that tests start, and the next run of the tests."""

import signal

from knerex_jax.compilations import keep_compilations

keep_compilations()

# What a shell starts in the background, by `&`, ignores Ctrl-C, and hands that on to all that it starts itself.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
