"""What is scored: a base model, an adapter on it, or a model of its own; found first, loaded later, and proved."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from smart.config import Problems, UserError, deciding, option, read_options
from smart.model.adapters import cast_adapters, fold_adapters, load_adapters, read_adapter_config
from smart.model.base import Base, Texts, check_special_tokens, find_base, load_tokenizer, weights_source
from smart.model.chat import MANIFEST_FIELD, ChatFormat, stop_at
from smart.model.chat_format import DATE
from smart.model.fingerprint import adapter_key, states
from smart.model.load import load_model
from smart.model.options import ChatOptions, ModelOptions, known_packages
from smart.model.pretrained import read_tokenizer
from smart.runtime.content import FileState, check_unchanged
from smart.runtime.files import hash_bytes
from smart.runtime.gpu import device_name
from smart.runtime.manifest import open_artifact, read_manifest
from smart.templates import SEPARATOR

if TYPE_CHECKING:
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBES = (
    "The capital of France is",
    "Question: What is 7 times 8?\nAnswer:",
    "Translate into German: Good morning, how are you?",
)
"""Prompts whose logits an adapter must change."""

Form = Literal["auto", "plain", "chat"]
"""How questions become prompts: as they are, through the model's template, or as the model was trained."""
_SPECIAL = ("bos_token", "eos_token", "pad_token")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Precision:
    """How a model is loaded and read."""

    dtype: str = "bfloat16"
    """bfloat16 or float32."""
    four_bit: bool | None = None
    """True: the base in 4 bits (NF4); None: as the adapter was trained, and never for a model without adapter."""
    batch_size: int | str = 8
    """Prompts at once; auto: as many as a GPU holds. In bfloat16 it changes scores: keep it fixed to compare."""
    max_length: int | None = None
    """Tokens of prompt and answer; None: what the model was trained on."""
    adapter_dtype: str = option("float32", added=True)
    """float32 or bfloat16."""
    merged: bool = option(False, added=True)
    """True: the adapters are in the weights of the model."""
    tf32: bool = option(False, added=True)
    """True: float32 is multiplied in TF32."""
    generation_batch_size: int | None = option(None, added=True)
    """Prompts at once while answers are generated; None: batch_size."""


@dataclass(frozen=True)
class ModelUnderTest:
    """A model that was found, before any of its weights is read."""

    name: str
    """Stem of the scores' folder."""
    base: Base
    adapter: Path | None
    adapter_key: str | None
    manifest: dict[str, Any]
    """The adapter's own, if smart made it: what it was trained on, and how."""
    precision: Precision
    states: Mapping[Path, FileState] = field(default_factory=dict, compare=False, repr=False)
    """The adapter's files as they were before they were hashed."""
    chat: ChatFormat | None = None
    """How conversations become prompts; None: prompts are plain text."""

    @property
    def four_bit(self) -> bool:
        if self.precision.merged:
            return False
        if self.precision.four_bit is not None or self.adapter is None:
            return bool(self.precision.four_bit)
        return bool(self.manifest.get("config", {}).get("tuning", {}).get("method") == "qlora")

    @property
    def separator(self) -> str:
        """Between prompt and answer, as in training."""
        return str(self.manifest.get("config", {}).get("separator", SEPARATOR))

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides answers: no other model's are taken for its own."""
        unusual: dict[str, Any] = {} if self.separator == SEPARATOR else {"separator": self.separator}
        if self.chat is not None:
            unusual = {"format": self.chat.to_manifest()}
        return {
            **unusual,
            "base": self.base.key,
            **({"text_files": self.base.text_key} if self.base.text_key else {}),
            "adapter": self.adapter_key,
            "attention": self.base.options.attention,
            **deciding(self.precision),
            "four_bit": self.four_bit,
        }

    def tokenizer(self, texts: Texts) -> PreTrainedTokenizerBase:
        """The adapter's, which is the one it was trained with; else the base's."""
        if self.adapter is not None and (self.adapter / "tokenizer_config.json").is_file():
            tokenizer = read_tokenizer(str(self.adapter), self.adapter)
            check_special_tokens(self.base, tokenizer)
            return tokenizer
        return load_tokenizer(self.base, texts)


def find_model(
    model: ModelOptions | None,
    adapter: Path | None,
    precision: Precision,
    form: Form = "auto",
    told: ChatOptions | None = None,
    *,
    cache: Path | None = None,
) -> ModelUnderTest:
    """Find what `model` and `adapter` mean; with an adapter, `model` may be None.

    Args:
        told: what the template is told; as in training, where it says nothing.
        cache: as `find_base` has it.

    Raises:
        UserError: where neither is given, one cannot be found, the two do not belong together, or the model has no
        template for the form that is asked for.
    """
    found = _find(model, adapter, precision, cache)
    if found.adapter is None and (precision.merged or precision.adapter_dtype != "float32"):
        asked = "merged=true" if precision.merged else f"adapter_dtype={precision.adapter_dtype}"
        raise UserError(f"{asked}: {found.name} has no adapters", "leave it out")
    return replace(found, chat=_find_format(found, form, told or ChatOptions()))


def _find(
    model: ModelOptions | None, adapter: Path | None, precision: Precision, cache: Path | None
) -> ModelUnderTest:
    if adapter is None:
        if model is None:
            raise UserError("model: name one (model=mistral_7b), or an adapter=FOLDER, which knows its model")
        base = find_base(model, cache)
        return ModelUnderTest(_stem(model.name), base, None, None, {}, precision)
    before = states(adapter)
    if not adapter.is_dir():
        raise UserError(f"adapter={adapter}: no such folder; python train.py prints where it wrote one")
    manifest = open_artifact(adapter) or {}
    if not (adapter / "adapter_config.json").is_file():
        return _whole_model(model, adapter, manifest, precision)
    config = read_adapter_config(adapter)
    trained_on = _trained_on(adapter, manifest, config)
    base = find_base(model or trained_on, cache)
    expected = manifest.get("base", {}).get("key")
    if (expected and expected != base.key) or (not expected and base.options.name != trained_on.name):
        raise UserError(
            f"adapter={adapter}: was trained on {trained_on.name}{f' ({expected})' if expected else ''}, not on"
            f" {base.options.name} ({base.key}); leave model out to take its own"
        )
    return ModelUnderTest(
        adapter.resolve().name, base, adapter, adapter_key(adapter), manifest, precision, before
    )


def _trained_on(adapter: Path, manifest: dict[str, Any], config: dict[str, Any]) -> ModelOptions:
    """The model that an adapter names, as options whose types are checked like those of a command line.

    Raises:
        UserError: where it names none, or weights in a package that conf/model does not name too.
    """
    said = manifest.get("config", {}).get("model") or {"name": config.get("base_model_name_or_path")}
    if not said.get("name"):
        raise UserError(
            f"adapter={adapter}: does not say on which model it was trained; name it with model=…"
        )
    package = said.get("gguf_package")
    if package is not None and package not in known_packages():
        raise UserError(
            f"adapter={adapter}: its model's weights came with the package {package}, and only what is named here is"
            f" looked up: name the model with model=… model.gguf_package={package}"
        )
    problems = Problems()
    options = read_options(ModelOptions, said, problems, prefix="model.")
    if options is None:
        raise UserError(f"{adapter / 'manifest.json'}: {problems.found[0]}")
    return options


def _whole_model(
    model: ModelOptions | None, folder: Path, manifest: dict[str, Any], precision: Precision
) -> ModelUnderTest:
    # What full tuning writes, or a merged model.
    if not (folder / "config.json").is_file():
        raise UserError(f"adapter={folder}: holds neither an adapter nor a model")
    if model is not None:
        raise UserError(f"model={model.name}: leave it out, since adapter={folder} is a whole model")
    name = folder.parent.name + "-merged" if folder.name == "merged" else folder.resolve().name
    if folder.name == "merged" and manifest:  # whose own manifest does not say how it was trained
        beside = read_manifest(folder.parent) or {}
        manifest = beside if beside.get("key") == manifest["key"] else manifest
    return ModelUnderTest(name, find_base(ModelOptions(str(folder))), None, None, manifest, precision)


def _find_format(found: ModelUnderTest, form: Form, told: ChatOptions) -> ChatFormat | None:
    """The format in which the model is asked; None: plain text."""
    said = found.manifest.get(MANIFEST_FIELD, {"kind": "plain"})
    trained = said["kind"]
    if told != ChatOptions() and form != "chat":
        raise UserError("chat.system, chat.thinking: are for format=chat", "add it")
    if form not in ("auto", trained) and found.manifest:
        log.warning(
            "format=%s: the model was trained with format=%s, and is asked in a form that it has not learnt.",
            form,
            trained,
        )
    if form == "plain" or (form, trained) == ("auto", "plain"):
        return None
    tokenizer = found.tokenizer(list)
    if form == "auto":
        try:
            return ChatFormat.of_manifest(said, tokenizer)
        except UserError as error:
            raise UserError(str(error), "with format=chat its own template is taken as it is") from error
    own = {name: said.get(name) for name in ("system", "thinking")}
    own |= {name: value for name, value in vars(told).items() if value is not None}
    return ChatFormat.of(tokenizer, **own, date=said.get("date", DATE))


def _stem(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def load_lm(
    tested: ModelUnderTest, tokenizer: PreTrainedTokenizerBase, models: Path, device: torch.device
) -> HFLM:
    """Load the weights into lm-eval's own class, and prove that the adapter does something.

    Args:
        models: cache of base models that the hub does not have.

    Raises:
        UserError: for an adapter that does not fit, or changes nothing.
    """
    from transformers.trainer_utils import align_special_tokens

    source = weights_source(tested.base, models)
    dtype = tested.precision.dtype
    model: Any = load_model(tested.base, source, dtype=dtype, four_bit=tested.four_bit, device=device)
    if not tested.four_bit:
        model = model.to(device)
    if tested.adapter is not None:
        align_special_tokens(model, tokenizer)
        model = load_adapters(model, tested.adapter)
        check_unchanged(tested.states)
        cast_adapters(model, tested.precision.adapter_dtype)
        check_adapter(model, tokenizer, tested.adapter)
        if tested.precision.merged:
            model, _ = fold_adapters(tested.base, model, dtype)
    else:
        probe_logits(model.eval(), tokenizer)
    if tested.chat is not None:
        _stop_at_end_of_turn(model, tokenizer, tested.chat)
    return wrap(model.eval(), tokenizer, tested)


def _stop_at_end_of_turn(model: Any, tokenizer: PreTrainedTokenizerBase, form: ChatFormat) -> None:
    """Let generation end with a turn, which need not end with the tokenizer's end of sequence."""
    stop_at(model.generation_config, form.stop_ids(tokenizer.eos_token_id))


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tested: ModelUnderTest) -> HFLM:
    """lm-eval's class around a model that is loaded, or has only its shapes."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval.models.huggingface").setLevel(logging.ERROR)  # that a model was handed over
    return HFLM(
        pretrained=model,
        backend="causal",
        tokenizer=tokenizer,
        batch_size=tested.precision.batch_size,
        max_length=tested.precision.max_length or tested.base.context,
        # A template writes the beginning of sequence itself, where there is one; in training there was no other.
        add_bos_token=None if tested.chat is None else False,
    )


def check_adapter(model: Any, tokenizer: PreTrainedTokenizerBase, adapter: Path) -> list[float]:
    """The largest change of a logit by the adapter on each of the probes: float (3,).

    Raises:
        UserError: if one does not change at all, or is not a number.
    """
    model.eval()
    with model.disable_adapter():
        plain = probe_logits(model, tokenizer)
    adapted = probe_logits(model, tokenizer)
    changes = [
        float((one - other).nan_to_num().abs().max()) for one, other in zip(adapted, plain, strict=True)
    ]
    if not all(change > 0 for change in changes):
        raise UserError(
            f"adapter={adapter}: leaves the model as it is (largest changes of a logit on three prompts:"
            f" {', '.join(f'{change:.2g}' for change in changes)}); it was not trained, or is not loaded"
        )
    log.info("The adapter changes logits by up to %s.", ", ".join(f"{change:.2g}" for change in changes))
    return changes


def probe_logits(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[torch.Tensor]:
    """The model's logits on each of the probes: float (1, tokens, vocabulary).

    Raises:
        UserError: if one is not a number: scores would be those of no model.
    """
    import torch

    found = []
    for probe in PROBES:
        ids = tokenizer(probe, return_tensors="pt", return_token_type_ids=False).to(model.device)
        with torch.no_grad():
            logits = model(**ids).logits.float()
        if (
            torch.isnan(logits).any() or torch.isposinf(logits).any()
        ):  # -inf: a token that the model never says
            raise UserError(
                f"the model's logits on {probe!r} are not all numbers",
                "its weights are damaged, or leave the range of dtype: try dtype=float32",
            )
        found.append(logits)
    return found


def settings(lm: HFLM, tested: ModelUnderTest) -> dict[str, Any]:
    """For the record: how text became tokens and tokens became answers."""
    first = lm.tok_encode("a")
    return {
        **tested.identity,
        "model": tested.base.options.name,
        "adapter_folder": None if tested.adapter is None else str(tested.adapter),
        "batch_size": lm.batch_size,
        "max_length": lm.max_length,
        "device": device_name(lm.device),
        "beginning_of_sequence": lm.tokenizer.decode(first[0]) if len(first) > 1 else None,
        "padding": {"likelihood": "right", "generation": "left"},
        "tokenizer": hash_bytes([lm.tokenizer.backend_tokenizer.to_str().encode()]),
        "special_tokens": {name: getattr(lm.tokenizer, f"{name}_id") for name in _SPECIAL},
        "generation": generation_settings(lm.model),
    }


def generation_settings(model: Any) -> dict[str, Any]:
    """What the model's own generation settings change of the defaults; a task's settings win over them."""
    found = getattr(model, "generation_config", None)
    changed = found.to_diff_dict() if found is not None else {}
    return {key: value for key, value in sorted(changed.items()) if key != "transformers_version"}
