"""Experiments: what tools/experiment.py runs. Each file's ``experiment()`` returns arms, seeds and evaluations."""
