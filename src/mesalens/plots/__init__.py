"""Figures: functions that draw on axes you give, and a style you can replace."""

from mesalens.plots.curves import curve as curve
from mesalens.plots.matrices import heat_map as heat_map
from mesalens.plots.style import INTERPOLATED as INTERPOLATED
from mesalens.plots.style import NEUTRAL as NEUTRAL
from mesalens.plots.style import REFERENCE as REFERENCE
from mesalens.plots.style import TRAINED as TRAINED
from mesalens.plots.style import style as style
