"""A chat whose store is encrypted, with keys that change: ``python examples/encrypted.py 'A question'``."""

from __future__ import annotations

import asyncio
import base64
import os
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from openai import AsyncOpenAI

from streamchat import StreamChat
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.errors import ConversationBusy
from streamchat.models import OpenAIChatModel


class AESGCMCodec:
    """Encrypts payload with AES-GCM; what is stored begins with a nonce of its own and is bound to the key's
    id."""

    def __init__(self, key_id: str, key: bytes) -> None:
        self.key_id = key_id
        self._cipher = AESGCM(key)

    def encode(self, plain: bytes) -> bytes:
        """Encrypt."""
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, plain, self.key_id.encode())

    def decode(self, coded: bytes) -> bytes:
        """Decrypt; raises `InvalidTag` for what was changed, or belongs to another key."""
        return self._cipher.decrypt(coded[:12], coded[12:], self.key_id.encode())


def codecs() -> list[AESGCMCodec]:
    """``KEYS`` is a list of ``id:base64`` with commas between, the one to write with first; the others only
    read."""
    named = (entry.partition(":") for entry in os.environ["KEYS"].split(","))
    return [AESGCMCodec(key_id, base64.b64decode(key)) for key_id, _, key in named]


async def main(question: str) -> None:
    """Ask in the one conversation that there is, and print the answer."""
    current, *older = codecs()
    buffer = SQLEventBuffer(
        os.environ.get("DATABASE", "sqlite:///chat.db"), codec=current, older_codecs=older
    )
    async with AsyncOpenAI() as client:
        model = OpenAIChatModel(client, os.environ.get("MODEL", "gpt-5-mini"))
        async with StreamChat(model=model, buffer=buffer, allow_anonymous=True) as chat:
            try:
                print((await chat.reply("diary", question)).text)
            except ConversationBusy:
                print("The last answer is still being written: ask again in a moment.")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
