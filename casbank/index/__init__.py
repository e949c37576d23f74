"""The LMDB view of a bank: fast, disposable, rebuilt from the store, and never asked what may be freed."""
