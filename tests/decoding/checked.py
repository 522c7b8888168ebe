"""Sessions beside the texts that their rows should hold: causal models and encoder-decoders, of every kind."""

import numpy as np
import torch
import transformers as tf

from tests.families import FAMILIES, POSITIONS, VOCABULARY, family, states_of
from tw_env.decoding.session import Session

CAPACITY, ROWS = 16, 4
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


class CheckedSources(Checked):
    """As `Checked`, beside sources; a row's text begins with the opening, its last token left to `append`."""

    def __init__(self, model: tf.PreTrainedModel, rows: int = ROWS, **arguments: int) -> None:
        super().__init__(model, rows, **arguments)
        self.sources: list[list[int]] = [[] for _ in range(rows)]

    def reset(self, rows: list[int], prompts: list[list[int]]) -> None:
        self.session.reset(np.array(rows, dtype=int), prompts)
        for i, row in enumerate(rows):
            self.sources[row], self.texts[row] = list(prompts[i]), list(self.session.opening[:-1])
        assert self.session.lengths.tolist() == [len(text) for text in self.texts]

    def compare(self, row: int, hidden: torch.Tensor) -> None:
        whole = states_of(self.model, self.sources[row], self.texts[row])
        torch.testing.assert_close(hidden, whole[-len(hidden) :], rtol=0, atol=TOLERANCE)


def checked_of(kind: str, attention: str = "sdpa", **arguments: int) -> Checked:
    """A session of a kind of model, causal (`CONFIGS`) or encoder-decoder (`FAMILIES`), its rows still empty."""
    if kind in FAMILIES:
        return CheckedSources(family(kind, attention), **arguments)
    return Checked(model_of(kind, attention), **arguments)
