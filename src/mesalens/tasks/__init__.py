"""Distributions over prompts: covariates × functions × noise × distractors × context length."""

from mesalens.tasks.classification import ClassificationTask as ClassificationTask
from mesalens.tasks.condensed import CondensedTask as CondensedTask
from mesalens.tasks.covariates import Cauchy as Cauchy
from mesalens.tasks.covariates import Covariates as Covariates
from mesalens.tasks.covariates import Exponential as Exponential
from mesalens.tasks.covariates import Gaussian as Gaussian
from mesalens.tasks.covariates import IndependentCovariates as IndependentCovariates
from mesalens.tasks.covariates import Laplace as Laplace
from mesalens.tasks.covariates import Sphere as Sphere
from mesalens.tasks.covariates import StudentT as StudentT
from mesalens.tasks.covariates import Uniform as Uniform
from mesalens.tasks.distractors import Distractors as Distractors
from mesalens.tasks.functions import Constants as Constants
from mesalens.tasks.functions import Cosines as Cosines
from mesalens.tasks.functions import Functions as Functions
from mesalens.tasks.functions import LinearFunctions as LinearFunctions
from mesalens.tasks.functions import Monomials as Monomials
from mesalens.tasks.functions import OwnFunctions as OwnFunctions
from mesalens.tasks.functions import RotatedPolynomials as RotatedPolynomials
from mesalens.tasks.functions import SineWaves as SineWaves
from mesalens.tasks.functions import TwoLayerNetworks as TwoLayerNetworks
from mesalens.tasks.matrix_file import read_matrix as read_matrix
from mesalens.tasks.noise import GaussianNoise as GaussianNoise
from mesalens.tasks.task import RegressionTask as RegressionTask
from mesalens.tasks.task import Task as Task
