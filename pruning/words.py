"""Bytes and seconds as people read them."""

_TIMES = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def readable_size(count: int) -> str:
    """A number of bytes as people read it: `12.5 MiB`, `14.96 GiB`."""
    if count < 0:
        return f"-{readable_size(-count)}"
    for unit, name in _BYTES:
        if count >= unit:
            return f"{count / unit:.2f} {name}" if unit == 2**30 else f"{count / unit:.1f} {name}"
    return f"{count} B"


def readable_duration(seconds: float) -> str:
    """The two largest units: `45 s`, `3 min 20 s`, `2 h 5 min`, `1 d 3 h`; tenths of a second below one."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, part, part_name in _TIMES:
        if whole >= unit:
            rest = whole % unit // part
            return f"{whole // unit} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{whole} s"
