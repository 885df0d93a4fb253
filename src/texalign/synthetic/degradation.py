from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from texalign._internal import Draws, per_sample
from texalign.synthetic.colour import LUMA, LUMINANCE, linear_to_srgb, tint

# Quantisation of ITU-T T.81 (JPEG), annex K, at quality 50.
_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *[(99,) * 8] * 4,
)  # fmt: skip


def photographed(draws: Draws, radiance: Tensor) -> Tensor:
    """What a camera makes of linear radiance (B, 3, S, S): an sRGB image (B, 3, S, S) in [0, 1], in steps of 1/255.

    Lens: vignette, defocus, motion. Sensor: exposure, white balance, noise. Processing: tone curve, colour, loss of
    resolution, sharpening, JPEG. Every step has its own strength in every image, times the badness of its camera: a
    third of the images are hardly harmed, a sixth may be by all of them.
    """
    badness = (1.6 * draws.uniform() - 0.45).clamp(0, 1)
    image = _vignetted(draws, radiance, badness)
    image = blurred(image, *_blur(draws, image.shape[-1], badness))
    image = _exposed(draws, image, badness)
    image = _noisy(draws, image, badness).clamp(0, 1)
    image = _toned(draws, image, badness)
    image = _resampled(draws, image, badness)
    image = _sharpened(draws, image)
    quality = 100 - 80 * badness * draws.uniform() ** 1.5
    image = torch.where(draws.chance(0.75, 1, 1, 1) > 0, jpeg(image, quality), image)
    return (image.clamp(0, 1) * 255).round() / 255


def _vignetted(draws: Draws, image: Tensor, badness: Tensor) -> Tensor:
    line = torch.linspace(-1, 1, image.shape[-1], device=image.device, dtype=image.dtype)
    centre = draws.uniform(2, low=-0.5, high=0.5)
    across = (line[None, :] - centre[:, :1]).square()[:, None, :]
    down = (line[None, :] - centre[:, 1:]).square()[:, :, None]
    strength = badness * draws.chance(0.5) * draws.uniform(high=0.35)
    return image * (1 - per_sample(strength, 3) * (across + down)).clamp(min=0.1)[:, None]


def _blur(draws: Draws, size: int, badness: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations (B,) of the defocus and motions (B, 2), in pixels; half of the images are sharp."""
    unit = badness * size / 128
    defocus = 0.35 + unit * draws.chance(0.45) * draws.uniform() ** 2 * 2.6
    angle = draws.uniform(high=torch.pi)
    length = unit * draws.chance(0.25) * draws.uniform() * 8.0
    return defocus, torch.stack([length * angle.cos(), length * angle.sin()], dim=1)


def blurred(image: Tensor, defocus: Tensor, motion: Tensor) -> Tensor:
    """Convolve images (B, 3, S, S) with a Gaussian and with a straight, even movement, in the frequency domain.

    Args:
        image: any values.
        defocus: (B,) standard deviation, pixels.
        motion: (B, 2) way travelled in x and y during the exposure, pixels.
    """
    size = image.shape[-1]
    margin = min(max(8, size // 8), size - 1)
    padded = pad(image, (margin,) * 4, mode="reflect")
    total = padded.shape[-1]
    fy = torch.fft.fftfreq(total, device=image.device, dtype=image.dtype)[None, :, None]
    fx = torch.fft.rfftfreq(total, device=image.device, dtype=image.dtype)[None, None, :]
    gaussian = torch.exp(-2 * torch.pi**2 * per_sample(defocus, 3).square() * (fx.square() + fy.square()))
    line = torch.sinc(fx * per_sample(motion[:, 0], 3) + fy * per_sample(motion[:, 1], 3))
    spectrum = torch.fft.rfft2(padded) * (gaussian * line)[:, None]
    result = torch.fft.irfft2(spectrum, s=(total, total))
    return result[..., margin : margin + size, margin : margin + size].clamp(min=0)


def _exposed(draws: Draws, image: Tensor, badness: Tensor) -> Tensor:
    """Automatic exposure that half knows what it does, up to two stops off, and a wrong white balance."""
    weights = image.new_tensor(LUMINANCE)[:, None, None]
    mean = (image * weights).sum(dim=1).mean(dim=(1, 2)).clamp(min=1e-4)
    error = 0.3 + 0.6 * badness
    gain = (0.20 / mean) ** draws.uniform(low=0.4, high=1.0) * 2 ** (error * draws.normal().clamp(-2.3, 2.3))
    balance = tint(0.5 * error * draws.normal(), 0.5 * error * draws.normal())
    return image * per_sample(gain, 4) * balance[:, :, None, None]


def _noisy(draws: Draws, image: Tensor, badness: Tensor) -> Tensor:
    """Shot noise, whose variance grows with the light, and read noise; and blotches of false colour."""
    size = image.shape[-1]
    level = badness * draws.chance(0.7) * draws.uniform() ** 2
    variance = per_sample(level * 0.004, 4) * image.clamp(0, 1) + per_sample((level * 0.012) ** 2, 4)
    fine = draws.normal(3, size, size)
    coarse = (size + 2) // 3
    blotches = interpolate(draws.normal(3, coarse, coarse), size=(size, size), mode="bilinear", align_corners=False)
    blotches = per_sample(draws.uniform(), 4) * (blotches - blotches.mean(dim=1, keepdim=True))
    return image + variance.sqrt() * (fine + blotches)


def _toned(draws: Draws, image: Tensor, badness: Tensor) -> Tensor:
    """Linear in [0, 1] → sRGB, by a curve, contrast and saturation of this camera's own; one in 40 sees no colour."""
    image = linear_to_srgb(image)
    image = image.clamp(min=1e-4) ** per_sample(draws.log_uniform(low=0.8, high=1.3), 4)
    curve = image * image * (3 - 2 * image)
    image = torch.lerp(image, curve, per_sample(draws.uniform(low=-0.3, high=0.8), 4))
    # Haze, or a black level set too high.
    haze = badness * draws.chance(0.5) * draws.uniform() * 0.25
    image = torch.lerp(image, image.new_tensor(0.6), per_sample(haze, 4))
    grey = (image * image.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    saturation = (1 + (0.2 + 0.4 * badness) * draws.uniform(low=-1.0, high=1.0)) * (1 - draws.chance(0.025))
    # Colour jitter as training pipelines add it.
    gain = 1 + draws.chance(0.5, 1) * draws.uniform(3, low=-0.2, high=0.2)
    return (torch.lerp(grey, image, per_sample(saturation, 4)) * gain[:, :, None, None]).clamp(0, 1)


def _resampled(draws: Draws, image: Tensor, badness: Tensor) -> Tensor:
    """One image in six was a half, a third or a quarter as large, and enlarged."""
    choice = per_sample(draws.uniform() + (badness < 0.3), 4)
    result = image
    for factor, low, high in ((2, 0.0, 0.16), (3, 0.16, 0.21), (4, 0.21, 0.25)):
        small = avg_pool2d(image, factor, ceil_mode=True)
        large = interpolate(small, size=tuple(image.shape[-2:]), mode="bilinear", align_corners=False)
        result = torch.where((choice >= low) & (choice < high), large, result)
    return result


def _sharpened(draws: Draws, image: Tensor) -> Tensor:
    amount = draws.chance(0.4) * draws.uniform(high=1.2)
    around = avg_pool2d(pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (image + per_sample(amount, 4) * (image - around)).clamp(0, 1)


def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """What a JPEG file of quality (B,) in [1, 100] leaves of sRGB images (B, 3, H, W) in [0, 1]; chroma at half size.

    ITU-T T.81 with the Independent JPEG Group's scaling of its tables; without the entropy coder, which loses nothing.
    """
    height, width = image.shape[-2:]
    padded = pad(image, (0, -width % 16, 0, -height % 16), mode="replicate") * 255
    # JFIF 1.02.
    to_chroma = image.new_tensor([LUMA, [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    planes = torch.einsum("ij,bjhw->bihw", to_chroma, padded)
    scale = torch.where(quality < 50, 5000 / quality.clamp(min=1), 200 - 2 * quality)[:, None, None] / 100
    luma = _quantised(planes[:, :1] - 128, (image.new_tensor(_LUMA_TABLE) * scale).round().clamp(1, 255)) + 128
    chroma = _quantised(avg_pool2d(planes[:, 1:], 2), (image.new_tensor(_CHROMA_TABLE) * scale).round().clamp(1, 255))
    chroma = interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    back = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_chroma), torch.cat([luma, chroma], dim=1))
    return (back[..., :height, :width] / 255).clamp(0, 1)


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    """Planes (B, C, H, W), H and W multiples of 8, with the cosine transform of each 8 × 8 block rounded to a table."""
    number = torch.arange(8, device=planes.device, dtype=planes.dtype)
    cosines = torch.cos((2 * number[None] + 1) * number[:, None] * torch.pi / 16) / 2
    cosines[0] /= 2**0.5
    batch, channels, height, width = planes.shape
    blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    table = table[:, None, None, None]
    rounded = ((cosines @ blocks @ cosines.T) / table).round() * table
    return (cosines.T @ rounded @ cosines).transpose(3, 4).reshape(planes.shape)
