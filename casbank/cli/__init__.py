"""The command line: one file a verb; what several of them need is named for what it is.

Rule 1: standard output carries the answer alone, a name, a content or one JSON document; all else is standard error.
Rule 2: every failure is one line, and its exit code says what to do about it (``failure.py``).
Rule 3: a recursive verb names what it could not do, goes on with the rest, and ends with 11.
"""
