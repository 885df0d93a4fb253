"""Images of hands with everything known, made to cover what cameras see rather than to look pretty."""

from texalign.synthetic.generation import SyntheticBatch, generate

__all__ = ["SyntheticBatch", "generate"]
