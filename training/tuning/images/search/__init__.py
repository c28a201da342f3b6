"""Finding better pictures while they are drawn: selection, particles, candidates, noise, guidance.

Each module works on one prompt with any step rule and any reward, and never changes a weight.
"""
