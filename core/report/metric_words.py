"""The words and numbers of a report for any primary metric: "more accurate than", or "better in RMSE than"."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.evaluation.scores import ACCURACY, Metric
from core.report.cells import ABSENT, Column, format_interval, format_signed

DIGITS = 4  # significant digits of values that are no shares
MOST_DECIMALS = 9  # Smaller values than these decimals show are written with an exponent.


@dataclass(frozen=True)
class MetricWords:
    """The words for one metric. A metric other than accuracy has no adjective, so its name stands in all of them."""

    metric: Metric = ACCURACY

    @classmethod
    def read(cls, metrics: Mapping[str, Any]) -> "MetricWords":
        """Return the words for the metric of a metrics.json."""
        return cls(Metric.read(metrics))

    @property
    def name(self) -> str:
        """The name within a sentence."""
        return self.metric.name

    @property
    def title(self) -> str:
        """The name at the start of a sentence or of a heading."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def is_accuracy(self) -> bool:
        """Whether the words are those of accuracy."""
        return self.metric == ACCURACY

    @property
    def better(self) -> str:
        """The comparative of good models, before "than"."""
        return "more accurate" if self.is_accuracy else f"better in {self.name}"

    @property
    def worse(self) -> str:
        """The comparative of bad models, before "than"."""
        return "less accurate" if self.is_accuracy else f"worse in {self.name}"

    @property
    def best(self) -> str:
        """The superlative of good models."""
        return "the most accurate" if self.is_accuracy else f"the best in {self.name}"

    @property
    def items(self) -> str:
        """What a split consists of, in the plural."""
        return self.adapt("images")

    @property
    def scale(self) -> int:
        """The factor from stored values to shown ones."""
        return 100 if self.metric.in_percent else 1

    @property
    def unit(self) -> str:
        """The unit of a difference in a sentence; an empty text for metrics without a unit."""
        return "percentage points" if self.metric.in_percent else self.metric.unit

    @property
    def short_unit(self) -> str:
        """The unit of a difference in tables and figures, of which all but points stand in the explanations alone."""
        return "points" if self.metric.in_percent else ""

    @property
    def direction(self) -> str:
        """The sense in which values are good."""
        return "higher is better" if self.metric.higher_is_better else "lower is better"

    @property
    def good_side(self) -> str:
        """The sense in which differences are good."""
        return "above 0 is better" if self.metric.higher_is_better else "below 0 is better"

    @property
    def margin(self) -> str:
        """The loss in the metric that rules out newness, after "worse"; the smallest one if the scale is unknown."""
        return " by half a point or more" if self.metric.in_percent else ""

    def choose_decimals(self, *values: float | None) -> int:
        """Return the decimals that show values side by side: two in percent, else those of four significant digits."""
        if self.metric.in_percent:
            return 2
        sizes = [abs(value) for value in values if value and math.isfinite(value)]
        return max(0, DIGITS - 1 - math.floor(math.log10(max(sizes)))) if sizes else DIGITS - 1

    def format(self, value: float | None, *beside: float | None) -> str:
        """Return a value in the unit that is shown; None is a dash.

        Args:
            value: The value.
            beside: Values that stand next to it and share its number of decimals.
        """
        if value is None:
            return ABSENT
        decimals = self.choose_decimals(value, *beside)
        return f"{self.scale * value:.{decimals}f}" if decimals <= MOST_DECIMALS else f"{value:.{DIGITS - 1}e}"

    def format_spread(self, mean: float, spread: float) -> str:
        """Return mean ± spread."""
        return f"{self.format(mean, spread)} ± {self.format(spread, mean)}"

    def format_difference(self, value: float | None, *beside: float) -> str:
        """Return a difference with its sign; None is a dash."""
        decimals = min(self.choose_decimals(value, *beside), MOST_DECIMALS)
        return format_signed(value, self.scale, decimals)

    def format_ends(self, ends: Sequence[float], *beside: float) -> list[str]:
        """Return both ends of the interval of a difference with their signs, and with equally many decimals."""
        return [self.format_difference(end, *ends, *beside) for end in ends]

    def format_interval(self, ends: Sequence[float]) -> str:
        """Return both ends of the interval of a mean."""
        return format_interval(ends, self.scale, min(self.choose_decimals(*ends), MOST_DECIMALS))

    def format_range(self, values: Sequence[float]) -> str:
        """Return the smallest and the largest value in a sentence."""
        return self.format_interval([min(values), max(values)]) + ("%" if self.metric.in_percent else "")

    def label(self, text: str, separator: str = " ") -> str:
        """Return a header of values, which ends in % if they are shown in percent."""
        return f"{text}{separator}%" if self.metric.in_percent else text

    def label_difference(self, text: str) -> str:
        """Return a header of differences with the short unit if there is one."""
        return f"{text}, {self.short_unit}" if self.short_unit else text

    def adapt(self, text: str) -> str:
        """Return a text that is written about accuracy in the words of this metric."""
        if self.is_accuracy:
            return text
        words = {
            "more accurate": self.better,
            "less accurate": self.worse,
            "the most accurate": self.best,
            "higher accuracy": f"better {self.name}",
            "high accuracy": f"good {self.name}",
            "highest accuracy": f"best {self.name}",
            "highest test accuracy": f"best test {self.name}",
            "lowest test accuracy": f"worst test {self.name}",
            "accuracy does not fall": f"{self.name} does not get worse",
            "accuracy is not lower": f"{self.name} is not worse",
            "higher is better": self.direction,
            "above 0 is better": self.good_side,
            "Above 0 is better": self.good_side.capitalize(),
            ", in percentage points": f", in {self.unit}" if self.unit else "",
            ", in percent": ", in percent" if self.metric.in_percent else "",
            # κ depends on the shares of errors, whatever the primary metric is.
            "at their accuracy": "at their share of errors",
            "at their accuracies": "at their shares of errors",
            "these accuracies": "these shares of errors",
            "two accuracies": "two shares of errors",
            # Items need not be images, and errors need not be those of whole images.
            "images": "items",
            "image": "item",
            "negative log-likelihood on test in nats": "loss on test",
            "accuracies": f"values of {self.name}",
            "Accuracies": f"Values of {self.name}",
            "accuracy": self.name,
            "Accuracy": self.title,
        }
        longest_first = sorted(words, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest_first)), lambda match: words[match[0]], text)

    def adapt_column(self, column: Column) -> Column:
        """Return a column of this metric, given the one of accuracy. Its values are in percent, its differences points.

        The header loses its unit if the metric is not shown in percent.
        """
        label = self.adapt(column.label)
        if not self.metric.in_percent:
            label = label.removesuffix(" %").removesuffix(", points")
        return Column(label, self.adapt(column.explanation))


ACCURACY_WORDS = MetricWords()
