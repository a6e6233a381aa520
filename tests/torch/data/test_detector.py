"""Detectors: windows, bins and orientations by hand; bad pixels and centres found."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError, ScanError
from ptycho_torch.data.readout import ORIENTATIONS

NUMPY = {
    "as stored": lambda frame: frame,
    "fliplr": np.fliplr,
    "flipud": np.flipud,
    "rot180": lambda frame: np.rot90(frame, 2),
    "transpose": np.transpose,
    "rot90": np.rot90,
    "rot270": lambda frame: np.rot90(frame, 3),
    "antitranspose": lambda frame: np.rot90(frame, 2).T,
}


@dataclass(frozen=True)
class Pixels:
    """What a readout corrects of a geometry."""

    detector_pixel_m: float | tuple[float, float] | None
    object_pixel_m: float | tuple[float, float] | None
    near_field: bool = False


def frames_of(height: int, width: int, n: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 200, (n, height, width), np.uint16)


def patterns(n: int = 40, size: int = 64, centre: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Speckled counts (n, size, size) about a centre, each frame another speckle."""
    draw = np.random.default_rng(7)
    row, column = np.indices((size, size))
    radius = np.hypot(row - centre[0], column - centre[1])
    level = 3000 * np.exp(-radius / 5)
    return draw.poisson(level * draw.gamma(2, 0.5, (n, size, size))).astype(np.uint16)


@pytest.mark.parametrize("N", [7, 8])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientations_are_numpys(orientation, N):
    frames = frames_of(N, N)
    turned = Detector(orientation=orientation).readout(frames).apply(frames)
    # Of an even number of pixels the first row and column have no partner across the centre.
    own = slice(0 if N % 2 else 1, None)
    for stored, found in zip(frames, turned, strict=True):
        np.testing.assert_array_equal(found[own, own], NUMPY[orientation](stored[own, own]))


@pytest.mark.parametrize("N", [7, 8])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientations_turn_the_object_about_its_centre(orientation, N):
    """A turned frame is the frame of the object turned alike, the discrete transform says."""
    draw = np.random.default_rng(1)
    wave = draw.normal(size=(N, N)) + 1j * draw.normal(size=(N, N))
    frame = np.abs(np.fft.fftshift(np.fft.fft2(wave))) ** 2
    turn = Detector(orientation=orientation).readout(frame[None])
    parts = [turn._turned(part) for part in (wave.real, wave.imag)]
    of_turned = np.abs(np.fft.fftshift(np.fft.fft2(parts[0] + 1j * parts[1]))) ** 2
    np.testing.assert_allclose(turn.apply(frame[None])[0], of_turned, rtol=1e-9)


@pytest.mark.parametrize("stored", ["u1", "u4", "u8", "i8", "f4"])
@pytest.mark.parametrize("dark", [np.int8, np.uint64, np.float32])
def test_a_dark_of_any_dtype_is_subtracted_before_pixels_are_summed(stored, dark):
    frames = frames_of(8, 8).astype(stored)
    level = np.full((8, 8), 120, dark)
    seen = Detector(bin=2, dark=level, centre=(4, 4), size=4).readout(frames).apply(frames)
    expected = np.maximum(frames.astype(float) - 120, 0).reshape(3, 4, 2, 4, 2).sum((2, 4))
    np.testing.assert_array_equal(seen, expected)


def test_a_pad_value_is_one_that_frames_can_hold():
    frames = frames_of(8, 8)
    with pytest.raises(OptionError, match=r"pad_value is 0.5; expected a whole number"):
        Detector(size=16, pad_value=0.5).readout(frames)
    padded = Detector(size=16, pad_value=0.5).readout(frames.astype(np.float32))
    assert padded.apply(frames.astype(np.float32))[0, 0, 0] == 0.5


def test_bins_that_reach_beyond_the_detector_are_said(caplog):
    readout = Detector(bin=4).readout(frames_of(64, 64))
    assert readout.bad_pixels[0].all() and readout.bad_pixels[:, 0].all()
    assert "size 15 leaves them out" in caplog.text
    caplog.clear()
    assert Detector(bin=4, size=15).readout(frames_of(64, 64)).bad_pixels is None
    assert Detector(bin=2).readout(frames_of(64, 64)).bad_pixels is None
    assert "outside" not in caplog.text


@pytest.mark.parametrize("mask", [np.ones((4, 4)), np.ones((2, 4, 4), bool)])
def test_a_mask_is_a_plane_of_whole_numbers(mask):
    with pytest.raises(OptionError, match="bad_pixels is "):
        Detector(bad_pixels=mask)


def by_hand(frame: np.ndarray, centre: tuple[int, int], N: int, b: int) -> np.ndarray:
    """Each pixel of each bin by itself; outside there is nothing."""
    out = np.zeros((N, N), np.int64)
    for row in range(N * b):
        for column in range(N * b):
            at = [
                c - (N // 2) * b - (b - 1) // 2 + k
                for c, k in zip(centre, (row, column), strict=True)
            ]
            if 0 <= at[0] < frame.shape[0] and 0 <= at[1] < frame.shape[1]:
                out[row // b, column // b] += frame[at[0], at[1]]
    return out


@settings(max_examples=80)
@given(
    shape=st.tuples(st.integers(3, 12), st.integers(3, 12)),
    N=st.integers(1, 9),
    b=st.integers(1, 3),
    data=st.data(),
)
def test_windows_and_bins_are_those_counted_by_hand(shape, N, b, data):
    centre = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    frames = frames_of(*shape)
    readout = Detector(size=N, centre=centre, bin=b, pad_value=None).readout(frames)
    found = readout.apply(frames)
    assert found.shape == (3, N, N) and found.dtype == readout.dtype and found.flags.c_contiguous
    bad = np.zeros((N, N), bool) if readout.bad_pixels is None else readout.bad_pixels
    whole = by_hand(np.ones(shape, int), centre, N, b) == b * b
    np.testing.assert_array_equal(bad, ~whole)
    for frame, one in zip(frames, found, strict=True):
        np.testing.assert_array_equal(one, np.where(whole, by_hand(frame, centre, N, b), 0))


@pytest.mark.parametrize("N", [5, 6, 11, 12, 20, 21])
@pytest.mark.parametrize("b", [1, 2, 3])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_zero_frequency_stays_at_the_centre(N, b, orientation):
    frames = np.zeros((1, 40, 50))
    frames[0, 17, 29] = 1
    readout = Detector(size=N, bin=b, centre=(17, 29), orientation=orientation).readout(frames)
    assert np.argwhere(readout.apply(frames)[0]).tolist() == [[N // 2, N // 2]]


def test_untouched_frames_are_the_same_array():
    frames = frames_of(8, 8)
    readout = Detector().readout(frames)
    assert readout.apply(frames) is frames and readout.bad_pixels is None
    assert readout.through(frames) is frames


@pytest.mark.parametrize(
    ("dtype", "b", "wanted"),
    [
        ("u2", 1, "u2"),
        ("u2", 2, "u4"),
        ("u1", 4, "u2"),
        ("u4", 2, "u8"),
        ("i2", 2, "i4"),
        ("f4", 2, "f4"),
    ],
)
def test_bins_hold_the_largest_sum(dtype, b, wanted):
    largest = 5.0 if dtype == "f4" else np.iinfo(dtype).max
    frames = np.full((5, 8, 8), largest, dtype)
    frames[::2, ::2, ::2] -= 1  # else it is a sentinel
    frames[1::2, 1::2] -= 1
    frames[1::2, :, 1::2] -= 1
    readout = Detector(bin=b).readout(frames)
    found = readout.apply(frames)
    assert found.dtype == np.dtype(wanted)
    kept = np.ones((8 // b, 8 // b), bool) if readout.bad_pixels is None else ~readout.bad_pixels
    sums = frames.astype(float).reshape(5, 8 // b, b, 8 // b, b).sum(axis=(2, 4))
    np.testing.assert_array_equal(found[:, kept], sums[:, kept])


def test_padding_counts_as_measured_or_is_bad():
    frames = frames_of(6, 6)
    padded = Detector(size=8, pad_value=3).readout(frames)
    assert padded.bad_pixels is None
    assert set(padded.apply(frames)[:, 0].ravel()) == {3}
    unknown = Detector(size=8, pad_value=None).readout(frames).bad_pixels
    assert unknown.sum() == 64 - 36 and not unknown[1:7, 1:7].any()


def test_dark_is_subtracted_and_clipped():
    frames = frames_of(6, 6)
    dark = np.full((6, 6), 150)
    whole = Detector(dark=dark).readout(frames).apply(frames)
    assert whole.dtype.kind == "i"
    np.testing.assert_array_equal(whole, np.maximum(frames.astype(int) - 150, 0))
    broken = Detector().readout(frames, dark=dark + 0.5).apply(frames)
    np.testing.assert_allclose(broken, np.maximum(frames - 150.5, 0))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("u2", 2**16 - 1),
        ("u4", 2**32 - 1),
        ("i4", 2**31 - 1),
        ("i4", -2),
        ("f4", -1),
        ("f4", np.nan),
    ],
)
def test_sentinels_are_bad_pixels_and_zero(dtype, value, caplog):
    frames = patterns().astype(dtype)
    frames[:, 20, 30] = frames[:, 5] = value
    readout = Detector().readout(frames)
    wanted = np.zeros((64, 64), bool)
    wanted[20, 30] = wanted[5] = True
    np.testing.assert_array_equal(readout.bad_pixels, wanted)
    found = readout.apply(frames)
    np.testing.assert_array_equal(found, np.where(wanted, 0, frames))
    assert "65 invalid" in caplog.text


def test_noise_below_zero_is_clipped_and_not_bad():
    frames = np.random.default_rng(0).normal(0, 1, (40, 16, 16)).astype(np.float32)
    readout = Detector(size=14).readout(frames)
    assert readout.bad_pixels is None
    np.testing.assert_array_equal(readout.apply(frames), np.maximum(frames, 0)[:, 1:15, 1:15])


def test_hot_and_dead_pixels_are_found(caplog):
    frames = patterns()
    frames[:, 10, 50] = 40000
    frames[:, 35, 28] = 0
    frames[:, 30:33] = 0
    readout = Detector().readout(frames)
    assert (readout.hot, readout.bad_pixels[10, 50], readout.bad_pixels[35, 28]) == (1, True, True)
    assert readout.bad_pixels[30:33, 24:40].all()
    assert readout.bad_pixels.sum() == 2 + readout.bad_pixels[30:33].sum()
    assert "1 hot" in caplog.text and "dead" in caplog.text


def test_sharp_peak_of_oversampled_frames_is_not_hot():
    """The direct beam of a probe that fills half of its array, the narrowest there can be."""
    wave = np.zeros((64, 64))
    wave[16:48, 16:48] = 1
    frame = np.abs(np.fft.fftshift(np.fft.fft2(wave))) ** 2
    assert Detector().readout(np.repeat(frame[None], 9, axis=0)).bad_pixels is None


@pytest.mark.parametrize("stop", [slice(28, 36), slice(0, 36)])
def test_no_lit_pixel_beside_a_beamstop_is_dead(stop):
    frames = patterns()
    frames[:, stop, 28:36] = 0
    bad = Detector().readout(frames).bad_pixels
    assert bad is None or not (bad & frames.any(axis=0)).any()


def test_saturated_pixels_of_any_frame_are_bad():
    frames = patterns(n=300)
    frames[177, 40, 20] = 60000
    assert Detector().readout(frames).bad_pixels is None
    bad = Detector(saturation=50000).readout(frames).bad_pixels
    assert np.argwhere(bad).tolist() == [[40, 20]]


def test_bad_pixels_follow_the_frames():
    frames, mask = frames_of(12, 10), np.zeros((12, 10), np.uint32)
    mask[3, 4] = 7
    readout = Detector(size=4, bin=2, orientation="rot90").readout(frames, bad_pixels=mask)
    bad = readout.bad_pixels
    assert bad.sum() == 1
    np.testing.assert_array_equal(readout.apply(frames)[:, bad], 0)
    # Rows 2 to 9 and columns 1 to 8 are read; row 3 is in bin 0, column 4 in bin 1.
    stored = np.zeros((4, 4), bool)
    stored[0, 1] = True
    assert np.array_equal(bad, np.roll(np.rot90(stored), 1, axis=0))


@pytest.mark.parametrize("centre", [(32, 32), (29, 35), (40, 27), (33, 30)])
@pytest.mark.parametrize("bad", [False, True])
def test_centre_is_found_and_said(centre, bad, caplog):
    caplog.set_level(logging.INFO)
    frames = patterns(centre=centre)
    if bad:
        frames[:, 50, 50] = 65535
        frames[:, 20:22] = 65535
    readout = Detector(size=32, centre="estimate").readout(frames)
    assert readout.centre == centre
    assert f"centre found at ({centre[0]}, {centre[1]})" in caplog.text


def test_geometry_is_corrected():
    frames = frames_of(128, 96)
    given = Pixels(75e-6, 8e-9)
    cropped = Detector(size=64).readout(frames).corrected(given)
    assert cropped.detector_pixel_m == 75e-6
    assert cropped.object_pixel_m == pytest.approx((16e-9, 12e-9))
    square = frames_of(64, 64)
    assert Detector(size=128).readout(square).corrected(given) == Pixels(75e-6, 4e-9)
    assert Detector(bin=2).readout(square).corrected(given) == Pixels(150e-6, 8e-9)
    near = Pixels(75e-6, 8e-9, near_field=True)
    assert Detector(size=16, bin=2).readout(square).corrected(near).object_pixel_m == 16e-9
    turned = Detector(orientation="rot90").readout(square)
    assert turned.corrected(Pixels((1.0, 2.0), (3.0, 4.0))) == Pixels((2.0, 1.0), (4.0, 3.0))
    assert Detector(size=32).readout(square).corrected(Pixels(None, None)) == Pixels(None, None)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"size": 2.5},
        {"bin": 0},
        {"orientation": "upside down"},
        {"centre": "middle"},
        {"centre": (1, 2, 3)},
        {"centre": (0.5, 1), "size": 4},
        {"centre": "estimate"},
        {"pad_value": -1},
        {"pad_value": np.nan},
        {"saturation": -5},
    ],
)
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises((OptionError, TypeError)):
        Detector(**options)


def test_arrays_of_another_shape_are_refused():
    frames = frames_of(8, 8)
    for option in ("bad_pixels", "dark"):
        with pytest.raises(ScanError, match=option):
            Detector().readout(frames, **{option: np.zeros((8, 7))})
    with pytest.raises(OptionError, match="a pixel of 8 x 8"):
        Detector(size=4, centre=(8, 0)).readout(frames)
    with pytest.raises(ScanError, match="divide by bin"):
        Detector(bin=3).readout(frames)
