"""What is added to the labels of a regression task."""

from mesalens.tasks.noise.base import Noise as Noise
from mesalens.tasks.noise.gaussian import GaussianNoise as GaussianNoise
from mesalens.tasks.noise.heteroscedastic import HeteroscedasticNoise as HeteroscedasticNoise
from mesalens.tasks.noise.laplace import LaplaceNoise as LaplaceNoise
from mesalens.tasks.noise.student_t import StudentTNoise as StudentTNoise
