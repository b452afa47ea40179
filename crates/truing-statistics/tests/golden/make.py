"""Writes `agreement.json`: seeded tables with the agreement statistics that other packages give for them.

    python -m venv /tmp/agreement && /tmp/agreement/bin/pip install -r requirements.txt
    /tmp/agreement/bin/python make.py

Krippendorff's alpha is that of the package krippendorff. Kendall's W follows from scipy's Friedman test (for three
items or more) and from mid-ranks (for two). Cohen's kappa and the F1 score of spans are scikit-learn's, Fleiss' kappa
is statsmodels'. No package smooths the model of Dawid and Skene as we do: `dawid_skene` below computes it with dense
arrays. A missing rating, and a statistic that is not defined, is `null`.
"""

import json
import pathlib
import warnings

import krippendorff
import numpy as np
import scipy.stats
from sklearn.metrics import cohen_kappa_score, f1_score
from statsmodels.stats.inter_rater import fleiss_kappa

LEVELS = ["nominal", "ordinal", "interval"]
WEIGHTS = {"unweighted": None, "linear": "linear", "quadratic": "quadratic"}
rng = np.random.default_rng(2410_14940)


def defined(value):
    """None instead of a number that is not finite."""
    return float(value) if np.isfinite(value) else None


def table_of_ratings(n_units, n_raters, n_values, missing, noise):
    """A true value per unit, and ratings that are off by a rounded normal number, some of them missing."""
    truth = rng.integers(0, n_values, n_units)[:, None]
    ratings = np.clip(truth + np.rint(rng.normal(0, noise, (n_units, n_raters))), 0, n_values - 1) + 1.0
    ratings[rng.random(ratings.shape) < missing] = np.nan
    return ratings


def alpha(ratings, level):
    """Krippendorff's alpha; the package raises an error for most tables that have none."""
    try:
        return defined(krippendorff.alpha(reliability_data=ratings.T, level_of_measurement=level))
    except ValueError:
        return None


def krippendorff_cases():
    nan = np.nan
    tables = [
        table_of_ratings(20, 2, 2, 0.0, 0.6),
        table_of_ratings(30, 3, 5, 0.0, 0.8),
        table_of_ratings(30, 3, 5, 0.3, 0.8),
        table_of_ratings(60, 4, 7, 0.5, 1.5),
        table_of_ratings(15, 6, 3, 0.7, 1.0),
        table_of_ratings(200, 5, 10, 0.2, 2.0),
        table_of_ratings(40, 2, 4, 0.1, 8.0),
        table_of_ratings(25, 3, 5, 0.0, 0.0),
        table_of_ratings(12, 8, 100, 0.25, 9.0) / 7 - 5,
        # One rater.
        table_of_ratings(10, 1, 5, 0.0, 1.0),
        # Constant ratings; constant but for a unit without pairs; one rater constant.
        np.full((9, 3), 4.0),
        np.array([[2.0, 2.0, nan], [2.0, 2.0, 2.0], [nan, 5.0, nan]]),
        np.column_stack([np.full(18, 3.0), table_of_ratings(18, 2, 5, 0.0, 0.7)]),
        # Two ratings that differ; opposite ratings.
        np.array([[1.0, 2.0]]),
        np.array([[1.0, 5.0], [5.0, 1.0], [1.0, 5.0], [5.0, 1.0]]),
    ]
    return [
        {
            "ratings": [[defined(rating) for rating in unit] for unit in ratings],
            "alpha": {level: alpha(ratings, level) for level in LEVELS},
        }
        for ratings in tables
    ]


def kendall(scores):
    """W from the statistic of the Friedman test, which is W times the raters times the items less one."""
    n_raters, n_items = scores.shape
    if n_raters < 2 or n_items < 2:
        return None
    if n_items == 2:
        ranks = np.array([scipy.stats.rankdata(rater) for rater in scores])
        largest = n_raters * ((ranks - 1.5) ** 2).sum()
        return defined(((ranks.sum(0) - 1.5 * n_raters) ** 2).sum() / largest) if largest else None
    return defined(scipy.stats.friedmanchisquare(*scores.T).statistic / (n_raters * (n_items - 1)))


def kendall_cases():
    def scores(n_raters, n_items, noise, rounding=None):
        found = rng.normal(0, 1, n_items) + rng.normal(0, noise, (n_raters, n_items))
        return found if rounding is None else np.rint(found * rounding)

    tables = [
        scores(2, 5, 0.5),
        scores(3, 10, 1.0),
        scores(5, 8, 2.0),
        scores(12, 4, 1.0),
        scores(4, 30, 0.3),
        # Ties, few and many.
        scores(3, 10, 0.5, 2.0),
        scores(6, 12, 1.0, 1.0),
        scores(9, 5, 0.5, 0.7),
        scores(20, 15, 3.0, 0.5),
        # Two items, with a tie; one item; one rater.
        np.array([[1.0, 2.0], [1.0, 1.0], [3.0, 1.0], [0.0, 4.0]]),
        scores(3, 1, 1.0),
        scores(1, 6, 1.0),
        # One rater ties all items; all raters do; opposite rankings.
        np.vstack([np.full(7, 2.0), scores(3, 7, 0.4)]),
        np.full((3, 5), 1.0),
        np.array([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]),
    ]
    return [{"ranks": table.tolist(), "w": kendall(table)} for table in tables]


def cohen_cases():
    def ratings(n, n_classes, noise):
        truth = rng.integers(0, n_classes, n)
        return [np.clip(truth + np.rint(rng.normal(0, noise, n)), 0, n_classes - 1).astype(int) for _ in range(2)]

    tables = [ratings(n, k, noise) for n, k, noise in [
        (10, 2, 0.3), (50, 2, 0.6), (40, 3, 0.5), (60, 5, 0.7), (60, 5, 3.0),
        (200, 10, 1.0), (15, 7, 1.5), (80, 4, 0.0),
    ]]
    tables += [
        # A class that nobody uses is still a step of the scale.
        [np.array([0, 1, 4, 4, 0, 1]), np.array([0, 4, 4, 1, 1, 1])],
        # Both constant and equal; both constant and different; one constant.
        [np.full(8, 1), np.full(8, 1)],
        [np.full(8, 1), np.full(8, 3)],
        [np.full(12, 2), rng.integers(0, 4, 12)],
        # One unit.
        [np.array([0]), np.array([1])],
    ]  # fmt: skip
    return [
        {
            "pairs": np.column_stack(raters).tolist(),
            "kappa": {
                name: defined(cohen_kappa_score(*raters, labels=np.arange(10), weights=weights))
                for name, weights in WEIGHTS.items()
            },
        }
        for raters in tables
    ]


def fleiss_cases():
    def counts(n_units, n_raters, n_classes, sharpness):
        shares = rng.dirichlet(np.full(n_classes, sharpness), n_units)
        return np.array([rng.multinomial(n_raters, share) for share in shares])

    tables = [counts(*shape) for shape in [
        (10, 3, 2, 0.5), (20, 5, 3, 0.3), (50, 4, 5, 1.0), (30, 10, 4, 5.0),
        (100, 3, 7, 0.1), (8, 2, 3, 0.5), (40, 6, 2, 0.2),
    ]]
    tables += [
        # One class; full agreement on several classes; even disagreement; one unit; a class that nobody gives.
        np.array([[3, 0], [3, 0], [3, 0]]),
        np.array([[4, 0, 0], [0, 4, 0], [0, 0, 4], [4, 0, 0]]),
        np.array([[1, 1], [1, 1], [1, 1]]),
        np.array([[2, 1, 0]]),
        np.array([[2, 1, 0], [3, 0, 0], [0, 3, 0]]),
    ]  # fmt: skip
    return [{"counts": table.tolist(), "kappa": defined(fleiss_kappa(table))} for table in tables]


def span_cases():
    n_labels, length = 3, 120

    def spans(n):
        starts = rng.integers(0, length - 30, n)
        return [[int(s), int(s + rng.integers(0, 30)), int(rng.integers(0, n_labels))] for s in starts]

    def moved(marked):
        shifts = rng.integers(-4, 5, len(marked))
        return [[max(0, int(s + d)), int(e + d), label] for (s, e, label), d in zip(marked, shifts)]

    def marks(marked):
        table = np.zeros((length + 10, n_labels), dtype=int)
        for start, end, label in marked:
            table[start : max(start, end), label] = 1
        return table

    cases = [[spans(n), spans(m)] for n, m in [(1, 1), (2, 3), (5, 5), (10, 8), (15, 15), (4, 1)]]
    cases += [[marked, moved(marked)] for marked in [spans(3), spans(6), spans(12)]]
    cases += [[[], []], [spans(3), []], [[[5, 5, 0]], []], [[[0, 9, 1], [3, 12, 1]], [[0, 12, 1]]]]
    return [
        {"a": a, "b": b, "f1": float(f1_score(marks(a), marks(b), average="micro", zero_division=1.0))}
        for a, b in cases
    ]


def dawid_skene(counts):
    """The smoothed model from `counts[item, rater, class]`, until no posterior changes by more than 1e-8."""
    n_classes = counts.shape[2]
    n_votes = counts.sum((1, 2))
    posteriors = np.where(n_votes[:, None] > 0, counts.sum(1) / np.maximum(n_votes, 1)[:, None], 1 / n_classes)
    for n_iterations in range(1, 1001):
        weights = posteriors * (n_votes > 0)[:, None]
        prevalence = (weights.sum(0) + 1 / n_classes) / (weights.sum() + 1)
        confusion = np.einsum("it,irs->rts", weights, counts) + 1 / n_classes
        confusion /= confusion.sum(2, keepdims=True)
        logs = np.log(prevalence) + np.einsum("irs,rts->it", counts, np.log(confusion))
        updated = scipy.special.softmax(logs, axis=1)
        change = np.abs(updated - posteriors).max()
        posteriors = updated
        if change <= 1e-8:
            break
    return {
        "posteriors": posteriors.tolist(),
        "confusion": confusion.tolist(),
        "prevalence": prevalence.tolist(),
        "competence": [float(prevalence @ np.diag(rater)) for rater in confusion],
        "n_iterations": n_iterations,
    }


def dawid_skene_cases():
    cases = []
    for n_items, n_raters, n_classes, missing, right in [
        (12, 3, 2, 0.0, 0.8), (20, 3, 2, 0.4, 0.8), (15, 5, 3, 0.0, 0.7), (20, 4, 3, 0.5, 0.7), (10, 6, 4, 0.3, 0.6),
        (25, 2, 2, 0.0, 0.9), (12, 1, 3, 0.0, 0.9), (8, 3, 5, 0.2, 0.4), (30, 4, 2, 0.8, 0.8), (10, 3, 2, 0.0, 1.0),
        (10, 3, 2, 0.0, 0.5), (6, 4, 1, 0.0, 1.0),
    ]:  # fmt: skip
        truth = rng.integers(0, n_classes, n_items)
        said = rng.integers(0, n_classes, (n_items, n_raters))
        is_right = rng.random(said.shape) < right
        said = np.where(is_right, truth[:, None], said)
        is_given = rng.random(said.shape) >= missing
        votes = [[[r, int(said[i, r])] for r in range(n_raters) if is_given[i, r]] for i in range(n_items)]
        counts = np.zeros((n_items, n_raters, n_classes))
        for item, of_item in enumerate(votes):
            for rater, label in of_item:
                counts[item, rater, label] += 1
        sizes = {"n_raters": n_raters, "n_classes": n_classes}
        cases.append({"votes": votes, **sizes, **dawid_skene(counts)})
    return cases


warnings.simplefilter("ignore")
fixture = {
    "krippendorff_alpha": krippendorff_cases(),
    "kendall_w": kendall_cases(),
    "cohen_kappa": cohen_cases(),
    "fleiss_kappa": fleiss_cases(),
    "span_f1": span_cases(),
    "dawid_skene": dawid_skene_cases(),
}
lines = [
    f'"{statistic}": [\n' + ",\n".join(json.dumps(case, allow_nan=False) for case in cases) + "\n]"
    for statistic, cases in fixture.items()
]
path = pathlib.Path(__file__).parent / "agreement.json"
path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
