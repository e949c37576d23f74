"""Targets for coverage-guided fuzzing, and the corpus that it has found (docs/reliability.md, "Fuzzing")."""
