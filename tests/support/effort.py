"""How often tests repeat what chance decides: a little in `make test`, much more in `make test-long`."""

import os


def repeated(usual: int, long: int) -> int:
    """The number of examples, rounds or kills: `long` where `make test-long` sets CARAT_TEST_LONG."""
    return long if os.environ.get("CARAT_TEST_LONG") else usual
