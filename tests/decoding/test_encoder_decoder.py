"""Sessions of encoder-decoders: sources read once, logits, other precisions, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers as tf

from tests.decoding.checked import CAPACITY, ROWS, TOLERANCE, CheckedSources
from tests.families import BART, FAMILIES, MAIN, POSITIONS, T5, VOCABULARY, family
from tw_env.decoding import cache as cache_module
from tw_env.decoding import masks as masks_module
from tw_env.decoding.session import NEVER, Session


@pytest.mark.parametrize("kind", FAMILIES)
def test_rows_without_a_source_wait(kind: str) -> None:
    checked = CheckedSources(family(kind))
    checked.reset([2], [[4, 5]])
    checked.append([2], [[5, 6]])


@pytest.mark.parametrize("kind", FAMILIES)
def test_texts_begin_with_the_opening(kind: str) -> None:
    checked = CheckedSources(family(kind))
    checked.reset([2, 0, 3, 1], [[3, 4, 5], [4], [3, 4, 5, 6, 7, 8], [7, 7]])
    checked.append(None, [[checked.session.opening[-1]]] * ROWS)
    checked.append(None, [[3, 4], [4, 2], [5, 5], [6, 7]])
    checked.probe()


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_masks_that_are_too_large_to_keep(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks_module, "KEPT_NUMBERS", 0)
    checked = CheckedSources(family(kind))
    checked.reset([0, 1, 2, 3], [[3, 2, 3], [4], [3, 2], [6]])
    checked.append(None, [[3, 4], [4, 2], [5, 5], [6, 7]], [1, 2, 0, 2])
    checked.probe()


def encoded(model: tf.PreTrainedModel) -> tuple[list[tuple[int, ...]], Callable[[], None]]:
    """Shapes of the token tables that the encoder is given, and how to stop listening."""
    shapes: list[tuple[int, ...]] = []
    handle = model.get_encoder().register_forward_pre_hook(
        lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes, handle.remove


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_sources_are_encoded_once(kind: str) -> None:
    checked = CheckedSources(family(kind))
    shapes, stop = encoded(checked.model)
    try:
        checked.reset([0, 1, 2, 3], [[3, 2, 3], [4], [3, 2, 3], [4]])
        assert shapes == [(2, 3)]
        checked.session.append(None, np.full((ROWS, 2), 5))
        checked.reset([3, 0, 1, 2], [[3, 2, 3], [4], [4], [3, 2, 3]])
        assert shapes == [(2, 3)]
        checked.session.forget_prompts()
        checked.reset([3], [[3, 2, 3]])
        assert shapes == [(2, 3), (1, 3)]
    finally:
        stop()
    checked.probe()


def test_many_sources_are_read_in_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "PREFILL_TOKENS", 6)
    checked = CheckedSources(family("bart"), prompt_memory=0)
    checked.reset([1, 0, 3, 2], [[2] * 7, [4], [3, 2, 3], [3, 2]])
    checked.reset([1, 0], [[3, 3], [3, 3]])
    checked.probe()


@pytest.mark.parametrize("kind", FAMILIES)
def test_logits_are_the_models_but_for_what_is_never_written(kind: str) -> None:
    model = family(kind)
    session = Session(model, 1, CAPACITY)
    session.reset(np.array([0]), [[3, 5, 4]])
    start = len(session.opening) - 1
    hidden = session.append(None, np.array([[session.opening[-1], 4, 6]]))
    text = torch.tensor([[*session.opening, 4, 6]])
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([[3, 5, 4]]), decoder_input_ids=text).logits[:, start:]
    logits = session.logits(hidden)
    never = [12] if kind == "marian" else []
    assert (logits[..., never] == NEVER).all()
    kept = [token for token in range(VOCABULARY) if token not in never]
    torch.testing.assert_close(logits[..., kept].double(), expected[..., kept], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_changed_weights_are_seen_after_forgetting(kind: str) -> None:
    with torch.random.fork_rng(devices=[]):
        model = tf.AutoModelForSeq2SeqLM.from_config(FAMILIES[kind]).double().eval()
    model.load_state_dict(family(kind).state_dict())
    checked = CheckedSources(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    checked.session.forget_prompts()
    checked.reset([0, 1, 2, 3], [[3, 2], [4], [3, 5], [6]])
    checked.append(None, [[3, 4], [4, 2], [5, 5], [6, 7]], [1, 2, 0, 2])
    checked.probe()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
@pytest.mark.parametrize("kind", MAIN)
def test_other_precisions_and_devices(kind: str, dtype: torch.dtype, tolerance: float, device: str) -> None:
    with torch.random.fork_rng(devices=[]):
        single = tf.AutoModelForSeq2SeqLM.from_config(FAMILIES[kind]).to(device, dtype).eval()
    single.load_state_dict(family(kind).state_dict())
    single.generation_config = family(kind).generation_config
    states = []
    for model in (family(kind), single):
        session = Session(model, ROWS, CAPACITY)
        session.reset(np.arange(ROWS), [[3, 2, 3], [4], [3, 2, 3, 4, 5], [7, 7]])
        states.append(session.append(np.array([3, 1, 0]), np.array([[4, 2], [3, 4], [5, 6]]), np.array([2, 1, 2])))
    exact, close = states
    assert close.dtype == dtype
    scale = float(exact.abs().max())
    torch.testing.assert_close(close[[0, 2]].double().cpu(), exact[[0, 2]], rtol=0, atol=tolerance * scale)


def tiny(config: tf.PreTrainedConfig) -> tf.PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        return tf.AutoModelForSeq2SeqLM.from_config(config).eval()


REFUSED = {
    "training mode": lambda: tiny(FAMILIES["t5"]).train(),
    "start token for the decoder": lambda: tiny(tf.T5Config(**{**T5, "decoder_start_token_id": None})),
    "AutoModelForSeq2SeqLM": lambda: tf.T5Model(FAMILIES["t5"]).eval(),
    "UMT5.* off by": lambda: tiny(tf.UMT5Config(**T5)),
    "one vocabulary": lambda: tiny(
        tf.MarianConfig(
            **{**BART, "pad_token_id": 1},
            decoder_vocab_size=9,
            share_encoder_decoder_embeddings=False,
            decoder_start_token_id=1,
        )
    ),
    "max_position_embeddings": lambda: tiny(tf.BartConfig(**{**BART, "max_position_embeddings": 8})),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refuses_models_it_cannot_run(reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Session(REFUSED[reason](), 2, CAPACITY)


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda s: s.reset(np.array([0]), [[4] * (POSITIONS + 1)]), f"at most {POSITIONS} tokens"),
        (lambda s: s.reset(np.array([0]), [[VOCABULARY]]), "token ids from 0 to 12"),
        (lambda s: s.reset(np.array([0]), [[]]), "source of at least one token"),
        (lambda s: s.append(None, np.ones((4, 17), dtype=int)), "at most 16 tokens"),
    ],
)
def test_misuse_is_refused_and_changes_nothing(misuse: Callable[[Session], object], message: str) -> None:
    checked = CheckedSources(family("bart"))
    checked.reset([0, 1, 2, 3], [[4], [2], [3], [4]])
    with pytest.raises(ValueError, match=message):
        misuse(checked.session)
    checked.probe()
