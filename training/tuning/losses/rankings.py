"""Losses on rankings of k candidates. Rows (R) are rankings, padded to K places."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def plackett_luce_loss(scores: Float[Tensor, "R K"], tiers: Int[Tensor, "R K"]) -> Float[Tensor, " R"]:
    """−Σ_i log(e^{s_i} / (e^{s_i} + Σ_{j below i} e^{s_j})): Plackett-Luce (Plackett 1975).

    ``tiers`` says how good each candidate was found, 0 the best; −1 stands for one that was not ranked, and
    for padding. Without ties that is the likelihood of the order. Tied candidates are each compared with what
    stands below their tier, not with each other. So a choice among k is a ranking with two tiers. Returns
    (R,).
    """
    ranked = tiers >= 0
    below = (tiers[:, None, :] > tiers[:, :, None]) & ranked[:, None, :] & ranked[:, :, None]
    itself = torch.eye(tiers.shape[1], dtype=torch.bool, device=tiers.device)
    rivals = scores[:, None, :].expand(*below.shape).masked_fill(~(below | itself), float("-inf"))
    losses = torch.logsumexp(rivals, dim=2) - scores
    return torch.where(below.any(dim=2), losses, torch.zeros_like(losses)).sum(dim=1)


def best_of_k_loss(
    scores: Float[Tensor, "R K"], votes: Float[Tensor, "R K"], present: Bool[Tensor, "R K"]
) -> Float[Tensor, " R"]:
    """−Σ_i p_i log softmax(s)_i: the loss of arXiv:1909.08593, Eq. 1, with p the shares of the votes.

    ``present`` marks places that hold a candidate. Equal scores of four give ln 4. Returns (R,).
    """
    log_p = scores.masked_fill(~present, float("-inf")).log_softmax(dim=1).masked_fill(~present, 0.0)
    return -(votes * log_p).sum(dim=1)
