"""Numbers, times and shares in words, the same on screen, in reports and in messages."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """`1 face`, `2,400 faces`."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def clock(seconds: float) -> str:
    """`0:02.4`, `1:02:03`: minutes and seconds, tenths below an hour."""
    tenths = round(10 * seconds)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600
    if hours:
        return f"{hours}:{minutes:02d}:{rest // 10:02d}"
    return f"{minutes}:{rest // 10:02d}.{rest % 10}"


def time_span(seconds: float) -> str:
    """`2.4 s`, `3 min 5 s`, `1 h 2 min`: how long something is."""
    whole = round(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"


def percent(share: float) -> str:
    """0 to 1 as `46%`; what is not quite nothing is `<1%`."""
    return f"{100 * share:.0f}%" if share >= 0.01 or share == 0 else "<1%"
