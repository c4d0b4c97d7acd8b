"""Weighted k-means for many small codebooks at once (section 2.4 of the GPTVQ paper's EM)."""

import functools

import torch
from torch import Tensor

# Scores of a chunk of codebooks stay in the processor's cache: 4 bytes each.
_CHUNK = 1 << 19


def fit_codebooks(
    points: Tensor,
    weights: Tensor,
    size: int,
    *,
    iterations: int,
    seeding: str = "normal",
    seed: int = 0,
) -> Tensor:
    """Return codebooks (G, size, d) of `points` (G, N, d), each coordinate with its weight.

    `weights` is (G, N, d) or (1, N, d), zero for points that only pad. Minimises
    sum_n min_k sum_j w_nj (x_nj - c_kj)^2 by alternating steps, until no assignment changes.
    """
    per = max(1, _CHUNK // (size * points.shape[1]))
    parts = []
    for first in range(0, len(points), per):
        some = points[first : first + per]
        weight = (weights if len(weights) == 1 else weights[first : first + per]).expand_as(some)
        start = seeds(some, weight, size, seeding, seed)
        parts.append(_exact(some, weight, lloyd(some, weight, start, iterations)))
    return torch.cat(parts)


def lloyd(points: Tensor, weights: Tensor, codebook: Tensor, iterations: int) -> Tensor:
    """Return `codebook` (G, k, d) after at most `iterations` steps of weighted k-means.

    Centroids that lose all their points stay where they are.
    """
    features = _features(points, weights)
    codes: Tensor | None = None
    for _ in range(iterations):
        assigned = _assign(features, codebook)
        if codes is not None and torch.equal(assigned, codes):
            break
        codes = assigned
        codebook = _means(features, codes, codebook)
    return codebook


def nearest(points: Tensor, metric: Tensor, codebook: Tensor) -> Tensor:
    """Return (G, N): the codeword nearest to each point (G, N, d) by (x - c) M (x - c)^T.

    `metric` is M, (d, d), or its diagonal (d,). Ties go to the lowest code.
    """
    scaled = codebook * metric if metric.ndim == 1 else codebook @ metric
    bias = (scaled * codebook).sum(2, keepdim=True)
    scores = torch.baddbmm(bias, scaled, points.transpose(1, 2), alpha=-2)
    # argmin over an outer axis takes 40 times as long as amin; asking who equals the minimum,
    # and for the first of these, is exact as well.
    best = scores == scores.amin(1, keepdim=True)
    size = codebook.shape[1]
    numbers = torch.arange(size, dtype=torch.int32, device=scores.device).view(1, -1, 1)
    return torch.where(best, numbers, size - 1).amin(1).long()


def distortion(points: Tensor, weights: Tensor, codebook: Tensor) -> Tensor:
    """Return the quantity that k-means minimises, (G,)."""
    distance = points.unsqueeze(1) - codebook.unsqueeze(2)  # (G, k, N, d)
    return (weights.unsqueeze(1) * distance.square()).sum(3).amin(1).sum(1)


def _exact(points: Tensor, weights: Tensor, codebook: Tensor) -> Tensor:
    """Return `codebook`, or the points themselves if they are few enough to be its centroids.

    K-means can merge two of them for good. The first 2k points settle most groups.
    """
    size = codebook.shape[1]
    some = points[:, : 2 * size]
    same = (some.unsqueeze(1) == some.unsqueeze(2)).all(3)
    distinct = (~same.tril(-1).any(2)).sum(1)
    for group in (distinct <= size).nonzero().flatten().tolist():
        known = points[group, weights[group].amax(1) > 0].unique(dim=0)
        if 0 < len(known) <= size:
            copies = known[-1:].expand(size - len(known), -1)
            codebook[group] = torch.cat([known, copies])
    return codebook


def _features(points: Tensor, weights: Tensor) -> Tensor:
    """Return [w, -2wx] as (G, 2d, N): the part of every distance known beforehand."""
    return torch.cat([weights, weights * points * -2], 2).transpose(1, 2).contiguous()


def _assign(features: Tensor, codebook: Tensor) -> Tensor:
    """Return (G, N) codes: w.c^2 - 2wx.c is the distance up to a constant, one batched GEMM.

    The code takes the place of the lowest log2 k bits of its distance, so that one minimum
    finds both: near-ties within 2^-15 of each other may go either way, which costs nothing here.
    """
    size = codebook.shape[1]
    table = torch.cat([codebook * codebook, codebook], 2)
    keys = torch.bmm(table, features).view(torch.int32)
    numbers = torch.arange(size, dtype=torch.int32, device=keys.device).view(1, -1, 1)
    keys.bitwise_and_(-size).bitwise_or_(numbers)
    return keys.view(torch.float32).amin(1).view(torch.int32).bitwise_and_(size - 1).long()


def _means(features: Tensor, codes: Tensor, codebook: Tensor) -> Tensor:
    """Return the weighted mean of each cluster (the M-step), the old centroid if it is empty."""
    groups, size, dim = codebook.shape
    sums = features.new_zeros(groups, 2 * dim, size)
    sums.scatter_add_(2, codes.unsqueeze(1).expand_as(features), features)
    weight, moment = sums.transpose(1, 2).split(dim, 2)
    return torch.where(weight > 0, moment / (-2 * weight.clamp(min=1e-38)), codebook)


def seeds(points: Tensor, weights: Tensor, size: int, seeding: str, seed: int) -> Tensor:
    """Return the starting centroids of k-means, (G, size, d)."""
    if seeding == "kmeans++":
        return _plus_plus(points, weights, size, seed)
    if seeding == "normal":
        return _normal(points, weights, size)
    return _order_statistics(points, size)


def _order_statistics(points: Tensor, size: int) -> Tensor:
    """Return `size` points at equal steps of their Mahalanobis distance from the mean.

    In one dimension that would lose the sign: there, equal steps of the points themselves.
    """
    _, count, dim = points.shape
    centred = points - points.mean(1, keepdim=True)
    if dim == 1:
        key = centred[..., 0]
    else:
        covariance = centred.transpose(1, 2) @ centred / count
        ridge = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30) * 1e-6
        covariance = covariance + torch.eye(dim, device=points.device) * ridge.view(-1, 1, 1)
        key = (centred * torch.linalg.solve(covariance, centred.transpose(1, 2)).mT).sum(2)
    steps = (torch.arange(size, device=points.device) + 0.5) * (count / size)
    places = key.argsort(1)[:, steps.long().clamp(max=count - 1)]
    return points.gather(1, places.unsqueeze(2).expand(-1, -1, dim)).clone()


def _plus_plus(points: Tensor, weights: Tensor, size: int, seed: int) -> Tensor:
    """Return seeds drawn one by one, with odds by their distance to those drawn before."""
    _, count, dim = points.shape
    # Drawn per codebook from the same stream, so that no group depends on how many there are.
    draws = torch.rand(size, generator=torch.Generator().manual_seed(seed)).to(points.device)
    mass = weights.sum(2)
    drawn = []
    for draw in draws:
        total = mass.cumsum(1)
        place = torch.searchsorted(total, total[:, -1:] * draw).clamp(max=count - 1)
        chosen = points.gather(1, place.unsqueeze(2).expand(-1, -1, dim))
        drawn.append(chosen)
        distance = (weights * (points - chosen).square()).sum(2)
        mass = distance if len(drawn) == 1 else torch.minimum(mass, distance)
    return torch.cat(drawn, 1)


def _normal(points: Tensor, weights: Tensor, size: int) -> Tensor:
    """Return the best codebook of a normal variable, moved to each mean and spread."""
    dim = points.shape[2]
    total = weights.sum(1, keepdim=True).clamp(min=1e-38)
    mean = (weights * points).sum(1, keepdim=True) / total
    spread = ((weights * (points - mean).square()).sum(1, keepdim=True) / total).sqrt()
    return mean + spread * normal_codebook(size, dim).to(points)


@functools.cache
def normal_codebook(size: int, dim: int) -> Tensor:
    """Return (size, dim) centroids for the standard normal distribution, by k-means."""
    sample = torch.randn(1, 64 * size, dim, generator=torch.Generator().manual_seed(0))
    start = _plus_plus(sample, torch.ones_like(sample), size, 0)
    return lloyd(sample, torch.ones_like(sample), start, 100)[0]
