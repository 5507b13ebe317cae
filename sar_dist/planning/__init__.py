"""What a run will need before it is started: memory, communication, loader, time, money. See docs/planning.md."""

from sar_dist.machine import Machine
from sar_dist.planning.communication import Communication, collective_payloads, plan_communication
from sar_dist.planning.cost import Cost, LoaderDemand, plan_cost, plan_loader
from sar_dist.planning.memory import MemoryPlan, plan_memory
from sar_dist.planning.plan import Setting, TrainingPlan, make_plan
from sar_dist.planning.precision import Precision
from sar_dist.planning.shape import ModelShape
from sar_dist.planning.tables import TABLE_WIDTH, plan_tables

__all__ = [
    "TABLE_WIDTH",
    "Communication",
    "Cost",
    "LoaderDemand",
    "Machine",
    "MemoryPlan",
    "ModelShape",
    "Precision",
    "Setting",
    "TrainingPlan",
    "collective_payloads",
    "make_plan",
    "plan_communication",
    "plan_cost",
    "plan_loader",
    "plan_memory",
    "plan_tables",
]
