"""Few-shot tasks: episodes, nearest centroid, blending a pool by the support, heads, transduction, fine-tuning."""

from loradar.fewshot.blending import Blending, Scoring
from loradar.fewshot.episode import Episode, FixedEpisodes, Sampler, VariableEpisodes, parse_setting
from loradar.fewshot.finetune import FineTuning
from loradar.fewshot.heads import CENTROID, Centroids, HeadKind, HeadRule, Ridge, TaskClassifier
from loradar.fewshot.prototypes import MeanLogits, cosine_logits, cosines, prototypes_of
from loradar.fewshot.transduction import Joint, Transduction

__all__ = [
    "CENTROID",
    "Blending",
    "Centroids",
    "Episode",
    "FineTuning",
    "FixedEpisodes",
    "HeadKind",
    "HeadRule",
    "Joint",
    "MeanLogits",
    "Ridge",
    "Sampler",
    "Scoring",
    "TaskClassifier",
    "Transduction",
    "VariableEpisodes",
    "cosine_logits",
    "cosines",
    "parse_setting",
    "prototypes_of",
]
