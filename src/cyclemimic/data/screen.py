"""What a decoded frame looks like on a plain screen: 8-bit RGB of BT.709, opaque, upright. Engineering.

Matrix (BT.601, 709, 2020 ...) and range (full, limited) are those that the file is tagged with; FFmpeg's converter does
that. Untagged video counts as BT.601 of limited range, as FFmpeg writes and reads it, whatever its size. What is
transparent lies on black. High dynamic range (PQ, HLG) is brought to standard range here, and wide primaries to
BT.709's, in numpy: with another FFmpeg the converter would do something else, and labels depend on pixels.

From PQ or HLG a picture becomes light in cd/m2 (ITU-R BT.2100), of which 203, the white of paper (ITU-R BT.2408), is 1.
Primaries become BT.709's. Light up to `KNEE` stays as it is; the brightest of R, G, B above it is bent so that
`PEAK_NITS` becomes 1, and the others shrink alike, which keeps the hue. BT.1886 (a power of 2.4) makes it a picture.

A picture of standard range tagged with BT.2020's or P3's primaries becomes light by the curve of its screen (BT.1886
unless tagged otherwise), its primaries become BT.709's, what they cannot show is cut off at 0 and 1, and the same curve
makes it a picture again: greys stay as they are. Other primaries, and those that are not tagged, are left alone.

Whoever changes what is here changes `COLOURS` in data/cache.py, so that no cache mixes both.
Letters in shapes: H W picture.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cyclemimic.errors import InputError
from cyclemimic.types import Float32, UInt8

PQ, HLG = 16, 18  # numbers of ITU-T H.273
WHITE_NITS, PEAK_NITS, KNEE, SCREEN_POWER = 203.0, 1000.0, 0.8, 2.4
HLG_POWER = 1.2  # of a screen of 1000 cd/m2
_P3_DCI, _P3 = 11, 12
WIDE = {9: "BT.2020", _P3_DCI: "DCI P3", _P3: "Display P3"}  # by their numbers in H.273
SRGB = 13
SCREEN_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}  # of transfers that say another one than BT.1886, whose is `SCREEN_POWER`
# Linear RGB to linear RGB of BT.709, white to white; rows add up to 1. HDR that is not tagged is taken for BT.2020.
_TO_709 = {
    1: np.eye(3, dtype=np.float32),
    9: np.array(
        [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
        np.float32,
    ),
    _P3_DCI: np.array(  # whose white is greenish, brought to D65 as Bradford's matrix does it
        [[1.157516, -0.154962, -0.002554], [-0.041500, 1.045568, -0.004068], [-0.018050, -0.078578, 1.096628]],
        np.float32,
    ),
    _P3: np.array(
        [[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]], np.float32
    ),
}
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)


class Screen:
    """Shows frames of one file; `remarks` say in words what was changed.

    One converter for all frames of a kind: a fresh one each costs as much as the conversion.

    Args:
        path: names the file in messages.
    """

    # Where PyAV lets us choose. By itself it wakes a thread per core for every frame, which costs half as much again.
    _one_thread: ClassVar[dict[str, int]] = (
        {"threads": 1} if "threads" in (VideoReformatter.reformat.__doc__ or "") else {}
    )

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self._converters: dict[str, VideoReformatter] = {}
        self._remarks: dict[str, None] = {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was changed in the frames shown so far, each said once."""
        return tuple(self._remarks)

    def show(self, frame: av.VideoFrame) -> UInt8:
        """The picture [H, W, 3].

        Raises:
            InputError: its colours are stored in a way that is not known.
        """
        transfer, primaries = int(frame.color_trc), int(frame.color_primaries)  # the conversion drops the tags
        if transfer in (PQ, HLG):
            deep = self._converted(frame, "rgb48le")
            picture = sdr_of_hdr(deep, transfer=transfer, primaries=primaries)
            self._remarks[f"high dynamic range ({'PQ' if transfer == PQ else 'HLG'}) became standard range"] = None
        elif frame.format.components[-1].is_alpha:
            four = self._converted(frame, "rgba")
            picture = on_black(cast(UInt8, four))
            if (four[..., 3] < 255).any():
                self._remarks["what is transparent lies on black"] = None
        elif primaries in WIDE:
            picture = self._converted(frame, "rgb48le")  # 8 bits would be rounded twice
        else:
            picture = cast(UInt8, self._converted(frame, "rgb24"))
        if primaries in WIDE and transfer not in (PQ, HLG):
            picture = sdr_of_wide(picture, transfer=transfer, primaries=primaries)
            self._remarks[f"wide colours ({WIDE[primaries]}) became those of a plain screen"] = None
        picture, turned = upright(picture, frame)
        if turned:
            self._remarks["turned upright as its display matrix says"] = None
        return picture

    def _converted(self, frame: av.VideoFrame, kind: str) -> NDArray[Any]:
        converter = self._converters.setdefault(kind, VideoReformatter())
        try:
            return cast(NDArray[Any], converter.reformat(frame, format=kind, **self._one_thread).to_ndarray())
        except (av.FFmpegError, ValueError) as error:
            raise InputError(
                f"{self.path}, field colours",
                expected="RGB, grey, or YUV of BT.601, 709 or 2020",
                got=f"{frame.format.name} with matrix {int(frame.colorspace)} of H.273 ({error})",
                remedy="Encode it again, for example with `ffmpeg -i IN -vf format=yuv420p OUT`.",
            ) from None


def on_black(picture: UInt8) -> UInt8:
    """A picture [H, W, 4] of which the fourth number is opacity, laid on black [H, W, 3].

    Black is what players show behind a film, and what most editors leave in transparent pixels.
    """
    lit = picture[..., :3].astype(np.uint16) * picture[..., 3:]
    return ((lit + 127) // 255).astype(np.uint8)


def sdr_of_hdr(deep: NDArray[np.uint16], *, transfer: int, primaries: int) -> UInt8:
    """A picture [H, W, 3] of PQ or HLG, 16 bits a channel of full range, as 8-bit BT.709; see the top of this file.

    Args:
        deep: what was stored, its matrix already undone.
        transfer: `PQ` or `HLG`.
        primaries: their number in H.273.
    """
    light = _light_of(transfer)[deep]
    if transfer == HLG:  # the screen's part: brighter scenes gain contrast
        light *= np.maximum(light @ _LUMA_2020, 1e-6)[..., None] ** np.float32(HLG_POWER - 1)
        light *= np.float32(1000.0 / WHITE_NITS)
    light = np.maximum(light @ _TO_709.get(primaries, _TO_709[9]).T, 0)
    bright = light.max(-1)
    above = bright > KNEE
    if above.any():
        light[above] *= (_bent(bright[above]) / bright[above])[:, None]
    shown: Float32 = np.minimum(light, 1) ** np.float32(1 / SCREEN_POWER)
    return (shown * 255 + 0.5).astype(np.uint8)


def sdr_of_wide(picture: NDArray[Any], *, transfer: int, primaries: int) -> UInt8:
    """A picture [H, W, 3] of standard range and wide primaries, as 8-bit BT.709; see the top of this file.

    Args:
        picture: what was stored, its matrix already undone: 8 or 16 bits a channel of full range.
        transfer: its number in H.273; 2 is none said.
        primaries: theirs, of `WIDE`.
    """
    most = int(np.iinfo(picture.dtype).max)
    light = _light_of_screen(transfer, most)[picture] @ _TO_709[primaries].T
    shown = _signal(np.clip(light, 0, 1), transfer)
    return (shown * 255 + 0.5).astype(np.uint8)


@cache
def _light_of_screen(transfer: int, most: int) -> Float32:
    """Light in [0, 1] for every number up to `most`."""
    signal = np.arange(most + 1) / most
    if transfer == SRGB:
        light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    else:
        light = signal ** SCREEN_POWERS.get(transfer, SCREEN_POWER)
    return cast(Float32, light.astype(np.float32))


def _signal(light: Float32, transfer: int) -> Float32:
    """What is stored of light in [0, 1]: the other way round."""
    if transfer == SRGB:
        curved = np.float32(1.055) * light ** np.float32(1 / 2.4) - np.float32(0.055)
        return cast(Float32, np.where(light <= 0.0031308, 12.92 * light, curved))
    return cast(Float32, light ** np.float32(1 / SCREEN_POWERS.get(transfer, SCREEN_POWER)))


def _bent(light: Float32) -> Float32:
    """Reinhard's curve with a white point, from the knee on: it leaves the knee as steep as it came."""
    room = np.float32(1 - KNEE)
    over, most = (light - np.float32(KNEE)) / room, np.float32((PEAK_NITS / WHITE_NITS - KNEE) / (1 - KNEE))
    bent: Float32 = np.minimum(KNEE + room * over * (1 + over / most**2) / (1 + over), 1)
    return bent


@cache
def _light_of(transfer: int) -> Float32:
    """For every 16-bit number: light of 203 cd/m2 (PQ), or of the scene in [0, 1] (HLG); ITU-R BT.2100, tables 4, 5."""
    signal = np.arange(1 << 16) / 65535.0
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = signal ** (1 / m2)
        light = 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) / WHITE_NITS
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return cast(Float32, light.astype(np.float32))


def upright(picture: UInt8, frame: av.VideoFrame) -> tuple[UInt8, bool]:
    """The picture [H, W, 3] as it is to be shown, and whether it lay otherwise.

    Telephones store a sideways picture and a display matrix; mirrored ones come from front cameras.
    """
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return picture, False
    # x' = a x + c y, y' = b x + d y, in 16.16 fixed point; only turns by right angles are followed.
    a, b, _, c, d = (int(n) for n in np.frombuffer(bytes(found), np.int32)[:5])
    swapped = abs(a) < abs(b)
    shown = picture.swapaxes(0, 1) if swapped else picture
    right, down = (c, b) if swapped else (a, d)
    shown = shown[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
    return np.ascontiguousarray(shown), swapped or right < 0 or down < 0
