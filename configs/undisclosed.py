"""Undisclosed systems: what is public about models whose architecture is not."""

# Name: organisation, date, what is public, where it is said.
SYSTEMS = {
    "gpt-3.5": (
        "OpenAI",
        "2022-03",
        "Models trained on text and code, then tuned on instructions and by PPO, with a context of 4097 to 8001 tokens; no size.",
        "OpenAI model index for researchers",
    ),
    "gpt-3.5-chatgpt": (
        "OpenAI",
        "2022-11",
        "A model of the GPT-3.5 series tuned on dialogues and by PPO, as InstructGPT was; no size.",
        "OpenAI 2022, Introducing ChatGPT; Ouyang et al. 2022, arXiv:2203.02155",
    ),
    "gpt-4": (
        "OpenAI",
        "2023-03",
        "A transformer that reads text and images, predicts the next token and was tuned by RLHF; 8192 or 32768 tokens of context. "
        "The report withholds size, hardware, compute and data.",
        "OpenAI 2023, arXiv:2303.08774, section 2",
    ),
    "gpt-4o": (
        "OpenAI",
        "2024-05",
        "One network for text, images and sound, in and out.",
        "OpenAI 2024, arXiv:2410.21276",
    ),
    "o1": (
        "OpenAI",
        "2024-09",
        "Trained by reinforcement to think in a hidden chain of thought; it gets better with more compute in training and in use.",
        "OpenAI 2024, arXiv:2412.16720",
    ),
    "o3-o4-mini": (
        "OpenAI",
        "2025-04",
        "Successors of o1 whose reinforcement included the use of tools.",
        "OpenAI 2025, o3 and o4-mini System Card",
    ),
    "gpt-5": (
        "OpenAI",
        "2025-08",
        "A router over a fast and a thinking model, text and images in, text out, with 272,000 tokens in and 128,000 out.",
        "OpenAI 2025, GPT-5 System Card",
    ),
    "claude-2": (
        "Anthropic",
        "2023-07",
        "Tuned by RLHF and a written constitution; a context of 100,000 tokens, 200,000 in version 2.1.",
        "Anthropic 2023, Claude 2 model card; Bai et al. 2022, arXiv:2212.08073",
    ),
    "claude-3-sonnet": (
        "Anthropic",
        "2024-03",
        "Reads text and images; dictionaries of 1, 4 and 34 million features were learned from the middle of its residual stream.",
        "Anthropic 2024, Claude 3 model card; Templeton et al. 2024, Scaling Monosemanticity",
    ),
    "claude-4": (
        "Anthropic",
        "2025-05",
        "One model that answers at once or after extended thinking, with tools and a context of 200,000 tokens.",
        "Anthropic 2025, Claude 4 System Card",
    ),
    "gemini-1-ultra-pro-nano": (
        "Google",
        "2023-12",
        "Decoders with multi-query attention and 32,768 tokens of context that read images, sound and video; Nano has 1.8B and "
        "3.25B parameters, distilled and kept in 4 bits.",
        "Gemini Team 2023, arXiv:2312.11805",
    ),
    "gemini-1.5": (
        "Google",
        "2024-02",
        "Pro is a sparse mixture of experts tested on up to ten million tokens; Flash is dense and distilled from it.",
        "Gemini Team 2024, arXiv:2403.05530",
    ),
    "gemini-2": (
        "Google",
        "2024-12",
        "Images and sound as native outputs, and trained use of tools.",
        "Google 2024, Introducing Gemini 2.0",
    ),
    "grok-4": (
        "xAI",
        "2025-07",
        "Reinforcement on the scale of the pre-training, with tools.",
        "xAI 2025, Grok 4",
    ),
    "jurassic-1-grande-v2": (
        "AI21 Labs",
        "2022-12",
        "17B parameters, between Jurassic-1's Large and Jumbo.",
        "AI21 Labs 2022, announcement",
    ),
    "magistral-medium": (
        "Mistral AI",
        "2025-06",
        "Mistral Medium 3, itself unpublished, after reinforcement on answers that can be checked, which its paper describes.",
        "Mistral AI 2025, arXiv:2506.10910",
    ),
    "llama-4-behemoth": (
        "Meta AI",
        "2025-04",
        "A mixture of 16 experts, 288B parameters active and about two trillion in all; it taught the released Llama 4 models.",
        "Meta AI 2025, The Llama 4 herd",
    ),
    "nova-act": (
        "Amazon",
        "2025-04",
        "A model of the Nova family that acts in a browser.",
        "Amazon 2025, Introducing Amazon Nova Act",
    ),
    "genie-3": (
        "Google DeepMind",
        "2025-08",
        "A world model that draws 720p frames one after another, 24 a second, from a text and what the user does.",
        "Google DeepMind 2025, Genie 3",
    ),
    "nupic": (
        "Numenta",
        "2023-09",
        "A commercial runtime for sparse BERT and GPT models on CPUs, not a model.",
        "Numenta 2023, announcement",
    ),
}
