"""Column rules: each coordinate of the result depends on that coordinate of the vectors alone."""

import math

from byzdist.aggregation.columns import Columns, Row
from byzdist.aggregation.kernels.networks import HIGH, LOW
from byzdist.aggregation.points import Points
from byzdist.aggregation.rules import Facts, column_rule, minority
from byzdist.aggregation.span import krum_scores
from byzdist.aggregation.types import Matrix


def _middle(n: int) -> range:
    return range((n - 1) // 2, n // 2 + 1)


@column_rule(
    "coordinate_median",
    Facts(
        max_f=minority,
        breakdown="1/2",
        robustness="(f, kappa): kappa = 4 (1 + f/(n-2f))^2 [Allouah et al. 2023]; (delta, c) after bucketing "
        "[Karimireddy et al. 2022]",
        norm_bound=lambda n, f: math.sqrt(n / (n // 2 + 1)),  # it is the mean trimmed of all but the middle
        norm_formula="sqrt(n/(floor(n/2)+1)), attained",
        cost="O(n log^2 n) comparisons a coordinate",
        use="Clients with the same data, as in the quickstart: it needs no f and little time. "
        "Where clients hold different data it has a bias; put nnm before it.",
        kappa=lambda n, f, **_: 4 * (1 + f / (n - 2 * f)) ** 2,
        formula=r"z_j = \operatorname{median}(v_{1,j}, \dots, v_{n,j})",
    ),
    aliases=["median", "cwmed", "cm", "coordinate_wise_median", "coordinatewise_median"],
)
def coordinate_median(columns: Columns, f: int) -> Row:
    """Take the median of each coordinate; for an even number of vectors, the mean of the middle two.

    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018. f is not used.
    """
    n, wanted = columns.size, _middle(columns.size)
    rows = columns.ranks((LOW,) * wanted.start + (0,) * len(wanted) + (HIGH,) * (n - wanted.stop))
    return columns.mean([rows[k] for k in wanted])


@column_rule(
    "trimmed_mean",
    Facts(
        max_f=minority,
        breakdown="f/n < 1/2, for the declared f",
        robustness="(f, kappa): kappa = f/(n-2f), attained [ours: rank by rank, the kept values are at least the lowest "
        "and at most the highest n - 2f honest ones; 6f/(n-2f) (1 + f/(n-2f)) in Allouah et al. 2023]; "
        "(delta, c) by itself [BRPP]",
        # in each column, the f values trimmed on the result's side are at least as large as the result
        norm_bound=lambda n, f: math.sqrt(n / (n - f)),
        norm_formula="sqrt(n/(n-f)), attained",
        cost="O(n log^2 n) comparisons a coordinate",
        use="Where f is declared well: the smallest kappa of these rules. "
        "Where clients hold different data, put nnm before it.",
        kappa=lambda n, f, **_: f / (n - 2 * f),
        formula=r"z_j = \frac{1}{n-2f} \sum_{k=f+1}^{n-f} v_{(k),j}, \quad v_{(1),j} \le \dots \le v_{(n),j}",
    ),
    aliases=["cwtm", "trmean", "coordinate_wise_trimmed_mean"],
)
def trimmed_mean(columns: Columns, f: int) -> Row:
    """Take the mean of each coordinate without its f largest and f smallest values.

    Yin et al., ICML 2018.
    """
    n = columns.size
    rows = columns.ranks((LOW,) * f + (0,) * (n - 2 * f) + (HIGH,) * f)
    return columns.mean(rows[f : n - f])


def closest_mean(columns: Columns, count: int) -> Row:
    """Return, in each coordinate, the mean of the ``count`` values closest to the median.

    In ascending order those values are neighbours, and the ranks of ``count`` neighbours have all different remainders
    modulo ``count``. So the nearest value of each remainder is chosen separately, without a search for the first neighbour.
    """
    n = columns.size
    if count == n:
        return columns.mean(columns.ranks((0,) * n))
    wanted = _middle(n)
    alone = range(n - count, count)  # no other rank shares their remainder: always chosen, in whatever order
    labels = [k + n if k not in alone else 0 if k < wanted[0] else 2 if k > wanted[-1] else 1 for k in range(n)]
    rows = columns.ranks(tuple(labels))
    centre = columns.mean([rows[k] for k in wanted])
    return columns.mean([columns.nearest(rows[k::count], centre) for k in range(count)])


@column_rule(
    "meamed",
    Facts(
        max_f=minority,
        breakdown="f/n < 1/2, for the declared f",
        norm_bound=lambda n, f: math.sqrt(n / (n - f)),
        norm_formula="sqrt(n/(n-f)), attained",
        robustness="",
        cost="O(n log^2 n) comparisons a coordinate",
        use="As trimmed_mean, but it keeps n - f values in place of n - 2f, so outliers on one side cost less.",
        formula=r"z_j = \frac{1}{n-f} \sum_{i \in S_j} v_{i,j}, \quad S_j = \text{the } "
        r"n-f \text{ values nearest to the median of column } j",
    ),
    aliases=["mean_around_median"],
)
def meamed(columns: Columns, f: int) -> Row:
    """Take, in each coordinate, the mean of the n - f values closest to the median.

    Xie, Koyejo, Gupta, "Generalized Byzantine-tolerant SGD", 2018 (mean around median).
    """
    return closest_mean(columns, columns.size - f)


def _krum_repeatedly(points: Points, f: int) -> Matrix:
    """Return the matrix that picks n - 2f points, each one Krum's choice among the points not yet picked."""
    n = points.size
    left, chosen = list(range(n)), list[int]()
    squared = points.squared_distances()
    while len(chosen) < max(1, n - 2 * f):
        scores = krum_scores(squared[left][:, left], f, 2)
        chosen.append(left.pop(int(scores.argmin())))
    return points.identity()[chosen]


@column_rule(
    "bulyan",
    Facts(
        max_f=lambda n, **_: max(0, (n - 3) // 4),
        breakdown="n >= 4f + 3",
        robustness="",
        norm_bound=lambda n, f: math.sqrt((n - 2 * f) / (n - 4 * f)) if n > 4 * f else math.inf,
        norm_formula="sqrt((n-2f)/(n-4f))",
        cost="O(n^2 d) for the inner products, O(n log^2 n) comparisons a coordinate",
        use="Fewer than a quarter of hostile clients, who change a few coordinates of long vectors by much.",
        formula=r"z_j = \text{mean of the } n-4f \text{ values nearest to the "
        r"median, of } n-2f \text{ vectors that Krum picks}",
    ),
    select=_krum_repeatedly,
)
def bulyan(columns: Columns, f: int) -> Row:
    """Pick n - 2f vectors by repeated Krum, then average in each coordinate the n - 4f values closest to their median.

    El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018.
    """
    return closest_mean(columns, columns.size - 2 * f)
