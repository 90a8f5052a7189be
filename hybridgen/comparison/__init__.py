"""What differs between two models once everything in their documents is worked out, and what the difference costs."""

from hybridgen.comparison.differences import Change as Change
from hybridgen.comparison.model_diff import MetricChange as MetricChange
from hybridgen.comparison.model_diff import ModelDiff as ModelDiff
from hybridgen.comparison.model_diff import diff as diff
