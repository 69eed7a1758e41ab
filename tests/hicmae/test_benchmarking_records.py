"""What a bench prints of a step."""

import pytest
from rich.console import Console

from hicmae.bench import print_parts


@pytest.mark.parametrize(("fraction", "is_said"), [(0.62, False), (9.26, True)])
def test_a_share_of_more_than_everything_is_said_to_mean_nothing(
    fraction: float, is_said: bool
) -> None:
    console = Console(record=True, width=200, quiet=False, force_terminal=False)
    figures = {
        "seconds": {"forward": 1.0, "backward": 3.0},
        "step_seconds": 4.0,
        "clips_per_second": 2.0,
        "flops_per_clip": 87.2e9,
        "fraction_of_peak": fraction,
        "matmul_peak_flops": 0.322e9,
        "matmul_best_flops": 376e9,
        "peak_memory_bytes": 3 * 2**30,
        "precision": "bf16-mixed",
    }
    print_parts("A step", figures, console)
    text = console.export_text()
    assert f"{fraction:.0%} of 0.322 GFLOP/s" in text
    assert "(best 376)" in text
    assert ("says nothing" in text) is is_said
