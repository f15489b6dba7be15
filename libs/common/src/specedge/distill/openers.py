"""First words of user turns, to spread self-sampled prompts over what people ask for.

The target writes the rest of the turn itself; most conversations start from nothing at all.
"""

from typing import Final

OPENERS: Final[tuple[str, ...]] = (
    # talk
    "What is",
    "Why do",
    "How can I",
    "Tell me about",
    "Can you explain",
    "What are the",
    "I'm planning a",
    "Give me some advice on",
    "Hi! I",
    "Write a short story about",
    "Write an email to",
    "Who was",
    "List five",
    "Describe",
    # code
    "Write a Python function that",
    "Write a function in JavaScript",
    "Fix the bug in this code:\n",
    "Explain what this code does:\n",
    "Write a SQL query",
    "How do I use",
    "Implement a class",
    # mathematics
    "Solve the equation",
    "Calculate",
    "A train",
    "If a shop sells",
    "What is the sum of",
    "Find the area of",
    "How many",
    # summarising and rewriting
    "Summarize the following text:\n",
    "Summarize this article in one sentence:\n",
    "Rewrite the following paragraph to be more concise:\n",
    "What are the key points of this text?\n",
    # translation
    "Translate the following sentence into French:",
    "Translate into Spanish:",
    "How do you say",
    "Translate from German to English:",
    # retrieval
    "Answer the question using the context.\nContext:",
    "Read the passage and answer the question.\nPassage:",
    "According to the text below,",
    "Extract the names from the following text:\n",
)

# Share of conversations whose user turn starts from nothing.
UNPROMPTED: Final = 0.3
