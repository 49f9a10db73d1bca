"""What begins with video: film it, look at it, decode it, label it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from cyclemimic.cli.choices import CACHE, Features
from cyclemimic.data.check import GAP_S
from cyclemimic.data.skip import DROPPED
from cyclemimic.data.sources.film import FilmSource
from cyclemimic.errors import InputError
from cyclemimic.recipes import checking, exporting, footage, judging, lineages, parts, stations
from cyclemimic.recipes.true_codes import label_true_motion
from cyclemimic.store.label_store import LabelStore
from cyclemimic.train.loop import use_threads


def film(
    world: tyro.conf.Positional[str],
    out: Path,
    episodes: int = 20,
    bodies: tuple[str, ...] = (),
    skills: tuple[str, ...] = (),
    first_seed: int = 0,
    actions: bool = True,
    tail_steps: int = 0,
    report: bool = False,
) -> None:
    """Film scripted experts in a simulated world: video files, and the actions apart from them.

    Args:
        world: which world: arms, arms-128, arms-distractor, arms-moving-camera, drawn, or package.module:Class.
        out: folder for video/ (with a sidecar of sentences) and actions/.
        episodes: how many per body and skill.
        bodies: which bodies; all unless named.
        skills: which skills; all unless named.
        first_seed: starts are drawn from this number on.
        actions: whether actions are written (apart from the video).
        tail_steps: how long the expert goes on once the task is solved.
        report: print expert success per body and skill.
    """
    found = stations.film_world(
        world,
        out,
        episodes=episodes,
        bodies=bodies,
        skills=skills,
        first_seed=first_seed,
        actions=actions,
        tail_steps=tail_steps,
    )
    print(f"{found.clips} clips in {out / 'video'}, {found.filmed} of them filmed now")
    if report:
        print(found.table())


def data(
    action: tyro.conf.Positional[Literal["check", "cache", "index", "export"]],
    source: tyro.conf.Positional[str],
    size_px: int = 64,
    stored_as: Literal["uint8", "jpeg"] | None = None,
    threads: int = 1,
    cache: Path = CACHE,
    to: exporting.Kind = "lerobot-v3",
    labels: Path | None = None,
    out: Path | None = None,
    gap_s: float = GAP_S,
    report: Path | None = None,
    drop: Path | None = None,
    drop_kinds: tuple[str, ...] = DROPPED,
) -> None:
    """Look at a source of video, decode it once into a memory-mapped cache, or write it for others to read.

    Args:
        action: check prints and draws what is there, what will hurt training, and which gap suits each body; cache
            decodes; index notes key frames and sizes in one Parquet file, so that reading without a cache begins at
            once; export writes.
        source: folder:PATH, film:PATH, lerobot:PATH, rlds:PATH, hdf5:PATH, webdataset:PATH, calvin:PATH, or
            package.module:Class=PATH; also mixture:bridge, mixture:full, mixture:FILE.toml, or
            mixture:package.module:function. Of a mixture, check prints shares, episodes and licences, and export writes
            a folder for each source. Behind any but a mixture ?skip=LIST.json leaves clips out, ?stabilise=shift (or
            turn) holds a shaking camera still, and ?cache_fps=10 keeps at most so many frames a second; name it so to
            every verb.
        size_px: side of the cached pictures.
        stored_as: cache: plain pixels, or JPEG, which takes less of the disk, is slower to read and changes pictures a
            little; every verb then reads it. As what is there already unless given, else plain.
        threads: how many files are indexed at once.
        cache: folder of all caches.
        to: export: a LeRobot dataset, or the labels alone as Parquet or JSON lines.
        labels: export: what `cyclemimic label` wrote for this source or mixture.
        out: export: the folder to write.
        gap_s: check: seconds over which motion is looked for; of a mixture, where an entry gives none.
        report: check: the page; runs/check/NAME.html unless given.
        drop: check: a JSON file to write, of clips that are better left out, for the source's ?skip=LIST.json.
        drop_kinds: check: of which kinds: unreadable, duplicate, still, short, camera.
    """
    if action == "export":
        if out is None:
            raise InputError("--out", expected="a folder to export to", got="none", remedy="Name one.")
        print(exporting.export_sources(parts.open_sources(source), out, to=to, labels=labels))
        return
    opened = parts.open_sources(source)
    if action == "check" and isinstance(opened, parts.OpenMixture):
        print("\n".join(parts.mixture_lines(opened, gap_s)))
        return
    for one in parts.parts_of(opened):
        if action == "check":
            checking.check_source(one.source, gap_s=gap_s, page=report, drop=drop, drop_kinds=drop_kinds)
        elif action == "cache":
            footage.cached(one.source, size_px, cache, stored_as)
        else:
            found = footage.indexed(one.source, cache, threads=threads, look_again=True)
            bad = int((found.frames == 0).sum())
            print(f"{len(found)} episodes, {int(found.frames.sum())} frames, {bad} of no use: {found.path}")


def label(
    source: str,
    out: Path,
    tokenizer: Path | None = None,
    true_motion: Path | None = None,
    gap_s: float = 0.6,
    bodies: tuple[str, ...] = (),
    shard_index: int = 0,
    num_shards: int = 1,
    read: Literal["cache", "direct"] = "cache",
    features: Features = "auto",
    engine: Literal["plain", "ray"] = "plain",
    workers: int = 1,
    threads: int = 1,
    device: str = "cpu",
    cache: Path = CACHE,
) -> None:
    """Label every frame pair of a source with its latent action, into Parquet with provenance.

    Args:
        source: where the video lies, such as folder:PATH, or a mixture as `tokenizer` takes it.
        out: folder of the label store, or of one for each source of a mixture; what is labelled already is kept.
            Stopped by SIGTERM or Ctrl-C (exit code 75), the same command goes on.
        tokenizer: a run of `cyclemimic tokenizer`.
        true_motion: instead of a tokenizer, for film:PATH: perfect codes of the hand's true motion. Folder of their
            codebook, fitted on first use.
        gap_s: of true motion: seconds between the two frames of a pair.
        bodies: whose clips are labelled; all unless named.
        shard_index: which of `num_shards` jobs this is, from 0; the store can be read once all are done.
        num_shards: how many jobs label this source together.
        read: cache decodes the video once, direct as it is needed; jobs that start together need a finished cache, or
            direct.
        features: of a frozen backbone: auto reads what training kept on disk where it is there, and else computes;
            compute, cache and cache-int8 as `cyclemimic tokenizer` has them.
        engine: ray shares the work by Ray Data (`pip install 'cyclemimic[ray]'`), and writes the same bytes.
        workers: ray: how many actors.
        threads: of one core each.
        device: cpu, cuda ...
        cache: folder of decoded frames.
    """
    if (tokenizer is None) == (true_motion is None):
        raise InputError(
            "--tokenizer", expected="a tokenizer, or --true-motion", got="neither" if tokenizer is None else "both",
            remedy="Name a run of `cyclemimic tokenizer`.",
        )  # fmt: skip
    if true_motion is not None:
        film = footage.open_source(source)
        if not isinstance(film, FilmSource):
            raise InputError("--source", expected="film:PATH", got=source, remedy="Name what `film` wrote.")
        store = label_true_motion(film, out, true_motion, gap_s=gap_s, bodies=bodies)
        print(f"{len(store)} labels of {len(store.clips)} clips in {out}")
        return
    assert tokenizer is not None
    opened = parts.open_sources(source)
    missing = stations.run_label_part(
        opened,
        tokenizer,
        out,
        cache_root=cache,
        threads=threads,
        device=device,
        part=shard_index,
        num_parts=num_shards,
        read=read,
        features=features,
        bodies=bodies,
        engine=engine,
        workers=workers,
    )
    if missing and num_shards > 1:
        print(f"job {shard_index} of {num_shards} is done; {len(missing)} shards are left to the others")
        return
    for one in parts.parts_of(opened):
        place = lineages.store_of(out, opened, one)
        store = LabelStore.open(place)
        print(f"{len(store)} labels of {len(store.clips)} clips in {place}")


def inspect(
    run: tyro.conf.Positional[Path],
    source: str,
    out: Path | None = None,
    features: Features = "auto",
    threads: int = 1,
    cache: Path = CACHE,
) -> None:
    """Look at a tokenizer on any video: which codes are used, what they do on other frames, as one page.

    Args:
        run: a run of `cyclemimic tokenizer`.
        source: where the video lies, such as folder:PATH, or a mixture as `tokenizer` takes it: one page over all.
        out: folder for the page; RUN/inspect unless given.
        features: of a frozen backbone, as `cyclemimic label` has them.
        threads: of one core each.
        cache: folder of decoded frames.
    """
    use_threads(threads)
    opened = parts.open_sources(source)
    print(judging.run_inspect(run, opened, out or run / "inspect", cache_root=cache, features=features))
