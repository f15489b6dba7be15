"""A conversation in a body: its messages, and how the chat template is to take them.

Shapes only, as in ``specedge_edge.openai.schemas``.
"""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from specedge.errors import InvalidRequest
from specedge_edge.openai.values import BodyPart, OnlyText

MAX_MESSAGES: Final = 4096
MAX_PARTS: Final = 4096  # of a message


class ContentPart(BodyPart):
    """A piece of a message. Only text is served."""

    type: OnlyText
    text: str


class ChatMessage(BaseModel):
    """One turn. Further fields are passed on to the chat template."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        str | Annotated[list[ContentPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None
    ) = None
    name: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.role != "assistant":  # who may have called a tool
            raise InvalidRequest(f"a message of role {self.role} needs content", field="messages")
        return self

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it: content as one string."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        named = {} if self.name is None else {"name": self.name}
        return {**(self.model_extra or {}), **named, "role": role, "content": content or ""}


Messages = Annotated[
    list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
]


class TemplateOptions(BodyPart):
    """What of a body is for the chat template."""

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def template_options(self) -> dict[str, Any]:
        """As arguments of the template's call."""
        options = dict(self.chat_template_kwargs or {})
        if self.add_generation_prompt is not None:
            options["add_generation_prompt"] = self.add_generation_prompt
        if self.continue_final_message:
            options |= {"continue_final_message": True, "add_generation_prompt": False}
        return options
