"""What maps the inputs of a task to its labels."""

from mesalens.tasks.functions.base import Functions as Functions
from mesalens.tasks.functions.linear import LinearFunctions as LinearFunctions
