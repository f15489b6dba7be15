"""How user turns begin, to spread self-sampled prompts over what people ask for.

The target writes the rest of a turn itself, but for text that a task is about: that is quoted from
an answer of its own.
"""

from dataclasses import dataclass
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
    "My friend",
    "I have",
    "What should I",
    "Explain to a child",
    "What is the difference between",
    "Is it",
    # code
    "Write a Python function that",
    "Write a function in JavaScript",
    "Fix the bug in this code:\n",
    "Explain what this code does:\n",
    "Write a SQL query",
    "How do I use",
    "Implement a class",
    "Write a Python class",
    "In Python, how do I",
    "Write a shell command that",
    # mathematics
    "Solve the equation",
    "Calculate",
    "A train",
    "If a shop sells",
    "What is the sum of",
    "Find the area of",
    "How many",
    "Solve for x:",
    "A rectangle",
    "What is 15% of",
    "Anna has",
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

# Share of first turns that start from nothing.
UNPROMPTED: Final = 0.3


@dataclass(frozen=True, slots=True)
class Task:
    """A user's turn about a text: what is said before and after it. ``of_sentence``: the text is
    one sentence. ``asks``: the target ends the turn itself, with its question about the text."""

    before: str
    after: str = ""
    of_sentence: bool = False
    asks: bool = False


TASKS: Final[tuple[Task, ...]] = (
    # summarising and rewriting
    Task("Summarize the following text in a few sentences.\n\n"),
    Task("Summarize this text in one sentence:\n\n"),
    Task("", "\n\nSummarize the text above."),
    Task("List the most important points of this text.\n\n"),
    Task("Find a title for the following text.\n\n"),
    Task("Rewrite this so that a child understands it:\n\n"),
    Task("Make this text shorter:\n\n"),
    Task("Correct the mistakes in this text:\n\n"),
    # translation
    Task("Translate into French: ", of_sentence=True),
    Task("Translate into Spanish: ", of_sentence=True),
    Task("Translate into German: ", of_sentence=True),
    Task("Translate to Italian:\n", of_sentence=True),
    Task('How do you say "', '" in Portuguese?', of_sentence=True),
    Task("Translate this text into French.\n\n"),
    Task("What language is this, and what does it say in English?\n\n", of_sentence=True),
    # retrieval
    Task("Read the text and answer the question.\n\nText: ", "\n\nQuestion:", asks=True),
    Task("", "\n\nUsing the text above, answer this question:", asks=True),
    Task("Context: ", "\n\nQuestion: What", asks=True),
    Task("Context: ", "\n\nQuestion: How", asks=True),
    Task("Here is a text.\n\n", "\n\nAccording to it, who", asks=True),
    Task("Here is a text.\n\n", "\n\nAccording to it, why", asks=True),
    Task("Which names, places and numbers are in this text?\n\n"),
    # anything about it
    Task("", "\n\n", asks=True),
    Task("What do you think of this?\n\n"),
)

# Of conversations with an answer worth it, so many are followed by one whose user's turn quotes
# that answer, and so many by one in which the user speaks again.
QUOTED: Final = 0.5
CONTINUED: Final = 0.2
