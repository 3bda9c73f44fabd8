"""mesalens: build, train, solve and identify in-context learners, and check published claims.

An in-context learner is a function from a prompt to a prediction: `prediction = learner(prompt)`.

`__init__.pyi` lists the public names. Each is imported when it is first used, so that a command
does not wait for libraries that it does not need.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
