"""Where blobs live: the ``Store`` protocol and its implementations.

A store knows names and bytes; what they mean is the business of higher layers. Nothing is imported here, so that a
program which uses one store does not load the others.
"""
