"""Size, crop, flip, erasing and colours, against Pillow and pictures whose values are known."""

import numpy as np
import pytest
import torch
from PIL import Image

from hicmae.settings import InputConfig
from hicmae.transforms.video import (
    crop_video,
    crop_views,
    erase_,
    resize_video,
    standardise_colours_,
)
from hicmae.views import CROPS


def _frames(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)


def _gradient(batch: int, frames: int, size: int) -> torch.Tensor:
    """Channel 0 holds x and channel 1 y of each pixel's centre, channel 2 the frame's number."""
    centres = torch.arange(size) + 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    channels = [torch.stack([x, y, torch.full_like(x, float(frame))]) for frame in range(frames)]
    return torch.stack(channels, dim=1).expand(batch, -1, -1, -1, -1).clone()


def test_a_frame_of_the_right_size_is_only_normalised() -> None:
    frames = _frames(2, 3, 16, 16)
    video = standardise_colours_(resize_video(frames, 16), InputConfig())
    assert video.shape == (2, 3, 3, 16, 16)
    assert video.dtype == torch.float32
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (frames.numpy() / 255 - mean) / std  # (B, T, H, W, 3)
    assert np.allclose(video.permute(0, 2, 3, 4, 1).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("side", "size"), [(40, 16), (33, 32), (16, 40)])
def test_other_sizes_are_resized_as_pillow_does(side: int, size: int) -> None:
    # Noise is the hardest picture: without the wide filter of a reduction it would alias.
    frames = _frames(1, 2, side, side)
    found = resize_video(frames, size)
    assert found.shape == (1, 3, 2, size, size)
    for t in range(2):
        picture = Image.fromarray(frames[0, t].numpy())
        expected = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), float)
        # Pillow rounds to whole levels, after each direction.
        assert np.abs(found[0, :, t].permute(1, 2, 0).numpy() - expected).max() <= 1.01


def test_a_fine_pattern_that_shrinks_turns_grey_instead_of_aliasing() -> None:
    frames = torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8)
    frames[:, :, :, ::2] = 255
    inner = resize_video(frames, 16)[..., 2:-2, 2:-2]
    assert (inner - 127.5).abs().max() < 20


def test_a_frame_that_is_not_square_gives_its_centred_square() -> None:
    frames = _frames(1, 2, 20, 36)
    assert torch.equal(resize_video(frames, 20), resize_video(frames[:, :, :, 8:28], 20))
    upright = frames.transpose(2, 3).contiguous()
    assert torch.equal(resize_video(upright, 12), resize_video(upright[:, :, 8:28], 12))


def test_frames_of_another_type_or_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.float32"):
        resize_video(torch.zeros(1, 2, 8, 8, 3), 8)
    with pytest.raises(ValueError, match=r"\(1, 3, 2, 8, 8\)"):
        resize_video(torch.zeros(1, 3, 2, 8, 8, dtype=torch.uint8), 8)


def test_a_crop_shows_the_place_it_was_cut_from_in_every_frame() -> None:
    size = 32
    video = _gradient(3, 4, size)
    boxes = torch.tensor([[4.0, 8.0, 28.0, 24.0], [0.0, 0.0, 32.0, 32.0], [10.25, 3.5, 26.25, 30]])
    found = crop_video(video, boxes, torch.zeros(3, dtype=torch.bool))
    assert found.shape == video.shape
    fraction = (torch.arange(size) + 0.5) / size
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        x = (x0 + (x1 - x0) * fraction).clamp(0.5, size - 0.5)
        y = (y0 + (y1 - y0) * fraction).clamp(0.5, size - 0.5)
        for t in range(4):
            assert torch.allclose(found[i, 0, t], x.expand(size, size), atol=1e-3)
            assert torch.allclose(found[i, 1, t], y[:, None].expand(size, size), atol=1e-3)
            assert torch.allclose(found[i, 2, t], torch.tensor(float(t)))


def test_a_crop_agrees_with_cutting_and_resizing_away_from_its_border() -> None:
    video = torch.rand(1, 3, 2, 32, 32)
    box = torch.tensor([[6.0, 2.0, 26.0, 30.0]])
    found = crop_video(video, box, torch.tensor([False]))[0]
    cut = video[0, :, :, 2:30, 6:26]
    expected = torch.nn.functional.interpolate(cut, size=(32, 32), mode="bilinear")
    # At the border of the crop ours reads the neighbour outside, the other repeats the edge.
    inner = (..., slice(2, -2), slice(2, -2))
    assert torch.allclose(found[inner], expected[inner], atol=1e-4)


def test_a_crop_of_the_whole_frame_is_mirrored_where_chosen_and_else_unchanged() -> None:
    video = torch.rand(3, 3, 4, 16, 24)
    whole = torch.tensor([[0.0, 0.0, 24.0, 16.0]]).expand(3, 4)
    found = crop_video(video, whole, torch.tensor([False, True, False]))
    assert torch.allclose(found[1], video[1].flip(-1), atol=1e-5)
    assert torch.allclose(found[::2], video[::2], atol=1e-5)


@pytest.mark.parametrize("name", CROPS)
def test_a_crop_is_of_the_place_that_its_name_says(name: str) -> None:
    x, y, _ = crop_views(_gradient(1, 1, 32), [name])[0, :, 0]
    side = 32 if name in ("whole", "mirrored") else 28
    left, top = (4 * (edge in name) + 2 * ("centre" in name) for edge in ("right", "bottom"))
    across, down = (
        (start + side * (torch.arange(32) + 0.5) / 32).clamp(0.5, 31.5) for start in (left, top)
    )
    across = across.flip(0) if "mirrored" in name else across
    torch.testing.assert_close(x, across.expand(32, 32), atol=1e-3, rtol=0)
    torch.testing.assert_close(y, down[:, None].expand(32, 32), atol=1e-3, rtol=0)


def test_a_flipped_crop_is_the_mirror_image_of_the_crop() -> None:
    video = torch.rand(1, 3, 2, 16, 16)
    box = torch.tensor([[1.0, 2.0, 11.0, 14.0]])
    straight, mirrored = (crop_video(video, box, torch.tensor([flip])) for flip in (False, True))
    assert torch.allclose(straight.flip(-1), mirrored, atol=1e-5)
    assert not torch.allclose(straight, mirrored, atol=1e-2)


def test_erasing_fills_one_rectangle_of_the_chosen_clips_with_the_same_noise() -> None:
    video = torch.zeros(2, 3, 4, 16, 16)
    noise = torch.randn(2, 3, 1, 16, 16)
    boxes = torch.tensor([[3.0, 5.0, 9.5, 7.5], [0.0, 0.0, 16.0, 16.0]])
    found = erase_(video.clone(), boxes, torch.tensor([True, False]), noise)
    assert torch.equal(found[1], video[1])
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[5:7, 3:9] = True
    for t in range(4):
        assert torch.equal(found[0, :, t] != 0, inside.expand(3, -1, -1))
        assert torch.equal(found[0, :, t][:, inside], noise[0, :, 0][:, inside])


def test_colours_use_the_settings() -> None:
    input = InputConfig(image_mean=(0.0, 0.5, 1.0), image_std=(1.0, 0.5, 0.25))
    found = standardise_colours_(torch.full((1, 3, 1, 1, 1), 255.0), input)
    assert found.flatten().tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-5)
