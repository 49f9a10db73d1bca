"""Words, latent tokens and ACT as integers."""

import json

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.policy.vocabulary import BOS, PAD, UNK, Vocabulary

V = Vocabulary.build(["Push the red cube left.", "reach the blue cube", None], num_codes=11)


def test_order_does_not_depend_on_the_sentences_order():
    assert Vocabulary.build([None, "reach the BLUE cube", "push the red cube left"], num_codes=11) == V
    assert list(V.words) == sorted(V.words)


def test_ids_are_disjoint_and_fill_the_vocabulary():
    words = [i for w in V.words for i in V.encode(w).ids[1:]]
    latents = [V.latent_id(k) for k in range(11)]
    assert sorted([PAD, BOS, UNK, *words, *latents, V.act_id]) == list(range(len(V)))
    assert [V.code_of(i) for i in latents] == list(range(11))


def test_encode():
    found = V.encode("push the GREEN, green cube")
    assert found.ids[0] == BOS
    assert found.unknown == ("green",)
    assert found.ids.count(UNK) == 2
    assert V.encode(None).ids == V.encode(V.neutral).ids
    assert V.encode(None).unknown == ()


def test_table_pads_on_the_right():
    ids, mask = V.table(["push the red cube left", "reach"])
    assert ids.shape == mask.shape == (2, 6)
    assert ids[1].tolist()[2:] == [PAD] * 4
    assert mask.sum(1).tolist() == [6, 2]
    assert np.array_equal(mask, ids != PAD)


def test_json():
    assert Vocabulary.from_json(json.loads(json.dumps(V.to_json()))) == V


def test_errors():
    with pytest.raises(InputError, match="another codebook"):
        V.latent_id(11)
    with pytest.raises(InputError, match="Words and ACT"):
        V.code_of(V.act_id)
    with pytest.raises(InputError, match="at least one code"):
        Vocabulary(words=(), num_codes=0)
    with pytest.raises(InputError, match="sorted"):
        Vocabulary(words=("b", "a"), num_codes=3)
