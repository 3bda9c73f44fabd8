from .adam import Adam as Adam
from .adam import clipped_adam as clipped_adam
from .base import Optimiser as Optimiser
from .base import schedule as schedule
from .sgd import SGD as SGD
