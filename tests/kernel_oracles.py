"""What each operation of `nas.kernels` computes, in NumPy and float64, as directly as its formula says.

An oracle takes the arrays and all settings of its operation by name, and returns what the reference returns. How many
products or terms one number of a result is a sum of bounds the rounding that a test must allow.
"""

from collections.abc import Callable
from typing import Any

import numpy as np


def rms_norm(x: np.ndarray, scale: np.ndarray, *, epsilon: float) -> np.ndarray:
    """Each vector over its root-mean-square."""
    return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def short_convolution(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One product at a time."""
    out = np.zeros_like(x)
    for now in range(x.shape[1]):
        for delay in range(min(len(weights), now + 1)):
            out[:, now] += weights[delay] * x[:, now - delay]
    return out


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, window: int | None, softcap: float | None) -> np.ndarray:
    """Each query attends to the keys up to its own position, `window` of them at most."""
    examples, length, heads, width = q.shape
    out = np.zeros((examples, length, heads, v.shape[-1]))
    for example in range(examples):
        for head in range(heads):
            group = head // (heads // k.shape[2])
            for t in range(length):
                first = 0 if window is None else max(0, t - window + 1)
                scores = k[example, first : t + 1, group] @ q[example, t, head] / np.sqrt(width)
                if softcap is not None:
                    scores = softcap * np.tanh(scores / softcap)
                weights = np.exp(scores - scores.max())
                out[example, t, head] = weights @ v[example, first : t + 1, group] / weights.sum()
    return out


def linear_recurrence(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """h_t = a_t * h_{t-1} + b_t, nothing before the first."""
    h, state = np.zeros(b.shape), np.zeros(b[:, 0].shape)
    for t in range(b.shape[1]):
        state = h[:, t] = a[:, t] * state + b[:, t]
    return h


def gated_linear_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, log_decay: np.ndarray) -> np.ndarray:
    """S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t, for every example and head."""
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for example, head in np.ndindex(q.shape[0], q.shape[2]):
        state = np.zeros((q.shape[-1], v.shape[-1]))
        for t in range(q.shape[1]):
            at = (example, t, head)
            state = np.exp(log_decay[at])[:, None] * state + np.outer(k[at], v[at])
            out[at] = state.T @ q[at]
    return out


def delta_rule(q: np.ndarray, k: np.ndarray, v: np.ndarray, beta: np.ndarray, log_decay: np.ndarray) -> np.ndarray:
    """S_t = exp(log_decay_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, o_t = S_t^T q_t."""
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for example, head in np.ndindex(q.shape[0], q.shape[2]):
        state = np.zeros((q.shape[-1], v.shape[-1]))
        for t in range(q.shape[1]):
            at = (example, t, head)
            forget = np.exp(log_decay[at]) * (np.eye(len(state)) - beta[at] * np.outer(k[at], k[at]))
            state = forget @ state + beta[at] * np.outer(k[at], v[at])
            out[at] = state.T @ q[at]
    return out


def cross_entropy(hidden: np.ndarray, head: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log softmax(hidden_n @ head) at the target of n; 0 where the target is -1."""
    loss = np.zeros(len(targets))
    for n, target in enumerate(targets):
        if target >= 0:
            logits = hidden[n] @ head
            loss[n] = logits.max() + np.log(np.exp(logits - logits.max()).sum()) - logits[target]
    return loss


ORACLES: dict[str, Callable[..., Any]] = {
    "attention": attention,
    "cross_entropy": cross_entropy,
    "delta_rule": delta_rule,
    "gated_linear_attention": gated_linear_attention,
    "linear_recurrence": linear_recurrence,
    "rms_norm": rms_norm,
    "short_convolution": short_convolution,
}
"""By operation."""
