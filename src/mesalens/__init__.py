"""mesalens: build, train, solve and identify in-context learners, and check what is published about them.

An in-context learner is a function from a prompt to a prediction: `prediction = learner(prompt)`.

The public names stand in `__init__.pyi`; each is imported when it is first used, so that a command waits for what it needs alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
