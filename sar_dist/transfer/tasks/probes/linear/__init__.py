"""The linear probe: a sweep of linear classifiers on frozen features, trained in one pass.

Reading order: ``task`` (what happens), ``recipes`` (the protocols' numbers), ``heads``, ``batches``, ``training``.
"""
