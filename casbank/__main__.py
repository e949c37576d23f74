"""``python -m casbank`` is the command ``casbank``."""

from casbank.cli.main import run

run()
