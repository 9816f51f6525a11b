"""
Refine: from an accepted request to refined events or rejections with a reason.

Pure functions: refining the same envelope again gives the same events.
"""

from collector.refine.pipeline import refine
from collector.refine.problem import Limits, lack_of, problem_of

__all__ = ["Limits", "lack_of", "problem_of", "refine"]
