"""Studies: experiments, claims and criteria, and the session that checks the claims.

A `Study` declares what a paper claims and how it is measured. A `Session` trains, measures, and
judges the claims by their criteria; the result is a `Report`.
"""

from mesalens._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
