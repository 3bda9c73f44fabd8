from .examination import Examination as Examination
from .examination import examine as examine
from .write import number as number
from .write import summary as summary
from .write import write_report as write_report
