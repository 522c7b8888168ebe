"""Names to models and pairs of models, once per process; refuses pairs whose vocabularies differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from tw_env.decoding.checks import check_kinds, check_weights, end_tokens_of, shared_vocabulary
from tw_env.decoding.conventions import Conventions, conventions_of

MEMORY = "memory:"  # prefix of models that live in this process only
DTYPES = ("float32", "float64", "bfloat16", "float16")

Key = TypeVar("Key")
Value = TypeVar("Value")

_MODELS: dict[tuple[str, ...], PreTrainedModel] = {}
_TOKENIZERS: dict[str, PreTrainedTokenizerBase] = {}
_PAIRS: dict[tuple[str, ...], Pair] = {}


@dataclass(frozen=True, eq=False)
class Pair:
    """A student and a teacher that speak the same tokens.

    Attributes:
        student, teacher: causal models or encoder-decoders, both of one kind, in evaluation mode; their parameters
            need no gradient.
        tokenizer: the student's; text means the same tokens to both.
        vocabulary: how many token ids both models know; logits beyond are padding or the student's own.
        end_tokens: ids that end a text, the same for both.
        name: "student < teacher", for tables and messages.
    """

    student: PreTrainedModel
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    vocabulary: int
    end_tokens: tuple[int, ...]
    name: str

    @property
    def encoder_decoder(self) -> bool:
        """Whether prompts are sources for an encoder; else they begin the text."""
        return bool(self.teacher.config.is_encoder_decoder)

    @property
    def conventions(self) -> Conventions:
        """How both begin and end what they write."""
        return conventions_of(self.teacher)

    @property
    def ask_tokens(self) -> tuple[int, ...]:
        """Ids of the student's own tokens that call the teacher, `ask_token_ids` of its config; empty without any."""
        return tuple(getattr(self.student.config, "ask_token_ids", None) or ())

    @property
    def ask_doubt(self) -> float:
        """Weight of the student's doubt in its log-odds of asking, `ask_doubt` of its config; see `asking`."""
        return float(getattr(self.student.config, "ask_doubt", 0.0))

    @property
    def reads_rules(self) -> bool:
        """Whether the student reads the rule's words before its prompt, `reads_rules` of its config."""
        return bool(getattr(self.student.config, "reads_rules", False))


def resolve_device(device: str = "auto") -> torch.device:
    """The device that "auto", "cpu", "cuda" or "cuda:1" means here; "auto" is the current GPU where there is
    one.

    Raises:
        ValueError: an unknown name, or a GPU that isn't there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if count else "cpu"
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return torch.device("cpu")
    if kind != "cuda" or (":" in device and not number.isdecimal()):
        raise ValueError(f"Expected device 'auto', 'cpu', 'cuda' or 'cuda:N'; got {device!r}.")
    if not count:
        raise ValueError(
            f"Expected a machine with a CUDA device for device {device!r}; found none. Use 'cpu' or 'auto'."
        )
    index = int(number) if number else torch.cuda.current_device()
    if index >= count:
        raise ValueError(f"Expected a CUDA device number below {count}; got {device!r}. Use 'cuda' or 'auto'.")
    return torch.device("cuda", index)


def load_model(name: str, device: str = "auto", dtype: str = "float32") -> PreTrainedModel:
    """The frozen model at a folder or hub id, causal or encoder-decoder, read once per process, device and dtype.

    A folder that was written anew is read anew. Models registered in memory are returned as they are, on
    their own device and in their own dtype.

    Raises:
        ValueError: no such folder or hub id, weights that are pickled, incomplete or damaged, an unknown device or
            dtype.
    """
    if name.startswith(MEMORY):
        return _registered(_MODELS, (name,), name)
    if dtype not in DTYPES:
        raise ValueError(f"Expected dtype to be one of {', '.join(DTYPES)}; got {dtype!r}.")
    place, source = resolve_device(device), _resolve(name)
    key = (source, _stamp(source), str(place), dtype)
    if key not in _MODELS:
        for stale in [known for known in _MODELS if known[0] == source and known[1] != key[1]]:
            del _MODELS[stale]
        with _quiet():
            _MODELS[key] = _read_model(name, source, getattr(torch, dtype)).to(place)
    return _MODELS[key]


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer at a folder or hub id, once per process.

    Raises:
        ValueError: no such folder or hub id, or no tokenizer in it.
    """
    if name.startswith(MEMORY):
        return _registered(_TOKENIZERS, name, name)
    source = _resolve(name)
    if source not in _TOKENIZERS:
        try:
            with _quiet():
                _TOKENIZERS[source] = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # tokenizer files fail in many ways, all of them the reader's to mend
            raise ValueError(
                f"Expected a tokenizer in {name!r}; got {type(error).__name__}: {_first_line(error)} "
                "Save one there with tokenizer.save_pretrained."
            ) from error
    return _TOKENIZERS[source]


def load_pair(student: str, teacher: str, device: str = "auto", dtype: str = "float32") -> Pair:
    """Two models of one kind as a pair, once per process; both may be folders, hub ids or names in memory.

    The vocabulary maps of the two tokenizers must be equal, apart from tokens that the student's config lists
    in `student_tokens` and that come after all others.

    Raises:
        ValueError: what `load_model` and `load_tokenizer` refuse; kinds, vocabularies, end tokens or conventions that
            differ.
    """
    sources = _resolve(student), _resolve(teacher)
    key = (*sources, device, dtype, *map(_stamp, sources))
    if key not in _PAIRS:
        tokenizers = load_tokenizer(student), load_tokenizer(teacher)
        models = load_model(student, device, dtype), load_model(teacher, device, dtype)
        names = student, teacher
        if models[0].device != models[1].device:
            raise ValueError(
                f"Expected student and teacher on one device; got {names[0]!r} on {models[0].device} and "
                f"{names[1]!r} on {models[1].device}. Move the one that lives in memory."
            )
        check_kinds(models, names)
        vocabulary = shared_vocabulary(models, tokenizers, names)
        ends = end_tokens_of(models, tokenizers, names, vocabulary)
        _PAIRS[key] = Pair(*models, tokenizers[0], vocabulary, ends, f"{student} < {teacher}")
    return _PAIRS[key]


def register_model(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a model in memory a name, "memory:...", that stands wherever a folder or hub id does.

    The model is frozen and put in evaluation mode. A name that is taken gets the new model.

    Raises:
        ValueError: a name without the prefix "memory:".
    """
    if not name.startswith(MEMORY) or name == MEMORY:
        raise ValueError(f"Expected a name that begins with {MEMORY!r}, such as '{MEMORY}tiny'; got {name!r}.")
    _MODELS[(name,)] = model.eval().requires_grad_(False)
    _TOKENIZERS[name] = tokenizer
    for pair in [pair for pair in _PAIRS if name in pair[:2]]:
        del _PAIRS[pair]


def register_pair(
    name: str, student: PreTrainedModel, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Pair:
    """Register both models as `name`-student and `name`-teacher, and return the pair.

    Raises:
        ValueError: what `register_model` and `load_pair` refuse.
    """
    register_model(f"{name}-student", student, tokenizer)
    register_model(f"{name}-teacher", teacher, tokenizer)
    return load_pair(f"{name}-student", f"{name}-teacher")


def _registered(known: dict[Key, Value], key: Key, name: str) -> Value:
    if key not in known:
        names = ", ".join(sorted(each for each in _TOKENIZERS if each.startswith(MEMORY))) or "none"
        raise ValueError(f"Expected a registered model; got {name!r}, known: {names}. Call register_model first.")
    return known[key]


def _resolve(name: str) -> str:
    """A folder as an absolute path; a hub id or a name in memory as it is."""
    if name.startswith(MEMORY):
        return name
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"Expected a model folder with config.json; {str(folder)!r} has none. Name the folder that "
                "model.save_pretrained wrote."
            )
        return str(folder.resolve())
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name:
        raise ValueError(f"Expected a model folder or a hub id; there is no folder {str(folder)!r}. Check the path.")
    return name


def _stamp(source: str) -> str:
    """When a folder's config or weights were last written; empty for a hub id or a name in memory."""
    if source.startswith(MEMORY) or not Path(source).is_dir():
        return ""
    files = [path for pattern in ("config.json", "*.safetensors") for path in Path(source).glob(pattern)]
    return str(max((path.stat().st_mtime_ns for path in files), default=0))


def _read_model(name: str, source: str, dtype: torch.dtype) -> PreTrainedModel:
    folder = Path(source) if Path(source).is_dir() else _hub_folder(name)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"Expected a config.json that this version of transformers knows in {name!r}; got "
            f"{_first_line(error)} Models that bring their own code are not run."
        ) from error
    check_weights(name, folder)
    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        model, report = loader.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        check_weights(name, folder)  # a hub id's files are here only now
        raise ValueError(
            f"Expected a {'sequence-to-sequence' if config.is_encoder_decoder else 'causal'} language model with its "
            f"weights in {name!r}; got {_first_line(error)} "
            "Check the folder or hub id, and that the download is complete."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"Expected weights for every parameter of {type(model).__name__}; {name!r} lacks {len(missing)}, "
            f"such as {missing[0]!r}. Save the whole model with model.save_pretrained."
        )
    return model.eval().requires_grad_(False)


def _hub_folder(name: str) -> Path:
    """The folder of the snapshot that `name` means, its config.json fetched if need be."""
    try:
        return Path(cached_file(name, "config.json")).parent
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected a model folder or a hub id that can be reached; got {name!r}: {_first_line(error)} "
            "Check the spelling and the connection, or name a folder."
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".:") + "."


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without notes and progress bars, as they were afterwards."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
