"""Every importance method as a record: what it computes, after whom, what it needs, and where its function is.

    settings, memory, texts, charts, measuring  --read-->  IMPORTANCE_METHODS, LAYER_METHODS  --name a function of-->  model/

A new method is a function in a module of `model/`, its record here, and its texts (`method.<name>.*` for groups,
`layer_method.<name>` and `chart.layer_importance.*.<name>` for layers). Imports no torch: a page lists the methods before
anything is measured.
"""

from dataclasses import dataclass

# What a method needs of the model, from the least to the most.
WEIGHTS_ONLY, FORWARD, BACKWARD_TO_ACTIVATIONS, BACKWARD = PASSES = ("weights", "forward", "activations", "backward")


@dataclass(frozen=True)
class ImportanceMethod:
    """Importance of groups (docs/methods.md section 2).

    `function` is `module:name` in `model/`: (model, shape, calibration) -> importance [groups] float64. Methods that name the
    same `together` come from one pass of it: -> [methods, groups], in the order of the registry.
    """

    name: str
    formula: str  # of one group; symbols as in docs/methods.md
    source: str
    passes: str  # one of PASSES
    function: str
    together: str | None = None
    matrices_at_work: int = 0  # copies of the largest matrix that are in memory beside it
    depends_on_batch_size: bool = False

    @property
    def needs_samples(self) -> bool:
        return self.passes != WEIGHTS_ONLY


@dataclass(frozen=True)
class LayerMethod:
    """Importance of whole layers (docs/methods.md section 3).

    `function` is `module:name` in `model/`: (model, the pass of one batch, the batch) -> summed over its tokens, [layers]; or
    the loss without each layer, and of the whole model last, [layers + 1], where `is_loss`.
    """

    name: str
    formula: str
    source: str
    function: str
    is_loss: bool = False


def _by_name(*methods):
    return {method.name: method for method in methods}


IMPORTANCE_METHODS: dict[str, ImportanceMethod] = _by_name(
    ImportanceMethod(
        "taylor",
        "Σ abs(w * g)",
        "Molchanov 2019; LLM-Pruner (arXiv 2305.11627)",
        BACKWARD,
        "importance:taylor",
        together="importance:taylor_both",
        matrices_at_work=1,
    ),
    ImportanceMethod(
        "taylor_2nd",
        "Σ abs(w * g) + 1/2 * w^2 * h",
        "LLM-Pruner (arXiv 2305.11627)",
        BACKWARD,
        "importance:taylor_2nd",
        together="importance:taylor_both",
        matrices_at_work=2,  # a batch's gradient and its square, neither of which is kept
        depends_on_batch_size=True,
    ),
    ImportanceMethod(
        "wanda",
        "Σ abs(w_ij) * rms(x_j)",
        "Wanda (arXiv 2306.11695)",
        FORWARD,
        "activation_importance:wanda",
        matrices_at_work=1,
    ),
    ImportanceMethod("l1", "Σ abs(w)", "Li 2017 (arXiv 1608.08710)", WEIGHTS_ONLY, "importance:l1", matrices_at_work=1),
    ImportanceMethod("l2", "sqrt(Σ w^2)", "He 2018 (arXiv 1808.06866)", WEIGHTS_ONLY, "importance:l2", matrices_at_work=1),
    ImportanceMethod(
        "gate",
        "mean_s abs(a_s)",
        "Michel 2019",
        BACKWARD_TO_ACTIVATIONS,
        "activation_importance:gate",
        together="activation_importance:gate_and_fisher",
    ),
    ImportanceMethod(
        "fisher",
        "1/2 * mean_s a_s^2",
        "Theis 2018; Kwon (arXiv 2204.09656)",
        BACKWARD_TO_ACTIVATIONS,
        "activation_importance:fisher",
        together="activation_importance:gate_and_fisher",
    ),
)

LAYER_METHODS: dict[str, LayerMethod] = _by_name(
    LayerMethod("removal", "loss(without l) - loss", "", "layer_importance:removal_losses", is_loss=True),
    LayerMethod("activation", "mean_t norm(h_out - h_in) / norm(h_in)", "", "layer_importance:relative_change"),
    LayerMethod("block_influence", "1 - mean_t cos(h_in, h_out)", "ShortGPT (arXiv 2403.03853)", "layer_importance:turn"),
)
