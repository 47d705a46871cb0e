"""Published chat templates, written out anew from what their documentation says: roles, markers, order.

Each keeps what makes it hard: Llama's date and calls without text, Qwen3's thoughts that vanish from earlier turns,
Mistral's system text and tools in the last user turn, Gemma's alternation, OLMo's other end of the last turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from smart.model.tiny import tiny_config, train_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

_CHATML = (
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}",
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
)

SMOLLM2 = f"""\
{{%- for m in messages %}}
{{%- if loop.first and m.role != 'system' %}}{{{{ '<|im_start|>system\nYou are SmolLM.<|im_end|>\n' }}}}{{% endif %}}
{{{{- '' }}}}{_CHATML[0]}
{{%- endfor %}}
{{{{- '' }}}}{_CHATML[1]}"""

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
  {%- if strftime_now is defined %}{% set date_string = strftime_now("%d %b %Y") %}
  {%- else %}{% set date_string = "26 Jul 2024" %}{% endif %}
{%- endif %}
{%- set system = '' %}
{%- if messages[0].role == 'system' %}
  {%- set system = messages[0].content | trim %}{% set messages = messages[1:] %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools %}{{ 'Environment: ipython\n' }}{% endif %}
{{- 'Cutting Knowledge Date: December 2023\nToday Date: ' + date_string + '\n\n' + system + '<|eot_id|>' }}
{%- if tools %}
  {{- '<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions, please respond with a JSON.\n\n' }}
  {%- for tool in tools %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}
  {{- messages[0].content | trim + '<|eot_id|>' }}
  {%- set messages = messages[1:] %}
{%- endif %}
{%- for m in messages %}
  {%- if not (m.role in ['ipython', 'tool'] or 'tool_calls' in m) %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}
  {%- elif 'tool_calls' in m %}
    {%- if m.tool_calls | length != 1 %}
      {{- raise_exception('This model only supports single tool-calls at once!') }}
    {%- endif %}
    {%- set call = m.tool_calls[0].function %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name + '", "parameters": ' }}
    {{- call.arguments | tojson }}{{ '}<|eot_id|>' }}
  {%- else %}
    {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content | tojson + '<|eot_id|>' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

_QWEN_TOOLS = """\
  {{- '# Tools\n\nYou may call functions.\n<tools>' }}
  {%- for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}
  {{- '\n</tools>\nFor each call, return JSON within <tool_call></tool_call>.<|im_end|>\n' }}"""

_QWEN_CALLS = """\
{%- for call in m.tool_calls %}
  {{- '\n' if (loop.first and m.content) or not loop.first else '' }}
  {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
  {{- call.function.arguments | tojson + '}\n</tool_call>' }}
{%- endfor %}"""

_QWEN_RESULTS = """\
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"""

QWEN25 = f"""\
{{%- set system = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}}
{{%- if messages[0].role == 'system' %}}{{% set system = messages[0].content %}}{{% endif %}}
{{{{- '<|im_start|>system\n' + system }}}}
{{%- if tools %}}{{{{ '\n\n' }}}}{_QWEN_TOOLS}
{{%- else %}}{{{{ '<|im_end|>\n' }}}}{{% endif %}}
{{%- for m in messages %}}
{{%- if m.role == 'user' or (m.role == 'system' and not loop.first)
  or (m.role == 'assistant' and not m.tool_calls) %}}{_CHATML[0]}
{{%- elif m.role == 'assistant' %}}{{{{ '<|im_start|>assistant\n' + m.content }}}}{_QWEN_CALLS}{{{{ '<|im_end|>\n' }}}}
{{%- elif m.role == 'tool' %}}{_QWEN_RESULTS}
{{%- endif %}}
{{%- endfor %}}
{{{{- '' }}}}{_CHATML[1]}"""

QWEN3 = f"""\
{{%- if tools %}}
  {{{{- '<|im_start|>system\n' }}}}
  {{%- if messages[0].role == 'system' %}}{{{{ messages[0].content + '\n\n' }}}}{{% endif %}}{_QWEN_TOOLS}
{{%- elif messages[0].role == 'system' %}}
  {{{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}}}
{{%- endif %}}
{{%- set ns = namespace(query=-1) %}}
{{%- for m in messages %}}
  {{%- if m.role == 'user' and not m.content.startswith('<tool_response>') %}}
    {{%- set ns.query = loop.index0 %}}
  {{%- endif %}}
{{%- endfor %}}
{{%- for m in messages %}}
{{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}}{_CHATML[0]}
{{%- elif m.role == 'assistant' %}}
  {{%- set thought = m.reasoning_content or '' %}}{{% set content = m.content %}}
  {{%- if not thought and '</think>' in content %}}
    {{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}}
    {{%- set content = content.split('</think>')[-1].lstrip('\n') %}}
  {{%- endif %}}
  {{{{- '<|im_start|>assistant\n' }}}}
  {{%- if loop.index0 > ns.query and (loop.last or thought) %}}
    {{{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}}}
  {{%- else %}}{{{{ content }}}}{{% endif %}}
  {{%- if m.tool_calls %}}{_QWEN_CALLS}{{% endif %}}
  {{{{- '<|im_end|>\n' }}}}
{{%- elif m.role == 'tool' %}}{_QWEN_RESULTS}
{{%- endif %}}
{{%- endfor %}}
{{{{- '' }}}}{_CHATML[1]}
{{%- if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}}
  {{{{- '<think>\n\n</think>\n\n' }}}}
{{%- endif %}}"""

MISTRAL = """\
{%- set system = '' %}
{%- if messages[0].role == 'system' %}
  {%- set system = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}
{%- endif %}
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- set ns = namespace(index=0) %}
{%- for m in messages if m.role != 'tool' and not m.tool_calls %}
  {%- if (m.role == 'user') != (ns.index % 2 == 0) %}
    {{- raise_exception('After the optional system message, conversation roles must alternate user/assistant') }}
  {%- endif %}
  {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for m in messages %}
  {%- if m.role == 'user' %}
    {%- if tools and m == users[-1] %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
    {{- '[INST] ' + (system if m == users[-1] else '') + m.content + '[/INST]' }}
  {%- elif m.tool_calls %}
    {{- '[TOOL_CALLS] [' }}
    {%- for call in m.tool_calls %}
      {{- '{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson + '}' }}
      {{- ', ' if not loop.last else ']' + eos_token }}
    {%- endfor %}
  {%- elif m.role == 'assistant' %}{{ ' ' + m.content | trim + eos_token }}
  {%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS] {"content": ' + m.content | tojson + '}[/TOOL_RESULTS]' }}
  {%- endif %}
{%- endfor %}"""

MISTRAL1 = """\
{{- bos_token }}
{%- for m in messages %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
  {%- endif %}
  {%- if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}
{%- endfor %}"""

GEMMA2 = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
  {%- endif %}
  {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
  {{- m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

GEMMA3 = """\
{{- bos_token }}
{%- set prefix = '' %}
{%- if messages[0].role == 'system' %}
  {%- set prefix = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}
{%- endif %}
{%- for m in messages %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
  {%- endif %}
  {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (prefix if loop.first else '') }}
  {{- m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

TULU3 = """\
{%- for m in messages %}
  {%- if m.role in ['system', 'user'] %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}
  {%- elif m.role == 'assistant' %}
    {{- '<|assistant|>\n' + m.content + eos_token + ('' if loop.last else '\n') }}
  {%- endif %}
  {%- if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}
{%- endfor %}"""

OLMO2 = "{{- bos_token }}\n" + TULU3

OLMO3 = f"""\
{{%- if messages[0].role != 'system' %}}
  {{{{- '<|im_start|>system\nYou are Olmo. <functions>' + (tools | tojson if tools else '') }}}}
  {{{{- '</functions><|im_end|>\n' }}}}
{{%- endif %}}
{{%- for m in messages %}}
{{%- if m.role == 'system' %}}
  {{{{- '<|im_start|>system\n' + m.content }}}}
  {{%- if tools %}}{{{{ ' <functions>' + tools | tojson + '</functions>' }}}}{{% endif %}}
  {{{{- '<|im_end|>\n' }}}}
{{%- elif m.role == 'user' %}}{_CHATML[0]}
{{%- elif m.role == 'assistant' %}}
  {{{{- '<|im_start|>assistant\n' + m.content }}}}
  {{%- if m.tool_calls %}}
    {{{{- '<function_calls>' }}}}
    {{%- for call in m.tool_calls %}}
      {{{{- call.function.name + '(' }}}}
      {{%- for key, value in call.function.arguments.items() %}}
        {{{{- key + '=' + value | tojson + (', ' if not loop.last else '') }}}}
      {{%- endfor %}}
      {{{{- ')' + ('\n' if not loop.last else '') }}}}
    {{%- endfor %}}
    {{{{- '</function_calls>' }}}}
  {{%- endif %}}
  {{{{- eos_token if loop.last else '<|im_end|>\n' }}}}
{{%- elif m.role == 'tool' %}}{{{{ '<|im_start|>environment\n' + m.content + '<|im_end|>\n' }}}}
{{%- endif %}}
{{%- endfor %}}
{{{{- '' }}}}{_CHATML[1]}"""

SMOLLM3 = """\
{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}
{%- set mode = '/think' if enable_thinking else '/no_think' %}
{%- set instructions = custom_instructions or '' %}
{%- if messages[0].role == 'system' %}
  {%- set instructions = messages[0].content %}{% set messages = messages[1:] %}
{%- endif %}
{{- '<|im_start|>system\n## Metadata\n\nToday Date: ' + strftime_now("%d %B %Y") + '\nReasoning Mode: ' + mode }}
{{- '\n\n## Custom Instructions\n\n' + (instructions or 'You are SmolLM.') + '\n\n' }}
{%- if xml_tools or tools %}{{ '### Tools\n\n' + (xml_tools or tools) | string + '\n\n' }}{% endif %}
{{- '<|im_end|>\n' }}
{%- for m in messages %}
  {%- if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}
  {%- elif m.role == 'assistant' %}
    {%- generation %}
    {{- '<|im_start|>assistant\n' + ('' if enable_thinking else '<think>\n\n</think>\n') }}
    {{- m.content.lstrip('\n') + '<|im_end|>\n' }}
    {%- endgeneration %}
  {%- elif m.role == 'tool' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\n' + ('' if enable_thinking else '<think>\n\n</think>\n') }}
{%- endif %}"""


PHI3 = """\
{%- for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}
{{- '<|assistant|>\n' if add_generation_prompt else eos_token }}"""


@dataclass(frozen=True)
class Published:
    """A template and the tokens of its model."""

    template: str
    control: tuple[str, ...]
    """Control tokens beside the beginning and the end of sequence."""
    eos: str
    bos: str | None = None
    adds_bos: bool = False
    """Whether the tokenizer puts the beginning before a text of its own accord."""
    kind: str = "bytes"
    """Of the tokenizer. bytes: pairs of bytes, with line feeds by themselves, as most do today; falcon, llama, mistral:
    as smart.model.tiny trains them (falcon's joins line feeds with what follows, as GPT-2's does)."""
    end: str = ""
    """The end of turn; "": the end of sequence."""
    behind: str = ""
    """What stands behind the end of the last turn."""
    strips: bool = False
    """Whether its control tokens take white space that follows them."""

    @property
    def end_of_turn(self) -> str:
        return self.end or self.eos


_IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
_INST = tuple(f"[{end}{name}]" for name in ("INST", "AVAILABLE_TOOLS", "TOOL_RESULTS") for end in ("", "/"))
_TURNS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")

TEMPLATES: dict[str, Published] = {
    "smollm2": Published(SMOLLM2, _IM, "<|im_end|>", "<|im_start|>", behind="\n", kind="falcon"),
    "llama3": Published(
        LLAMA3, _HEADERS, "<|end_of_text|>", "<|begin_of_text|>", adds_bos=True, end="<|eot_id|>"
    ),
    "llama3 of GPT-2": Published(
        LLAMA3, _HEADERS, "<|end_of_text|>", "<|begin_of_text|>", end="<|eot_id|>", kind="falcon"
    ),
    "qwen2.5": Published(QWEN25, _IM, "<|im_end|>", behind="\n"),
    "qwen3": Published(QWEN3, _IM, "<|im_end|>", behind="\n"),
    "mistral": Published(MISTRAL, (*_INST, "[TOOL_CALLS]"), "</s>", "<s>", adds_bos=True, kind="mistral"),
    "mistral1": Published(MISTRAL1, (), "</s>", "<s>", adds_bos=True, kind="llama"),
    "gemma2": Published(GEMMA2, _TURNS, "<eos>", "<bos>", adds_bos=True, end="<end_of_turn>", behind="\n"),
    "gemma3": Published(
        GEMMA3, _TURNS, "<eos>", "<bos>", adds_bos=True, kind="llama", end="<end_of_turn>", behind="\n"
    ),
    "phi3": Published(  # its tokens take the white space behind them away
        PHI3,
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|endoftext|>",
        end="<|end|>",
        behind="\n<|endoftext|>",
        strips=True,
    ),
    "tulu3": Published(TULU3, _HEADERS, "<|end_of_text|>", "<|begin_of_text|>", adds_bos=True),
    "olmo2": Published(OLMO2, _IM, "<|endoftext|>", "<|endoftext|>"),
    "olmo3": Published(OLMO3, _IM, "<|endoftext|>"),
    "smollm3": Published(SMOLLM3, _IM, "<|im_end|>", behind="\n"),
}
TAKES_TOOLS = ("llama3", "llama3 of GPT-2", "qwen2.5", "qwen3", "mistral", "olmo3")
REWRITES = ("qwen3", "mistral", "olmo3")
"""Templates that write an earlier turn in another way than the last, in some conversations."""

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Llama 3, Qwen and OLMo 2 split a text, in short."""
_TEXTS = [
    "The quick brown fox jumps over the lazy dog. What is 12 + 345? The answer is 357.",
    "user assistant system model tool function name arguments parameters Today Date: 26 Jul 2024\n\n",
    '{"name": "weather", "arguments": {"city": "Paris"}} <think> naïve Zürich 日本 🙂 </think>',
]


@cache
def chat_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A small tokenizer with the template and the control tokens of a published model. Don't change it."""
    from tokenizers import AddedToken, Regex, pre_tokenizers, processors

    said = TEMPLATES[name]
    tokenizer = train_tokenizer("falcon" if said.kind == "bytes" else said.kind, _TEXTS * 8)
    if said.kind == "bytes":
        words = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, whole])
    control = list(dict.fromkeys(token for token in (said.bos, said.eos, *said.control) if token))
    added: list[str | AddedToken] = [AddedToken(token, rstrip=said.strips, special=True) for token in control]
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    tokenizer.eos_token, tokenizer.bos_token = said.eos, said.bos
    tokenizer.pad_token = said.eos
    if said.bos and said.adds_bos:
        start = (said.bos, int(tokenizer.convert_tokens_to_ids(said.bos)))
        tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{said.bos} $A", pair=f"{said.bos} $A {said.bos} $B", special_tokens=[start]
        )
    tokenizer.chat_template = said.template
    tokenizer.name_or_path = name
    return tokenizer


def write_chat_model(folder: Path, name: str) -> Path:
    """A tiny model with random weights and the tokenizer and template of a published one, as a folder."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer, config = chat_tokenizer(name), tiny_config("llama")
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
