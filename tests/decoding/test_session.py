"""A session's hidden states equal those of a full forward pass of each row alone, whatever came before."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tw_env.decoding import cache as cache_module
from tw_env.decoding.session import Session

VOCABULARY, POSITIONS, CAPACITY, ROWS = 13, 24, 16, 4
TOLERANCE = 1e-5  # models in double precision whose norms compute in single
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": POSITIONS, "bos_token_id": None, "eos_token_id": 0,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}
GPT2 = tf.GPT2Config(
    vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=4, n_positions=POSITIONS, bos_token_id=0, eos_token_id=0
)
CONFIGS: dict[str, tf.PreTrainedConfig] = {
    "llama": tf.LlamaConfig(**GROUPED),
    "llama-tied": tf.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "gpt2": GPT2,
    "gpt_neox": tf.GPTNeoXConfig(**SIZES),
    "qwen2": tf.Qwen2Config(**GROUPED),
    "qwen3": tf.Qwen3Config(**GROUPED, head_dim=8),
    "wide-window": tf.MistralConfig(**GROUPED, sliding_window=CAPACITY),
    "scaled-head": tf.GraniteConfig(**GROUPED, logits_scaling=3.0),
}
MODELS: dict[str, tf.PreTrainedModel] = {}


def model_of(kind: str, attention: str = "sdpa") -> tf.PreTrainedModel:
    """A random model in double precision, its weights large enough for attention to matter."""
    name = f"{kind}/{attention}"
    if name not in MODELS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = tf.AutoModelForCausalLM.from_config(CONFIGS[kind], attn_implementation=attention)
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    torch.nn.init.normal_(parameter, std=0.4)
        MODELS[name] = model.double().eval().requires_grad_(False)
    return MODELS[name]


class Checked:
    """A session beside the texts that its rows should hold; each operation is compared with full forwards."""

    def __init__(self, model: tf.PreTrainedModel, rows: int = ROWS, **arguments: int) -> None:
        self.model, self.session = model, Session(model, rows, CAPACITY, **arguments)
        self.texts: list[list[int]] = [[] for _ in range(rows)]

    def reset(self, rows: list[int], prompts: list[list[int]]) -> None:
        self.session.reset(np.array(rows, dtype=int), prompts)
        for i, row in enumerate(rows):
            self.texts[row] = list(prompts[i])
        assert self.session.lengths.tolist() == [len(text) for text in self.texts]

    def append(self, rows: list[int] | None, tokens: list[list[int]], counts: list[int] | None = None) -> None:
        table = np.array(tokens, dtype=int)
        hidden = self.session.append(None if rows is None else np.array(rows, dtype=int), table, counts)
        assert hidden.shape == (*table.shape, self.session.hidden_size)
        for i, row in enumerate(range(len(self.texts)) if rows is None else rows):
            count = table.shape[1] if counts is None else counts[i]
            if count:
                self.texts[row] += tokens[i][:count]
                self.compare(row, hidden[i, :count])
        assert self.session.lengths.tolist() == [len(text) for text in self.texts]

    def rewind(self, rows: list[int], lengths: list[int]) -> None:
        self.session.rewind(np.array(rows, dtype=int), np.array(lengths, dtype=int))
        for row, length in zip(rows, lengths, strict=True):
            self.texts[row] = self.texts[row][:length]
        assert self.session.lengths.tolist() == [len(text) for text in self.texts]

    def compare(self, row: int, hidden: torch.Tensor) -> None:
        """The last states of the row's text, (w, hidden)."""
        with torch.inference_mode():
            whole = self.model.base_model(input_ids=torch.tensor([self.texts[row]])).last_hidden_state[0]
        torch.testing.assert_close(hidden, whole[-len(hidden) :], rtol=0, atol=TOLERANCE)

    def probe(self) -> None:
        """One more token everywhere shows whether any row's memory was damaged."""
        self.append(None, [[5]] * len(self.texts))


@pytest.fixture(params=CONFIGS)
def checked(request: pytest.FixtureRequest) -> Checked:
    checked = Checked(model_of(request.param))
    checked.reset([2, 0, 3, 1], [[1, 2, 3], [4], [1, 2, 3, 4, 5], [7, 7]])
    return checked


def test_ragged_prefill_then_single_tokens(checked: Checked) -> None:
    checked.probe()
    checked.append(None, [[1], [2], [3], [4]])


def test_rows_of_one_length(checked: Checked) -> None:
    checked.reset([0, 1, 2, 3], [[1, 2], [3, 4], [5, 6], [1, 1]])
    checked.append(None, [[1, 2], [2, 3], [3, 1], [4, 4]])
    checked.probe()


def test_unequal_catch_up(checked: Checked) -> None:
    checked.append(None, [[1, 2, 3], [4, 0, 0], [5, 6, 0], [0, 0, 0]], [3, 1, 2, 0])
    checked.append([3, 1], [[8, 9], [9, 0]], [2, 1])
    checked.probe()


@pytest.mark.parametrize("pays", [True, False])
def test_a_subset_gathered_or_run_with_all(checked: Checked, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_gathering_pays", lambda *_: pays)
    checked.append([3, 0], [[8, 9], [9, 1]])
    checked.append([1, 0, 2], [[8, 9, 1], [9, 1, 1], [3, 0, 0]], [2, 0, 1])
    checked.append([2, 3, 0, 1], [[1], [2], [3], [4]])
    checked.probe()


def test_rewind_and_write_something_else(checked: Checked) -> None:
    checked.append(None, [[1, 2, 3]] * ROWS)
    checked.rewind([0, 2], [2, 3])
    checked.append([2, 0], [[9, 8], [7, 6]])
    checked.rewind([1], [0])
    checked.append([1], [[4, 4, 2]])
    checked.probe()


def test_reset_of_one_row_leaves_the_others(checked: Checked) -> None:
    checked.append(None, [[1, 2, 3, 4]] * ROWS)
    checked.reset([2], [[6]])
    checked.probe()


@pytest.mark.parametrize("pays", [True, False])
def test_full_rows_beside_shorter_ones(checked: Checked, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_gathering_pays", lambda *_: pays)
    checked.reset([0, 1], [[1, 2, 3, 4] * 4, [2] * (CAPACITY - 1)])
    checked.append(None, [[0, 0, 0], [4, 9, 9], [5, 6, 7], [5, 0, 0]], [0, 1, 3, 1])
    checked.rewind([0, 1], [CAPACITY - 1, CAPACITY - 1])
    checked.probe()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_eager_attention(kind: str) -> None:
    checked = Checked(model_of(kind, "eager"))
    checked.reset([0, 1, 3], [[1, 2, 3], [4], [1, 2]])
    checked.append([3, 1], [[1, 2], [3, 0]], [2, 1])
    checked.probe()


TOKEN = st.integers(0, VOCABULARY - 1)
ROW_SETS = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS, unique=True)


@settings(max_examples=15)
@given(st.data())
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_any_string_of_operations(kind: str, data: st.DataObject) -> None:
    checked = Checked(model_of(kind), prompt_memory=2)
    for verb in data.draw(st.lists(st.sampled_from(["reset", "append", "append", "rewind"]), min_size=2, max_size=10)):
        rows = data.draw(ROW_SETS)
        if verb == "reset":
            checked.reset(rows, [data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=4)) for _ in rows])
        elif verb == "rewind":
            checked.rewind(rows, [data.draw(st.integers(0, len(checked.texts[row]))) for row in rows])
        else:
            width = data.draw(st.integers(1, 3))
            asked = data.draw(st.sampled_from([rows, None]))
            written = range(ROWS) if asked is None else rows
            room = [min(width, CAPACITY - len(checked.texts[row])) for row in written]
            counts = [data.draw(st.integers(0, most)) for most in room]
            if min(room) == width and data.draw(st.booleans()):
                counts = None
            checked.append(asked, [data.draw(st.lists(TOKEN, min_size=width, max_size=width)) for _ in written], counts)


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
