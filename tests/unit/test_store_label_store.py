from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cyclemimic.errors import InputError
from cyclemimic.store.label_store import LabelProvenance, LabelRows, LabelStore, LabelStoreWriter

FROM = LabelProvenance(
    tokenizer_sha256="t1",
    source_hash="s1",
    gap_s=0.5,
    camera="front",
    num_codes=11,
    num_tokens=3,
    made_by="test",
)


def rows(clip, frames, seed=0):
    rng = np.random.default_rng(seed)
    n = len(frames)
    return LabelRows(
        clip=(clip,) * n,
        frame=np.array(frames, np.int32),
        codes=rng.integers(0, 11, (n, 3)),
        margin=rng.random(n).astype(np.float32),
    )


def test_what_was_written_is_read(tmp_path):
    writer = LabelStoreWriter(tmp_path, FROM, num_shards=2)
    later, first = rows("b", [2, 0, 1]), rows("a", [4, 5], seed=1)
    assert writer.write(0, later) and writer.write(1, first)
    store = LabelStore.open(tmp_path)
    assert (len(store), store.clips, store.provenance) == (5, ("a", "b"), FROM)
    frames, codes = store.codes_for("b")
    assert frames.tolist() == [0, 1, 2] and frames.dtype == np.int32 and codes.dtype == np.int64
    np.testing.assert_array_equal(codes, later.codes[[1, 2, 0]])
    np.testing.assert_array_equal(store.margins_for("b"), later.margin[[1, 2, 0]])
    assert store.latent_actions().num_codes == 11
    np.testing.assert_array_equal(store.latent_actions().codes[:2], first.codes)
    assert "a" in store and "c" not in store


def test_other_programs_can_read_the_columns(tmp_path):
    LabelStoreWriter(tmp_path, FROM).write(0, rows("a", [1, 2]))
    schema = pq.read_schema(tmp_path / "labels-00000.parquet")
    assert [str(schema.field(n).type) for n in ("clip", "frame", "margin")] == ["string", "int32", "float"]
    kind = schema.field("codes").type
    assert (kind.list_size, str(kind.value_type)) == (3, "int16")


def test_a_killed_run_goes_on(tmp_path):
    writer = LabelStoreWriter(tmp_path, FROM, num_shards=3)
    writer.write(1, rows("b", [0]))
    kept = (tmp_path / "labels-00001.parquet").read_bytes()
    with pytest.raises(InputError, match="missing: 0, 2"):
        LabelStore.open(tmp_path)
    writer = LabelStoreWriter(tmp_path, FROM)
    assert writer.missing() == (0, 2)
    assert not writer.write(1, rows("b", [0], seed=5))
    assert (tmp_path / "labels-00001.parquet").read_bytes() == kept
    for shard in writer.missing():
        writer.write(shard, rows(f"clip{shard}", [0]))
    assert len(LabelStore.open(tmp_path)) == 3


def test_without_a_number_of_shards_finish_says_it(tmp_path):
    writer = LabelStoreWriter(tmp_path, FROM)
    writer.write(0, rows("a", [0]))
    writer.write(2, rows("c", [0]))
    assert len(LabelStore.open(tmp_path)) == 2
    writer.finish()
    with pytest.raises(InputError, match="missing: 1"):
        LabelStore.open(tmp_path)


def test_an_empty_shard_counts_as_done(tmp_path):
    writer = LabelStoreWriter(tmp_path, FROM, num_shards=2)
    writer.write(0, rows("a", []))
    writer.write(1, rows("a", [3]))
    assert LabelStore.open(tmp_path).codes_for("a")[0].tolist() == [3]


def test_another_provenance_is_refused_everywhere(tmp_path):
    LabelStoreWriter(tmp_path, FROM).write(0, rows("a", [0]))
    other = replace(FROM, tokenizer_sha256="t2")
    with pytest.raises(InputError, match="tokenizer_sha256 t2"):
        LabelStoreWriter(tmp_path, other)
    with pytest.raises(InputError, match="tokenizer_sha256"):
        LabelStore.open(tmp_path, expected=other)
    with pytest.raises(InputError, match="source_hash"):
        LabelStore.open(tmp_path).require(source_hash="s2")
    LabelStore.open(tmp_path).require(source_hash="s1", tokenizer_sha256="t1")
    # A shard of another store that was copied in.
    LabelStoreWriter(tmp_path / "other", other).write(1, rows("b", [0]))
    (tmp_path / "other" / "labels-00001.parquet").rename(tmp_path / "labels-00001.parquet")
    with pytest.raises(InputError, match="labels-00001"):
        LabelStore.open(tmp_path)


def test_who_made_the_labels_does_not_matter(tmp_path):
    LabelStoreWriter(tmp_path, FROM).write(0, rows("a", [0]))
    assert LabelStoreWriter(tmp_path, replace(FROM, made_by="later version")).has(0)


def test_a_damaged_shard_is_named(tmp_path):
    LabelStoreWriter(tmp_path, FROM).write(0, rows("a", [0, 1]))
    path = tmp_path / "labels-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"labels-00000.*label"):
        LabelStore.open(tmp_path)


def test_wrong_rows_are_refused(tmp_path):
    writer = LabelStoreWriter(tmp_path, FROM, num_shards=1)
    good = rows("a", [0, 1])
    for bad in (
        replace(good, codes=good.codes + 11),
        replace(good, codes=good.codes[:, :2]),
        replace(good, margin=good.margin[:1]),
    ):
        with pytest.raises(InputError):
            writer.write(0, bad)
    with pytest.raises(InputError, match="below 1"):
        writer.write(1, good)


def test_a_frame_labelled_twice_is_refused(tmp_path):
    writer = LabelStoreWriter(tmp_path, FROM)
    writer.write(0, rows("a", [0, 1]))
    writer.write(1, rows("a", [1]))
    with pytest.raises(InputError, match="frame 1 of 'a' twice"):
        LabelStore.open(tmp_path)


def test_an_unknown_clip_and_an_empty_folder_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="none"):
        LabelStore.open(tmp_path / "nothing")
    LabelStoreWriter(tmp_path, FROM).write(0, rows("push_left", [0]))
    with pytest.raises(InputError, match="Did you mean 'push_left'"):
        LabelStore.open(tmp_path).codes_for("push_lift")
