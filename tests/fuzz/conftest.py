"""What cannot be collected where casbank was built without a compiler."""

from casbank.chunking import KERNEL

collect_ignore = [] if KERNEL == "native" else ["kernel_targets.py"]
