"""What JSON files of an experiment must look like for whatever reads them: types of values, by place.

    require(content, {"before": NUMBER, "text?": TEXT}, "parameters")

A form is a tuple of types (None too), an object of forms by key (`?` behind a key: it may be missing; ANY: whatever other
keys there are), or a list with the form of its entries. Knows nothing about the files.
"""

TEXT, NUMBER, FLAG = (str,), (int, float), (bool,)
WHOLE = (int,)
ANYTHING = (object, None)
ANY = "*"


def optional(form):
    """The form, or null."""
    return (*form, None) if isinstance(form, tuple) else _Optional(form)


class _Optional:
    def __init__(self, form):
        self.form = form


def require(value, form, place: str) -> None:
    """Raises TypeError naming the place where a value has another form."""
    if isinstance(form, _Optional):
        if value is not None:
            require(value, form.form, place)
    elif isinstance(form, tuple):
        if not _is_one_of(value, form):
            raise TypeError(f"{place} is {_short(value)}")
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise TypeError(f"{place} is {_short(value)}")
        for number, entry in enumerate(value):
            require(entry, form[0], f"{place}[{number}]")
    else:
        _require_object(value, form, place)


def _require_object(value, form: dict, place: str) -> None:
    if not isinstance(value, dict):
        raise TypeError(f"{place} is {_short(value)}")
    for key, inner in form.items():
        name = key.removesuffix("?")
        if key == ANY:
            for other in value.keys() - {known.removesuffix("?") for known in form}:
                require(value[other], inner, f"{place}.{other}")
        elif name in value:
            require(value[name], inner, f"{place}.{name}")
        elif name == key:
            raise TypeError(f"{place} has no {name}")


def _is_one_of(value, types: tuple) -> bool:
    if value is None:
        return None in types
    if isinstance(value, bool) and object not in types:
        return bool in types
    return isinstance(value, tuple(one for one in types if one is not None))


def _short(value) -> str:
    shown = repr(value)
    return shown if len(shown) < 40 else f"{shown[:40]} ..."
