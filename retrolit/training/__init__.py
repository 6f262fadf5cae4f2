"""Training under Lightning, which only this folder and the command line know: modules, data modules, callbacks."""

from retrolit.training.checkpoints import AtomicCheckpointIO, Checkpoints, finished_steps, newest_checkpoint
from retrolit.training.evaluation import Evaluation
from retrolit.training.gpt_module import GPTModule
from retrolit.training.instruct_module import InstructRetroModule
from retrolit.training.instruction_data import InstructionData
from retrolit.training.loggers import MetricsFile
from retrolit.training.metrics import TrainingMetrics
from retrolit.training.module import LanguageModule
from retrolit.training.optimizer import OptimizerConfig
from retrolit.training.predictions import TokenLosses
from retrolit.training.pretraining_data import PretrainingData
from retrolit.training.progress import progress
from retrolit.training.retro_module import RetroModule
from retrolit.training.schedule import ScheduleConfig
from retrolit.training.strategies import FSDP1Strategy, ShardedStrategy
from retrolit.training.text_samples import TextSamples
from retrolit.training.training_data import TrainingData

__all__ = [
    "AtomicCheckpointIO",
    "Checkpoints",
    "Evaluation",
    "FSDP1Strategy",
    "GPTModule",
    "InstructRetroModule",
    "InstructionData",
    "LanguageModule",
    "MetricsFile",
    "OptimizerConfig",
    "PretrainingData",
    "RetroModule",
    "ScheduleConfig",
    "ShardedStrategy",
    "TextSamples",
    "TokenLosses",
    "TrainingData",
    "TrainingMetrics",
    "finished_steps",
    "newest_checkpoint",
    "progress",
]
