"""Text encoders at every layer and freeze depth equal those of transformers; tokens, padding and bags of words."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.data.examples import Examples
from rainbow_ray.modalities.text import embedded, tokenize
from rainbow_ray.modalities.text import encoder as text_encoder
from rainbow_ray.modalities.text.adapters import ADAPTERS
from rainbow_ray.modalities.text.bag_of_words import WordPresence, log_count_ratios
from rainbow_ray.modalities.text.word_hashing import BUCKETS, word_buckets
from rainbow_ray.utils.errors import InputError
from tests.conftest import tiny_body

FAMILIES = ["bert", "roberta", "distilbert", "deberta-v2", "modernbert"]


def inputs_of() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 60, (3, 20), generator=generator)
    mask = torch.ones(3, 20, dtype=torch.long)
    mask[1, 12:] = 0
    mask[2, 5:] = 0
    return ids, mask


def ids_for(family: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = inputs_of()
    pad = tiny_body(family).config.pad_token_id
    return torch.where(mask.bool(), ids, torch.tensor(pad)), mask


def encoder_of(family: str, **keys) -> text_encoder.TextEncoder:
    return text_encoder.TextEncoder(tiny_body(family), TextEncoderConfig(**keys)).eval()


def assert_alike(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor, tolerance: float = 1e-5) -> None:
    inside = mask.bool()
    torch.testing.assert_close(a[inside], b[inside], atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_equal_those_of_transformers(family):
    ids, mask = ids_for(family)
    with torch.no_grad():
        expected = tiny_body(family)(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        for layer in range(4):
            encoder = encoder_of(family, layer=layer)
            assert_alike(encoder(ids, mask), expected.hidden_states[layer], mask)
            assert len(encoder.layers[0]) == layer
        assert_alike(encoder_of(family, layer="last")(ids, mask), expected.last_hidden_state, mask)
        assert encoder_of(family, layer=0.5).depth == 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [3, "last", "mix"])
def test_prefix_and_suffix_together_equal_the_forward_pass(family, layer):
    ids, mask = ids_for(family)
    encoder = encoder_of(family, layer=layer, freeze_layers=1)
    if layer == "mix":
        torch.nn.init.normal_(encoder.mix_weights)
    with torch.no_grad():
        expected = encoder(ids, mask)
        for depth in range(encoder.depth + 1):
            assert_alike(encoder.suffix(encoder.prefix(ids, mask, depth), mask, depth), expected, mask)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mix_is_the_weighted_sum_of_all_layers(family):
    ids, mask = ids_for(family)
    encoder = encoder_of(family, layer="mix")
    with torch.no_grad():
        encoder.mix_weights.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0]))
        states = torch.stack(encoder.all_layers(ids, mask))
        expected = torch.einsum("k,kulw->ulw", torch.softmax(encoder.mix_weights, 0), states)
        assert_alike(encoder(ids, mask), expected, mask)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("frozen", "embeddings"), [(0, None), (2, None), ("all", None), (0, True), (2, False)])
def test_only_unfrozen_parameters_have_gradients(family, frozen, embeddings):
    ids, mask = ids_for(family)
    encoder = encoder_of(family, layer=3, freeze_layers=frozen, freeze_embeddings=embeddings).train()
    out = encoder(ids, mask)
    if out.requires_grad:
        out.sum().backward()
    layers = [any(p.grad is not None for p in layer.parameters()) for layer in encoder.layers[0]]
    layer_parameter_ids = {id(p) for layer in encoder.layers[0] for p in layer.parameters()}
    other_parameters = [p for p in encoder.parameters() if id(p) not in layer_parameter_ids]
    depth = {0: 0, 2: 2, "all": 3}[frozen]
    assert layers == [i >= depth for i in range(3)]
    embeddings_frozen = depth > 0 if embeddings is None else embeddings
    assert any(p.grad is not None for p in other_parameters) == (not embeddings_frozen)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_layers_have_no_dropout(family):
    body = tiny_body(family)
    encoder = text_encoder.TextEncoder(body, TextEncoderConfig(layer=2, freeze_layers="all")).train()
    ids, mask = ids_for(family)
    assert_alike(encoder(ids, mask), encoder(ids, mask), mask, tolerance=0)
    assert not any(module.training for layer in encoder.layers[0] for module in layer.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_do_not_depend_on_padding_and_the_batch(family):
    ids, mask = ids_for(family)
    encoder = encoder_of(family, layer=3)
    with torch.no_grad():
        batched = encoder(ids, mask)
        single = encoder(ids[2:, :5], mask[2:, :5])
    torch.testing.assert_close(batched[2:, :5], single, atol=1e-5, rtol=0)


@pytest.mark.parametrize("keys", [{"layer": 5}, {"freeze_layers": 5}, {"layer": "lst"}, {"freeze_layers": "some"}])
def test_depths_beyond_the_encoder_are_refused(keys):
    (key,) = keys
    with pytest.raises(InputError, match=f"model.text_encoder.{key}"):
        encoder_of("bert", **keys)


def test_a_family_without_an_adapter_runs_its_complete_forward_pass():
    from transformers import AutoModel, ElectraConfig

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = ElectraConfig(**sizes, intermediate_size=48, vocab_size=128)
    body = AutoModel.from_config(config).eval()
    assert config.model_type not in ADAPTERS
    ids, mask = inputs_of()
    with torch.no_grad():
        expected = body(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        encoder = text_encoder.TextEncoder(copy.deepcopy(body), TextEncoderConfig(layer=2, freeze_layers=1)).eval()
        assert_alike(encoder(ids, mask), expected[2], mask)
    assert not any(p.requires_grad for p in encoder.layers[0][0].parameters())
    assert all(p.requires_grad for p in encoder.layers[0][1].parameters())
    with pytest.raises(InputError, match="mix"):
        text_encoder.TextEncoder(body, TextEncoderConfig(layer="mix"))


def test_encoders_load_from_local_folders(tiny_encoder):
    folder = str(tiny_encoder("deberta-v2"))
    assert text_encoder.load_config(folder).model_type == "deberta-v2"
    loaded, expected = text_encoder.load_encoder(folder), tiny_body("deberta-v2")
    for (name, a), b in zip(loaded.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert next(loaded.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", ["no/such-encoder", "/no/such/folder"])
def test_a_missing_encoder_is_refused_with_alternatives(name):
    with pytest.raises(InputError) as error:
        text_encoder.load_config(name)
    assert name in str(error.value)
    assert "--encoder embedded" in str(error.value)
    assert "local folder" in str(error.value)


def test_embedded_files_are_checked(tmp_path):
    embedded.source_of.cache_clear()
    folder = embedded.source_of("embedded")
    shutil.copytree(folder, tmp_path / "copy")
    embedded.check_files(tmp_path / "copy", embedded.EMBEDDED_FILES)
    (tmp_path / "copy" / "vocab.txt").write_text("other")
    (tmp_path / "copy" / "tokenizer.json").unlink()
    with pytest.raises(InputError) as error:
        embedded.check_files(tmp_path / "copy", embedded.EMBEDDED_FILES)
    assert "vocab.txt is not the file it should be" in str(error.value)
    assert "tokenizer.json cannot be read" in str(error.value)


def test_the_token_limit_is_the_smallest_of_all(tiny_encoder):
    for family, expected in [("bert", 64), ("roberta", 64)]:
        folder = str(tiny_encoder(family))
        assert (
            tokenize.token_limit(folder, TextEncoderConfig(max_length=500), text_encoder.load_config(folder))
            == expected
        )
        assert tokenize.token_limit(folder, TextEncoderConfig(max_length=9), text_encoder.load_config(folder)) == 9


def prepared(texts: list[str], encoder: str, limit: int = 512) -> Examples:
    rows = tokenize.prepare(pa.table({"text": texts}), encoder=encoder, limit=limit)
    return Examples(rows, np.zeros(len(texts), np.float32), np.ones(len(texts), np.float32))


def test_texts_are_tokenised_as_the_tokenizer_does_and_cut(tiny_encoder):
    folder = str(tiny_encoder("bert"))
    texts = ["door wall river", "a", "door wall river", "song " * 90]
    examples = prepared(texts, folder, limit=16)
    tokenizer = tokenize.load_tokenizer(folder)
    for row, sentence in zip(examples.lists(tokenize.TOKENS).rows(), texts, strict=True):
        assert row.tolist() == tokenizer(sentence, truncation=True, max_length=16)["input_ids"]
    assert examples.table["tokens"].to_pylist() == [5, 3, 5, 92]
    batch = tokenize.collate(examples, np.array([1, 0]), pad_id=0)
    assert batch["mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_word_hashes_are_fixed():
    assert word_buckets("The door, the DOOR; a wall!") == word_buckets("wall door THE")
    assert word_buckets("door") == [2939]  # crc32 is fixed: bundles depend on it
    assert all(0 < bucket < BUCKETS for bucket in word_buckets("some words of a long text"))
    assert word_buckets("") == []


def test_ratios_follow_the_counts_and_unseen_words_are_zero():
    lists = [np.array([1, 2]), np.array([1, 3]), np.array([2]), np.array([4])]
    ratios = log_count_ratios(lists, np.array([[True], [True], [False], [False]]))
    assert ratios.shape == (BUCKETS, 1)
    # groups of equal size: the prior count is 1 for each
    np.testing.assert_allclose(ratios[1, 0], np.log((2 + 1) / (0 + 1)), rtol=1e-6)
    assert ratios[1, 0] > ratios[2, 0] > ratios[4, 0]
    assert log_count_ratios(lists, np.array([0, 1, 2, 2])[:, None] == np.arange(3)).shape == (BUCKETS, 3)
    module = WordPresence(16)
    module.fit(lists, ratios, seed=0)
    out = module(torch.tensor([[1, 2], [5, 0], [0, 0]]))
    assert out[0].abs().sum() > 0
    assert out[1:].abs().sum() == 0


def test_rare_words_do_not_indicate_a_small_group():
    lists = [np.array([1, 9]), *(np.array([1, 10 + i]) for i in range(38))]
    small = np.arange(39) == 0
    ratios = log_count_ratios(lists, np.stack([small, ~small], axis=1))
    np.testing.assert_allclose(ratios[1], 0, atol=1e-6, err_msg="all texts have it")
    np.testing.assert_allclose(ratios[500], 0, atol=1e-6, err_msg="no text has it")
    np.testing.assert_allclose(ratios[:, 0], -ratios[:, 1], atol=1e-6)
    assert ratios[9, 0] > 2.5
    assert -0.5 < ratios[12, 0] < 0
    assert (log_count_ratios(lists, np.ones((39, 1), dtype=bool)) == 0).all()


def test_projected_words_keep_their_similarity():
    module = WordPresence(4096)
    rows = [np.arange(1, 21), np.arange(11, 31), np.arange(101, 121)]
    module.fit(rows, None, seed=0)
    out = module(torch.from_numpy(np.stack(rows)))
    similar = torch.nn.functional.cosine_similarity(out[0], out[1], dim=0)
    unlike = torch.nn.functional.cosine_similarity(out[0], out[2], dim=0)
    assert abs(similar - 0.5) < 0.1
    assert abs(unlike) < 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keys", [{"layer": "last"}, {"layer": "mix"}])
def test_lengths_that_a_device_prefers_change_no_hidden_states(monkeypatch, family, keys):
    encoder = encoder_of(family, freeze_layers=1, **keys)
    limit = getattr(encoder.body.config, "max_position_embeddings", 96)
    for length in (1, 7, 13, limit - 3):
        ids = torch.randint(5, 40, (3, length), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        mask[1, (length + 1) // 2 :] = 0
        with torch.no_grad():
            states = encoder.states(ids, mask, encoder.constant_depth)
            expected = encoder(ids, mask), encoder(ids, mask, states)
            monkeypatch.setitem(text_encoder.LENGTH_MULTIPLES, "cpu", 8)
            actual = encoder(ids, mask), encoder(ids, mask, states)
            monkeypatch.delitem(text_encoder.LENGTH_MULTIPLES, "cpu")
        for one, other in zip(expected, actual, strict=True):
            assert one.shape == other.shape
            assert_alike(other, one, mask)
