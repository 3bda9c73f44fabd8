"""Where the inputs x of a task come from."""

from mesalens.tasks.covariates.base import Covariates as Covariates
from mesalens.tasks.covariates.base import IndependentCovariates as IndependentCovariates
from mesalens.tasks.covariates.exponential import Exponential as Exponential
from mesalens.tasks.covariates.gaussian import Gaussian as Gaussian
from mesalens.tasks.covariates.laplace import Laplace as Laplace
from mesalens.tasks.covariates.sphere import Sphere as Sphere
from mesalens.tasks.covariates.student_t import Cauchy as Cauchy
from mesalens.tasks.covariates.student_t import StudentT as StudentT
from mesalens.tasks.covariates.uniform import Uniform as Uniform
