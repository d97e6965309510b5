"""The evaluations at which `spacy train` ends and whose weights it saves, found from the scores
of a training of fixed length."""

from collections.abc import Sequence

# `patience` of spaCy's quickstart, in steps.
PATIENCE = 1600


def stop_index(steps: Sequence[int], scores: Sequence[float], patience: int = PATIENCE) -> int:
    """Index of the evaluation after which training ends: the first one that is `patience` steps
    or more after the best one so far (of equal scores, the first), or the last one.

    steps (Sequence[int]): Steps of the evaluations. spaCy counts them from 0.
    scores (Sequence[float]): Their scores.
    """
    best = 0
    for i, (step, score) in enumerate(zip(steps, scores, strict=True)):
        if score > scores[best]:
            best = i
        if patience and step - steps[best] >= patience:
            return i
    return len(scores) - 1


def best_index(scores: Sequence[float]) -> int:
    """Index of the evaluation whose weights are saved as `model-best`: the last one of the
    highest score, because spaCy saves at each score that is as high as all before."""
    return max(range(len(scores)), key=lambda i: (scores[i], i))


def chosen_indices(steps: Sequence[int], scores: Sequence[float]) -> dict[str, int]:
    """Indices of the evaluations whose weights are tested: `best`, the best one before early
    stopping; `best_of_all`, without it; and `last`."""
    end = stop_index(steps, scores)
    return {
        "best": best_index(scores[: end + 1]),
        "best_of_all": best_index(scores),
        "last": len(scores) - 1,
    }
