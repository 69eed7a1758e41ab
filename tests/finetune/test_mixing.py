"""Mixing conserves what it should; losses agree with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import expit, rel_entr, softmax
from sklearn.metrics import log_loss

from finetune import mixing
from finetune.losses import LOSSES, concordance_loss, divergence, soft_cross_entropy
from finetune.mixing import MixingConfig, mix_batch, smoothed

B, C, S = 5, 3, 40


def clips() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clip b of video and sound is the constant b; its class is b modulo 3."""
    number = torch.arange(B, dtype=torch.float32)
    video = number.reshape(B, 1, 1, 1, 1).expand(B, 3, 4, 16, 16).clone()
    fbank = number.reshape(B, 1, 1).expand(B, S, 8).clone()
    return video, fbank, smoothed(torch.eye(C)[torch.arange(B) % C], 0.1)


def mixed_clips(seed: int, **settings: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Those clips, mixed."""
    torch.manual_seed(seed)
    video, fbank, targets = mix_batch(*clips(), MixingConfig(**settings))
    assert video is not None
    assert fbank is not None
    return video, fbank, targets


def test_smoothed_labels_are_probabilities_with_the_mass_where_it_belongs() -> None:
    targets = smoothed(torch.tensor([[0, 0, 1, 0], [0.75, 0.25, 0, 0]]), 0.2)
    assert_allclose(targets, [[0.05, 0.05, 0.85, 0.05], [0.65, 0.25, 0.05, 0.05]], rtol=1e-6)


@pytest.mark.parametrize("settings", [{"cutmix": 0.0}, {"mixup": 0.0}, {}, {"audio": True}])
def test_mixing_conserves_label_mass(settings: dict[str, float]) -> None:
    for seed in range(50):
        targets, mixed = clips()[2], mixed_clips(seed, **settings)[2]
        assert_allclose(mixed.sum(dim=1), np.ones(B), rtol=1e-6)
        assert_allclose(mixed.sum(dim=0), targets.sum(dim=0), rtol=1e-5)  # nobody is lost
        assert mixed.min() >= 0


@pytest.mark.parametrize(
    "settings", [{"cutmix": 0.0}, {"mixup": 0.0}, {"mixup": 0.0, "audio": True}]
)
def test_labels_are_mixed_in_the_share_of_the_pixels(settings: dict[str, float]) -> None:
    changed = 0
    for seed in range(30):
        targets = clips()[2]
        mixed_video, _, mixed = mixed_clips(seed, **settings)
        # Clip 1 is mixed with clip 0, whose pixels are 0: its mean is the share it keeps.
        share = float(mixed_video[1].mean())
        expected = share * targets[1] + (1 - share) * targets[0]
        assert_allclose(mixed[1], expected, rtol=1e-4, atol=1e-6)
        # The same box in every frame and colour.
        assert_allclose(mixed_video[1].std(dim=(0, 1)).numpy(), 0, atol=1e-6)
        changed += share < 0.999
    assert changed > 15


def test_sound_is_left_alone_unless_asked_for() -> None:
    for seed in range(20):
        assert torch.equal(mixed_clips(seed)[1], clips()[1])


@pytest.mark.parametrize("with_video", [True, False])
@pytest.mark.parametrize("settings", [{"cutmix": 0.0}, {"mixup": 0.0}])
def test_sound_is_mixed_in_the_share_of_the_labels(
    settings: dict[str, float], with_video: bool
) -> None:
    changed = 0
    for seed in range(30):
        video, fbank, targets = clips()
        torch.manual_seed(seed)
        _, mixed_fbank, mixed = mix_batch(
            video if with_video else None, fbank, targets, MixingConfig(audio=True, **settings)
        )
        share = float(mixed_fbank[1].mean())
        expected = share * targets[1] + (1 - share) * targets[0]
        # A span of time has whole frames; half of one is what rounding may cost.
        assert_allclose(mixed[1], expected, atol=0.5 / S + 1e-5 if with_video else 1e-5)
        # Spans hold one clip or the other, blends both.
        assert torch.equal(mixed_fbank, mixed_fbank.round()) == ("mixup" in settings)
        changed += share < 0.999
    assert changed > 15


def test_what_cannot_be_mixed_stays_as_it_was() -> None:
    video, fbank, targets = clips()
    for arguments in (
        (video, fbank, targets, MixingConfig(mixup=0, cutmix=0)),
        (video, fbank, targets, MixingConfig(probability=0)),
        (None, fbank, targets, MixingConfig()),  # sound alone, and sound is not to be mixed
        (video[:1], fbank[:1], targets[:1], MixingConfig()),
    ):
        mixed = mix_batch(*arguments)
        assert mixed[0] is arguments[0]
        assert mixed[1] is arguments[1]
        assert mixed[2] is arguments[2]


def test_the_input_is_not_written_to() -> None:
    for seed in range(10):
        video, fbank, targets = clips()
        before = [item.clone() for item in (video, fbank, targets)]
        torch.manual_seed(seed)
        mix_batch(video, fbank, targets, MixingConfig(audio=True))
        for now, then in zip((video, fbank, targets), before, strict=True):
            assert torch.equal(now, then)


@pytest.mark.parametrize(
    ("settings", "parameter"), [({"cutmix": 0.0}, 0.8), ({"cutmix": 0.2, "switch": 1.0}, 0.2)]
)
@pytest.mark.slow
def test_shares_follow_the_beta_distribution_of_their_kind(
    settings: dict[str, float], parameter: float
) -> None:
    shares = []
    for seed in range(600):
        torch.manual_seed(seed)
        config = MixingConfig(audio=True, **settings)
        shares.append(float(mix_batch(None, torch.zeros(2, 100, 1), torch.eye(2), config)[2][1, 1]))
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
    assert abs(np.mean(shares) - 0.5) < 0.05
    assert abs(np.var(shares) - 1 / (4 * (2 * parameter + 1))) < 0.015
    assert 0 < mixing._beta(1e-9) < 1  # whose two Gamma draws would be 0


def test_a_box_is_of_the_area_and_a_span_of_the_length_that_are_given_away() -> None:
    (video, fbank, _), neighbour = clips(), torch.arange(B).roll(1)
    torch.manual_seed(0)
    cut, shares = zip(*[mixing._cut_box(video, 0.75, neighbour) for _ in range(200)], strict=True)
    assert min(shares) == 0.75  # where the border cuts nothing off
    assert (torch.stack(cut)[:, 1] == 0).any(dim=0).all()  # of a neighbour that is 0: everywhere
    spans = torch.stack([mixing._cut_span(fbank, 0.75, neighbour)[0][1, :, 0] for _ in range(200)])
    assert (spans == 0).sum(dim=1).unique().tolist() == [S / 4]
    assert (spans == 0).any(dim=0).all()  # to the last frame


@pytest.mark.parametrize("switch", [0.0, 1.0])
def test_the_switch_is_the_chance_of_boxes(switch: float) -> None:
    for seed in range(10):
        values = mixed_clips(seed, switch=switch)[0].unique()
        assert bool((values == values.round()).all()) == bool(switch)


def test_bad_settings_are_named_together() -> None:
    with pytest.raises(ValueError, match=r"mixup = -1.*; switch = 2"):
        MixingConfig(mixup=-1, switch=2)


def test_cross_entropy_of_soft_labels_agrees_with_numpy() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(6, 4)), rng.dirichlet(np.ones(4), size=6)
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(targets * log_softmax).sum(axis=1).mean()
    assert_allclose(
        soft_cross_entropy(torch.tensor(logits), torch.tensor(targets)), expected, rtol=1e-9
    )


def test_divergence_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(6, 4)), rng.dirichlet(np.ones(4), size=6)
    expected = rel_entr(targets, softmax(logits, axis=1)).sum(axis=1).mean()
    assert_allclose(divergence(torch.tensor(logits), torch.tensor(targets)), expected, rtol=1e-9)


def test_cross_entropy_of_each_class_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(6, 4)), rng.integers(0, 2, size=(6, 4))
    found = LOSSES["binary-cross-entropy"].make(
        torch.tensor(logits), torch.tensor(targets).double()
    )
    assert_allclose(found, log_loss(targets.ravel(), expit(logits).ravel()), rtol=1e-9)


@pytest.mark.parametrize(("scale", "size"), [(1.0, 20), (1e-4, 20), (1.0, 2)])
def test_concordance_loss_agrees_with_numpy(scale: float, size: int) -> None:
    rng = np.random.default_rng(1)
    true = scale * rng.normal(size=(size, 3))
    predicted = 0.5 * true + scale * (rng.normal(size=(size, 3)) + 0.3)
    expected = []
    for x, y in zip(true.T, predicted.T, strict=True):
        covariance = np.cov(x, y)
        shift = (x.mean() - y.mean()) ** 2
        expected.append(2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + shift))
    loss = concordance_loss(torch.tensor(predicted), torch.tensor(true))
    assert_allclose(loss, 1 - np.mean(expected), rtol=1e-9)
    assert_allclose(concordance_loss(torch.tensor(true), torch.tensor(true)), 0, atol=1e-9)


def test_concordance_loss_of_constants_is_finite_with_a_finite_gradient() -> None:
    outputs = torch.full((4, 2), 0.5, requires_grad=True)
    loss = concordance_loss(outputs, torch.full((4, 2), 0.5))
    loss.backward()
    assert loss.item() == 1
    assert torch.isfinite(outputs.grad).all()


def test_every_loss_falls_where_predictions_improve() -> None:
    true = torch.linspace(-1, 1, 12).reshape(6, 2)
    for name in ("mse", "l1", "ccc"):
        loss = LOSSES[name].make
        assert loss(0.9 * true, true) < loss(0.2 * true, true)
