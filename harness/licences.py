"""What a teacher's licence says of training other models on it: known licences, and the check before a training.

Some licences limit what may be trained on a model's outputs, others attach conditions to the student. Viva knows the
common ones and says so; it gives no legal advice, and terms change. Each entry names its source and the date of the
text that it describes.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from harness.errors import ConfigError

Kind = Literal["limits", "conditions", "free"]


@dataclass(frozen=True)
class Licence:
    """A known licence: what it says of models trained on its model's outputs or cut from its weights.

    'limits': training other models is forbidden, or allowed for some purposes only, so that a study has to state its
    purpose. 'conditions': allowed, and something is asked of the student. 'free': nothing is asked that a report must
    say. `says` is in Viva's words and follows the licence's name; `as_of` is the date of the text described.
    """

    name: str
    kind: Kind
    says: str
    source: str
    as_of: str
    aliases: tuple[str, ...] = ()


FREE = (
    "Apache-2.0", "MIT", "MIT-0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "BSL-1.0", "AFL-3.0",
    "ECL-2.0", "Unlicense", "WTFPL", "CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY", "ODC-BY", "PDDL",
    "CDLA-Permissive-2.0", "OpenMDW-1.0",
)  # fmt: skip

KNOWN: tuple[Licence, ...] = (
    Licence(
        "Llama 2 Community License",
        "limits",
        "forbids the use of the model and its outputs to improve any other large language model than Llama 2 and its "
        "derivatives (section 1.b.v)",
        "https://ai.meta.com/llama/license/",
        "2023-07-18",
        ("llama2", "llama-2", "llama-2-community"),
    ),
    Licence(
        "Meta Llama 3 Community License",
        "limits",
        "forbids the use of the model and its outputs to improve any other large language model than Llama 3 and its "
        "derivatives (section 1.b.v)",
        "https://www.llama.com/llama3/license/",
        "2024-04-18",
        ("llama3", "llama-3", "llama-3.0", "llama3.0", "llama-3-community"),
    ),
    *(
        Licence(
            f"Llama {version} Community License",
            "conditions",
            "lets outputs train other models; one that is distributed must have a name beginning with 'Llama' and show "
            "'Built with Llama' (section 1.b.i), and the acceptable use policy goes along",
            f"https://www.llama.com/llama{version.replace('.', '_')}/license/",
            date,
            (f"llama{version}", f"llama-{version}", f"llama-{version}-community"),
        )
        for version, date in (
            ("3.1", "2024-07-23"),
            ("3.2", "2024-09-25"),
            ("3.3", "2024-12-06"),
            ("4", "2025-04-05"),
        )
    ),
    Licence(
        "Gemma Terms of Use",
        "conditions",
        "counts a model trained on Gemma's outputs to behave like it as a derivative (section 1.1): who distributes it "
        "passes on these terms with their use restrictions. Gemma 4 is under Apache-2.0",
        "https://ai.google.dev/gemma/terms",
        "2024-02-21",
        ("gemma", "gemma-terms"),
    ),
    Licence(
        "Tongyi Qianwen License",
        "limits",
        "forbids the use of the model and its outputs to improve any other large language model than Tongyi Qianwen "
        "and its derivatives (section 5.b)",
        "https://huggingface.co/Qwen/Qwen2-72B-Instruct/blob/main/LICENSE",
        "2024-06-07",
        ("tongyi-qianwen",),
    ),
    Licence(
        "Qwen License",
        "conditions",
        "lets outputs train other models; one that is distributed must say 'Built with Qwen' or 'Improved using Qwen' "
        "in its documentation (section 5.b)",
        "https://huggingface.co/Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE",
        "2024-09-19",
        ("qwen",),
    ),
    Licence(
        "Qwen Research License",
        "limits",
        "allows non-commercial use only; a model trained on outputs that is distributed must say 'Built with Qwen' or "
        "'Improved using Qwen' (section 4.b)",
        "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE",
        "2024-09-19",
        ("qwen-research",),
    ),
    Licence(
        "DeepSeek License",
        "conditions",
        "allows distillation and counts the student as a derivative: who distributes it passes on the use restrictions "
        "of attachment A. Newer DeepSeek models are under MIT",
        "https://github.com/deepseek-ai/DeepSeek-V3/blob/main/LICENSE-MODEL",
        "2023-10-23",
        ("deepseek", "deepseek-model", "deepseek-la-1.0", "deepseek-1.0"),
    ),
    Licence(
        "OpenRAIL",
        "conditions",
        "counts a model distilled from the model or from its outputs as a derivative: who distributes it passes on the "
        "use restrictions of attachment A",
        "https://bigscience.huggingface.co/blog/bigscience-openrail-m",
        "2022-08-26",
        ("openrail", "openrail-m", "creativeml-openrail-m", "bigscience-openrail-m", "bigscience-bloom-rail-1.0",
         "bigcode-openrail-m"),
    ),
    Licence(
        "Mistral AI Research License",
        "limits",
        "allows the model and what is derived from it for research only; other purposes need a licence from Mistral AI",
        "https://mistral.ai/licenses/MRL-0.1.md",
        "2024-11-18",
        ("mrl", "mrl-0.1", "mistral-research"),
    ),
    Licence(
        "Mistral AI Non-Production License",
        "limits",
        "allows the model and what is derived from it for tests, research and evaluation outside of production, and no "
        "supply in the course of business (section 3.2)",
        "https://mistral.ai/licenses/MNPL-0.1.md",
        "2024-05-29",
        ("mnpl", "mnpl-0.1", "mistral-non-production"),
    ),
    Licence(
        "Tencent Hunyuan Community License",
        "limits",
        "forbids the use of the model and its outputs to improve any other AI model than Hunyuan and its derivatives, "
        "and any use in the European Union, the United Kingdom and South Korea (section 5)",
        "https://huggingface.co/tencent/Hunyuan-7B-Instruct/blob/main/LICENSE",
        "2025-08-04",
        ("hunyuan", "tencent-hunyuan", "tencent-hunyuan-community", "hunyuan-community"),
    ),
    Licence(
        "EXAONE AI Model License (NC)",
        "limits",
        "allows research (since 1.2 also teaching) and nothing commercial, of outputs as of the model; 1.2 also "
        "forbids models that compete with EXAONE",
        "https://huggingface.co/LGAI-EXAONE/EXAONE-4.0-32B/blob/main/LICENSE",
        "2025-07-15",
        ("exaone", "exaone-1.1-nc", "exaone-1.2-nc", "exaone-ai-model-1.1-nc", "exaone-ai-model-1.2-nc"),
    ),
    Licence(
        "Grok 2 Community License",
        "limits",
        "forbids the use of the model and its outputs to train or improve other foundation or language models; Grok 2 "
        "itself may be fine-tuned",
        "https://huggingface.co/xai-org/grok-2/blob/main/LICENSE",
        "2025-08-23",
        ("grok-2", "grok-2-community", "xai-grok-2"),
    ),
    Licence(
        "OpenAI Terms of Use",
        "limits",
        "forbid the use of outputs to develop models that compete with OpenAI; business customers may train "
        "classifiers and embeddings that they do not distribute",
        "https://openai.com/policies/services-agreement/",
        "2026-01-01",
        ("openai", "openai-terms", "openai-services-agreement", "chatgpt"),
    ),
    Licence(
        "Anthropic Commercial Terms",
        "limits",
        "forbid the use of the services to build a competing product, the training of competing models included, "
        "unless Anthropic approves (section D.4)",
        "https://www.anthropic.com/legal/commercial-terms",
        "2025-06-17",
        ("anthropic", "anthropic-terms", "claude"),
    ),
    Licence(
        "Gemini API Additional Terms",
        "limits",
        "forbid the use of the services to develop models that compete with them, and to replicate their models",
        "https://ai.google.dev/gemini-api/terms",
        "2026-04-28",
        ("gemini", "gemini-api", "gemini-api-terms"),
    ),
    Licence(
        "CC-BY-NC",
        "limits",
        "allows non-commercial purposes only (with -SA under the same licence, with -ND no adapted versions). Cohere's "
        "Command and Aya weights are under it, with an acceptable use policy",
        "https://creativecommons.org/licenses/by-nc/4.0/legalcode",
        "2013-11-25",
        ("cc-by-nc-sa", "cc-by-nc-nd", "cohere", "c4ai"),
    ),
    Licence(
        "CC-BY-ND",
        "limits",
        "allows no adapted versions to be shared; a student cut from the weights may be one",
        "https://creativecommons.org/licenses/by-nd/4.0/legalcode",
        "2013-11-25",
    ),
    Licence(
        "CC-BY-SA",
        "conditions",
        "puts adapted versions that are shared under the same licence; a student cut from the weights may be one",
        "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
        "2013-11-25",
    ),
    Licence(
        "GPL",
        "conditions",
        "puts derived works that are distributed under the same licence (AGPL: also those served over a network); a "
        "student cut from the weights may be one",
        "https://www.gnu.org/licenses/gpl-3.0.html",
        "2007-06-29",
        ("gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-2.1", "lgpl-3.0", "mpl-2.0"),
    ),
)  # fmt: skip
KINDS: dict[Kind, str] = {
    "limits": "training other models is limited: the study has to state its `purpose`",
    "conditions": "training other models is allowed, and something is asked of the student: the report says what",
}
SHORT = {
    "attribution": "by",
    "noncommercial": "nc",
    "sharealike": "sa",
    "noderivatives": "nd",
    "noderivs": "nd",
}
DROPPED = {
    *("license", "licence", "agreement", "terms", "the", "version", "or", "later", "only", "international"),
    *("meta", "ai", "of", "use"),
}


def find_licence(text: str) -> Licence | None:
    """The known licence that a name, SPDX identifier or hub tag means; None if there is none (or it is 'free')."""
    key = _key(text)
    for licence in KNOWN:
        if key in {_key(name) for name in (licence.name, *licence.aliases)}:
            return licence
    return None


def is_free(text: str) -> bool:
    """Whether a licence lets other models be trained without conditions that a report has to say."""
    return _key(text) in {_key(name) for name in FREE}


def check_licence(licence: str | None, purpose: str | None) -> list[str]:
    """What the report has to say of the teacher's licence; nothing for free ones.

    Raises ConfigError for a licence that limits training on the model's outputs when the study states no purpose.
    """
    if licence is None or not licence.strip():
        return ["the teacher's licence is not stated: whether it lets other models be trained on it was not checked"]
    if is_free(licence):
        return []
    known = find_licence(licence)
    if known is None:
        near = _nearest(licence)
        meant = f" (is {near} meant?)" if near else ""
        return [
            f"the teacher's licence, {licence}, is not one that Viva knows{meant}: whether it lets other models be "
            "trained on it was not checked"
        ]
    said = f"the teacher's licence, {known.name}, {known.says} ({known.source}, as of {known.as_of})"
    if known.kind == "conditions":
        return [said]
    if purpose is None or not purpose.strip():
        raise ConfigError(
            f"{said}, and the study states no purpose",
            hint='if yours is one that the licence allows, state it at the top of the study file: purpose = "research"',
        )
    return [f"{said}; the study states its purpose: {purpose.strip()}"]


def licence_table() -> str:
    """The known licences as a Markdown table, for docs/licences.md; a test compares both."""
    rows = ["| licence | also written | kind | it | text of |", "|---|---|---|---|---|"]
    for licence in KNOWN:
        written = ", ".join(f"`{alias}`" for alias in licence.aliases) or f"`{licence.name.lower()}-4.0`"
        rows.append(
            f"| [{licence.name}]({licence.source}) | {written} | {licence.kind} | {licence.says} | {licence.as_of} |"
        )
    return "\n".join(rows) + "\n"


def _key(text: str) -> str:
    """One spelling for the ways of writing a licence: 'Apache License, Version 2.0' and 'apache-2.0' are the same."""
    text = text.lower().replace("creative commons", "cc").replace("non-commercial", "noncommercial")
    words = [SHORT.get(word, word) for word in re.findall(r"[a-z0-9.]+", text)]
    kept = [re.sub(r"^v(?=\d)|(?<=\d)\.0$", "", word).strip(".") for word in words if word not in DROPPED]
    key = "-".join(word for word in kept if word)
    return re.sub(r"^(cc-by-(?:nc|nd|sa).*?)-\d(\.\d)?$", r"\1", key)  # what concerns us is the same in all versions


def _nearest(text: str) -> str | None:
    names = {_key(name): name for name in FREE}
    names |= {_key(alias): licence.name for licence in KNOWN for alias in (licence.name, *licence.aliases)}
    found = difflib.get_close_matches(_key(text), list(names), n=1, cutoff=0.75)
    return names[found[0]] if found else None


if __name__ == "__main__":
    print(licence_table(), end="")
