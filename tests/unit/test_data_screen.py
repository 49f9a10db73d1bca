"""Colours come back as they were meant: matrix, range, transfer and opacity. Every clip's numbers are known.

What was meant is computed here in floating point, one colour at a time, from the Recommendations and not from our code.
"""

import av
import numpy as np
import pytest
from PIL import Image

from cyclemimic.data.pictures import decode_pictures
from cyclemimic.data.screen import HLG, PQ, Screen
from cyclemimic.data.seek import OpenVideo, index_video
from cyclemimic.data.video import read_video
from cyclemimic.errors import InputError
from tests.unit.data_small import picture_bytes

PATCHES = ((128, 128, 128), (200, 50, 30), (20, 180, 60), (30, 60, 200), (0, 0, 0), (60, 60, 60))
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
TO_2020 = np.array([[0.627404, 0.329283, 0.043313], [0.069097, 0.919540, 0.011362], [0.016391, 0.088013, 0.895595]])


def yuv(rgb, matrix, full, bits):
    """R'G'B' in [0, 1] to the whole numbers of Y'CbCr (ITU-R BT.601, 709, 2020; H.273)."""
    red, green, blue = rgb
    kr, kb = LUMA[matrix]
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    if full:
        most, half = (1 << bits) - 1, 1 << (bits - 1)
        return [round(y * most), round(cb * most) + half, round(cr * most) + half]
    step = 1 << (bits - 8)
    return [round(step * (16 + 219 * y)), round(step * (128 + 224 * cb)), round(step * (128 + 224 * cr))]


def clip_of(path, colours, *, matrix=2, full=False, bits=8, transfer=2, primaries=2, codec="ffv1"):
    """Two frames of vertical stripes 16 px wide, one for each triple of R'G'B' in [0, 1]; lossless."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=5)
        stream.width, stream.height = 16 * len(colours), 16
        stream.pix_fmt = "yuv444p" if bits == 8 else "yuv444p10le"
        told = {"colorspace": matrix, "color_range": 2 if full else 1, "color_trc": transfer}
        for name, number in (told | {"color_primaries": primaries}).items():
            setattr(stream.codec_context, name, number)
        if codec == "libx264":
            stream.options = {"qp": "0"}
        numbers = np.array([yuv(c, (LUMA.get(matrix) and matrix) or 6, full, bits) for c in colours])
        for _ in range(2):
            frame = av.VideoFrame(stream.width, stream.height, stream.pix_fmt)
            for plane, row in zip(frame.planes, numbers.T, strict=True):
                kind = np.uint8 if bits == 8 else np.uint16
                picture = np.zeros((plane.height, plane.line_size // kind().itemsize), kind)
                picture[:, : plane.width] = np.repeat(row, 16)
                plane.update(picture.tobytes())
            for name, number in (told | {"color_primaries": primaries}).items():
                setattr(frame, name, number)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def middles(picture):
    return picture[8, 8::16].astype(int)


def fractions(colours):
    return [tuple(c / 255 for c in colour) for colour in colours]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("matrix", LUMA)
def test_the_tagged_matrix_and_range_are_undone(tmp_path, matrix, full, bits):
    path = clip_of(tmp_path / "a.mkv", fractions(PATCHES), matrix=matrix, full=full, bits=bits)
    video = read_video(path)
    np.testing.assert_allclose(middles(video.frames[0]), PATCHES, atol=3)  # 10 bits are dithered
    assert video.remarks == ()


def test_the_matrix_matters_and_untagged_video_is_bt601(tmp_path):
    untagged = middles(read_video(clip_of(tmp_path / "a.mkv", fractions(PATCHES))).frames[0])
    np.testing.assert_allclose(untagged, PATCHES, atol=2)
    path = clip_of(tmp_path / "b.mkv", fractions(PATCHES), matrix=1)
    content = middles(read_video(path).frames[0])
    assert np.abs(content - PATCHES).max() <= 2
    wrong = np.array(yuv(fractions(PATCHES)[2], 1, False, 8)) - yuv(fractions(PATCHES)[2], 6, False, 8)
    assert np.abs(wrong).max() > 10, "a reader that ignores the tag would be found out"


def stored(colour, transfer):
    """What a camera of HDR stores of an SDR colour [0, 255]: BT.1886 light, white at 203 cd/m2, BT.2020, PQ or HLG."""
    nits = 203 * TO_2020 @ (np.array(colour) / 255) ** 2.4
    return pq(nits) if transfer == PQ else hlg(nits)


def pq(nits):
    y = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


def hlg(nits):
    """Of a screen of 1000 cd/m2: its system gamma of 1.2 undone, then the camera's curve."""
    light = np.asarray(nits) / 1000
    luma = light @ [0.2627, 0.6780, 0.0593]
    scene = light * luma ** (1 / 1.2 - 1) if luma > 0 else light
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    )


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "ffv1"), ("a.mp4", "libx264")])
def test_hdr_comes_back_as_the_sdr_that_it_was(tmp_path, transfer, name, codec):
    colours = [stored(c, transfer) for c in PATCHES]
    path = clip_of(tmp_path / name, colours, matrix=9, bits=10, transfer=transfer, primaries=9, codec=codec)
    video = read_video(path)
    found = middles(video.frames[1])
    np.testing.assert_allclose(found, PATCHES, atol=3)  # 10 bits of a wide gamut
    assert np.abs(found[0] - 128).max() <= 1  # mid-grey
    assert video.remarks == (f"high dynamic range ({'PQ' if transfer == PQ else 'HLG'}) became standard range",)
    frames = OpenVideo(index_video(path))
    np.testing.assert_array_equal(np.stack([frames.picture(t) for t in range(2)]), video.frames)


def test_grey_cards_and_highlights_of_hdr(tmp_path):
    nits = np.array([26, 203, 400, 1000, 4000])  # 26: the 18 % card of ITU-R BT.2408, which SDR stores as 104
    path = clip_of(tmp_path / "a.mkv", [(v, v, v) for v in pq(nits)], matrix=9, bits=10, transfer=PQ, primaries=9)
    grey = middles(read_video(path).frames[0])
    assert (grey.max(1) - grey.min(1)).max() <= 1
    card, white, bright, peak, beyond = grey[:, 0]
    assert abs(card - 104) <= 5 and abs(white - 244) <= 2
    assert white < bright < peak and peak == beyond == 255


def test_a_bright_colour_keeps_its_hue(tmp_path):
    light = TO_2020 @ np.array([800.0, 200.0, 40.0])
    path = clip_of(tmp_path / "a.mkv", [pq(light)], matrix=9, bits=10, transfer=PQ, primaries=9)
    shown = (middles(read_video(path).frames[0])[0] / 255) ** 2.4
    np.testing.assert_allclose(shown / shown[0], [1, 0.25, 0.05], atol=0.02)


# xy of red, green, blue and white (ITU-R BT.709, BT.2020; SMPTE RP 431, EG 432).
PRIMARIES = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), (0.3127, 0.3290)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290)),
}


def to_xyz(primaries):
    """Linear RGB to XYZ, Y of white 1 (SMPTE RP 177)."""
    red, green, blue, white = (np.array([x, y, 1 - x - y]) / y for x, y in PRIMARIES[primaries])
    columns = np.stack([red, green, blue], 1)
    return columns * np.linalg.solve(columns, white)


def curve(light, transfer):
    """What is stored of light: sRGB's curve, or the power of the screen that is tagged."""
    if transfer == 13:
        return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    return light ** (1 / {4: 2.2, 5: 2.8}.get(transfer, 2.4))


def light_of(signal, transfer):
    """The other way round."""
    grid = np.linspace(0, 1, 200001)
    return np.interp(signal, curve(grid, transfer), grid)


def wide(colour, primaries, transfer):
    """What a camera of wide primaries stores of a colour [0, 255] of BT.709."""
    light = np.linalg.solve(to_xyz(primaries), to_xyz(1) @ light_of(np.array(colour) / 255, transfer))
    return curve(np.maximum(light, 0), transfer)


@pytest.mark.parametrize("transfer", [1, 2, 4, 13, 14])
@pytest.mark.parametrize(("primaries", "word"), [(9, "BT.2020"), (12, "Display P3")])
@pytest.mark.parametrize(("name", "codec", "bits"), [("a.mkv", "ffv1", 10), ("a.mp4", "libx264", 8)])
def test_wide_primaries_come_back_as_those_of_a_plain_screen(tmp_path, transfer, primaries, word, name, codec, bits):
    stored_as = [wide(c, primaries, transfer) for c in PATCHES]
    assert np.abs(255 * np.array(stored_as) - PATCHES).max() > 20, "a reader that ignores the tag would be found out"
    words = {"matrix": 9 if primaries == 9 else 1, "bits": bits, "transfer": transfer, "primaries": primaries}
    video = read_video(clip_of(tmp_path / name, stored_as, codec=codec, **words))
    found = middles(video.frames[1])
    if bits == 10:
        np.testing.assert_allclose(found, PATCHES, atol=3)
    # By light: where a channel is dark beside bright ones, a step of theirs in 8 bits is many of its own.
    np.testing.assert_allclose(light_of(found / 255, transfer), light_of(np.array(PATCHES) / 255, transfer), atol=0.015)
    greys = [i for i, patch in enumerate(PATCHES) if len(set(patch)) == 1]
    np.testing.assert_allclose(found[greys], np.array(PATCHES)[greys], atol=1)
    assert video.remarks == (f"wide colours ({word}) became those of a plain screen",)
    frames = OpenVideo(index_video(tmp_path / name))
    np.testing.assert_array_equal(np.stack([frames.picture(t) for t in range(2)]), video.frames)


def test_what_a_plain_screen_cannot_show_is_cut_off_and_dci_white_stays_white(tmp_path):
    pure = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0.5, 0.5, 0.5)]
    for primaries in (9, 11, 12):
        path = clip_of(tmp_path / f"{primaries}.mkv", pure, matrix=1, bits=10, transfer=1, primaries=primaries)
        found = middles(read_video(path).frames[0])
        np.testing.assert_allclose(found[:3], 255 * np.eye(3), atol=75)
        assert (found[:3].argmax(1) == [0, 1, 2]).all() and (found[[0, 1, 2], [0, 1, 2]] >= 254).all()
        np.testing.assert_allclose(found[3:], [[255] * 3, [128] * 3], atol=1)


@pytest.mark.parametrize("primaries", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("transfer", [1, 2, 13])
def test_plain_and_untagged_primaries_are_left_alone(tmp_path, primaries, transfer):
    words = {"matrix": 1, "bits": 10, "primaries": primaries, "transfer": transfer}
    video = read_video(clip_of(tmp_path / "a.mkv", fractions(PATCHES), **words))
    np.testing.assert_allclose(middles(video.frames[0]), PATCHES, atol=3)
    assert video.remarks == ()
    # BT.2020's matrix alone says nothing of primaries.
    video = read_video(clip_of(tmp_path / "b.mkv", fractions(PATCHES), matrix=9, bits=10, primaries=2))
    np.testing.assert_allclose(middles(video.frames[0]), PATCHES, atol=3)


def test_wide_colours_that_are_transparent_lie_on_black():
    picture = np.array([[[200, 50, 30, 255], [200, 50, 30, 128], [90, 90, 90, 0]]], np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgba")
    frame.color_primaries, frame.color_trc = 12, 1
    screen = Screen("here")
    shown = screen.show(frame)[0].astype(int)
    assert shown[0, 0] > 205 and shown[0, 1] < 50 and (shown[2] == 0).all()
    np.testing.assert_allclose(shown[1], shown[0] * 128 / 255, atol=2)
    assert len(screen.remarks) == 2


def test_what_is_transparent_lies_on_black_and_is_remarked(tmp_path):
    picture = np.full((16, 16, 4), 200, np.uint8)
    picture[:, :4, 3], picture[:, 4:8, 3], picture[:, 8:, 3] = 0, 128, 255
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=5)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgba"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
        container.mux(stream.encode())
    video = read_video(tmp_path / "a.mov")
    assert video.frames[0, 0, [0, 5, 9], 0].tolist() == [0, 100, 200]
    assert video.remarks == ("what is transparent lies on black",)
    (tmp_path / "clip").mkdir()
    for t in range(2):
        Image.fromarray(picture).save(tmp_path / f"clip/{t}.png")
    np.testing.assert_array_equal(read_video(tmp_path / "clip").frames, video.frames)
    np.testing.assert_array_equal(decode_pictures([picture_bytes(picture)], "here")[0], video.frames[0])


def test_deep_grey_in_memory_is_scaled():
    frames = decode_pictures([picture_bytes(np.full((3, 5), 30000, np.uint16))], "here")
    assert frames.shape == (1, 3, 5, 3) and (frames == 117).all()


def test_colours_that_nobody_can_undo_are_named(tmp_path):
    path = clip_of(tmp_path / "a.mkv", fractions(PATCHES), matrix=8)  # YCgCo
    with pytest.raises(InputError, match=r"a\.mkv, field colours.*matrix 8"):
        read_video(path)
