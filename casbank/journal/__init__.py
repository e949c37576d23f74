"""The totally ordered list of records: the ``Journal`` protocol and its implementations.

A journal knows records as numbered bytes that end in their own hash; what they say is the business of higher layers.
Nothing is imported here, so that a program which uses one journal does not load the others.
"""
