"""The picture of a schedule: the learning rate at every step of a run."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pages.figures import figure_settings, new_figure, png
from pages.style import LIGHT
from training.log_axis import set_log_scale
from training.plateau import PlateauSchedule
from training.schedules import multiplier
from training.warmup import Schedule

_MOST_POINTS = 4000


def schedule_png(schedule: Schedule, *, lr: float, total_steps: int, title: str) -> bytes:
    """Return a PNG of the learning rate against the step.

    Args:
        schedule: fits the run, as `check_schedule` says.
        lr: the optimizer's full learning rate.
        total_steps: steps of the run.
    """
    with figure_settings(salt="schedule", font_size=13):
        return png(_draw(schedule, lr, total_steps, title))


def describe_schedule(schedule: Schedule, *, lr: float, total_steps: int) -> list[str]:
    """Return the learning rate at the first, the highest, the quarters' and the last step.

    Steps count from 1, as in a run's log. Arguments as for `schedule_png`.
    """
    rates = [lr * multiplier(schedule, step, total_steps) for step in range(total_steps)]
    quarters = {round(share * (total_steps - 1)) for share in (0, 0.25, 0.5, 0.75, 1)}
    steps = sorted(quarters | {rates.index(max(rates))})
    width = len(f"{total_steps:,}")
    lines = [f"step {step + 1:>{width},}: {rates[step]:.3g}" for step in steps]
    if isinstance(schedule, PlateauSchedule):
        lines.append(f"plateau: this is the upper bound; {schedule.metric!r} decides during a run")
    return lines


def _draw(schedule: Schedule, lr: float, total_steps: int, title: str) -> Figure:
    stride = max(1, total_steps // _MOST_POINTS)
    steps = sorted({*range(0, total_steps, stride), total_steps - 1})
    rates = [lr * multiplier(schedule, step, total_steps) for step in steps]
    # The last step's rate holds until the run's end.
    steps.append(total_steps)
    rates.append(rates[-1])

    figure = new_figure(900, 420)
    figure.suptitle(title, x=0.01, ha="left")
    wide, narrow = figure.subplots(1, 2, width_ratios=(2.2, 1))
    for axes in (wide, narrow):
        # A step's rate holds for that step alone: stairs, which show in short runs.
        axes.plot(steps, rates, color=LIGHT["accent"], linewidth=2, drawstyle="steps-post")
        axes.set_xlim(0, total_steps)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(6 if axes is wide else 2, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{round(step):,}"))
    wide.set_ylabel("learning rate")
    wide.set_ylim(bottom=0)
    warmup = schedule.stretch(total_steps).warmup
    if warmup:
        wide.axvspan(0, warmup, color=LIGHT["panel"], zorder=0, linewidth=0)
    shaded = f"; warm-up, {warmup:,} steps, is shaded" if warmup else ""
    wide.set_title(f"first {rates[0]:.2g}, highest {max(rates):.2g}, last {rates[-1]:.2g}{shaded}")
    if isinstance(schedule, PlateauSchedule):
        _explain_plateau(figure, schedule, lr, steps, rates)
    narrow.set_title("the same, logarithmic")
    set_log_scale(narrow, "y")
    return figure


def _explain_plateau(
    figure: Figure,
    schedule: PlateauSchedule,
    lr: float,
    steps: Sequence[int],
    rates: Sequence[float],
) -> None:
    """Show between which bounds the rate will be, and on what it depends."""
    lowest = [rate * schedule.min_factor for rate in rates]
    for axes in figure.axes:
        axes.fill_between(
            steps, lowest, rates, step="post", color=LIGHT["accent"], alpha=0.12, linewidth=0
        )
    wide = figure.axes[0]
    wide.set_title("the upper bound; what it will be depends on the metric")
    direction = "lower" if schedule.mode == "min" else "higher"
    wide.text(
        0.97,
        0.5,
        f"times {schedule.factor:g} whenever {schedule.patience} values of "
        f"{schedule.metric!r}\nin a row are not {direction} than the best one,\n"
        f"down to {lr * schedule.min_factor:.2g}",
        transform=wide.transAxes,
        ha="right",
        va="center",
        color=LIGHT["ink"],
    )
