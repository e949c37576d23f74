"""Tests of the command line. A package, so that its modules need no names that are unique among all tests."""
