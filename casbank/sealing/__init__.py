"""From plain bytes to sealed ones and back: ids, suites, and later keys. No I/O, no clock, no randomness."""
