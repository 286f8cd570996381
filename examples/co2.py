"""Carbon dioxide two years ahead: an encoder that passes over gaps, and a loss that does so, too.

The air of Mauna Loa, measured weekly from 1958 to 2001 (Keeling and Whorf 2004).  59 of the 2284 weeks are missing, as
many as 18 in a row.  The gaps stay what they are, NaN: a mask tells the encoder not to look at them, and a weight of
zero tells the loss.  The model learns from the years up to 1991.  `python examples/co2.py` trains for some seconds,
forecasts the ten years after that, two at a time, prints its error beside two baselines, and draws all of it;
`--size small` takes fewer epochs.

The data is part of the package statsmodels, of which nothing else is needed: `pip install --no-deps statsmodels`.
"""

import argparse
import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import minirnn as mr
from minirnn.layers import LSTM, Dense, Input
from minirnn.models import Model

YEAR = 52  # weeks
PAST, AHEAD = 3 * YEAR, 2 * YEAR  # what the model reads, and what it forecasts
SCALE = 5.0  # parts per million that are about one for the model


def weekly():
    """The days (weeks,) and what was measured, in parts per million, NaN where nothing was."""
    package = importlib.util.find_spec("statsmodels")
    if package is None:
        raise SystemExit(
            "the data is in the package statsmodels, which is not installed: pip install --no-deps statsmodels"
        )
    path = Path(package.submodule_search_locations[0], "datasets", "co2", "co2.csv")
    _, *lines = path.read_text(encoding="utf-8").splitlines()
    days, values = zip(*(line.split(",") for line in lines))
    days = np.array([f"{day[:4]}-{day[4:6]}-{day[6:]}" for day in days], "datetime64[D]")
    return days, np.array([float(value or "nan") for value in values])


def windows(days, values, starts):
    """What the model reads for forecasts that begin at `starts`, the targets, and the level both are relative to."""
    angle = 2 * np.pi * (days - days[0]).astype(float) / 365.2425
    season = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    past, ahead = starts[:, None] + np.arange(-PAST, 0), starts[:, None] + np.arange(AHEAD)
    level = np.nanmean(values[past[:, -YEAR:]], axis=1, keepdims=True)
    read = np.concatenate([(values[past] - level)[..., None] / SCALE, season[past]], axis=-1)
    return [read, ~np.isnan(values[past]), season[ahead]], (values[ahead] - level)[..., None] / SCALE, level


def baselines(values, starts):
    """Last year's weeks once more; and the same, raised by as much as last year was above the year before."""
    years = np.stack([values[start - 2 * YEAR : start].reshape(2, YEAR) for start in starts])
    again = np.tile(years[:, 1], 2)
    growth = np.diff(np.nanmean(years, axis=-1), axis=-1)
    return again, again + growth * np.repeat([1, 2], YEAR)


def draw(days, values, starts, forecasts, again, path):
    """A picture of the whole series with its gaps, and of the forecasts."""
    figure, (whole, part) = plt.subplots(2, 1, figsize=(11, 7), layout="constrained")
    for week in np.flatnonzero(np.isnan(values)):
        whole.axvspan(days[week] - 4, days[week] + 4, color="orange", linewidth=0)
    whole.plot(days, values, linewidth=0.8)
    whole.set(title="carbon dioxide on Mauna Loa; orange: nothing was measured", ylabel="parts per million")
    first = starts[0] - YEAR
    part.plot(days[first:], values[first:], linewidth=0.8, label="measured")
    for number, (start, forecast, repeated) in enumerate(zip(starts, forecasts, again)):
        weeks = days[start : start + AHEAD]
        part.plot(weeks, repeated, color="gray", linestyle=":", label=None if number else "the year before, again")
        part.plot(weeks, forecast, color="crimson", label=None if number else "forecast for two years")
    part.set(title="forecasts, each from its beginning", ylabel="parts per million")
    part.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(units=24, epochs=15, plot="co2.png"):
    """Learn from the years before 1992; returns the error of the forecasts after that, in parts per million."""
    mr.seed(1)
    days, values = weekly()
    begin = int(np.searchsorted(days, np.datetime64("1992-01-01")))
    training, starts = np.arange(PAST, begin - AHEAD + 1), np.arange(begin, len(days) - AHEAD + 1, AHEAD)
    print(f"{len(days)} weeks, {np.isnan(values).sum()} of them missing; {len(training)} windows to learn from")

    past, known, ahead = Input((PAST, 3)), Input((PAST,), dtype="bool"), Input((AHEAD, 2))
    _, *state = LSTM(units, return_state=True)(past, mask=known)
    levels = Dense(1)(LSTM(units, return_sequences=True)(ahead, initial_state=state))
    model = Model([past, known, ahead], levels)

    inputs, targets, _ = windows(days, values, training)
    counts = ~np.isnan(targets[..., 0])
    rate = mr.schedules.CosineDecay(0.01, decay_steps=epochs * -(-len(training) // 32))
    model.compile(mr.optimizers.Adam(rate, global_clipnorm=1.0), "mse")
    model.fit(inputs, np.nan_to_num(targets), sample_weight=counts, batch_size=32, epochs=epochs, verbose=2)

    inputs, _, level = windows(days, values, starts)
    forecasts = level + SCALE * model.predict(inputs)[..., 0]
    again, raised = baselines(values, starts)
    draw(days, values, starts, forecasts, again, plot)
    print(f"drawn: {plot}")
    measured = values[starts[:, None] + np.arange(AHEAD)]
    error, *others = (float(np.sqrt(np.nanmean((x - measured) ** 2))) for x in (forecasts, again, raised))
    print("error of two-year forecasts from 1992 on, in parts per million:")
    print(f"{error:.2f} (the year before, again: {others[0]:.2f}; raised by its growth: {others[1]:.2f})")
    return error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=["full", "small"], default="full")
    parser.add_argument("--plot", default="co2.png", help="the file to draw to")
    arguments = parser.parse_args()
    small = {"units": 8, "epochs": 2}
    main(plot=arguments.plot, **(small if arguments.size == "small" else {}))
