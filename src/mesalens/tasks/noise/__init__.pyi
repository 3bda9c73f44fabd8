from .base import Noise as Noise
from .gaussian import GaussianNoise as GaussianNoise
from .heteroscedastic import HeteroscedasticNoise as HeteroscedasticNoise
from .laplace import LaplaceNoise as LaplaceNoise
from .student_t import StudentTNoise as StudentTNoise
