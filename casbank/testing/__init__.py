"""What authors of stores and journals, and of programs that stand on a bank, test theirs with.

``stores`` needs pytest (``pip install casbank[test]``), ``faults`` nothing.

Nothing in casbank imports this package.
"""
