"""Let a world's expert act and record it: video, and beside it what was done. Engineering.

OUT/video/BODY/SKILL-SEED.mp4     frame 0 and the frame after every action
OUT/video/clips.jsonl             embodiment, sentence and rate of each, as `FolderSource` reads them
OUT/actions/BODY/SKILL-SEED.npz   actions [T-1, A], proprioception [T, P] if the world tells it, success
OUT/world.json                    the world's name, camera, and action axes with units and limits
OUT/report.json                   successes by body and skill
OUT/episodes.jsonl                a line per finished episode; what a killed run goes on from
"""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cyclemimic.data.sources.folder import SIDECAR, SidecarRow, sidecar_line
from cyclemimic.data.video import write_video
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.store.atomic import alone_in, read_json, write_atomically, write_json
from cyclemimic.types import ActionSpace, Axis, CameraSpec, Float32, Observation, Task, UInt8, World

FORMAT = "cyclemimic-film-1"
WORLD, REPORT, JOURNAL, VIDEO, ACTIONS = "world.json", "report.json", "episodes.jsonl", "video", "actions"


@dataclass(frozen=True, kw_only=True)
class FilmedEpisode:
    """One line of the journal: what was tried, how it ended, and whether it was kept as a clip."""

    body: str
    skill: str
    seed: int
    instruction: str | None
    num_frames: int
    success: bool
    kept: bool


@dataclass(frozen=True, kw_only=True)
class FilmCount:
    """How often the expert succeeded with one body at one skill."""

    body: str
    skill: str
    episodes: int
    successes: int


@dataclass(frozen=True, kw_only=True)
class FilmReport:
    """All episodes in the folder by body and skill; how many were filmed now and how many clips there are."""

    counts: tuple[FilmCount, ...]
    filmed: int
    clips: int

    def table(self) -> str:
        """Successes / episodes: a row per body, a column per skill."""
        bodies = sorted({c.body for c in self.counts})
        skills = sorted({c.skill for c in self.counts})
        cells = {(c.body, c.skill): f"{c.successes}/{c.episodes}" for c in self.counts}
        rows = [["body", *skills], *([b, *(cells.get((b, s), "-") for s in skills)] for b in bodies)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)


@dataclass(frozen=True, kw_only=True)
class _Take:
    """What one run of the expert gave."""

    frames: UInt8  # [T, H, W, 3]
    actions: Float32  # [T - 1, A]
    proprioception: Float32 | None  # [T, P]
    instruction: str | None
    success: bool


def episode_name(task: Task) -> str:
    """Where an episode lies below `video` and `actions`, without its extension."""
    return f"{task.body}/{task.skill}-{task.seed:06d}"


def task_of(clip_name: str) -> Task | None:
    """Undo `episode_name`, with or without an extension; None for a name that it never gave."""
    parts = re.fullmatch(r"([^/]+)/([^/]+)-(\d{6,})(\.\w+)?", clip_name)
    return None if parts is None else Task(body=parts[1], skill=parts[2], seed=int(parts[3]))


def space_to_json(space: ActionSpace) -> dict[str, Any]:
    """An action space as `world.json` holds it."""
    return asdict(space)


def space_from_json(value: dict[str, Any], where: Path) -> ActionSpace:
    """The action space that `space_to_json` wrote. InputError where a field is missing or of another kind."""
    try:
        axes = tuple(
            Axis(
                name=str(a["name"]),
                unit=str(a["unit"]),
                low=float(a["low"]),
                high=float(a["high"]),
                # Films of before axes had kinds: hands were moved by changes, grippers told where to be.
                kind=a.get("kind", "absolute" if a["unit"] == "fraction" else "delta"),
            )
            for a in value["axes"]
        )
        return ActionSpace(
            name=str(value["name"]), axes=axes, rate_hz=float(value["rate_hz"]), kind=value.get("kind", "pose")
        )
    except (KeyError, TypeError) as error:
        remedy = "The file is damaged; film again."
        raise InputError(where, expected="an action space", got=f"a fault at {error}", remedy=remedy) from None


def camera_from_json(value: dict[str, Any], where: Path) -> CameraSpec:
    """The camera as `world.json` holds it. InputError where a field is missing or of another kind."""
    try:
        return CameraSpec(name=str(value["name"]), height_px=int(value["height_px"]), width_px=int(value["width_px"]))
    except (KeyError, TypeError, ValueError) as error:
        remedy = "The file is damaged; film again."
        raise InputError(where, expected="a camera", got=f"a fault at {error}", remedy=remedy) from None


def film(
    world: World,
    tasks: Sequence[Task],
    out: Path | str,
    *,
    keep_actions: bool = True,
    only_successes: bool = True,
    tail_steps: int = 0,
    progress: Callable[[str], None] | None = None,
) -> FilmReport:
    """Film the expert at every task. Episodes that are in the folder already are not filmed again.

    Args:
        world: anything that meets `cyclemimic.types.World`.
        tasks: which bodies, skills and starts.
        out: the folder; must be empty or hold films of the same world.
        keep_actions: whether to write `actions/`; without, the folder is video alone.
        only_successes: whether to leave out failed episodes; they are counted all the same.
        tail_steps: how many steps the expert goes on once the task is solved: what to do at the goal is then shown too.
        progress: is given a line of text after every episode.

    Raises:
        InputError: the folder holds films of another world, or the world lacks the camera it names.
    """
    out = Path(out)
    filmed = 0
    with alone_in(out):
        _write_world(world, out, keep_actions=keep_actions, only_successes=only_successes, tail_steps=tail_steps)
        episodes = _read_journal(out / JOURNAL)
        try:
            with (out / JOURNAL).open("a", encoding="utf-8") as journal:
                for number, task in enumerate(tasks, start=1):
                    name = episode_name(task)
                    if name not in episodes:
                        episodes[name] = _film_one(world, task, out, keep_actions, only_successes, tail_steps)
                        journal.write(json.dumps(asdict(episodes[name]), ensure_ascii=False) + "\n")
                        journal.flush()
                        filmed += 1
                        if progress is not None:
                            ending = "success" if episodes[name].success else "failure"
                            progress(f"{number}/{len(tasks)} {name}: {ending}")
        finally:
            report = _write_summaries(world, out, list(episodes.values()), filmed)
    return report


def _film_one(
    world: World, task: Task, out: Path, keep_actions: bool, only_successes: bool, tail_steps: int
) -> FilmedEpisode:
    take = _run_expert(world, task, tail_steps)
    kept = take.success or not only_successes
    if kept:
        name = episode_name(task)
        if keep_actions:
            arrays: dict[str, Any] = {"actions": take.actions, "success": np.bool_(take.success)}
            if take.proprioception is not None:
                arrays["proprioception"] = take.proprioception
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **arrays)
            write_atomically(out / ACTIONS / f"{name}.npz", buffer.getvalue())
        # The video comes last: where there is a video, its actions are there too.
        write_video(out / VIDEO / f"{name}.mp4", take.frames, world.action_space.rate_hz)
    return FilmedEpisode(
        body=task.body,
        skill=task.skill,
        seed=task.seed,
        instruction=take.instruction,
        num_frames=len(take.frames),
        success=take.success,
        kept=kept,
    )


def _run_expert(world: World, task: Task, tail_steps: int) -> _Take:
    observation = world.reset(task)
    instruction = observation.instruction
    frames, states = [_picture(world, observation)], [observation.proprioception]
    actions: list[Float32] = []
    success, behind = False, 0
    for _ in range(world.max_steps + tail_steps):
        action = np.asarray(world.expert_action(), np.float32)
        world.action_space.check(action, f"{world.name}, expert of {task.skill!r}")
        step = world.step(action)
        # Kept as the world applies it: within the limits.
        actions.append(np.clip(action, world.action_space.low, world.action_space.high))
        frames.append(_picture(world, step.observation))
        states.append(step.observation.proprioception)
        behind += success  # steps since the task was solved
        success = success or step.success
        if (behind == tail_steps and success) or (step.truncated and not success):
            break
    known = [s for s in states if s is not None]
    return _Take(
        frames=np.stack(frames),
        actions=np.stack(actions),
        proprioception=np.stack(known).astype(np.float32) if len(known) == len(states) else None,
        instruction=instruction,
        success=success,
    )


def _picture(world: World, observation: Observation) -> UInt8:
    name = world.camera.name
    if name not in observation.images:
        remedy = did_you_mean(name, observation.images)
        raise InputError(f"world {world.name!r}", expected=f"camera {name!r}", got="none", remedy=remedy)
    return observation.images[name].copy()  # worlds may draw into one buffer


def _write_world(world: World, out: Path, *, keep_actions: bool, only_successes: bool, tail_steps: int) -> None:
    value = {
        "format": FORMAT,
        "world": world.name,
        "bodies": list(world.bodies),
        "skills": list(world.skills),
        "camera": asdict(world.camera),
        "action_space": space_to_json(world.action_space),
        "max_steps": world.max_steps,
        "keep_actions": keep_actions,
        "only_successes": only_successes,
        "tail_steps": tail_steps,
    }
    path = out / WORLD
    if not path.exists():
        write_json(path, value)
        return
    found = read_json(path)
    # Through JSON, so that tuples and lists compare alike.
    other = [k for k, v in json.loads(json.dumps(value)).items() if found.get(k) != v]
    if other:
        got = ", ".join(f"{k} {found.get(k)}" for k in other)
        expected = ", ".join(f"{k} {value[k]}" for k in other)
        remedy = "Film into another folder, or delete this one."
        raise InputError(path, expected=expected, got=got, remedy=remedy)


def _read_journal(path: Path) -> dict[str, FilmedEpisode]:
    """Finished episodes by name; a last line that a kill cut short is cut off the file."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    episodes: dict[str, FilmedEpisode] = {}
    for line in lines[:-1]:
        try:
            episode = FilmedEpisode(**json.loads(line))
        except (ValueError, TypeError) as error:
            remedy = "Delete that line; its episode is filmed again."
            expected, got = "a line per episode", str(error)
            raise InputError(path, expected=expected, got=got, remedy=remedy) from None
        task = Task(body=episode.body, skill=episode.skill, seed=episode.seed)
        episodes[episode_name(task)] = episode
    if lines and lines[-1]:
        write_atomically(path, b"".join(line + b"\n" for line in lines[:-1]))
    return episodes


def _write_summaries(world: World, out: Path, episodes: Sequence[FilmedEpisode], filmed: int) -> FilmReport:
    kept: list[SidecarRow] = []
    outcomes: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for episode in episodes:
        outcomes[episode.body, episode.skill].append(episode.success)
        if episode.kept:
            task = Task(body=episode.body, skill=episode.skill, seed=episode.seed)
            kept.append(
                SidecarRow(
                    file=f"{episode_name(task)}.mp4",
                    embodiment=episode.body,
                    instruction=episode.instruction,
                    fps=world.action_space.rate_hz,
                )
            )
    lines = [sidecar_line(row) + "\n" for row in sorted(kept, key=lambda row: row.file)]
    write_atomically(out / VIDEO / SIDECAR, "".join(lines).encode())
    counts = tuple(
        FilmCount(body=body, skill=skill, episodes=len(ends), successes=sum(ends))
        for (body, skill), ends in sorted(outcomes.items())
    )
    report = {"format": FORMAT, "counts": [asdict(c) for c in counts], "clips": len(kept)}
    write_json(out / REPORT, report)
    return FilmReport(counts=counts, filmed=filmed, clips=len(kept))
