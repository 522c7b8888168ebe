"""Sessions of causal models: full rows, prompts read once, logits, other precisions, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers as tf

from tests.decoding.checked import CAPACITY, CONFIGS, GROUPED, ROWS, TOLERANCE, Checked, model_of
from tests.families import VOCABULARY
from tw_env.decoding import cache as cache_module
from tw_env.decoding.session import Session


@pytest.fixture(params=CONFIGS)
def checked(request: pytest.FixtureRequest) -> Checked:
    checked = Checked(model_of(request.param))
    checked.reset([2, 0, 3, 1], [[1, 2, 3], [4], [1, 2, 3, 4, 5], [7, 7]])
    return checked


@pytest.mark.parametrize("pays", [True, False])
def test_full_rows_beside_shorter_ones(checked: Checked, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_gathering_pays", lambda *_: pays)
    checked.reset([0, 1], [[1, 2, 3, 4] * 4, [2] * (CAPACITY - 1)])
    checked.append(None, [[0, 0, 0], [4, 9, 9], [5, 6, 7], [5, 0, 0]], [0, 1, 3, 1])
    checked.rewind([0, 1], [CAPACITY - 1, CAPACITY - 1])
    checked.probe()


def calls_of(model: tf.PreTrainedModel) -> tuple[list[tuple[int, ...]], Callable[[], None]]:
    """Shapes of the token tables that the base model is given, and how to stop listening."""
    shapes: list[tuple[int, ...]] = []
    handle = model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes, handle.remove


def test_prompts_are_read_once() -> None:
    checked = Checked(model_of("llama"))
    shapes, stop = calls_of(checked.model)
    try:
        checked.session.reset(np.arange(ROWS), [[1, 2, 3], [4], [1, 2, 3], [4]])
        assert shapes == [(2, 3)]
        checked.session.reset(np.array([3, 0]), [[1, 2, 3], [4]])
        assert shapes == [(2, 3)]
        checked.session.forget_prompts()
        checked.session.reset(np.array([3]), [[1, 2, 3]])
        assert shapes == [(2, 3), (1, 3)]
    finally:
        stop()
    checked.texts = [[4], [4], [1, 2, 3], [1, 2, 3]]
    checked.probe()


@pytest.mark.parametrize("limit", ["number", "bytes"])
def test_prompt_memory_is_bounded(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = 2 * 2 * 3 * 16 // 2 * 8  # 2 layers, keys and values, 3 tokens, half the heads; float64
    if limit == "bytes":
        monkeypatch.setattr(cache_module, "PROMPT_BYTES", 2 * one)
    checked = Checked(model_of("llama"), prompt_memory=2 if limit == "number" else 100)
    for prompt in ([1, 2, 3], [4, 4, 4], [1, 2, 3], [5, 5, 5]):  # the last one drives out [4, 4, 4]
        checked.reset([0], [prompt])
    shapes, stop = calls_of(checked.model)
    try:
        checked.session.reset(np.array([1]), [[1, 2, 3]])
        assert shapes == []
        checked.session.reset(np.array([1]), [[4, 4, 4]])
        assert shapes == [(1, 3)]
    finally:
        stop()


def test_many_prompts_are_read_in_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "PREFILL_TOKENS", 6)
    checked = Checked(model_of("gpt2"), prompt_memory=0)
    checked.reset([1, 0, 3, 2], [[1] * 7, [4], [1, 2, 3], [1, 2]])
    checked.reset([1, 0], [[3, 3], [3, 3]])
    checked.probe()


@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_are_the_models(kind: str) -> None:
    model = model_of(kind)
    session = Session(model, 1, CAPACITY)
    hidden = session.append(None, np.array([[3, 1, 4]]))
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([[3, 1, 4]])).logits
    assert session.logits(hidden).dtype == torch.float32
    torch.testing.assert_close(session.logits(hidden).double(), expected, rtol=0, atol=TOLERANCE)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
def test_other_precisions_and_devices(dtype: torch.dtype, tolerance: float, device: str) -> None:
    double = Checked(model_of("llama"))
    single = tf.AutoModelForCausalLM.from_config(CONFIGS["llama"]).to(device, dtype).eval()
    single.load_state_dict(double.model.state_dict())
    session = Session(single, ROWS, CAPACITY)
    for each in (double.session, session):
        each.reset(np.arange(ROWS), [[1, 2, 3], [4], [1, 2, 3, 4, 5], [7, 7]])
    tokens = np.array([[1, 2], [3, 4], [5, 6]])
    arguments = np.array([3, 1, 0]), tokens, np.array([2, 1, 2])
    close, exact = session.append(*arguments), double.session.append(*arguments)
    assert close.dtype == dtype
    torch.testing.assert_close(close[[0, 2]].double().cpu(), exact[[0, 2]], rtol=0, atol=tolerance)


def tiny(config: tf.PreTrainedConfig) -> tf.PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        return tf.AutoModelForCausalLM.from_config(config).eval()


REFUSED = {
    "training mode": lambda: tiny(CONFIGS["llama"]).train(),
    "output head": lambda: tiny(CONFIGS["llama"]).base_model,
    "sliding attention window": lambda: tiny(tf.MistralConfig(**GROUPED, sliding_window=4)),
    "max_position_embeddings": lambda: tiny(tf.LlamaConfig(**{**GROUPED, "max_position_embeddings": 8})),
    "position": lambda: tiny(tf.BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=1, n_head=2)),
    "cache": lambda: tiny(tf.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)),
    "plain keys and values": lambda: tiny(
        tf.Lfm2Config(
            **{**GROUPED, "num_hidden_layers": 2},
            layer_types=["conv", "full_attention"],
            block_auto_adjust_ff_dim=False,
        )
    ),
    "soft-capped": lambda: tiny(
        tf.Gemma2Config(**GROUPED, head_dim=4, layer_types=["full_attention"] * 2, final_logit_softcapping=0.01)
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refuses_models_it_cannot_run(reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Session(REFUSED[reason](), 2, CAPACITY)


def test_refuses_a_model_that_ignores_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(CONFIGS["llama"])
    forward = model.base_model.forward

    def blind(input_ids: torch.Tensor, attention_mask=None, position_ids=None, past_key_values=None, **rest):  # type: ignore[no-untyped-def]
        return forward(input_ids, position_ids=None, past_key_values=past_key_values, **rest)

    monkeypatch.setattr(model.base_model, "forward", blind)
    with pytest.raises(ValueError, match="explicit masks and positions"):
        Session(model, 2, CAPACITY)


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda s: s.reset(np.array([0]), [[1] * 17]), "prompt of at most 16 tokens"),
        (lambda s: s.reset(np.array([0]), [[VOCABULARY]]), "token ids from 0 to 12"),
        (lambda s: s.reset(np.array([0, 1]), [[1]]), "one prompt per row"),
        (lambda s: s.reset(np.array([4]), [[1]]), "below 4"),
        (lambda s: s.append(None, np.full((4, 1), -1)), "token ids from 0 to 12"),
        (lambda s: s.append(None, np.ones((3, 1), dtype=int)), r"shape \(4, w\)"),
        (lambda s: s.append(np.array([1, 1]), np.ones((2, 1), dtype=int)), "at most once"),
        (lambda s: s.append(None, np.ones((4, 17), dtype=int)), "at most 16 tokens"),
        (lambda s: s.append(None, np.ones((4, 2), dtype=int), np.array([0, 3, 0, 0])), "from 0 to 2"),
        (lambda s: s.rewind(np.array([0]), np.array([2])), "only be shortened"),
    ],
)
def test_misuse_is_refused_and_changes_nothing(misuse: Callable[[Session], object], message: str) -> None:
    checked = Checked(model_of("llama"))
    checked.reset([0, 1, 2, 3], [[1], [2], [3], [4]])
    with pytest.raises(ValueError, match=message):
        misuse(checked.session)
    checked.probe()


def test_padding_past_a_count_may_hold_anything() -> None:
    checked = Checked(model_of("llama"))
    checked.append(None, [[1, -1], [2, 999], [3, 4], [-5, -5]], [1, 1, 2, 0])
    checked.probe()


@pytest.mark.parametrize("argument", [{"rows": 0}, {"capacity": 0}, {"prompt_memory": -1}])
def test_refuses_sizes_out_of_range(argument: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"Expected {next(iter(argument))} >="):
        Session(model_of("llama"), **{"rows": 2, "capacity": 8, **argument})
