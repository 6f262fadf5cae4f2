"""What a run and a database are going to need, by arithmetic alone: parameters, FLOPs, memory, bytes, hours."""

from retrolit.planning.activations import MicroBatch
from retrolit.planning.database import Database, DatabasePlan, Rates, plan_database
from retrolit.planning.gpus import Cluster
from retrolit.planning.memory import Memory, Strategy
from retrolit.planning.training import Run, TrainingPlan, plan_training

__all__ = [
    "Cluster",
    "Database",
    "DatabasePlan",
    "Memory",
    "MicroBatch",
    "Rates",
    "Run",
    "Strategy",
    "TrainingPlan",
    "plan_database",
    "plan_training",
]
