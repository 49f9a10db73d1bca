"""A licence travels from source to index, cache, labels, exports and model card; what nobody states stays unknown."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from cyclemimic.data.cache import build_cache, source_hash
from cyclemimic.data.filed import index_source
from cyclemimic.data.sources.folder import FolderSource
from cyclemimic.data.sources.lerobot import LeRobotSource, licence_of
from cyclemimic.errors import InputError
from cyclemimic.recipes import cards
from cyclemimic.recipes.cards import CARD, renew_card, write_card
from cyclemimic.recipes.exporting import export
from cyclemimic.recipes.lineages import licences_behind
from cyclemimic.recipes.stations import run_finetune
from cyclemimic.store.atomic import write_json
from cyclemimic.store.frame_cache import FrameCache
from cyclemimic.store.label_store import MANIFEST, LabelProvenance, LabelStore, LabelStoreWriter
from cyclemimic.store.lineage import FILE, Lineage, licence_text, licences_of, read_lineage, save_lineage
from cyclemimic.types import ClipInfo
from tests.unit.data_small import video_folder
from tests.unit.so101_small import So101Source
from tests.unit.test_data_lerobot_export import Recorded, labels_of
from tests.unit.test_recipes_finetune import CONFIG


def clip(licence):
    return ClipInfo(name="c", embodiment="arm", fps=5.0, num_frames=4, licence=licence)


def test_licences_are_counted_and_what_nobody_states_is_unknown():
    found = licences_of([clip("mit"), clip(None), clip("mit"), clip("")])
    assert found == {"mit": 2, "unknown": 2} and licence_text(found) == "mit (2 clips), unknown (2 clips)"
    assert licence_text({}) == "unknown"


def test_index_and_cache_keep_the_licence_of_each_clip(tmp_path):
    video_folder(tmp_path / "v", {"arm/a.mp4": 5, "arm/b.mp4": 4})
    (tmp_path / "v" / "clips.jsonl").write_text('{"file": "arm/a.mp4", "licence": "CC0-1.0"}\n')
    source = FolderSource(tmp_path / "v")
    rows = list(index_source(source, tmp_path / "index.parquet").rows())
    assert [row.licence for row in rows] == ["CC0-1.0", None]
    build_cache(source, tmp_path / "cache", 8)
    assert [c.licence for c in FrameCache.open(tmp_path / "cache").clips] == ["CC0-1.0", None]


PROVENANCE = LabelProvenance(
    tokenizer_sha256="t", source_hash="s", gap_s=0.6, camera="video", num_codes=5, num_tokens=2, made_by="test"
)


def test_labels_made_before_licences_were_kept_still_read_and_go_on(tmp_path):
    LabelStoreWriter(tmp_path, PROVENANCE, 1)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    for name in ("licences", "tokenizer_licences", "origin"):
        del manifest["provenance"][name]
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    told = replace(PROVENANCE, licences={"mit": 1}, tokenizer_licences={"unknown": 3}, origin="s3://b/x")
    assert LabelStoreWriter(tmp_path, told, 1).missing() == (0,)  # which decide no code
    with pytest.raises(InputError, match="tokenizer_sha256 u"):
        LabelStoreWriter(tmp_path, replace(told, tokenizer_sha256="u"), 1)


class Mixed(Recorded):
    """The recordings under licences of their own."""

    licences: tuple[str | None, ...] = ("cc0-1.0", "mit", None)

    def clips(self):
        return [replace(c, licence=licence) for c, licence in zip(super().clips(), self.licences, strict=True)]

    def read(self, clip):
        return replace(super().read(clip), info=clip)


@pytest.mark.parametrize(
    ("licences", "head", "told", "read"),
    [
        (("mit", "mit", "mit"), "license: mit\n", "mit (3 clips).", "mit"),
        (("mit", "cc0-1.0", "mit"), "license:\n- cc0-1.0\n- mit\n", "cc0-1.0 (1 clip), mit (2 clips).", "cc0-1.0, mit"),
        ((None, None, None), "license: unknown\n", "unknown (3 clips).", None),
        (("mit", None, "mit"), "license: other\n", "mit (2 clips), unknown (1 clip).", "other"),
        (("my own\nterms", "mit", "mit"), "license: other\n", "mit (2 clips), my own", "other"),
    ],
)
def test_an_exported_dataset_states_its_licences(tmp_path, licences, head, told, read):
    source = Mixed()
    source.licences = licences
    export(source, tmp_path / "out", to="lerobot-v3")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith(f"---\n{head}task_categories") and f"Licences: {told}" in card
    assert licence_of(tmp_path / "out" / "README.md") == read
    # Each episode's own licence wins over the card's.
    assert [c.licence for c in LeRobotSource(tmp_path / "out").clips()] == list(licences)


def test_exported_labels_carry_the_licences_of_video_and_tokenizer(tmp_path):
    source = Mixed()
    labels = labels_of(source, tmp_path / "labels")
    told = replace(labels.provenance, licences=licences_of(source.clips()), tokenizer_licences={"unknown": 3})
    writer = LabelStoreWriter(tmp_path / "labels", told)
    writer.finish()
    assert LabelStore.open(tmp_path / "labels").provenance.licences == {"cc0-1.0": 1, "mit": 1, "unknown": 1}
    export(source, tmp_path / "rows", to="parquet", labels=tmp_path / "labels")
    facts = json.loads((tmp_path / "rows" / "provenance.json").read_text())
    assert facts["licences"]["unknown"] == 1 and facts["tokenizer_licences"] == {"unknown": 3}
    kept = pq.read_schema(tmp_path / "rows" / "labels.parquet").metadata[b"cyclemimic"]
    assert json.loads(kept)["licences"] == facts["licences"]


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ("license: unknown", None),
        ("license: Unknown\ntags: []", None),
        ("license:\n- mit\n- apache-2.0\ntags:\n- x", "mit, apache-2.0"),
        ("license: [mit, 'cc0-1.0']", "mit, cc0-1.0"),
        ('license: "cc-by-4.0"', "cc-by-4.0"),
        ("license:\ntags:\n- x", None),
    ],
)
def test_the_licence_of_a_card(tmp_path, head, found):
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\ntext")
    assert licence_of(tmp_path / "README.md") == found


LINEAGE = Lineage(
    name="fast",
    content="abc",
    clips=3,
    licences={"mit": 2, "unknown": 1},
    share=0.25,
    bodies=("arm",),
    origin="s3://b/x",
)


def test_lineage_reads_as_it_was_written_and_damage_is_named(tmp_path):
    save_lineage(tmp_path, data=[LINEAGE], trunk=[])
    assert read_lineage(tmp_path) == {"data": (LINEAGE,), "trunk": ()}
    assert read_lineage(tmp_path / "nothing") == {}
    write_json(tmp_path / FILE, {"data": [{"name": "x"}]})
    with pytest.raises(InputError, match=FILE):
        read_lineage(tmp_path)


def test_licences_behind_a_tokenizer_count_each_source_once(tmp_path):
    other = replace(LINEAGE, content="def", licences={"cc0-1.0": 4})
    save_lineage(tmp_path, data=[LINEAGE, other], trunk=[LINEAGE])
    assert licences_behind(tmp_path) == {"cc0-1.0": 4, "mit": 2, "unknown": 1}
    assert licences_behind(tmp_path / "old") is None


def test_the_card_of_a_policy(tmp_path, monkeypatch):
    pretrained = tmp_path / "pretrained"
    pretrained.mkdir()
    run = run_finetune(
        So101Source(5), CONFIG, tmp_path / "policy", body="so101", skills=(), per_skill=2, labels=None, init=None,
        threads=1,
    )  # fmt: skip
    card = (run / CARD).read_text()
    assert card.startswith("# policy\n\nA policy that drives so101 by pictures and words. Made by CycleMimic")
    assert "| 2 | so101 | unknown (2 clips) |" in card and "Ask their owners" in card
    assert "- seed: 0" in card and "- per_skill: 2" in card and "`model.safetensors`: sha256" in card
    assert "Nothing yet" in card and str(tmp_path) not in card
    record = {"all": {"rate": 0.45, "n": 120}, "skills": {}, "episodes": [{"seed": 1}]}
    write_json(run / "rollouts-as-it-is.json", record)
    save_lineage(run, data=[LINEAGE], **{"init > tokenizer": [replace(LINEAGE, licences={"mit": 1})]})
    renew_card(run, tmp_path / "elsewhere")
    assert (run / CARD).read_text() == card
    renew_card(run, run)
    card = (run / CARD).read_text()
    assert "| `rollouts-as-it-is.json` | all.rate | 0.45 |" in card and "seed | 1" not in card
    assert "| s3://b/x | 25.0% | 3 | arm | mit (2 clips), unknown (1 clip) | `abc` |" in card
    assert "init > tokenizer:" in card
    save_lineage(run, data=[replace(LINEAGE, licences={"mit": 3})])
    write_card(run)
    assert "The licences are those that the data states." in (run / CARD).read_text()
    # Written again by later code, it still says which code made these weights; of other weights it does not.
    later = replace(cards.this_machine(), commit="123456789abc")
    monkeypatch.setattr(cards, "this_machine", lambda: later)
    write_card(run)
    assert "123456789abc" not in (run / CARD).read_text()
    (run / "model.safetensors").write_bytes(b"other weights")
    write_card(run)
    assert "commit 123456789abc" in (run / CARD).read_text()


def test_without_a_lineage_there_is_no_card(tmp_path):
    assert write_card(tmp_path) is None and not (tmp_path / CARD).exists()
    assert source_hash(Mixed()) != source_hash(Recorded())  # a licence is a fact like others
