"""SpecEdge: the vocabulary and machinery that every service shares.

Glossary (the same words are used in names, messages, metrics and docs):

committed  tokens that both sides agree on: the prompt and what was accepted so far
base       how many tokens are committed, the root included
root       the last committed token; node 0 of every tree; its KV does not exist yet
draft      a token tree proposed in a round
round      one draft and its verdict, numbered per session from 0
try        how often the same round was sent, numbered from 0
verdict    accepted path + bonus token
path       the accepted nodes, from the root's child downwards
bonus      the target's own next token after the path
position   0-based index, in prompt plus output, of the token being chosen
bet        an outcome (exit node, bonus) that the edge prepares for while it waits
hit, miss  the verdict was, or was not, among the bets
slot       one session's place in a KV cache, leased
park       drop a session's KV; it is prefilled again later
grant      a number of tokens that a verifier may produce without drafts (a hosted session)
cold       the verifier lacks the session's context, or holds another one
"""

from typing import Final

__version__: Final = "0.1.0"
