"""Check a bank from a checkout: ``python tools/fsck.py BANK [--read-data] [--keyless] [--repair]``.

The same as ``casbank fsck``, for where casbank is not installed but its dependencies are.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from casbank.cli.fsck import command

if __name__ == "__main__":
    command.main(prog_name="fsck.py")
