"""What maps the inputs of a task to its labels."""

from mesalens.tasks.functions.base import Functions as Functions
from mesalens.tasks.functions.constants import Constants as Constants
from mesalens.tasks.functions.cosines import Cosines as Cosines
from mesalens.tasks.functions.linear import LinearFunctions as LinearFunctions
from mesalens.tasks.functions.monomials import Monomials as Monomials
from mesalens.tasks.functions.networks import TwoLayerNetworks as TwoLayerNetworks
from mesalens.tasks.functions.own import OwnFunctions as OwnFunctions
from mesalens.tasks.functions.polynomials import RotatedPolynomials as RotatedPolynomials
from mesalens.tasks.functions.sine_waves import SineWaves as SineWaves
