"""What a reader of a few-shot report must know beside its rows."""

from loradar.data import CORRUPTIONS as KINDS
from loradar.data import SEVERITIES
from loradar.fewshot.config import FewShotEvalConfig
from loradar.fewshot.engine import Recipe
from loradar.fewshot.heads import CENTROID
from loradar.fewshot.methods import FULL


def notes_of(config: FewShotEvalConfig, recipe: Recipe, *, has_peers: bool) -> tuple[str, ...]:
    """What holds for all figures, or for the rows that a note names."""
    notes = [
        "Every method sees the same tasks. An attack is computed on each method's own classifier of the task, so it is "
        "adaptive; easyfsl's methods on the base classify the queries that were attacked on the base without tuning, and that "
        "on the blend is not measured under attack.",
        f"Corruptions: each task has one of {len(KINDS)} kinds at one of {SEVERITIES} severities, on its queries alone; "
        f"{len(KINDS) * SEVERITIES} tasks meet every pair once.",
        "Nothing is searched, chosen or stopped by reported tasks; rows with searched settings, if any, say so.",
    ]
    if recipe.head != CENTROID:
        notes.append(
            f"{FULL}, what takes it apart (members, top-k, pools) and rows that say so have a "
            f"{recipe.head.kind} head, whatever they were tuned under; all others the nearest centroid, as in their papers."
        )
    if config.transductive:
        notes.append(
            "Transductive rows, easyfsl's among them, answer all queries of a task at once. Ours, whose head is the full "
            "method's, are attacked as a whole, in one round of transduction and in all, and with what fools the same weights "
            "query by query; the strongest of the three on a task counts. Attacks that go on with some of the images alone "
            "(restarts, one or worst of several, AutoAttack) say nothing of them. Queries are at most "
            f"{config.query} of each class ({config.attacked_query} under attack), which is never told, but suits them."
        )
    if not has_peers:
        notes.append("easyfsl is not installed, so its methods have no rows (extra: peers).")
    return tuple(notes)
