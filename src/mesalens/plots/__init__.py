"""Figures: functions that draw on axes you give, and a style you can replace."""

from mesalens.plots.attention import attention_map as attention_map
from mesalens.plots.curves import curve as curve
from mesalens.plots.depth import risk_over_depth as risk_over_depth
from mesalens.plots.matrices import heat_map as heat_map
from mesalens.plots.similarity import similarity_map as similarity_map
from mesalens.plots.spectra import spectra as spectra
from mesalens.plots.style import INTERPOLATED as INTERPOLATED
from mesalens.plots.style import NEUTRAL as NEUTRAL
from mesalens.plots.style import REFERENCE as REFERENCE
from mesalens.plots.style import TRAINED as TRAINED
from mesalens.plots.style import style as style
from mesalens.plots.sweep import sweep_figure as sweep_figure
