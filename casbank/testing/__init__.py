"""What authors of stores and journals test theirs with. Needs pytest (``pip install casbank[test]``).

Nothing in casbank imports this package.
"""
