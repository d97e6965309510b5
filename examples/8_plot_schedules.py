"""Draw every schedule of the package: the picture of the documentation.

python examples/8_plot_schedules.py [schedules.png]
"""

import sys

try:
    from matplotlib.figure import Figure
except ImportError:
    sys.exit("This example draws with matplotlib: pip install matplotlib")

from thinc_swa import cosine, one_cycle, one_cycle_momentum, phases, plot_schedule, swa_anneal

N_STEPS = 1000

PANELS = {
    "one_cycle": {
        "cosine": one_cycle(0.01, total_steps=N_STEPS),
        "linear": one_cycle(0.01, total_steps=N_STEPS, anneal_strategy="linear"),
    },
    "one_cycle_momentum": {
        "cosine": one_cycle_momentum(total_steps=N_STEPS),
        "linear": one_cycle_momentum(total_steps=N_STEPS, anneal_strategy="linear"),
    },
    "cosine": {
        "no warmup": cosine(0.01, total_steps=N_STEPS),
        "warmup_steps = 100": cosine(0.01, warmup_steps=100, total_steps=N_STEPS),
    },
    "cosine with restarts": {
        "cycles = 3": cosine(0.01, cycles=3, end_factor=0.1, total_steps=N_STEPS),
        "cycle_mult = 2": cosine(0.01, cycles=3, cycle_mult=2, total_steps=N_STEPS),
    },
    "phases: one_cycle, and two numbers": phases(
        (0.5, one_cycle(0.01, steps=0.5, total_steps=N_STEPS)),
        (0.25, 0.005),
        0.002,
        total_steps=N_STEPS,
    ),
    "swa_anneal": {
        name: swa_anneal(0.01, 0.003, start_step=500, anneal_steps=250, anneal_strategy=name)
        for name in ("linear", "cosine")
    },
}

path = sys.argv[1] if len(sys.argv) > 1 else "schedules.png"
figure = Figure(figsize=(12, 6.4), layout="constrained")
for axes, (title, schedules) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
    plot_schedule(schedules, N_STEPS + 1, axes=axes).set_title(title)
    if axes.get_legend():
        # Above the lines.
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.25 * (high - low))
        axes.legend(
            frameon=False, loc="upper right", ncols=2, columnspacing=1, handlelength=1.5
        )
figure.savefig(path, dpi=110)
print(f"{len(PANELS)} panels in {path}")
