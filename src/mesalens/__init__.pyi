"""mesalens: build, train, solve and identify in-context learners, and check published claims.

An in-context learner is a function from a prompt to a prediction: `prediction = learner(prompt)`.
"""

from . import adapters as adapters
from . import analysis as analysis
from . import atlas as atlas
from . import identification as identification
from . import learners as learners
from . import models as models
from . import plots as plots
from . import program_cache as program_cache
from . import progress as progress
from . import random as random
from . import studies as studies
from . import tasks as tasks
from . import theory as theory
from . import training as training
from ._citation import citation as citation
from ._load import load as load
from .atlas import Session as Session
from .checks import InputError as InputError
from .identification import Identification as Identification
from .identification import identify as identify
from .learners import GradientDescent as GradientDescent
from .learners import Learner as Learner
from .learners import LeastSquares as LeastSquares
from .learners import Ridge as Ridge
from .models import LinearTransformer as LinearTransformer
from .models import Transformer as Transformer
from .prompt import Prompt as Prompt
from .training import train as train

__version__: str
