"""Figures: functions that draw on given axes, and a Matplotlib style."""

from mesalens.plots._attention_map import attention_map as attention_map
from mesalens.plots._curve import curve as curve
from mesalens.plots._heat_map import heat_map as heat_map
from mesalens.plots._risk_over_depth import risk_over_depth as risk_over_depth
from mesalens.plots._similarity_map import similarity_map as similarity_map
from mesalens.plots._spectra import spectra as spectra
from mesalens.plots._style import INTERPOLATED as INTERPOLATED
from mesalens.plots._style import NEUTRAL as NEUTRAL
from mesalens.plots._style import REFERENCE as REFERENCE
from mesalens.plots._style import TRAINED as TRAINED
from mesalens.plots._style import style as style
from mesalens.plots._sweep_figure import sweep_figure as sweep_figure
