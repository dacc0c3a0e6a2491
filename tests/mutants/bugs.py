"""The bugs of the past, each as a change of one place in the code.

``seen`` names where the bug was seen: an issue or pull request as ``project#number``, or code that does it. It is
empty where we know of none: then it is a slip that labelling by tracked text could make, or one that our own
shortcuts invite.
"""

from __future__ import annotations

from typing import NamedTuple


class Bug(NamedTuple):
    """A bug: *old* stands once in *file*, and with *new* in its place at least one of *tests* fails."""

    name: str
    told: str
    seen: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_LABELLER = "tests/supervision/test_labeller.py"
_TURNS = "tests/supervision/test_turns.py"
_TOKENS = "tests/supervision/test_tokens.py"
_LAYOUT = "tests/supervision/test_layout.py"
_MESSAGES = "tests/supervision/test_messages.py"
_TRACKED = "tests/supervision/test_tracked.py"
_CAUSALITY = "tests/supervision/test_causality.py"
_SANDBOX = "tests/supervision/test_sandbox_render.py"
_TRUNCATION = "tests/supervision/test_truncation.py"
_REMARKS = "tests/supervision/test_remarks.py"
_PROPERTIES = "tests/supervision/test_properties.py"
_COLLATE = "tests/data/test_collate.py"
_LABELS = "tests/data/test_labels.py"
_PACKING = "tests/data/test_packing.py"
_PREPARE = "tests/data/test_prepare.py"
_LOSS = "tests/test_loss.py"
_INVARIANCE = "tests/test_invariance.py"

LABELS = [
    Bug(
        name="stop-masked",
        told="The token that ends a turn is not trained, so that the model never stops.",
        seen="torchtune#949, axolotl#3754",
        file="sftcore/supervision/labeller.py",
        old="if turn.stop and not policy.train_on_stop:",
        new="if turn.stop:",
        tests=(f"{_LABELLER}::test_train_on",),
    ),
    Bug(
        name="stop-in-the-next-header-masked",
        told="A stop token that opens the next turn, as <|user|> of GLM, counts as that turn's and is not trained.",
        seen="prime-rl#2644",
        file="sftcore/supervision/turns.py",
        old="stop = habits.stops.search(text, after, layout.next_other(message, last, headers=False))",
        new="stop = None",
        tests=(f"{_TURNS}::test_ways_to_end_a_turn",),
    ),
    Bug(
        name="header-trained",
        told="The prompt is rendered without its generation prompt, so that the header of the turn is trained.",
        seen="trl#4147",
        file="sftcore/supervision/turns.py",
        old="\n                    self.messages[:message], self.tools, True, **self._switched(switch)\n",
        new="\n                    self.messages[:message], self.tools, False, **self._switched(switch)\n",
        tests=(f"{_LABELLER}::test_train_on",),
    ),
    Bug(
        name="newline-of-the-header-trained",
        told="The line break that ends the header is trained.",
        seen="LLaVA-NeXT#212",
        file="sftcore/supervision/turns.py",
        old="    own = layout.own_from(message, start)\n",
        new='    start = len(layout.text[:start].rstrip("\\n"))\n    own = layout.own_from(message, start)\n',
        tests=(f"{_TURNS}::test_awkward_contents",),
    ),
    Bug(
        name="white-space-after-the-stop-trained",
        told="The line break that follows the stop token is trained.",
        seen="LLaMA-Factory, data/template.py: what follows the end token is in the target",
        file="sftcore/supervision/turns.py",
        old="    spans.append((begin, end))\n",
        new="    spans.append((begin, end + len(layout.text[end:]) - len(layout.text[end:].lstrip())))\n",
        tests=(f"{_TURNS}::test_awkward_contents",),
    ),
    Bug(
        name="think-block-of-the-prompt-trained",
        told="A <think> that the generation prompt supplies is trained.",
        seen="Automodel#3739, maxtext#4010",
        file="sftcore/supervision/turns.py",
        old="    own = layout.own_from(message, start)\n",
        new='    start = len(re.sub(r"<think>\\s*(</think>\\s*)?\\Z", "", layout.text[:start]))\n'
        "    own = layout.own_from(message, start)\n",
        tests=(
            f"{_PROPERTIES}::test_labels_as_one_reads_them",
            f"{_PROPERTIES}::test_what_the_model_has_to_produce_is_trained[empty_reasoning_in_the_prompt]",
        ),
    ),
    Bug(
        name="last-turn-only",
        told="Of a conversation only the last answer is trained.",
        seen="axolotl#1761, GLM-4#803, NeMo Speech#16284",
        file="sftcore/supervision/labeller.py",
        old='elif wanted == "last_turn":',
        new='elif wanted in ("last_turn", "assistant"):',
        tests=(f"{_LABELLER}::test_train_on",),
    ),
    Bug(
        name="first-turn-only",
        told="Of a conversation only the first answer is trained.",
        seen="",
        file="sftcore/supervision/labeller.py",
        old="train = message.role in ([wanted] if isinstance(wanted, str) else wanted)",
        new="train = message.role in ([wanted] if isinstance(wanted, str) else wanted) and not chosen",
        tests=(f"{_LABELLER}::test_train_on",),
    ),
    Bug(
        name="all-after-the-first-prompt-trained",
        told="What comes after the first prompt is trained, later questions too.",
        seen="mlx-vlm#970, transformers#47325",
        file="sftcore/supervision/tokens.py",
        old="labels[first:token] = ids[first:token]",
        new="labels[first:] = ids[first:]",
        tests=(f"{_LABELLER}::test_train_on",),
    ),
    Bug(
        name="first-token-trained",
        told="The first token of a row is labelled, which nothing predicts, and counted.",
        seen="transformers#46335",
        file="sftcore/supervision/tokens.py",
        old="labels[0], weights[0] = IGNORE_INDEX, 0.0",
        new="pass",
        tests=(f"{_TOKENS}::test_a_token_is_trained_if_it_touches_a_span",),
    ),
    Bug(
        name="off-by-one-at-the-start",
        told="The first token of an answer is not trained.",
        seen="OpenRLHF#973",
        file="sftcore/supervision/tokens.py",
        old="            first = token\n",
        new="            first = token + 1\n",
        tests=(f"{_LABELLER}::test_train_on",),
    ),
    Bug(
        name="off-by-one-at-the-end",
        told="The last token of an answer is not trained.",
        seen="verl#535",
        file="sftcore/supervision/tokens.py",
        old="while token < len(ids) and offsets[token][0] < end:",
        new="while token < len(ids) and offsets[token][1] < end:",
        tests=(f"{_LABELLER}::test_train_on",),
    ),
    Bug(
        name="emoji-half-trained",
        told="Of a character that is several tokens, as an emoji, only the first is trained.",
        seen="transformers, return_assistant_tokens_mask: char_to_token of the last character (transformers#47325)",
        file="sftcore/supervision/tokens.py",
        old="while token < len(ids) and offsets[token][0] < end:",
        new="while token < len(ids) and offsets[token][0] < end and offsets[token] != offsets[token - 1]:",
        tests=(
            f"{_TOKENS}::test_labels_are_the_answers",
            f"{_TOKENS}::test_all_tokens_of_a_character_are_trained_with_it",
        ),
    ),
    Bug(
        name="greedy-marker-trained",
        told="A header's marker that takes the white space after it (rstrip, as in Phi-3) is trained.",
        seen="",
        file="sftcore/supervision/tokens.py",
        old="offsets[token][1] <= start or (offsets[token][0] < start and ids[token] in added)",
        new="offsets[token][1] <= start",
        tests=(f"{_TOKENS}::test_a_marker_that_takes_white_space_is_never_trained",),
    ),
    Bug(
        name="merged-token-masked",
        told="A token that begins in the header and ends in the answer is not trained, and the answer lacks its start.",
        seen="SkyRL#1611, prime-rl#1103",
        file="sftcore/supervision/tokens.py",
        old="offsets[token][1] <= start or (offsets[token][0] < start and ids[token] in added)",
        new="offsets[token][0] < start",
        tests=(f"{_TOKENS}::test_a_token_across_the_border_of_a_turn_is_trained_with_it",),
    ),
    Bug(
        name="prefix-by-length-only",
        told="A turn begins where its prompt is long, whether or not the conversation begins with that prompt.",
        seen="torchtune, HuggingFaceModelTokenizer: the difference of two lengths, unchecked",
        file="sftcore/supervision/turns.py",
        old="if prompt is not None and layout.text.startswith(prompt):",
        new="if prompt is not None:",
        tests=(f"{_LABELLER}::test_context",),
    ),
]

PARITY = [
    Bug(
        name="double-bos",
        told="The tokenizer puts its own special tokens around a text that has them already.",
        seen="OpenRLHF#393, trl#1114, Soup#781",
        file="sftcore/supervision/tokens.py",
        old="encoded = tokenizer(text, add_special_tokens=False, ",
        new="encoded = tokenizer(text, add_special_tokens=True, ",
        tests=(f"{_TOKENS}::test_no_tokens_are_added", f"{_PROPERTIES}::test_labels_as_one_reads_them"),
    ),
    Bug(
        name="eos-appended",
        told="An end token is put after a text that the template has ended.",
        seen="trl#3318",
        file="sftcore/supervision/tokens.py",
        old='return Encoded(encoded["input_ids"], encoded["offset_mapping"])',
        new="end = [(len(text), len(text))]\n"
        '        return Encoded([*encoded["input_ids"], tokenizer.eos_token_id], [*encoded["offset_mapping"], *end])',
        tests=(f"{_TOKENS}::test_labels_are_the_answers",),
    ),
    Bug(
        name="special-tokens-not-given",
        told="The template does not get bos_token and its like, and prints nothing for them.",
        seen="smg-project/smg#914",
        file="sftcore/supervision/labeller.py",
        old="{**tokenizer.special_tokens_map, **(template_kwargs or {})}",
        new="dict(template_kwargs or {})",
        tests=(f"{_LABELLER}::test_variables_of_the_template",),
    ),
    Bug(
        name="template-kwargs-not-given-to-the-prompt",
        told="The prompt is rendered without the variables of the template, such as enable_thinking.",
        seen="Rapid-MLX#389",
        file="sftcore/supervision/turns.py",
        old='return {**self.variables, name: value == "true"} if name else self.variables',
        new='return {key: own for key, own in self.variables.items() if key.endswith("_token")}',
        tests=(
            f"{_LABELLER}::test_a_prompt_that_depends_on_a_variable_is_not_taken_from_another_row",
            f"{_TURNS}::test_a_prompt_that_a_switch_makes",
        ),
    ),
    Bug(
        name="tools-not-given-to-the-prompt",
        told="The prompt is rendered without the tools.",
        seen="slime#1008",
        file="sftcore/supervision/turns.py",
        old="\n                    self.messages[:message], self.tools, True, **self._switched(switch)\n",
        new="\n                    self.messages[:message], None, True, **self._switched(switch)\n",
        tests=(f"{_PROPERTIES}::test_an_ordinary_conversation_is_labelled",),
    ),
    Bug(
        name="reasoning-alias-missing",
        told="A template that reads 'thinking', as that of gpt-oss, does not get the reasoning.",
        seen="transformers#44301",
        file="sftcore/supervision/labeller.py",
        old='fields = {"thinking": fields["reasoning_content"], **fields}',
        new="pass",
        tests=(f"{_LABELLER}::test_a_template_that_reads_thinking_gets_the_reasoning",),
    ),
    Bug(
        name="reasoning-dropped",
        told="Reasoning is dropped before the template sees it.",
        seen="slime#330, ms-swift, dataset/preprocessor/core.py: all fields but four are popped",
        file="sftcore/types.py",
        old='for key in ("reasoning_content", "tool_calls", "name", "tool_call_id"):',
        new='for key in ("tool_calls", "name", "tool_call_id"):',
        tests=(f"{_LABELLER}::test_reasoning",),
    ),
    Bug(
        name="tool-calls-dropped",
        told="Tool calls are dropped before the template sees them.",
        seen="torchtune, OpenAIToMessages; slime#1008",
        file="sftcore/types.py",
        old='for key in ("reasoning_content", "tool_calls", "name", "tool_call_id"):',
        new='for key in ("reasoning_content", "name", "tool_call_id"):',
        tests=(f"{_TURNS}::test_reasoning_and_calls_are_trained_where_the_template_prints_them",),
    ),
    Bug(
        name="system-prompt-dropped",
        told="The system prompt is dropped before the template sees it.",
        seen="FastChat#2176",
        file="sftcore/supervision/labeller.py",
        old="    fields = message.as_dict()\n",
        new="    fields = message.as_dict()\n"
        '    fields["content"] = "" if message.role == "system" else message.content\n',
        tests=(f"{_LABELLER}::test_train_on",),
    ),
    Bug(
        name="marker-in-a-text-neutralized",
        told="A marker in a text is broken up for training, which no server does.",
        seen="LLaMA-Factory v1, v1/core/rendering: a zero-width space in every special token of a user",
        file="sftcore/supervision/labeller.py",
        old="    fields = message.as_dict()\n",
        new='    fields = message.as_dict()\n    fields["content"] = fields["content"].replace("<|", "<\\u200b|")\n',
        tests=(f"{_TOKENS}::test_labels_are_the_answers",),
    ),
    Bug(
        name="arguments-encoded-twice",
        told="The arguments of a call stay JSON text, of which the template makes JSON again.",
        seen="oumi#2599, llama.cpp#19553",
        file="plugins/formats/_fields.py",
        old='"arguments": dict(arguments)}}',
        new='"arguments": json.dumps(dict(arguments))}}',
        tests=("tests/plugins/test_formats.py::test_tool_calls_in_messages",),
    ),
    Bug(
        name="text-arguments-encoded-twice",
        told="A template that wants the arguments as JSON text gets those that are text already as JSON of JSON.",
        seen="sglang#12123",
        file="sftcore/supervision/labeller.py",
        old='if isinstance(function["arguments"], str):',
        new='if function["arguments"] is None:',
        tests=(f"{_LABELLER}::test_a_template_that_wants_arguments_as_text_gets_them_encoded_once",),
    ),
    Bug(
        name="end-token-of-the-base-model-only",
        told="Only the tokenizer's end token ends a turn, though the template prints another.",
        seen="axolotl#3754, trl#1623",
        file="sftcore/supervision/habits.py",
        old="if not any(any_of(stops).search(tail) for tail in _tails(layout, bounded=False)):",
        new="if False:",
        tests=(f"{_LABELLER}::test_the_stop_that_a_template_prints_is_found",),
    ),
    Bug(
        name="end-tokens-of-the-generation-config-ignored",
        told="Of several end tokens in generation_config.json none is known.",
        seen="",
        file="sftcore/chat_template.py",
        old="ids = [eos] if isinstance(eos, int) else list(eos or ())",
        new="ids = [eos] if isinstance(eos, int) else []",
        tests=("tests/test_chat_template.py::test_stops_of_template_tokenizer_and_generation_config",),
    ),
    Bug(
        name="prompt-of-another-row",
        told="A prompt is kept for a row with other variables.",
        seen="LMFlow#394, open-instruct#1518: caches without all that they depend on in the key",
        file="sftcore/supervision/turns.py",
        old="key = repr(self.variables)",
        new='key = ""',
        tests=(f"{_LABELLER}::test_a_prompt_that_depends_on_a_variable_is_not_taken_from_another_row",),
    ),
]

CONTEXT = [
    Bug(
        name="splitting-off",
        told="A turn that reads otherwise once the conversation goes on is never trained apart from it.",
        seen="axolotl#3088, Automodel#3104",
        file="sftcore/supervision/labeller.py",
        old="for part in [*candidates, None]:",
        new="for part in candidates:",
        tests=(f"{_LABELLER}::test_a_turn_that_reads_otherwise_later_is_trained_in_an_example_of_its_own",),
    ),
    Bug(
        name="reasoning-of-earlier-turns-lost",
        told="A turn is trained where the template no longer prints its reasoning.",
        seen="ms-swift#5793, fw-ai/cookbook#387",
        file="sftcore/supervision/labeller.py",
        old="lost = lost_text(turn, part.layout, fields)",
        new="lost = 0",
        tests=(f"{_LABELLER}::test_a_turn_that_reads_otherwise_later_is_trained_in_an_example_of_its_own",),
    ),
    Bug(
        name="rewritten-history-trained",
        told="A turn is trained after a history that reads otherwise than when the model is served.",
        seen="ms-swift#3627",
        file="sftcore/supervision/labeller.py",
        old='{"served": Fit.CLOSEST,',
        new='{"served": Fit.REWRITTEN,',
        tests=(f"{_LABELLER}::test_context",),
    ),
    Bug(
        name="stop-in-the-answer-ends-it",
        told="The stop is searched from the start of the turn, so that one in the answer's own text ends it.",
        seen="GLM-4#803: up to the next end-of-turn token",
        file="sftcore/supervision/turns.py",
        old="end, stop = _end(layout, message, last, habits)",
        new="end, stop = _end(layout, message, begin, habits)",
        tests=(f"{_TURNS}::test_a_stop_in_the_content_is_not_taken_for_the_end",),
    ),
    Bug(
        name="tool-results-trained",
        told="Tool results that the template prints within the assistant's turn are trained.",
        seen="nanochat#582, prime-rl#978",
        file="sftcore/supervision/layout.py",
        old="                found.append(piece)\n",
        new="                found += [piece] if owner < 0 else []\n",
        tests=(f"{_TURNS}::test_tool_results_within_a_turn_are_not_trained",),
    ),
    Bug(
        name="repeated-tool-name-is-own",
        told="The name of a tool, printed again with its result, counts as written by the assistant.",
        seen="",
        file="sftcore/supervision/layout.py",
        old="repeated = field in (CALL_NAME, CALL_ID) and (elsewhere or named[tag] > calls[message])",
        new="repeated = False",
        tests=(f"{_LAYOUT}::test_what_a_tools_result_repeats_of_the_call_is_not_the_calls",),
    ),
]

PROOF = [
    Bug(
        name="constant-prompt-always-claimed",
        told="Every generation prompt is taken for the same, whatever the template does.",
        seen="",
        file="sftcore/supervision/template.py",
        old="self.constant_prompt = has_constant_prompt(tree)",
        new="self.constant_prompt = True",
        tests=(f"{_CAUSALITY}::test_the_prompt_may_differ",),
    ),
    Bug(
        name="length-not-noticed",
        told="That a template counts the messages, and so knows of later ones, is not noticed.",
        seen="",
        file="sftcore/supervision/messages.py",
        old="    def __len__(self) -> int:\n        self._learn_all()\n",
        new="    def __len__(self) -> int:\n",
        tests=(f"{_MESSAGES}::test_who_looks_is_noticed", f"{_CAUSALITY}::test_what_is_proven_of_the_prompts_is_so"),
    ),
    Bug(
        name="look-ahead-not-noticed",
        told="That a template looks at the next message by its number is not noticed.",
        seen="",
        file="sftcore/supervision/messages.py",
        old="            self._watch.learn(self._offset + key)\n",
        new="            pass\n",
        tests=(f"{_CAUSALITY}::test_what_is_proven_of_the_prompts_is_so",),
    ),
    Bug(
        name="loop-last-taken-for-harmless",
        told="loop.last and loop.nextitem are taken to tell nothing of later messages.",
        seen="",
        file="sftcore/supervision/causality.py",
        old='_BACKWARD = frozenset({"index", "index0", "first", "previtem"})',
        new='_BACKWARD = frozenset({"index", "index0", "first", "previtem", "last", "nextitem"})',
        tests=(f"{_CAUSALITY}::test_the_prompt_may_differ",),
    ),
    Bug(
        name="tracked-text-not-compared",
        told="The tracked rendering is trusted without a look at the plain one.",
        seen="trl, chat_templates/*_training.jinja: trained on another text than is served (trl#6361)",
        file="sftcore/supervision/turns.py",
        old="if layout.text != self.template.render(self.messages[:messages], self.tools, **self.variables):",
        new="if False:",
        tests=(f"{_TURNS}::test_a_template_that_treats_tracked_text_otherwise_is_refused",),
    ),
]

TRACKING = [
    Bug(
        name="slice-off-by-one",
        told="A slice of a text has the origins of the characters one further on.",
        seen="",
        file="sftcore/supervision/tracked.py",
        old="return self._part(start, max(start, end))\n\n    def __iter__",
        new="end = max(start, end)\n"
        "        return tracked(str.__getitem__(self, key), _cut(self._runs, start + 1, end + 1))\n\n    def __iter__",
        tests=(f"{_TRACKED}::test_what_is_cut_keeps_the_tags_of_its_characters",),
    ),
    Bug(
        name="replace-loses-tags",
        told="A text of which a part is replaced counts as the template's own.",
        seen="",
        file="sftcore/supervision/tracked.py",
        old="return tracked(str.replace(self, old, new, count), tuple(runs))",
        new="return str.replace(self, old, new, count)",
        tests=(f"{_TRACKED}::test_what_replaces_a_piece_belongs_to_where_the_piece_was",),
    ),
    Bug(
        name="join-loses-tags",
        told="Texts that are joined count as the template's own.",
        seen="",
        file="sftcore/supervision/tracked.py",
        old="return tracked(str.join(separator, parts), tuple(runs))",
        new="return str.join(separator, parts)",
        tests=(f"{_TRACKED}::test_texts_put_together",),
    ),
    Bug(
        name="format-loses-tags",
        told="What is put into a text by format() counts as the template's own.",
        seen="",
        file="sftcore/supervision/sandbox.py",
        old="return self._joined([str(self._printable(part)) for part in parts])",
        new='return "".join([str(self._printable(part)) for part in parts])',
        tests=(f"{_SANDBOX}::test_what_is_formatted_plainly_keeps_its_origin",),
    ),
]

POLICY = [
    Bug(
        name="train-false-ignored",
        told="A message that says train: false is trained.",
        seen="LlamaFactory#2305: no such field is read",
        file="sftcore/supervision/labeller.py",
        old="if message.train is not None:",
        new="if message.train:",
        tests=(f"{_LABELLER}::test_a_message_may_say_itself_if_it_is_trained",),
    ),
    Bug(
        name="weight-0-trained",
        told="A message of weight 0 is trained.",
        seen="fw-ai/cookbook#387",
        file="sftcore/supervision/labeller.py",
        old="if train and message.weight * policy.weight > 0:\n"
        "            chosen[index] = message.weight * policy.weight\n",
        new="if train:\n            chosen[index] = message.weight * policy.weight or 1.0\n",
        tests=(f"{_LABELLER}::test_weights", f"{_LABELLER}::test_what_weighs_nothing_is_not_trained"),
    ),
    Bug(
        name="weights-not-multiplied",
        told="The weight of a source is forgotten where a message has its own.",
        seen="",
        file="sftcore/supervision/labeller.py",
        old="chosen[index] = message.weight * policy.weight\n",
        new="chosen[index] = message.weight\n",
        tests=(f"{_LABELLER}::test_weights",),
    ),
    Bug(
        name="reasoning-mask-ignored",
        told="reasoning: mask masks nothing.",
        seen="Automodel#2314: the mask fell on the padding",
        file="sftcore/supervision/labeller.py",
        old='if policy.reasoning == "mask" and',
        new='if policy.reasoning == "masked" and',
        tests=(f"{_LABELLER}::test_reasoning",),
    ),
    Bug(
        name="train-on-stop-ignored",
        told="train_on_stop: false does nothing.",
        seen="axolotl#3617",
        file="sftcore/supervision/labeller.py",
        old="if turn.stop and not policy.train_on_stop:",
        new="if turn.stop and policy.train_on_stop is None:",
        tests=(f"{_LABELLER}::test_a_stop_that_is_not_trained",),
    ),
    Bug(
        name="roles-ignored",
        told="A list of roles in train_on is read as 'assistant'.",
        seen="axolotl#1045, axolotl#3617",
        file="sftcore/supervision/labeller.py",
        old="train = message.role in ([wanted] if isinstance(wanted, str) else wanted)",
        new='train = message.role == "assistant"',
        tests=(f"{_LABELLER}::test_train_on",),
    ),
    Bug(
        name="first-source-decides-for-all",
        told="All sources are labelled as the first one says.",
        seen="axolotl, prompt_strategies/chat_template.py: the multimodal path reads the first data set's options",
        file="sftcore/data/conversations.py",
        old="loaded.config.data.policy(source)",
        new="loaded.config.data.policy(sources[0])",
        tests=(f"{_PREPARE}::test_each_source_has_its_own_policy",),
    ),
]

TRUNCATION = [
    Bug(
        name="system-prompt-cut-off",
        told="With the oldest exchanges the system prompt goes.",
        seen="acheong08/ChatGPT#982",
        file="sftcore/supervision/truncation.py",
        old="kept = [*range(self.head), *range(start, end)]",
        new="kept = [*range(start, end)]",
        tests=(f"{_TRUNCATION}::test_the_oldest_exchanges_are_dropped",),
    ),
    Bug(
        name="newest-dropped-first",
        told="Of a conversation that is too long the end is dropped, and with it the answer that counts.",
        seen="Automodel#2366, mistral-common#332",
        file="sftcore/supervision/truncation.py",
        old="examples = sub.label(first, sub.count)",
        new="examples = sub.label(0, sub.count - first)",
        tests=(f"{_TRUNCATION}::test_the_oldest_exchanges_are_dropped",),
    ),
    Bug(
        name="stop-cut-without-a-word",
        told="Answers are cut before their stop token, and nobody is told.",
        seen="trl#3927, maxtext#4406",
        file="sftcore/supervision/truncation.py",
        old="done.remarks[Remark.CUT] += ",
        new="done.remarks[Remark.CUT] += 0 and ",
        tests=(f"{_TRUNCATION}::test_truncate_right",),
    ),
    Bug(
        name="turn-trained-twice",
        told="Parts of a split conversation overlap, and turns in both are trained twice.",
        seen="trl before 1.16, packing 'wrapped': tokens of a shared buffer came twice",
        file="sftcore/supervision/truncation.py",
        old="        first = last\n    done",
        new="        first = last if last == sub.count else max(first + 1, last - 1)\n    done",
        tests=(f"{_TRUNCATION}::test_split",),
    ),
    Bug(
        name="more-trained-for-lack-of-room",
        told="Once a conversation is made to fit, turns are trained that were not to be, such as all but the last.",
        seen="",
        file="sftcore/supervision/truncation.py",
        old="self._wanted = {*example.turns}",
        new="self._wanted = {*range(len(messages))}",
        tests=(f"{_TRUNCATION}::test_the_last_turn_is_that_of_the_whole",),
    ),
]

DATA = [
    Bug(
        name="all-masked-set-accepted",
        told="A set of which nothing is trained is accepted, and the loss is 0 or NaN.",
        seen="trl#6668, liquid-finetune#37",
        file="sftcore/data/labels.py",
        old="if rows and not examples:",
        new="if not rows and examples:",
        tests=(f"{_LABELS}::test_if_nothing_is_left_the_first_rows_are_shown",),
    ),
    Bug(
        name="all-masked-row-kept",
        told="The filter for rows of which nothing is trained lets them all through.",
        seen="axolotl#3864",
        file="sftcore/data/labels.py",
        old="found = [example for example in labelling.examples if example.trained]",
        new="found = [example for example in labelling.examples if example.labels]",
        tests=(f"{_LABELS}::test_a_row_of_which_only_the_first_token_could_be_trained_is_dropped",),
    ),
    Bug(
        name="refused-rows-not-counted",
        told="Rows that cannot be labelled vanish from the counts.",
        seen="ms-swift#9191",
        file="sftcore/data/labels.py",
        old='            reasons[_MESSAGE.sub("", refusal.reason)] += 1\n',
        new="",
        tests=(f"{_LABELS}::test_what_is_refused_is_counted_by_reason_and_told_with_its_place",),
    ),
    Bug(
        name="dropped-rows-not-counted",
        told="Rows of which nothing is trained vanish from the counts.",
        seen="ms-swift#9191, trl#6025",
        file="sftcore/data/labels.py",
        old="        summary.dropped += not found\n",
        new="",
        tests=(f"{_LABELS}::test_each_row_is_kept_refused_or_dropped",),
    ),
]

BATCH = [
    Bug(
        name="pad-equals-eos",
        told="Where the pad token is the end token, every label that is the pad token is masked.",
        seen="trl#976, trl#1623",
        file="sftcore/data/collate.py",
        old='"labels": padded([example.labels for example in examples], IGNORE_INDEX),',
        new='"labels": padded(\n'
        "                [\n"
        "                    [IGNORE_INDEX if label == self.pad_token_id else label for label in example.labels]\n"
        "                    for example in examples\n"
        "                ],\n"
        "                IGNORE_INDEX,\n"
        "            ),",
        tests=(f"{_COLLATE}::test_a_label_that_is_the_pad_token_stays",),
    ),
    Bug(
        name="first-label-of-a-packed-document-trained",
        told="In a packed row the last token of a document is trained to predict the first of the next.",
        seen="torchtitan#4075, torchtune#1177",
        file="sftcore/data/packing.py",
        old="labels += [IGNORE_INDEX, *part.labels[1:]]",
        new="labels += part.labels",
        tests=(f"{_PACKING}::test_no_example_is_split_lost_or_moved_over_the_limit",),
    ),
    Bug(
        name="position-ids-run-on",
        told="In a packed row positions are counted on from document to document.",
        seen="torchtune#875, trl#805",
        file="sftcore/data/collate.py",
        old="[at for length in row for at in range(length)]",
        new="[*range(sum(row))]",
        tests=(f"{_COLLATE}::test_position_ids_start_anew_at_every_document",),
    ),
    Bug(
        name="packed-documents-see-each-other",
        told="A packed row has an attention mask of ones, which takes the place of the block-diagonal one.",
        seen="LlamaFactory#8277, LlamaFactory#4224, trl#3067",
        file="sftcore/data/collate.py",
        old="        else:\n            batch",
        new="        if True:\n            batch",
        tests=(f"{_COLLATE}::test_position_ids_start_anew_at_every_document",),
    ),
    Bug(
        name="packing-packs-nothing",
        told="Every example gets a row of its own.",
        seen="trl#3887",
        file="sftcore/data/packing.py",
        old="if at < len(room):",
        new="if at < 0:",
        tests=(f"{_PACKING}::test_rows_are_filled",),
    ),
    Bug(
        name="packing-loses-weights",
        told="Weights are lost when rows are packed.",
        seen="trl#5951",
        file="sftcore/data/packing.py",
        old="weighted = any(part.weights is not None for part in parts)",
        new="weighted = False",
        tests=(f"{_PACKING}::test_weights_stay_with_their_tokens",),
    ),
    Bug(
        name="weights-not-in-the-batch",
        told="Weights are lost when a batch is made.",
        seen="trl#5951",
        file="sftcore/data/collate.py",
        old="        if self.weighted:\n",
        new="        if False:\n",
        tests=(f"{_COLLATE}::test_weights_are_padded_with_nothing",),
    ),
    Bug(
        name="attention-mask-on-the-wrong-side",
        told="Rows are padded on one side, and the attention mask on the other.",
        seen="Automodel#3704, Open-Assistant#3657, Qwen3-ASR#70",
        file="sftcore/data/collate.py",
        old='batch["attention_mask"] = padded([[1] * len(example.input_ids) for example in examples], 0)',
        new='batch["attention_mask"] = padded([[1] * len(example.input_ids) for example in examples], 0).flip(1)',
        tests=(f"{_COLLATE}::test_padded_on_the_right",),
    ),
]

LOSS = [
    Bug(
        name="mean-of-the-batches-means",
        told="The loss of a step is the mean of its batches' means, so that it depends on how rows are spread.",
        seen="transformers#34191, AReno#75",
        file="sftcore/loss.py",
        old="return total / ((weight or 1) if num_items_in_batch is None else num_items_in_batch)",
        new="return total / (weight or 1)",
        tests=(f"{_LOSS}::test_the_step_is_divided_by_what_it_is_told",),
    ),
    Bug(
        name="divisor-ignores-weights",
        told="The weighted sum of losses is divided by the number of tokens.",
        seen="allennlp-models#258, mlx-vlm#1392",
        file="sftcore/loss.py",
        old="float(shifted.sum())",
        new="float(targets.ne(IGNORE_INDEX).sum())",
        tests=(f"{_LOSS}::test_loss_and_gradient_are_those_by_hand",),
    ),
    Bug(
        name="step-counts-tokens-not-weights",
        told="A step divides by the number of its trained tokens, though they have weights.",
        seen="trl#5952",
        file="sftcore/train.py",
        old="        if weights:\n            same",
        new="        if False:\n            same",
        tests=(
            f"{_INVARIANCE}::test_one_rank[padded-weights]",
            f"{_INVARIANCE}::test_one_rank[accumulation 4-weights in the first half]",
        ),
    ),
    Bug(
        name="weights-not-shifted",
        told="The weights are those of the token before.",
        seen="transformers#47394: labels shifted twice; OpenRLHF#973: the mask against the losses",
        file="sftcore/loss.py",
        old="shifted = pad(weights, (0, 1))[:, 1:].to(logits.device)",
        new="shifted = weights.to(logits.device)",
        tests=(f"{_LOSS}::test_loss_and_gradient_are_those_by_hand",),
    ),
    Bug(
        name="evaluation-is-a-mean-of-means",
        told="The evaluation loss is the mean of its batches' means, so that it depends on the batch size.",
        seen="transformers#39241, Megatron-LM#7207",
        file="sftcore/loss.py",
        old="            self.evaluated_sum += float(total)\n            self.evaluated_weight += weight\n",
        new="            self.evaluated_sum += float(total) / (weight or 1)\n            self.evaluated_weight += 1\n",
        tests=(f"{_LOSS}::test_what_is_evaluated_is_a_mean_over_all_batches",),
    ),
    Bug(
        name="evaluation-as-the-trainer-does-it",
        told="The mean over all evaluated tokens is computed, and the Trainer's own is told.",
        seen="transformers#39241",
        file="sftcore/train.py",
        old="        if weight:\n            output",
        new="        if False:\n            output",
        tests=(f"{_INVARIANCE}::test_one_rank[accumulation 2-no weights]",),
    ),
]

SANDBOX = [
    Bug(
        name="mutable-sandbox",
        told="A template may change the messages it is given.",
        seen="",
        file="sftcore/supervision/sandbox.py",
        old="class Sandbox(ImmutableSandboxedEnvironment):",
        new="class Sandbox(jinja2.sandbox.SandboxedEnvironment):",
        tests=(f"{_SANDBOX}::test_nothing_that_is_given_can_be_changed",),
    ),
    Bug(
        name="no-time-limit",
        told="A template may run as long as it likes.",
        seen="",
        file="sftcore/supervision/meter.py",
        old="if not self._steps & 7 and time.thread_time() > self._until:",
        new="if False:",
        tests=(f"{_SANDBOX}::test_a_template_that_takes_too_long_is_stopped",),
    ),
    Bug(
        name="underscore-attribute-readable",
        told="A template may read __class__, and all that follows from it.",
        seen="CVE-2024-34359 (llama-cpp-python), torchtune: a plain jinja2.Environment",
        file="sftcore/supervision/sandbox.py",
        old='_OF_STR = frozenset(name for name in dir(str) if not name.startswith("_"))',
        new="_OF_STR = frozenset(dir(str))",
        tests=(f"{_SANDBOX}::test_a_template_that_fails_is_a_bad_row",),
    ),
]

PREVIEW = [
    Bug(
        name="masked-shown-as-trained",
        told="The preview shows masked tokens as trained.",
        seen="",
        file="sftcore/preview.py",
        old="trained = [label != IGNORE_INDEX for label in labels]",
        new="trained = [True for label in labels]",
        tests=("tests/test_preview.py::test_without_colour_brackets_hold_what_is_trained",),
    ),
    Bug(
        name="masked-end-shown-as-stop",
        told="The preview shows the end of every turn as a trained stop token.",
        seen="",
        file="sftcore/preview.py",
        old="if state == TRAINED and not stops.isdisjoint(range(first, last)):",
        new="if not stops.isdisjoint(range(first, last)):",
        tests=("tests/test_preview.py::test_a_masked_end_of_turn_is_no_stop",),
    ),
]

BUGS = [
    *LABELS,
    *PARITY,
    *CONTEXT,
    *PROOF,
    *TRACKING,
    *POLICY,
    *TRUNCATION,
    *DATA,
    *BATCH,
    *LOSS,
    *SANDBOX,
    *PREVIEW,
]
