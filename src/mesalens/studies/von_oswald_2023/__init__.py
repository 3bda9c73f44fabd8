"""Transformers Learn In-Context by Gradient Descent, von Oswald et al., ICML 2023.

The parts are declared in the order of this import.
"""

# isort: off
from mesalens.studies.von_oswald_2023 import construction, one_layer, shift, sizes  # noqa: F401
from mesalens.studies.von_oswald_2023 import deep, depths, softmax, nonlinear  # noqa: F401
from mesalens.studies.von_oswald_2023 import classification, copying  # noqa: F401
from mesalens.studies.von_oswald_2023.study import STUDY as STUDY
