"""How the camera itself moves between two frames, whatever a robot does in front of it. Engineering.

One corner of every small block of the picture is followed (pyramidal Lucas-Kanade, there and back), so that a richly
textured arm has no more votes than its area. Most corners at rest: the camera rests. Else shifts, turns and zooms that
many corners share are guessed (RANSAC), rest among them, and every block of the picture votes for the one that explains
it best. The camera follows the winner if that has most votes, and in most ninths of the picture: an arm is not
everywhere. Pictures with few corners, or without a winner, are said to be unknown.

On plain ground, or in pictures of 64 px, too few corners can be followed for that. Then it is asked what stays in
place, which needs no following: before a camera at rest much of the picture does, whatever an arm does before it, and
before one that moves nearly no corner looks as it did. A clip in half of whose moments nothing stays has a moving
camera (or is filled by something that moves), though nobody can say by how much.

Letters in shapes: H W picture, n corners, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.flow import opencv
from cyclemimic.types import Float64, UInt8

SIDE_PX = 128  # the shorter side of what is looked at
BLOCK_PX = 8  # one corner at most in each
LEAST_CORNER = 1e-3  # of the smaller eigenvalue of the gradients; below, a block is even ground or one straight edge
LEAST_CORNERS = 16
BACK_PX = 0.5  # how far a corner may come back beside where it started
REST_PX = 0.5  # a corner that moves less rests
AGREE_PX = 1.0  # how far a corner may be beside the common motion
AGREEMENT = 0.5  # share of the corners, or of the blocks
MOST_NINTHS = 6
GUESS_SHARE = 0.2  # of the corners that must share a motion for it to be a guess
MOST_ZOOM = 0.15  # natural logarithm; over a gap no camera in front of a robot comes so much nearer
GUESSES = 3  # motions that many corners share; the arm's may come before the camera's
LEAST_WAY = 0.006  # of the side over one gap: less is a camera at rest
MOMENTS = 12  # of a clip
MOVING_SHARE = 0.2  # of its moments
KNOWN_SHARE = 0.4
PATCH_PX = 7  # around a corner, which stays in place if this looks as before
STAYS, STAYS_OF_CONTRAST, STAYS_OF_NOISE = 3.0, 0.2, 1.5  # of 255, of the patch's spread, of the picture's noise
RESTS_SHARE, ADRIFT_SHARE = (
    0.2,
    0.08,
)  # of the corners: at least so many stay before a camera at rest, at most if adrift
ADRIFT_MOMENTS = 0.5  # share of all moments in which nothing may stay before the camera is said to move
TOLD_APART = 1.0  # of 255: by how much two motions must differ in how well they explain a block, for it to vote


@dataclass(frozen=True, kw_only=True)
class CameraMotion:
    """The camera's motion from one frame to another, in shares of the picture's shorter side."""

    matrix: Float64  # [2, 3]: where a place now, (x, y) from the picture's middle, is later
    way: float  # how far the picture's places move, at the root mean square
    known: bool  # False: too few corners, or no motion that most agree on
    agree: float  # share of the blocks that `matrix` explains best

    @property
    def turn_rad(self) -> float:
        """By how much the picture turns [rad]."""
        return float(np.arctan2(self.matrix[1, 0], self.matrix[0, 0]))


def small_grey(frames: UInt8) -> UInt8:
    """Frames [T, H, W, 3] in grey with a shorter side of `SIDE_PX` [T, h, w]; smaller ones are enlarged."""
    cv2 = opencv()
    scale = SIDE_PX / min(frames.shape[1:3])
    size = (round(frames.shape[2] * scale), round(frames.shape[1] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out = np.empty((len(frames), size[1], size[0]), np.uint8)
    for t, frame in enumerate(frames):
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        out[t] = cv2.resize(grey, size, interpolation=method)
    return out


def camera_motion(now: UInt8, later: UInt8, rest_px: float = REST_PX) -> CameraMotion:
    """The camera's motion between two grey pictures [h, w] of one size, see `small_grey`.

    Where most corners move by less than `rest_px` the camera rests; smaller motions are no longer looked for.
    """
    before, after = follow(now, later)
    if len(before) < LEAST_CORNERS:
        return _motion(np.eye(2, 3), now, known=False, agree=0.0)
    ways_px = np.linalg.norm(after - before, axis=1)
    at_rest = float((ways_px < REST_PX).mean())
    if (ways_px < rest_px).mean() >= AGREEMENT:
        return _motion(np.eye(2, 3), now, known=True, agree=at_rest)
    middle = (np.array(now.shape[::-1], np.float64) - 1) / 2
    guesses = [np.eye(2, 3), *_common_motions(before - middle, after - middle)]
    errors = np.stack([_error_of_blocks(now, later, guess) for guess in guesses])  # [guesses, blocks]
    told = errors.max(0) - errors.min(0) >= TOLD_APART
    if told.sum() < LEAST_CORNERS:  # rest explains the pictures as well as any motion
        return _motion(np.eye(2, 3), now, known=at_rest >= AGREEMENT, agree=at_rest)
    best = np.where(told, errors.argmin(0), -1)
    won = int(np.bincount(best[told]).argmax())
    # Motions that hardly differ share their votes: between a small one and rest, noise decides block by block.
    alike = [i for i, guess in enumerate(guesses) if _apart_px(guess, guesses[won], now.shape) < REST_PX]
    votes = np.isin(best, alike)
    agree = float(votes.sum() / told.sum())
    known = agree >= AGREEMENT and (0 in alike or _is_everywhere(votes, told, now.shape))
    return _motion(guesses[won], now, known=known, agree=agree)


def _is_everywhere(votes: NDArray[np.bool_], told: NDArray[np.bool_], shape: tuple[int, ...]) -> bool:
    """Whether a motion wins in most ninths of the picture: an arm on plain ground may have most votes, not there."""
    rows, columns = shape[0] // BLOCK_PX, shape[1] // BLOCK_PX
    ninth = 3 * (np.arange(rows * columns) // columns * 3 // rows) + np.arange(rows * columns) % columns * 3 // columns
    ayes, all_votes = (np.bincount(ninth[which], minlength=9) for which in (votes, told))
    return int(((ayes >= 2) & (2 * ayes > all_votes)).sum()) >= MOST_NINTHS


def _common_motions(before: Float64, after: Float64) -> list[Float64]:
    """Shifts, turns and zooms [2, 3] that many corners [n, 2] share, those of the most first; at most `GUESSES`."""
    cv2 = opencv()
    found: list[Float64] = []
    least = max(LEAST_CORNERS // 2, int(GUESS_SHARE * len(before)))
    for _ in range(GUESSES):
        if len(before) < least:
            break
        words = {"method": cv2.RANSAC, "ransacReprojThreshold": AGREE_PX, "maxIters": 500}
        matrix, follows = cv2.estimateAffinePartial2D(before, after, **words)
        if matrix is None or follows.sum() < least:
            break
        if abs(np.log(np.hypot(*matrix[:, 0]))) < MOST_ZOOM:
            found.append(matrix.astype(np.float64))
        left = follows[:, 0] == 0
        before, after = before[left], after[left]
    return found


def _error_of_blocks(now: UInt8, later: UInt8, matrix: Float64) -> Float64:
    """How far `later`, moved back by a motion around the middle [px], is from `now`: the mean of each block, of 255."""
    cv2 = opencv()
    height, width = now.shape
    middle = (np.array([width, height], np.float64) - 1) / 2
    whole = np.column_stack([matrix[:, :2], matrix[:, 2] + middle - matrix[:, :2] @ middle])
    words = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    moved = cv2.warpAffine(later, whole, (width, height), **words)
    error = np.abs(moved.astype(np.float32) - now)
    rows, columns = height // BLOCK_PX, width // BLOCK_PX
    blocks = error[: rows * BLOCK_PX, : columns * BLOCK_PX].reshape(rows, BLOCK_PX, columns, BLOCK_PX)
    means: Float64 = blocks.mean((1, 3), dtype=np.float64).ravel()
    return means


def follow(now: UInt8, later: UInt8) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Corners of a grey picture [h, w] and where they are later, both [n, 2], x first [px]; lost ones are left out."""
    cv2 = opencv()
    corners = corners_of(now)
    if not len(corners):
        return corners, corners
    words = {"winSize": (11, 11), "maxLevel": 3}
    there, found, _ = cv2.calcOpticalFlowPyrLK(now, later, corners[:, None], None, **words)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(later, now, there, None, **words)
    there, back = there[:, 0], back[:, 0]
    kept = (found[:, 0] == 1) & (found_back[:, 0] == 1) & (np.linalg.norm(back - corners, axis=1) < BACK_PX)
    height, width = now.shape
    kept &= (there >= 0).all(1) & (there[:, 0] <= width - 1) & (there[:, 1] <= height - 1)
    return corners[kept], there[kept].astype(np.float32)


def corners_of(grey: UInt8) -> NDArray[np.float32]:
    """The best corner of every block of `BLOCK_PX` that has one, [n, 2], x first [px]."""
    cv2 = opencv()
    strength = cv2.cornerMinEigenVal(grey, 3)
    rows, columns = (n // BLOCK_PX for n in grey.shape)
    if not rows or not columns:
        return np.empty((0, 2), np.float32)
    blocks = strength[: rows * BLOCK_PX, : columns * BLOCK_PX].reshape(rows, BLOCK_PX, columns, BLOCK_PX)
    flat = blocks.transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    best = flat.argmax(1)
    good = flat[np.arange(len(flat)), best] >= LEAST_CORNER
    y = np.arange(rows * columns) // columns * BLOCK_PX + best // BLOCK_PX
    x = np.arange(rows * columns) % columns * BLOCK_PX + best % BLOCK_PX
    corners: NDArray[np.float32] = np.stack([x, y], 1)[good].astype(np.float32)
    return corners


def staying(now: UInt8, later: UInt8) -> tuple[float, bool]:
    """The share of the corners of a grey picture [h, w] that look as before, and whether the others are everywhere.

    Light may change; noise is what the quieter quarter of the picture changes by.
    """
    cv2 = opencv()
    corners = corners_of(now).astype(int)
    if len(corners) < LEAST_CORNERS:
        return 0.0, False
    size = (PATCH_PX, PATCH_PX)
    before = now.astype(np.float32)
    change = later.astype(np.float32) - before
    change = cv2.boxFilter(np.abs(change - cv2.boxFilter(change, -1, size)), -1, size)
    spread = np.sqrt(np.maximum(cv2.boxFilter(before**2, -1, size) - cv2.boxFilter(before, -1, size) ** 2, 0))
    x, y = corners.T
    noise = float(np.quantile(change, 0.25))
    stays = change[y, x] <= np.maximum(max(STAYS, STAYS_OF_NOISE * noise), STAYS_OF_CONTRAST * spread[y, x])
    ninth = 3 * (y * 3 // now.shape[0]) + x * 3 // now.shape[1]
    return float(stays.mean()), len(np.unique(ninth[~stays])) >= MOST_NINTHS


def _motion(matrix: NDArray[np.float64], picture: UInt8, *, known: bool, agree: float) -> CameraMotion:
    """From a matrix in pixels around the middle; none where the motion is not known."""
    side = min(picture.shape)
    shares = np.column_stack([matrix[:, :2], matrix[:, 2] / side]) if known else np.eye(2, 3)
    in_px = np.column_stack([shares[:, :2], shares[:, 2] * side])
    way = _apart_px(in_px, np.eye(2, 3), picture.shape) / side
    return CameraMotion(matrix=shares, way=way, known=known, agree=agree)


def _apart_px(one: Float64, other: Float64, shape: tuple[int, ...]) -> float:
    """How far two motions [2, 3] send the places of a picture apart, at the root mean square [px]."""
    ys, xs = (np.linspace(-n / 2, n / 2, 9) for n in shape)
    places = np.stack([*(grid.ravel() for grid in np.meshgrid(xs, ys)), np.ones(81)], 1)
    return float(np.sqrt(((places @ (one - other).T) ** 2).sum(1).mean()))


@dataclass(frozen=True, kw_only=True)
class ClipCamera:
    """What the camera does over one gap, at several moments of a clip."""

    moments: int  # that were looked at
    known: int  # of these
    moving: int  # of the known ones, in which the camera moves more than `LEAST_WAY`
    adrift: int  # of the known ones, in which nothing stays in place, though nobody can say how it moves
    way: float  # the median of those that move, as a share of the picture's shorter side
    worst: tuple[int, int]  # the two frames between which it moves most

    @property
    def moves(self) -> bool:
        """Whether a user should know: in a fifth of the known moments, and more than once; or nothing stays in half."""
        followed = self.moving >= 2 and self.moving >= MOVING_SHARE * self.known
        unclear = self.adrift >= 2 and self.moving + self.adrift >= ADRIFT_MOMENTS * self.moments
        return self.is_known and (followed or unclear)

    @property
    def is_known(self) -> bool:
        """Whether enough of the moments tell."""
        return self.known >= KNOWN_SHARE * self.moments

    def text(self) -> str:
        """In words, for a terminal."""
        nothing = f"nothing stays in place in {self.adrift} of {self.known} moments"
        if not self.moving:
            return nothing if self.adrift else "it rests"
        followed = f"by {self.way:.1%} of the picture, in {self.moving} of {self.known} moments"
        return f"{followed}; {nothing}" if self.adrift >= self.moving else followed


def watch_camera(frames: UInt8, gap_frames: int, shot: NDArray[np.int64]) -> ClipCamera:
    """What the camera of a clip [T, H, W, 3] does over a gap of frames; `shot` [T] numbers the shots of the clip."""
    whole = np.flatnonzero(shot[:-gap_frames] == shot[gap_frames:])
    places = np.unique(np.linspace(0, len(whole) - 1, min(MOMENTS, len(whole))).astype(int))
    now = whole[places]
    known = moving = adrift = 0
    ways: list[float] = []  # of the known motions
    drifts: list[float] = []  # how much of the picture does not stay, where nothing does
    for t in now:
        pair = small_grey(frames[[t, t + gap_frames]])
        motion, (stay, elsewhere) = camera_motion(*pair), staying(*pair)
        way = motion.way if motion.known else 0.0
        nothing_stays = way <= LEAST_WAY and stay <= ADRIFT_SHARE and elsewhere
        known += motion.known or stay >= RESTS_SHARE or nothing_stays
        moving += way > LEAST_WAY
        adrift += nothing_stays
        ways.append(way)
        drifts.append(1 - stay if nothing_stays else 0.0)
    followed = [way for way in ways if way > LEAST_WAY]
    most = int(now[np.argmax(ways if followed else drifts)]) if ways else 0
    return ClipCamera(
        moments=len(ways),
        known=known,
        moving=moving,
        adrift=adrift,
        way=float(np.median(followed)) if followed else 0.0,
        worst=(most, min(most + gap_frames, len(frames) - 1)),
    )
