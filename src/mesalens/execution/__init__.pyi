"""Where work is done: the cores of this machine, or a Dask cluster."""

from .cluster import Cluster as Cluster
from .cluster import connected as connected
from .cores import Cores as Cores
from .jobs import BusyError as BusyError
from .jobs import Execution as Execution
from .jobs import GivenUpError as GivenUpError
from .jobs import Job as Job
from .jobs import Place as Place
from .jobs import State as State
from .jobs import StoppingError as StoppingError
from .jobs import Unit as Unit
