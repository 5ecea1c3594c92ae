"""Few-shot tasks: episodes, nearest centroid, blending a pool by the support, fine-tuning on it."""

from loradar.fewshot.blending import Blending, Scoring
from loradar.fewshot.episode import Episode, FixedEpisodes, Sampler, VariableEpisodes, parse_setting
from loradar.fewshot.finetune import FineTuning
from loradar.fewshot.prototypes import MeanLogits, NearestCentroid, cosine_logits, cosines, prototypes_of

__all__ = [
    "Blending",
    "Episode",
    "FineTuning",
    "FixedEpisodes",
    "MeanLogits",
    "NearestCentroid",
    "Sampler",
    "Scoring",
    "VariableEpisodes",
    "cosine_logits",
    "cosines",
    "parse_setting",
    "prototypes_of",
]
