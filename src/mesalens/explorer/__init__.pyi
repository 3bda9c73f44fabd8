from .pages import write as write
from .server import serve as serve
