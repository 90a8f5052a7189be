"""What a design costs, worked out from its spec alone: nothing is built, and torch is not loaded."""

from hybridgen.costs.model_cost import cost as cost
from hybridgen.costs.results import Flops as Flops
from hybridgen.costs.results import ModelCost as ModelCost
from hybridgen.costs.results import Parameters as Parameters
from hybridgen.costs.results import PartCost as PartCost
from hybridgen.costs.results import StateBytes as StateBytes
from hybridgen.costs.results import TrainingMemory as TrainingMemory
