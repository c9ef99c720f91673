"""What changes is one line on a terminal, and a line each where there is none; what stays, stays."""

from __future__ import annotations

import io

from rich.console import Console

from rankmill.progress import ChangingLine


def shown(terminal: bool) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=200, legacy_windows=False)
    with ChangingLine(console).shown("labelling") as line:
        for n in range(50):
            line.say(f"mined_judgements math: {n}/50 done [of] them")
        line.line("math · mined_judgements: 40 in, 38 out")
    return screen.getvalue()


def test_on_a_terminal_what_a_campaign_says_is_one_line_and_what_it_made_stays() -> None:
    screen = shown(terminal=True)
    assert screen.count("s] math · mined_judgements: 40 in, 38 out") == 1
    # The one that changes is written over: no line of its own is kept, and words in brackets are no markup.
    assert "s] mined_judgements" not in screen and "[of] them" in screen


def test_without_a_terminal_every_line_stays() -> None:
    lines = shown(terminal=False).splitlines()
    assert [line.partition("s] ")[2] for line in lines] == [
        *(f"mined_judgements math: {n}/50 done [of] them" for n in range(50)),
        "math · mined_judgements: 40 in, 38 out",
    ]
