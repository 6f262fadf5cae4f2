"""From prepared artifacts to batches."""

from retrolit.data.batch import Batch
from retrolit.data.loading import Loader, evaluation_numbers, training_numbers
from retrolit.data.neighbors import SampleNeighbors
from retrolit.data.practice import PracticeConfig
from retrolit.data.preparation import DataConfig, Prepared, prepare
from retrolit.data.pretraining import Accounting, EvaluationSamples, PretrainingSamples, TrainingWindows

__all__ = [
    "Accounting",
    "Batch",
    "DataConfig",
    "EvaluationSamples",
    "Loader",
    "PracticeConfig",
    "Prepared",
    "PretrainingSamples",
    "SampleNeighbors",
    "TrainingWindows",
    "evaluation_numbers",
    "prepare",
    "training_numbers",
]
