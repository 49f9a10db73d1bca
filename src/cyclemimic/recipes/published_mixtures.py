"""The mixtures on which the paper pre-trains, as far as they are known: Bridge V2 alone, and "Full".

Paper: ablations, pre-training on Bridge or on the full mixture; which sets "Full" holds, and how often each is drawn,
is not published: Deviation D16. `full` is the list of UniVLA (OpenDriveLab/UniVLA, `prismatic/vla/datasets/rlds/oxe/
mixtures.py`, `omni_magic_soup_plus_plus`), without its three sets of navigation, in which no arm moves. There a weight
multiplies the number of frames of its set, so `per` is 'pair'; its four splits of Ego4D of weight 1 are one folder of
weight 1. Bridge V2 is read as its authors publish it, not in the older copy of Open X-Embodiment.

Steps per second and robots are those of the catalogue of Open X-Embodiment; where `data.oxe` knows a set, it says them.
"""

from __future__ import annotations

from dataclasses import dataclass

from cyclemimic.data.mixture import Per

OXE_BUCKET = "gs://gresearch/robotics"
BRIDGE_URL = "https://rail.eecs.berkeley.edu/datasets/bridge_release/data/tfds/bridge_dataset/1.0.0/"
EGO4D_URL = "https://ego4d-data.org"


@dataclass(frozen=True, kw_only=True)
class PublishedEntry:
    """One data set: its folder below the root, how often it is drawn, and what `data.oxe` does not know of it."""

    name: str
    weight: float
    folder: str = ""  # below the root, where its name is another
    version: str = "0.1.0"  # below that; empty for none
    kind: str = "rlds"
    body: str | None = None
    rate_hz: float | None = None
    how: str = ""  # to get it; of Open X-Embodiment unless said

    @property
    def below(self) -> str:
        """Where it lies below the root."""
        return f"{self.folder or self.name}/{self.version}".rstrip("/")

    def source(self, root: str) -> str:
        """As `--source` takes it."""
        option = f"?rate_hz={self.rate_hz:g}" if self.rate_hz is not None else ""
        return f"{self.kind}:{root.rstrip('/')}/{self.below}{option}"

    def get(self, root: str) -> str:
        """How to get it, as a command or a sentence."""
        place = f"{root.rstrip('/')}/{self.below}"
        if self.how:
            return self.how.format(place=place)
        above = place.rpartition("/")[0]
        return f"mkdir -p {above} && gsutil -m cp -r {OXE_BUCKET}/{self.below} {above}/"


@dataclass(frozen=True, kw_only=True)
class PublishedMixture:
    """Rows and what their weights mean."""

    rows: tuple[PublishedEntry, ...]
    per: Per


def _external(name: str, weight: float, body: str, rate_hz: float) -> PublishedEntry:
    """A set that others brought into Open X-Embodiment, whose folder says so."""
    return PublishedEntry(
        name=name, folder=f"{name}_converted_externally_to_rlds", weight=weight, body=body, rate_hz=rate_hz
    )


def _oxe(name: str, weight: float, body: str, rate_hz: float, version: str = "0.1.0") -> PublishedEntry:
    return PublishedEntry(name=name, weight=weight, body=body, rate_hz=rate_hz, version=version)


BRIDGE = PublishedEntry(
    name="bridge_dataset",
    weight=1.0,
    version="1.0.0",
    how=f"wget -r -nH --cut-dirs=6 --no-parent -R 'index.html*' -P {{place}} {BRIDGE_URL}",
)
EGO4D = PublishedEntry(
    name="ego4d",
    weight=1.0,
    version="",
    kind="folder",
    body="human",
    how=f"accept the licence at {EGO4D_URL}, download the clips, and put the video files below {{place}}",
)

MIXTURES: dict[str, PublishedMixture] = {
    "bridge": PublishedMixture(rows=(BRIDGE,), per="source"),
    "full": PublishedMixture(
        rows=(
            PublishedEntry(name="fractal20220817_data", weight=0.5),
            _oxe("kuka", 0.1, "kuka_iiwa", 10),
            BRIDGE,
            PublishedEntry(name="taco_play", weight=2.0),
            _oxe("jaco_play", 1.0, "jaco", 10),
            _oxe("berkeley_cable_routing", 1.0, "franka", 10),
            _oxe("roboturk", 2.0, "sawyer", 10),
            _oxe("viola", 2.0, "franka", 20),
            _oxe("berkeley_autolab_ur5", 2.0, "ur5", 5),
            _oxe("toto", 1.0, "franka", 30),
            PublishedEntry(name="language_table", weight=0.1),
            _external("stanford_hydra_dataset", 2.0, "franka", 10),
            _external("austin_buds_dataset", 1.0, "franka", 20),
            _external("nyu_franka_play_dataset", 3.0, "franka", 3),
            _external("furniture_bench_dataset", 0.1, "franka", 10),
            _external("ucsd_kitchen_dataset", 2.0, "xarm", 2),
            _external("austin_sailor_dataset", 1.0, "franka", 20),
            _external("austin_sirius_dataset", 1.0, "franka", 20),
            _external("dlr_edan_shared_control", 1.0, "edan", 5),
            _external("iamlab_cmu_pickup_insert", 1.0, "franka", 20),
            _oxe("utaustin_mutex", 1.0, "franka", 20),
            _oxe("berkeley_fanuc_manipulation", 2.0, "fanuc", 10),
            _oxe("cmu_stretch", 1.0, "stretch", 10),
            _oxe("bc_z", 0.2, "google_robot", 10),
            _oxe("fmb", 1.0, "franka", 10, "0.0.1"),
            _oxe("dobbe", 0.2, "stretch", 30, "0.0.1"),
            EGO4D,
        ),
        per="pair",
    ),
}
