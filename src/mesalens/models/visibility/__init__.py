"""What a token sees: which rows are its keys."""

from mesalens.models.visibility.all_rows import AllRows as AllRows
from mesalens.models.visibility.base import Visibility as Visibility
from mesalens.models.visibility.causal import Causal as Causal
from mesalens.models.visibility.context_only import ContextOnly as ContextOnly
