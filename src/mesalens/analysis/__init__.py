"""What did it learn: risk, alignment and similarity of learners, interpolation, curvature, damping, distribution shift."""

from mesalens.analysis.alignment import Alignment as Alignment
from mesalens.analysis.alignment import alignment as alignment
from mesalens.analysis.alignment import alignment_at as alignment_at
from mesalens.analysis.alignment import sensitivity as sensitivity
from mesalens.analysis.curvature import curvature as curvature
from mesalens.analysis.damping import largest_stable_damping as largest_stable_damping
from mesalens.analysis.damping import risk_by_depth as risk_by_depth
from mesalens.analysis.interpolation import interpolate as interpolate
from mesalens.analysis.interpolation import normalised as normalised
from mesalens.analysis.preconditioner import learned_preconditioner as learned_preconditioner
from mesalens.analysis.risk import risk as risk
from mesalens.analysis.risk import risks as risks
from mesalens.analysis.risk import squared_error as squared_error
from mesalens.analysis.shift import distracted as distracted
from mesalens.analysis.shift import risks_under_shift as risks_under_shift
from mesalens.analysis.shift import scaled_functions as scaled_functions
from mesalens.analysis.shift import scaled_inputs as scaled_inputs
from mesalens.analysis.similarity import nearest_learners as nearest_learners
from mesalens.analysis.similarity import similarities as similarities
from mesalens.analysis.similarity import similarity as similarity
from mesalens.simulation import Estimate as Estimate
from mesalens.simulation import expectation as expectation
