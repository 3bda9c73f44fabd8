from ._identify import identify as identify
from .candidates import Candidate as Candidate
from .procedure import ProcedureIdentification as ProcedureIdentification
from .report import Identification as Identification
