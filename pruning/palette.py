"""Colours of charts and pictures."""

from .planning.shape import ATTENTION, MLP

# After Okabe and Ito: distinct for all common kinds of colour blindness. Each has 3 : 1 on white and on dark.
COLOURS = {
    ATTENTION: "#3B8FD4",
    MLP: "#CB8200",
    "embeddings": "#CC79A7",
    "norms": "#009E73",
    "protected": "#8A919C",
    "cut": "#D55E00",
    "kept": "#6895B5",
    "target": "#C2569A",
    "actual": "#12A07A",
    "layer": "#6895B5",
    "first": "#12A07A",
    "second": "#C2569A",
}
