"""Four primitives in turn, to twice the depth; Optuna chooses each of all nine, by default as in a known hybrid.

Source: the default is Jamba's (Lieber et al., arXiv 2403.19887, section 2) with a linear recurrence (De et al., arXiv
2402.19427, equations 1 to 4) and attention (Vaswani et al., arXiv 1706.03762, equation 1); patterns of primitives are
what Composer searches (Acun et al., arXiv 2510.00379).
"""

from nas.api import choice, layers, nnx

TUNABLES = {
    "first": choice(
        "recurrence", "attention", "sliding_window", "linear_attention", "delta_rule",
        "convolution", "mlp", "gated_mlp", "routed_mlp"
    ),
    "second": choice(
        "gated_mlp", "attention", "sliding_window", "recurrence", "linear_attention",
        "delta_rule", "convolution", "mlp", "routed_mlp"
    ),
    "third": choice(
        "attention", "sliding_window", "recurrence", "linear_attention", "delta_rule",
        "convolution", "mlp", "gated_mlp", "routed_mlp"
    ),
    "fourth": choice(
        "gated_mlp", "attention", "sliding_window", "recurrence", "linear_attention",
        "delta_rule", "convolution", "mlp", "routed_mlp"
    ),
}  # fmt: skip
KINDS = {
    "attention": layers.Attention,
    "sliding_window": layers.SlidingWindow,
    "recurrence": layers.Recurrence,
    "linear_attention": layers.GatedLinearAttention,
    "delta_rule": layers.DeltaRule,
    "convolution": layers.Convolution,
    "mlp": layers.MLP,
    "gated_mlp": layers.GatedMLP,
    "routed_mlp": layers.RoutedMLP,
}


class Stack(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        names = (hp.first, hp.second, hp.third, hp.fourth)
        self.layers = nnx.List(KINDS[names[index % 4]](spec, rngs=rngs) for index in range(2 * spec.depth))

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        for layer in self.layers:
            x = layer(x)
        return x
