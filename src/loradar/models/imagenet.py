"""The names of the 1,000 classes of ImageNet-1k, in the order of the logits of published weights."""

from collections import Counter
from functools import cache


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Returns a name for each class, all different: its first word, all its words where others share the first one.

    From WordNet, by way of timm; "crane", which is a bird and a machine, carries its WordNet id.
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    ids, descriptions = info.label_names(), info.label_descriptions()
    shorts = [description.split(",")[0] for description in descriptions]
    counts, whole = Counter(shorts), Counter(descriptions)
    return tuple(
        short if counts[short] == 1 else (description if whole[description] == 1 else f"{short} ({wordnet})")
        for short, description, wordnet in zip(shorts, descriptions, ids, strict=True)
    )
