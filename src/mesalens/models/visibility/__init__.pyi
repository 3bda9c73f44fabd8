from .all_rows import AllRows as AllRows
from .base import Visibility as Visibility
from .causal import Causal as Causal
from .context_only import ContextOnly as ContextOnly
