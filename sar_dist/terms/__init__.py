"""The terms of the loss beside the cross-entropy: the spatial entropy, further ones, and a user's own. See docs/terms.md."""

from sar_dist.terms.build import TermCosts, build_terms, check_terms, term_costs
from sar_dist.terms.registry import TERMS, registered_quantities, term_class
from sar_dist.terms.term import Term, TermScores, TermSetup, WeightedTerm

__all__ = [
    "TERMS",
    "Term",
    "TermCosts",
    "TermScores",
    "TermSetup",
    "WeightedTerm",
    "build_terms",
    "check_terms",
    "registered_quantities",
    "term_class",
    "term_costs",
]
