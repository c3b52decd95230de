"""The evaluation protocols once more, user by user with loops and sorts: what the fast path must equal."""

import math

import numpy as np

BLANK, TRAIN, TEST = 0, 1, 2


def ranking(scores, states):
    """Candidates of one user, best first; equal scores by lower item row."""
    candidates = [item for item, state in enumerate(states) if state != TRAIN]
    return sorted(candidates, key=lambda item: (-scores[item], item))


def user_metrics(ranked, relevant, cutoffs):
    values = {}
    for k in cutoffs:
        top = ranked[:k]
        gains = [1 / math.log2(rank + 1) for rank, item in enumerate(top, start=1) if item in relevant]
        ideal = [1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1)]
        values[f"recall@{k}"] = len(gains) / len(relevant)
        values[f"ndcg@{k}"] = sum(gains) / sum(ideal)
        values[f"hr@{k}"] = float(len(gains) > 0)
    values["mrr"] = max(1 / rank for rank, item in enumerate(ranked, start=1) if item in relevant)
    return values


def full_ranking(scores, states, cutoffs):
    """Users, metrics per user by name, and coverage by name."""
    users = [user for user, row in enumerate(states) if TEST in row]
    lists = [ranking(scores[user], states[user]) for user in users]
    per_user = [
        user_metrics(ranked, {item for item, state in enumerate(states[user]) if state == TEST}, cutoffs)
        for user, ranked in zip(users, lists, strict=True)
    ]
    n_items = len(states[0])
    covered = {f"coverage@{k}": len({item for ranked in lists for item in ranked[:k]}) / n_items for k in cutoffs}
    return users, {name: np.array([row[name] for row in per_user]) for name in per_user[0]}, covered


def sampled_rank(scores, positive, negatives):
    """Position of the positive when it comes last among the equals."""
    competitors = [item for item in negatives if item not in (-1, positive)]
    ordered = sorted([(-scores[item], 0) for item in competitors] + [(-scores[positive], 1)])
    return ordered.index((-scores[positive], 1)) + 1
