"""What compile was told, matched to the model's outputs: a loss, its weight and metrics for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..autodiff.tensor import Tensor
from ..errors import ArgumentError
from ..layers import registry
from . import losses, metrics, optimizers
from .data import Batch


class Goal:
    """One output: its loss (None if it has none), the loss's weight, and the metrics that watch it."""

    def __init__(self, name: str, loss: losses.Loss | None, weight: float) -> None:
        if loss is not None and loss.reduction == "none":
            raise ArgumentError(
                f"the loss of output {name!r} has reduction 'none', but training needs one number",
                fix='leave out reduction, or use "sum"',
            )
        self.name, self.loss, self.weight = name, loss, weight
        self.metrics: list[metrics.Metric] = []
        self.weighted_metrics: list[metrics.Metric] = []
        self.mean = metrics.Mean("loss")
        self.latest: tuple[Any, Any] = (0.0, 0.0)

    def measure(self, target: Any, prediction: Tensor, weight: Any, mask: Any) -> Tensor:
        """The loss of a batch; `track` counts it once the step has succeeded."""
        assert self.loss is not None
        self.latest = self.loss.with_count(target, prediction, weight, mask)
        return self.latest[0]

    def track(self, target: Any, prediction: Tensor, weight: Any, mask: Any) -> None:
        """Count the batch in the running loss and in the metrics."""
        if self.loss is not None:
            value, count = float(self.latest[0]), float(self.latest[1])
            self.mean.add(value * count, count)
        if target is None:
            return
        # A metric finds the mask of the prediction by itself.
        options = {} if mask is prediction.mask else {"mask": mask}
        for metric in self.metrics:
            metric.update_state(target, prediction, **options)
        for metric in self.weighted_metrics:
            metric.update_state(target, prediction, weight, **options)


class Compiled:
    """The optimizer, and the goals of a model's outputs once their names are known.

    `loss` and `loss_weights`: one for all outputs, a list in their order, or a dict by name;
    `metrics`: a list for a single output, otherwise a list of lists or a dict by name.
    """

    def __init__(self, optimizer: Any, loss: Any, metrics_: Any, loss_weights: Any, weighted_metrics: Any) -> None:
        self.optimizer = optimizers.get(optimizer)
        # Names become objects at once, so that an unknown one is found out before anything runs.
        self.losses = _map_entries(losses.get, loss)
        self.metrics = _map_entries(_metric, metrics_)
        self.weighted_metrics = _map_entries(_metric, weighted_metrics)
        self.loss_weights = loss_weights
        self.goals: list[Goal] = []
        self.penalty = metrics.Mean("penalty")
        self._latest_penalty = 0.0

    def bind(self, names: Sequence[str]) -> None:
        """Match losses and metrics to the outputs called `names`, once."""
        if self.goals:
            return
        found = _by_output("loss", self.losses, names, shared=True)
        weights = _by_output("loss_weights", self.loss_weights, names, shared=True)
        goals = [
            Goal(name, loss, 1.0 if weight is None else float(weight))
            for name, loss, weight in zip(names, found, weights, strict=True)
        ]
        for kind in ("metrics", "weighted_metrics"):
            for goal, entries in zip(goals, _by_output(kind, getattr(self, kind), names, shared=False), strict=True):
                listed = entries if isinstance(entries, (list, tuple)) else [entries]
                setattr(goal, kind, [metrics.get(entry, goal.loss) for entry in listed if entry is not None])
        self._check_names(goals)
        self.goals = goals

    def _check_names(self, goals: list[Goal]) -> None:
        for goal in goals:
            names = [metric.name for metric in (*goal.metrics, *goal.weighted_metrics)]
            twice = sorted({name for name in names if names.count(name) > 1 or name == "loss"})
            if twice:
                raise ArgumentError(
                    f"metrics of output {goal.name!r} share a name", got=", ".join(twice), fix="give them a name="
                )

    def measure(self, outputs: Sequence[Tensor], batch: Batch, penalties: Sequence[Any]) -> Any:
        """The total loss of a batch on the tape: the outputs' weighted losses and the regularizers' penalties."""
        total: Any = None
        for goal, prediction, target, weight, mask in self._by_goal(outputs, batch):
            if goal.loss is None:
                continue
            if target is None:
                raise ArgumentError(f"there are no targets y for the output {goal.name!r}, which has a loss")
            value = goal.measure(target, prediction, weight, mask)
            value = value if goal.weight == 1.0 else value * goal.weight
            total = value if total is None else total + value
        self._latest_penalty = 0.0
        for penalty in penalties:
            self._latest_penalty += float(penalty)
            total = penalty if total is None else total + penalty
        return total

    def track(self, outputs: Sequence[Tensor], batch: Batch) -> None:
        """Count the batch that was measured last."""
        for goal, prediction, target, weight, mask in self._by_goal(outputs, batch):
            goal.track(target, prediction, weight, mask)
        self.penalty.add(self._latest_penalty * batch.size, batch.size)

    def _by_goal(self, outputs: Sequence[Tensor], batch: Batch) -> Any:
        return zip(self.goals, outputs, batch.targets, batch.weights, batch.masks, strict=True)

    def reset(self) -> None:
        """Forget all batches."""
        self.penalty.reset_state()
        for goal in self.goals:
            for metric in (goal.mean, *goal.metrics, *goal.weighted_metrics):
                metric.reset_state()

    def results(self) -> dict[str, float]:
        """The averages so far: "loss", with several outputs "<output>_loss", and the metrics."""
        parts = [(goal, goal.mean.result()) for goal in self.goals if goal.loss is not None]
        found = {"loss": sum(goal.weight * value for goal, value in parts) + self.penalty.result()}
        several = len(self.goals) > 1
        if several:
            found |= {f"{goal.name}_loss": value for goal, value in parts}
        for goal in self.goals:
            for metric in (*goal.metrics, *goal.weighted_metrics):
                found[f"{goal.name}_{metric.name}" if several else metric.name] = metric.result()
        return found

    def directions(self) -> dict[str, str]:
        """Whether each logged metric is better when it goes "up" or "down", where that is known."""
        several = len(self.goals) > 1
        return {
            f"{goal.name}_{metric.name}" if several else metric.name: metric.direction
            for goal in self.goals
            for metric in (*goal.metrics, *goal.weighted_metrics)
            if metric.direction is not None
        }

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs, for JSON; ArgumentError for losses or metrics without a name."""
        return {
            "optimizer": registry.serialize(self.optimizer),
            "loss": _map_entries(registry.serialize, self.losses),
            "metrics": _map_entries(registry.serialize, self.metrics),
            "loss_weights": self.loss_weights,
            "weighted_metrics": _map_entries(registry.serialize, self.weighted_metrics),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Compiled:
        """What `get_config` described."""
        return cls(
            config["optimizer"],
            config["loss"],
            config["metrics"],
            config["loss_weights"],
            config["weighted_metrics"],
        )


def _is_config(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_name" in value


def _map_entries(f: Callable[[Any], Any], value: Any) -> Any:
    """`f` on the single losses or metrics in lists and dicts by output name; None stays."""
    if value is None:
        return None
    if isinstance(value, Mapping) and not _is_config(value):
        return {key: _map_entries(f, entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_entries(f, entry) for entry in value]
    return f(value)


def _metric(entry: Any, loss: losses.Loss | None = None) -> Any:
    """The metric; what depends on the loss stays a name until there is one."""
    undecided = loss is None and isinstance(entry, str) and entry in metrics.AUTOMATIC
    return entry if undecided else metrics.get(entry, loss)


def _by_output(what: str, given: Any, names: Sequence[str], shared: bool) -> list[Any]:
    """What was given for each output; `shared`: one value without a list goes to all of them."""
    expected = f"a list of {len(names)}, or a dict with keys among {', '.join(map(repr, names))}"
    if isinstance(given, Mapping):
        if not set(given) <= set(names):
            raise ArgumentError(f"compile: {what} by output", got=", ".join(map(repr, given)), expected=expected)
        return [given.get(name) for name in names]
    if isinstance(given, (list, tuple)):
        if len(names) == 1 and not shared:
            nested = len(given) == 1 and isinstance(given[0], (list, tuple))
            return [given[0] if nested else given]
        if len(given) == len(names):
            return list(given)
    elif given is None or shared or len(names) == 1:
        return [given] * len(names)
    raise ArgumentError(f"compile: {what} for each of {len(names)} outputs", got=repr(given), expected=expected)
