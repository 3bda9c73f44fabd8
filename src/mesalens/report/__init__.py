"""Carries out a study and writes the page about it."""

from mesalens.report.examination import Examination as Examination
from mesalens.report.examination import examine as examine
from mesalens.report.write import number as number
from mesalens.report.write import summary as summary
from mesalens.report.write import write_report as write_report
