"""The axes along which parts are chosen, and the names of their members in settings and commands.

This is the only place where these names are listed. A class that is not listed is given as
`path/file.py:Name`.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Axis(NamedTuple):
    """An abstract class, and the classes that implement it, by name.

    A class from another room is written "room:Class".
    """

    package: str
    base: str
    members: Mapping[str, str]

    def place(self, name: str) -> str:
        """The place of a class, as "package:Class"."""
        return f"mesalens.{name}" if ":" in name else f"mesalens.{self.package}:{name}"


def _axis(package: str, base: str, members: str) -> Axis:
    pairs = (pair.split("=", 1) for pair in members.split())
    return Axis(package, base, dict(pairs))


COVARIATES = """gaussian=Gaussian uniform=Uniform sphere=Sphere laplace=Laplace
    exponential=Exponential student-t=StudentT cauchy=Cauchy gamma-directions=GammaDirections
    random-mean=RandomMean retrieved=Retrieved"""
FUNCTIONS = """linear=LinearFunctions network=TwoLayerNetworks monomial=Monomials cosine=Cosines
    sine=SineWaves polynomial=RotatedPolynomials constant=Constants pool=FinitePool
    custom=CustomFunctions"""
NOISE = """gaussian=GaussianNoise laplace=LaplaceNoise student-t=StudentTNoise
    heteroscedastic=HeteroscedasticNoise"""
LEARNERS = """linear-transformer=models:LinearTransformer transformer=models:Transformer
    gradient-descent=GradientDescent chebyshev-descent=ChebyshevDescent ridge=Ridge
    conjugate-gradient=ConjugateGradient newton-schulz=NewtonSchulz least-squares=LeastSquares
    logistic-descent=LogisticDescent bayes=BayesianRegression softmax-head=SoftmaxHead
    constant=ConstantPrediction mean-label=MeanLabel centred-descent=CentredDescent
    principal-components=PrincipalComponentRegression discrete-bayes=DiscreteBayes
    kernel-ridge=KernelRidge kernel-smoother=KernelSmoother nearest-neighbours=KNearestNeighbours
    lasso=Lasso weighted-ridge=WeightedRidge online-descent=OnlineDescent"""
ATTENTION = """softmax=SoftmaxAttention linear=LinearAttention relu=ReLUAttention
    kernel=KernelAttention"""
OBJECTIVES = """sampled=SquaredError population=Population cross-entropy=CrossEntropy
    fixed-prompts=FixedPrompts"""
STOPS = "never=Never near-optimum=NearOptimum near-risk=NearRisk flat=Flat"
STRUCTURES = """factors=Factors merged=Merged sparse=Sparse low-rank=LowRank scalars=Scalars
    descent-step=DescentStep linear-block=LinearBlock"""
TASKS = """regression=RegressionSettings classification=ClassificationSettings
    mixture=MixtureSettings"""
VISIBILITY = "context=ContextOnly causal=Causal all=AllRows"

AXES = {
    "task": _axis("tasks", "Task", TASKS),
    "covariates": _axis("tasks", "Covariates", COVARIATES),
    "functions": _axis("tasks", "Functions", FUNCTIONS),
    "noise": _axis("tasks", "Noise", NOISE),
    "learner": _axis("learners", "Learner", LEARNERS),
    "attention": _axis("models", "AttentionKind", ATTENTION),
    "structure": _axis("models", "LinearWeights", STRUCTURES),
    "visibility": _axis("models", "Visibility", VISIBILITY),
    "tokens": _axis("models", "Tokens", "joint=Joint interleaved=Interleaved"),
    "positions": _axis("models", "Positions", "sinusoidal=Sinusoidal learned=Learned"),
    "objective": _axis("training", "Objective", OBJECTIVES),
    "optimiser": _axis("training", "Optimiser", "adam=Adam sgd=SGD"),
    "stop": _axis("training", "StoppingRule", STOPS),
}

SHORT = {
    "dim": "task.dim",
    "outputs": "task.outputs",
    "context_length": "task.context_length",
    "covariates": "task.covariates",
    "functions": "task.functions",
    "noise_variance": "task.noise.variance",
    "condensed": "task.condensed",
    "layers": "model.layers",
    "heads": "model.heads",
    "looped": "model.looped",
    "init_scale": "model.init_scale",
    "learning_rate": "optimiser.learning_rate",
}
"""Short names of common settings."""
