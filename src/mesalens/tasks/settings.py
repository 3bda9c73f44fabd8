"""`TaskSettings`: a regression task as a value that can be written down and read back."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mesalens import tasks
from mesalens.checks import InputError
from mesalens.tasks.matrix_file import Matrix

CovariateName = Literal["gaussian", "uniform", "sphere", "laplace", "exponential", "student-t", "cauchy"]

COVARIATES = {
    "gaussian": (tasks.Gaussian, {"covariate_covariance": "covariance"}),
    "uniform": (tasks.Uniform, {}),
    "sphere": (tasks.Sphere, {}),
    "laplace": (tasks.Laplace, {}),
    "exponential": (tasks.Exponential, {}),
    "student-t": (tasks.StudentT, {"degrees_of_freedom": "degrees_of_freedom"}),
    "cauchy": (tasks.Cauchy, {}),
}
FUNCTIONS = {
    "linear": (tasks.LinearFunctions, {"weight_covariance": "covariance", "weight_mean": "mean"}),
    "monomial": (tasks.Monomials, {"degree": "degree"}),
    "cosine": (tasks.Cosines, {"frequency": "frequency", "phase": "phase"}),
    "sine": (tasks.SineWaves, {}),
    "polynomial": (tasks.RotatedPolynomials, {}),
    "constant": (tasks.Constants, {}),
}
NETWORK = {"hidden": "hidden", "readout_mean": "readout_mean"}


class TaskSettings(BaseModel):
    """Covariates, functions, noise and context length of a regression task, in the words of the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = 10
    """d, entries of a covariate"""
    context_length: int = 10
    """n, labelled examples in a prompt"""
    outputs: int = 1
    """m, entries of a label"""
    covariates: CovariateName = "gaussian"
    """distribution of the covariates"""
    scale: float = 1.0
    """scale of the covariates: Gaussian N(0, scale² Σ), uniform on [-scale, scale], …"""
    covariate_covariance: Matrix | None = None
    """Σ of Gaussian covariates: a CSV or .npy file"""
    degrees_of_freedom: float | None = None
    """of Student-t covariates"""
    functions: Literal[
        "linear",
        "relu-network",
        "tanh-network",
        "erf-network",
        "gelu-network",
        "sin-network",
        "monomial",
        "cosine",
        "sine",
        "polynomial",
        "constant",
    ] = "linear"
    """family of functions: linear, random two-layer networks, powers and cosines of a random direction, …"""
    function_scale: float = 1.0
    """what multiplies every function"""
    weight_covariance: Matrix | None = None
    """Λ, the prior covariance of linear functions' weights: a CSV or .npy file"""
    weight_mean: Matrix | None = None
    """the prior mean of linear functions' weights, one row an output: a CSV or .npy file"""
    hidden: int | None = None
    """hidden units of a network (32)"""
    readout_mean: float | None = None
    """mean of a network's second layer (0)"""
    degree: int | None = None
    """degree of a monomial (3)"""
    frequency: float | None = None
    """frequency of a cosine (1)"""
    phase: float | None = None
    """phase of a cosine (0)"""
    noise_variance: float = 0.0
    """variance of the label noise"""
    distractors: int = 0
    """context labels replaced by noise N(0, 1)"""

    def task(self) -> tasks.RegressionTask:
        """The task; raises `ValueError` for values that make none, or that belong to another family."""
        network, _, kind = self.functions.rpartition("-")
        functions, of_functions = (tasks.TwoLayerNetworks, NETWORK) if kind == "network" else FUNCTIONS[self.functions]
        covariates, of_covariates = COVARIATES[self.covariates]
        known = {name for _, options in (*COVARIATES.values(), *FUNCTIONS.values()) for name in options} | set(NETWORK)
        for name in known - set(of_functions) - set(of_covariates):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name} is given, but neither {self.covariates} covariates nor {self.functions} functions have one; leave it out."
                )

        def given(options: dict[str, str]) -> dict[str, Any]:
            return {option: getattr(self, name) for name, option in options.items() if getattr(self, name) is not None}

        options: dict[str, Any] = given(of_functions) | ({"activation": network} if kind == "network" else {})
        return tasks.RegressionTask(
            covariates(self.dim, self.scale, **given(of_covariates)),
            functions(self.dim, self.outputs, scale=self.function_scale, **options),
            context_length=self.context_length,
            noise=tasks.GaussianNoise(self.noise_variance),
            distractors=tasks.Distractors(self.distractors),
        )
