"""Using trained models: a model SPEC becomes a backbone, a task measures it, a result file says what was measured.

Reading order: ``task`` (what a task is), ``registry`` (which there are), ``runner`` (one task on one model), ``backbone``,
``samples`` and ``features`` (what tasks are made of). See docs/evaluation.md.
"""
